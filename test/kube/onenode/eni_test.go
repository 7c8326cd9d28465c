package onenode

import (
	"fmt"

	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// eni is one ENI of the node and the NodeENI of the same letter: nodeENI "a" offers intel.com/net_a.
type eni struct {
	nstest.ENI
	letter string
	id     string // the ENI's
	subnet string
	more   addresses
	// shared: pods share the ENI, and its NodeENI offers no resource.
	shared bool
}

type addresses struct{ ipv4, ipv6, prefixes []string }

func newENI(i int) eni {
	letter := string(rune('a' + i))
	return eni{
		ENI:    nstest.ENI{PCI: fmt.Sprintf("0000:00:%02x.0", 6+i), Name: fmt.Sprintf("eth%d", i+1), MAC: fmt.Sprintf("02:00:00:00:00:%02x", 0x0a+i)},
		letter: letter, id: fmt.Sprintf("eni-0a1b2c3d4e5f600%02x", 0x0a+i), subnet: fmt.Sprintf("subnet-0a1b2c3d4e5f600%02x", 0x0a+i),
	}
}

func newENIs(n int) (all []eni) {
	for i := range n {
		all = append(all, newENI(i))
	}
	return all
}

func (e eni) resource() string { return "intel.com/net_" + e.letter }

// ip is an IPv4 address of the subnet: the router has the first, the ENI the tenth.
func (e eni) ip(n int) string { return fmt.Sprintf("10.0.%d.%d", e.letter[0]-'a'+2, n) }

func (e eni) ip6(n int) string { return fmt.Sprintf("fd00:%d::%x", e.letter[0]-'a'+2, n) }

// own is the primary address of the ENI.
func (e eni) own() string { return e.ip(10) }

func (e eni) cidr() string { return e.ip(0) + "/24" }

func (e eni) metadata(index int) fakeimds.ENI {
	out := fakeimds.ENI{
		ID: e.id, MAC: e.MAC, DeviceIndex: index, SubnetID: e.subnet, SubnetIPv4CIDR: e.cidr(), VPCIPv4CIDRs: []string{"10.0.0.0/16"},
		IPv4s: append([]string{e.own()}, e.more.ipv4...), IPv4Prefixes: e.more.prefixes, IPv6s: e.more.ipv6,
	}
	if out.IPv6s != nil {
		out.SubnetIPv6CIDR = []string{e.ip6(0) + "/64"}
	}
	return out
}
