package attach_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func setSysctls(t *testing.T, netns string, pairs ...string) {
	t.Helper()
	must(t, nstest.In(netns, func() error {
		for _, pair := range pairs {
			path, value, _ := strings.Cut(pair, "=")
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+path, []byte(value), 0o644); err != nil {
				return err
			}
		}
		return nil
	}))
}

func sysctls(t *testing.T, netns string, paths ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	must(t, nstest.In(netns, func() error {
		for _, path := range paths {
			data, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + path)
			if err != nil {
				return err
			}
			out[path] = strings.TrimSpace(string(data))
		}
		return nil
	}))
	return out
}

// TestIPv6AsReference: a pod with IPv6 disabled gets a usable address, as with the
// reference project's host-device. Its own traffic uses lo, and the address survives the
// link's being down.
func TestIPv6AsReference(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	ipam := map[string]any{"type": "static", "addresses": []any{map[string]any{"address": "fd00:2::15/64"}}}
	conf := map[string]any{"select": map[string]any{"nodeENI": "a"}, "ipam": ipam}
	ours, theirs := e.pod(conf), e.pod(nil)
	for _, args := range []*skel.CmdArgs{ours, theirs} {
		setSysctls(t, args.Netns, "all/disable_ipv6=1", "default/disable_ipv6=1", "all/accept_dad=0", "default/accept_dad=0")
	}
	e.add(ours)
	_, err := e.reference("ADD", theirs, map[string]any{"device": eniB.Name, "ipam": ipam})
	must(t, err)
	of := []string{"lo/disable_ipv6", "net1/disable_ipv6", "net1/keep_addr_on_down"}
	equal(t, sysctls(t, theirs.Netns, of...), sysctls(t, ours.Netns, of...), "sysctls")
	own := netip.MustParseAddr("fd00:2::15")
	must(t, nstest.Reach(t.Context(), ours.Netns, own, ours.Netns, own))
	inPod(t, ours, func(in *link.Handle, l link.Link) error {
		must(t, in.SetDown(l.Index))
		must(t, in.SetUp(l.Index))
		have, err := in.Addresses(l.Index)
		if !slices.Contains(have, netip.MustParsePrefix("fd00:2::15/64")) {
			t.Errorf("addresses after down and up: %v", have)
		}
		return err
	})
	e.del(ours)

	static := map[string]any{"mtu": 1279, "ipam": ipam, "select": map[string]any{"nodeENI": "a"}}
	shared := e.shared()
	shared["mtu"], shared["ipam"] = 1279, ipam
	for name, conf := range map[string]map[string]any{"exclusive": static, "shared": shared} {
		before := e.snapshot()
		e.refused("ADD", e.pod(conf), 102, "mtu 1279", "1280")
		e.unchanged(before, "after a refused MTU, "+name)
	}
}

// announceRouter sends a router advertisement (RFC 4861 section 4.2) to all nodes of
// the VPC.
func (e *env) announceRouter() error {
	return e.node.InVPC(func() error {
		l, err := netlink.LinkByName("vpc")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		message := make([]byte, 16) // the kernel fills in the checksum
		message[0] = 134
		binary.BigEndian.PutUint16(message[6:], 1800) // lifetime as default router, in seconds
		to := &unix.SockaddrInet6{ZoneId: uint32(l.Attrs().Index)}
		copy(to.Addr[:], net.ParseIP("ff02::1"))
		return unix.Sendto(fd, message, 0, to)
	})
}

// hearRouter sends advertisements until the pod's interface has received one for certain,
// and reports whether it has a default route from it.
func (e *env) hearRouter(args *skel.CmdArgs) (learned bool) {
	e.t.Helper()
	heard := func() (n int) {
		must(e.t, nstest.In(args.Netns, func() error {
			data, err := os.ReadFile("/proc/thread-self/net/dev_snmp6/" + args.IfName)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(data)) {
				if rest, ok := strings.CutPrefix(line, "Icmp6InRouterAdvertisements"); ok {
					_, err = fmt.Sscan(rest, &n)
				}
			}
			return err
		}))
		return n
	}
	for begin := time.Now(); heard() < 2; time.Sleep(10 * time.Millisecond) {
		if err := e.announceRouter(); err != nil && time.Since(begin) > 20*time.Second {
			e.t.Fatalf("announce a router: %v", err) // until the bridge has a link-local address
		}
		if time.Since(begin) > 30*time.Second {
			e.t.Fatal("no advertisement reaches the pod")
		}
	}
	for _, line := range tables(e.t, args.Netns) {
		learned = learned || strings.Contains(line, " ::/0 ") && strings.Contains(line, fmt.Sprintf(" proto %d ", unix.RTPROT_RA)) &&
			strings.Contains(line+" ", " dev "+args.IfName+" ")
	}
	return learned
}

