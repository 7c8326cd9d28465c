package hostnet

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestHostLinks: the addresses and routes that a network manager leaves on a link are seen.
func TestHostLinks(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	node, err := nstest.NewNode(t.TempDir())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(err)
	must(node.Attach(nstest.ENI{PCI: "0000:00:06.0", Name: "eth1", MAC: "02:00:00:00:00:01"}))
	host, err := link.Open()
	must(err)
	defer host.Close()
	index, err := host.Index("eth1")
	must(err)
	must(host.SetUp(index))
	must(host.EnsureAddress(index, netip.MustParsePrefix("10.0.1.15/24")))
	for _, to := range []string{"0.0.0.0/0", "10.9.0.0/16"} {
		dst, err := netlink.ParseIPNet(to)
		must(err)
		must(netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: dst, Protocol: unix.RTPROT_DHCP, Priority: 512, Scope: netlink.SCOPE_LINK}))
	}
	all, err := HostLinks(sysfs.NewFS(node.Sysfs), link.DefaultIPv6Conf)
	must(err)
	i := slices.IndexFunc(all, func(l HostLink) bool { return l.Name == "eth1" })
	if i < 0 {
		t.Fatalf("links %+v", all)
	}
	l := all[i]
	if !slices.Equal(l.Addresses, []string{"10.0.1.15/24"}) ||
		!slices.Equal(l.Routes, []string{"IPv4 default route (proto dhcp)", "other routes of the main table (proto dhcp): 1"}) {
		t.Errorf("link %+v", l)
	}
	if l.AcceptRA != "1" || l.Forwarding != "0" || l.Driver != "ena" {
		t.Errorf("link %+v", l)
	}
}
