// Package linktest gives the tests of pkg/link and its subpackages nodes, pods and
// connections in a network namespace of their own.
package linktest

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// Must ends the test on an error.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Node returns a node with these ENIs.
func Node(t *testing.T, enis ...nstest.ENI) *nstest.Node {
	t.Helper()
	n, err := nstest.NewNode(t.TempDir())
	Must(t, err)
	for _, e := range enis {
		Must(t, n.Attach(e))
	}
	return n
}

// Open returns a Handle until the test ends.
func Open(t *testing.T) *link.Handle {
	t.Helper()
	h, err := link.Open()
	Must(t, err)
	t.Cleanup(h.Close)
	return h
}

// Pod makes a netns and opens it until the test ends.
func Pod(t *testing.T, name string) (*link.Netns, *link.Handle) {
	t.Helper()
	path := "/run/netns/" + name
	Must(t, nstest.NewNetns(path))
	ns, err := link.OpenNetns(path)
	Must(t, err)
	t.Cleanup(ns.Close)
	h, err := ns.Open()
	Must(t, err)
	t.Cleanup(h.Close)
	return ns, h
}

// ENI1 is an ENI for tests that need no particular one.
var ENI1 = nstest.ENI{PCI: "0000:00:06.0", Name: "eth1", MAC: "02:00:00:00:00:01"}

// OpenENI1 makes a node with ENI1 and returns a Handle and the link.
func OpenENI1(t *testing.T) (*link.Handle, link.Link) {
	t.Helper()
	Node(t, ENI1)
	h := Open(t)
	l, err := h.ByName(ENI1.Name)
	Must(t, err)
	return h, l
}

// Links are eth1 … eth6 of a node, all up and with addresses.
type Links struct {
	*link.Handle
	T     *testing.T
	Index map[string]int // by name
}

// NewLinks makes a node with these links.
func NewLinks(t *testing.T) Links {
	t.Helper()
	n := Node(t)
	m := Links{Handle: Open(t), T: t, Index: map[string]int{}}
	for i := 1; i <= 6; i++ {
		name := fmt.Sprintf("eth%d", i)
		Must(t, n.Attach(nstest.ENI{Name: name, MAC: fmt.Sprintf("02:00:00:00:00:%02x", i)}))
		l, err := m.ByName(name)
		Must(t, err)
		Must(t, m.SetUp(l.Index))
		Must(t, m.EnsureAddress(l.Index, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 15}), 24)))
		Must(t, m.EnsureAddress(l.Index, netip.MustParsePrefix(fmt.Sprintf("fd00:%d::15/64", i))))
		m.Index[name] = l.Index
	}
	return m
}

// Rule adds a policy rule until the test ends, IPv4 unless edit says otherwise.
func (m Links) Rule(edit func(*netlink.Rule)) *netlink.Rule {
	m.T.Helper()
	r := netlink.NewRule()
	r.Family, r.Table = netlink.FAMILY_V4, 254
	edit(r)
	Must(m.T, netlink.RuleAdd(r))
	return r
}

// Dst is a destination in the library's form.
func Dst(text string) *net.IPNet {
	p := netip.MustParsePrefix(text)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