// TestRouterAdvertisements: only eni-ipam with IPv6 accepts advertised routers, also in a
// pod that forwards. Static or IPv4-only addressing accepts none. An interface without an
// address plugin is left to the pod.
func TestRouterAdvertisements(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	shared := e.sharing(map[string]any{}, "10.0.2.15/24", "10.0.2.16/24", "10.0.2.17/24", "fd00:2::15/64", "fd00:2::16/64", "fd00:2::17/64")
	e.inv.Devices[0].Addresses = e.inv.Devices[2].Addresses
	e.writeInventory()
	nic, err := netlink.LinkByName("ens12")
	must(t, err)
	must(t, netlink.LinkSetUp(nic))
	for _, host := range []string{"eth1", "eth2", "ens12", "default"} { // else these serve the node itself
		must(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+host+"/accept_ra", []byte("0"), 0o644))
	}
	static := map[string]any{"type": "static", "addresses": []any{
		map[string]any{"address": "10.0.2.15/24"}, map[string]any{"address": "fd00:2::15/64", "gateway": "fd00:2::1"},
	}, "routes": []any{map[string]any{"dst": "::/0"}}}
	eniIPAM := func(families ...string) map[string]any {
		return map[string]any{"type": "eni-ipam", "families": families, "dataDir": e.file("leases")}
	}
	for _, tt := range []struct {
		name   string
		ipam   map[string]any
		shared bool
		learns bool
	}{
		{"static", static, false, false},
		{"IPv4 of the ENI", eniIPAM("ipv4"), false, false},
		{"IPv6 of the ENI", eniIPAM("ipv6"), false, true},
		{"both of the ENI", eniIPAM("ipv4", "ipv6"), false, true},
		{"none", nil, false, true},
		{"shared, static", static, true, false},
		{"shared, IPv4 of the ENI", eniIPAM("ipv4"), true, false},
		{"shared, IPv6 of the ENI", eniIPAM("ipv6"), true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conf := map[string]any{"select": map[string]any{"nodeENI": "a"}}
			if tt.shared {
				conf = map[string]any{"select": shared["select"], "delegate": shared["delegate"]}
				if tt.ipam["type"] == "eni-ipam" {
					tt.ipam["coolDown"] = 0
				}
			}
			conf["ipam"] = any(tt.ipam)
			if tt.ipam == nil {
				delete(conf, "ipam")
			}
			args := e.pod(conf)
			setSysctls(t, args.Netns, "default/accept_dad=0", "all/accept_dad=0")
			if tt.ipam != nil && tt.learns {
				setSysctls(t, args.Netns, "all/forwarding=1", "default/forwarding=1")
			}
			r := e.add(args)
			if learned := e.hearRouter(args); learned != tt.learns {
				t.Errorf("a default route by an announced router: %v, want %v\n%s", learned, tt.learns, strings.Join(tables(t, args.Netns), "\n"))
			}
			e.holds(args, r)
			if tt.name == "IPv6 of the ENI" { // another network's own default route stands beside the announced one
				beside := *args
				beside.IfName = "net2"
				beside.StdinData = e.conf(map[string]any{"select": map[string]any{"nodeENI": "b"}, "ipam": static})
				e.holds(&beside, e.add(&beside))
				if !e.hearRouter(args) {
					t.Error("the announced default route is gone")
				}
				e.del(&beside)
			}
			e.del(args)
		})
	}
}

func listen(t *testing.T, netns string) <-chan string {
	t.Helper()
	const all = 0x0300 // ETH_P_ALL in network byte order
	fd := -1
	must(t, nstest.In(netns, func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		return err
	}))
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}))
	mac, err := net.ParseMAC(eniA.MAC)
	must(t, err)
	heard := make(chan string, 64)
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		defer unix.Close(fd)
		buf := make([]byte, 2048)
		for {
			select {
			case <-done:
				return
			default:
			}
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil || n < 14 || !bytes.Equal(buf[6:12], mac) {
				continue
			}
			if what := announcement(buf[:n]); what != "" {
				heard <- what
			}
		}
	}()
	return heard
}

// announcement names a frame: sender and target address of an ARP are equal in
// a gratuitous one (RFC 5227); a neighbour advertisement to all nodes is
// unsolicited (RFC 4861 section 7.2.6).
func announcement(frame []byte) string {
	etherType, body := int(frame[12])<<8|int(frame[13]), frame[14:]
	switch {
	case etherType == unix.ETH_P_ARP && len(body) >= 28 && bytes.Equal(body[14:18], body[24:28]):
		return "gratuitous ARP"
	case etherType == unix.ETH_P_IPV6 && len(body) > 40 && body[6] == unix.IPPROTO_ICMPV6 && body[40] == 136 && body[24] == 0xff:
		return "unsolicited NA"
	}
	return ""
}

// TestAnnouncements listens on the wire for the kernel's announcements when the pod's
// interface comes up.
func TestAnnouncements(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	heard := listen(t, e.node.VPC)
	args := e.pod(e.selectA())
	e.add(args)
	want := map[string]bool{"gratuitous ARP": false, "unsolicited NA": false}
	deadline := time.After(10 * time.Second)
	for !want["gratuitous ARP"] || !want["unsolicited NA"] {
		select {
		case what := <-heard:
			want[what] = true
		case <-deadline:
			t.Fatalf("heard %v", want)
		}
	}
	inPod(t, args, func(*link.Handle, link.Link) error { return nil })
	for name, value := range map[string]string{"ipv4/conf/net1/rp_filter": "2", "ipv4/conf/net1/arp_ignore": "1", "ipv4/conf/net1/arp_announce": "2"} {
		var got []byte
		must(t, nstest.In(args.Netns, func() (err error) { got, err = os.ReadFile("/proc/sys/net/" + name); return err }))
		if strings.TrimSpace(string(got)) != value {
			t.Errorf("%s = %s; want %s", name, got, value)
		}
	}
	e.del(args)
}
