package attach_test

import (
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

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
