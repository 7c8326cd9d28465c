package attach_test

import (
	"net"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func network(cidr string) net.IPNet {
	ip, n, err := net.ParseCIDR(cidr)
	if err != nil {
		panic(err)
	}
	return net.IPNet{IP: ip, Mask: n.Mask}
}

// loses has a function for each item of a result that removes it from the pod. CHECK must
// report it.
func loses(r *types100.Result) map[string]func(netlink.Link) error {
	all := map[string]func(netlink.Link) error{
		"interface net1": func(l netlink.Link) error { return netlink.LinkSetName(l, "other") },
		"is down":        netlink.LinkSetDown,
		"MAC":            func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 9, 9}) },
	}
	for _, ip := range r.IPs {
		all["address "+ip.Address.String()] = func(l netlink.Link) error { return netlink.AddrDel(l, &netlink.Addr{IPNet: &ip.Address}) }
	}
	for _, route := range r.Routes {
		all["route "+route.Dst.String()] = func(l netlink.Link) error {
			gone := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: &route.Dst, Gw: route.GW}
			if route.Table != nil {
				gone.Table = *route.Table
			}
			return netlink.RouteDel(gone)
		}
	}
	return all
}

// changed lists changes of later plugins in the pod and in the result, which CHECK must
// accept.
var changed = map[string]func(*types100.Result, netlink.Link) error{
	"nothing":           func(*types100.Result, netlink.Link) error { return nil },
	"tuning of the MTU": func(_ *types100.Result, l netlink.Link) error { return netlink.LinkSetMTU(l, 1300) },
	"tuning of promisc": func(_ *types100.Result, l netlink.Link) error { return netlink.SetPromiscOn(l) },
	"tuning of the MAC": func(r *types100.Result, l netlink.Link) error {
		r.Interfaces[0].Mac = "02:00:00:00:09:09"
		return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 9, 9})
	},
	"a route to another table, by sbr": func(r *types100.Result, l netlink.Link) error {
		dst := r.Routes[0].Dst
		old := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: &dst, Gw: r.Routes[0].GW}
		moved := *old
		moved.Table = 100
		if err := netlink.RouteAdd(&moved); err != nil {
			return err
		}
		return netlink.RouteDel(old)
	},
	"a route gone from both, by Multus": func(r *types100.Result, l netlink.Link) error {
		gone := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: &r.Routes[0].Dst, Gw: r.Routes[0].GW}
		r.Routes = r.Routes[1:]
		return netlink.RouteDel(gone)
	},
	"an address and a route more": func(r *types100.Result, l netlink.Link) error {
		more, dst := network("10.0.2.77/32"), network("10.78.0.0/16")
		r.IPs = append(r.IPs, &types100.IPConfig{Address: more, Interface: types100.Int(0)})
		r.Routes = append(r.Routes, &types.Route{Dst: dst})
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: &dst}); err != nil {
			return err
		}
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: &more})
	},
	"an interface more, with an address": func(r *types100.Result, _ netlink.Link) error {
		r.Interfaces = append(r.Interfaces, &types100.Interface{Name: "veth0"})
		r.IPs = append(r.IPs, &types100.IPConfig{Address: network("10.0.9.1/24"), Interface: types100.Int(1)})
		return nil
	},
}

// TestCheck: CHECK finds each item of prevResult that the kernel lacks, and accepts
// changes of later plugins.
func TestCheck(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.selectA()
	conf["ipam"] = map[string]any{"type": "static", "addresses": []any{
		map[string]any{"address": "10.0.2.15/24", "gateway": "10.0.2.1"}, map[string]any{"address": "fd00:2::15/64"},
	}}
	conf["routes"] = []any{
		map[string]any{"dst": "10.9.0.0/16"}, map[string]any{"dst": "fd09::/64", "gw": "fd00:2::1"}, map[string]any{"dst": "10.7.0.0/16", "table": 300},
	}
	check := func(change func(*types100.Result, netlink.Link) error) error {
		args := e.pod(conf)
		setSysctls(t, args.Netns, "default/keep_addr_on_down=1", "all/keep_addr_on_down=1")
		r := e.add(args)
		must(t, nstest.In(args.Netns, func() error {
			l, err := netlink.LinkByName("net1")
			if err != nil {
				return err
			}
			return change(r, l)
		}))
		_, err := run(&attach.Plugin{}, "CHECK", withPrev(t, args, r))
		e.del(args)
		must(t, nstest.DeleteNetns(args.Netns))
		return err
	}
	var names []string
	must(t, check(func(r *types100.Result, _ netlink.Link) error {
		for name := range loses(r) {
			names = append(names, name)
		}
		return nil
	}))
	if len(names) != 3+2+3 {
		t.Fatalf("an attachment has %q", names)
	}
	for _, name := range names {
		t.Run("without "+name, func(t *testing.T) {
			wantCode(t, check(func(r *types100.Result, l netlink.Link) error { return loses(r)[name](l) }), 104, name)
		})
	}
	for name, change := range changed {
		t.Run("with "+name, func(t *testing.T) { must(t, check(change)) })
	}
	for what, change := range map[string]func(*types100.Result){
		"address 10.0.2.78/24": func(r *types100.Result) {
			r.IPs = append(r.IPs, &types100.IPConfig{Address: network("10.0.2.78/24")})
		},
		"route 10.76.0.0/16": func(r *types100.Result) { r.Routes = append(r.Routes, &types.Route{Dst: network("10.76.0.0/16")}) },
	} {
		wantCode(t, check(func(r *types100.Result, _ netlink.Link) error { change(r); return nil }), 104, what)
	}
}

// TestCheckNeedsPrevResult: CHECK needs the result of ADD, as in the reference plugins.
func TestCheckNeedsPrevResult(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	e.refused("CHECK", e.pod(e.selectA()), 3, "no attachment", "run ADD")
	args := e.pod(e.selectA())
	r := e.add(args)
	e.refused("CHECK", args, 7, "prevResult", "missing")
	r.Interfaces[0].Name = "net7"
	e.refused("CHECK", withPrev(t, args, r), 7, "prevResult", "net1")
	theirs := e.pod(nil)
	conf := map[string]any{"device": eniB.Name}
	r, err := e.reference("ADD", theirs, conf)
	must(t, err)
	if _, err := e.reference("CHECK", theirs, conf); err == nil {
		t.Error("host-device's CHECK needs no prevResult")
	}
	conf["prevResult"] = r
	_, err = e.reference("CHECK", theirs, conf)
	must(t, err)
	e.del(args)
}

// networkStatus is one interface in the annotation that Multus makes from a result
// (CreateNetworkStatuses of network-attachment-definition-client v1.7.6): its MAC and MTU,
// the addresses with its index, and the gateways of default routes.
type networkStatus struct {
	Interface, Mac string
	MTU            int
	IPs, Gateway   []string
}

func networkStatuses(r *types100.Result) (out []networkStatus) {
	for i, iface := range r.Interfaces {
		if iface.Sandbox == "" {
			continue
		}
		s := networkStatus{Interface: iface.Name, Mac: iface.Mac, MTU: iface.Mtu}
		for _, ip := range r.IPs {
			if ip.Interface != nil && *ip.Interface == i {
				s.IPs = append(s.IPs, ip.Address.IP.String())
			}
		}
		for _, route := range r.Routes {
			if ones, _ := route.Dst.Mask.Size(); ones == 0 {
				s.Gateway = append(s.Gateway, route.GW.String()) // "<nil>" without one
			}
		}
		out = append(out, s)
	}
	return out
}

// TestResultsAsMultusPrintsThem: for every kind of attachment the annotation has the
// interface with the kernel's MTU, addresses and gateways.
func TestResultsAsMultusPrintsThem(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	vfio := nstest.ENI{PCI: "0000:00:0b.0", Driver: "vfio-pci", MAC: "02:00:00:00:00:0b", NoLink: true}
	e := newEnv(t, vfio)
	r := row(vfio, "dpdk")
	r.InterfaceName, r.Driver, r.MTU = "", "vfio-pci", 9001
	e.inv.Devices = append(e.inv.Devices, r)
	shared := e.sharing(map[string]any{"families": []string{"ipv4", "ipv6"}}, "10.0.2.15/24", "10.0.2.16/24", "fd00:2::15/64", "fd00:2::16/64")
	for i := range e.inv.Devices[:3] {
		e.inv.Devices[i].Addresses = e.inv.Devices[3].Addresses
	}
	e.writeInventory()
	static := map[string]any{"type": "static", "addresses": []any{
		map[string]any{"address": "10.0.2.16/24", "gateway": "10.0.2.1"}, map[string]any{"address": "fd00:2::16/64", "gateway": "fd00:2::1"},
	}, "routes": []any{map[string]any{"dst": "::/0"}}}
	eniIPAM := map[string]any{"type": "eni-ipam", "families": []string{"ipv4", "ipv6"}}
	routes := []any{map[string]any{"dst": "0.0.0.0/0"}}
	hostDevice := map[string]any{"type": "host-device", "deviceField": "device"}
	of := func(node string) map[string]any { return map[string]any{"nodeENI": node} }
	for name, conf := range map[string]map[string]any{
		"exclusive":             {"select": of("a"), "ipam": static},
		"exclusive, eni-ipam":   {"select": of("a"), "ipam": eniIPAM},
		"DPDK":                  {"select": of("dpdk"), "ipam": static},
		"DPDK, eni-ipam":        {"select": of("dpdk"), "ipam": eniIPAM},
		"host-device":           {"select": of("a"), "ipam": static, "delegate": hostDevice},
		"host-device, eni-ipam": {"select": of("a"), "ipam": eniIPAM, "delegate": hostDevice},
		"shared":                {"select": of("shared"), "ipam": static, "delegate": shared["delegate"], "mtu": 1400},
		"shared, eni-ipam":      {"select": of("shared"), "ipam": shared["ipam"], "delegate": shared["delegate"], "mtu": 1400},
	} {
		t.Run(name, func(t *testing.T) {
			conf["routes"] = routes
			args := e.pod(conf)
			setSysctls(t, args.Netns, "default/accept_dad=0", "all/accept_dad=0")
			result := e.add(args)
			want := networkStatus{Interface: "net1", IPs: []string{"10.0.2.16", "fd00:2::16"}, MTU: 9001}
			mac := vfio.MAC
			if conf["select"].(map[string]any)["nodeENI"] != "dpdk" { //nolint:errcheck,forcetypeassert // made above
				e.holds(args, result)
				inPod(t, args, func(_ *link.Handle, l link.Link) error { want.MTU, mac = l.MTU, l.MAC.String(); return nil })
			}
			want.Mac = mac
			if len(result.Routes) == 2 {
				want.Gateway = []string{"fd00:2::1", "10.0.2.1"}
			} else {
				want.Gateway = []string{"10.0.2.1"}
			}
			if name == "exclusive, eni-ipam" || name == "DPDK, eni-ipam" || name == "host-device, eni-ipam" {
				want.IPs = []string{"10.0.2.15", "fd00:2::15"}
			}
			equal(t, []networkStatus{want}, networkStatuses(result), "network-status")
			e.del(args)
		})
	}
}
