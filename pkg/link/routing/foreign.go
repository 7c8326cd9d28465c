package routing

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link/internal/rtnl"
)

// ForeignUse finds the links of this netns that look like somebody else's. It returns the reason by the link's index,
// in one sentence. Links without a mark are not in the map. The first of these marks counts:
//
//   - a route out of the link in a table other than main, local and default, of
//     either family, alone or as one of several next hops, that is neither ours nor a
//     network manager's (managers). Policy rules lead to such tables: the Amazon VPC CNI
//     gives each of its ENIs one, numbered after its device number;
//   - another link of this netns on top of it: vlan, ipvlan, macvlan. The VPC
//     CNI makes one VLAN link per branch ENI on the instance's trunk ENI;
//   - a bond, bridge, VRF or the like that it is a port of;
//   - a policy rule that names it as iif or oif and leads to a table below managerTables.
//
// The sentence names nothing that comes and goes with each pod: it stays the same while the first mark does. It costs
// one dump of the links, one of the routes and one of each family's rules, for any number of links.
func (t Table) ForeignUse() (map[int]string, error) {
	links, err := rtnl.Dump(t.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	routes, err := t.routes(unix.RT_TABLE_UNSPEC)
	if err != nil {
		return nil, err
	}
	rules, err := t.rules()
	if err != nil {
		return nil, err
	}
	use := map[int]string{}
	mark := func(index int, format string, args ...any) {
		if index != 0 && use[index] == "" {
			use[index] = fmt.Sprintf(format, args...)
		}
	}
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(a.Table, b.Table) })
	for _, r := range routes {
		if r.Protocol == SourceProtocol || slices.Contains([]int{unix.RT_TABLE_MAIN, unix.RT_TABLE_LOCAL, unix.RT_TABLE_DEFAULT}, r.Table) {
			continue
		}
		if managers(int(r.Protocol), r.Table) {
			continue
		}
		mark(r.LinkIndex, "route table %d leads out of it", r.Table)
		for _, hop := range r.MultiPath {
			mark(hop.LinkIndex, "route table %d leads out of it", r.Table)
		}
	}
	markStacked(links, mark)
	markRules(links, rules, mark)
	return use, nil
}

// amazon-ec2-net-utils numbers its tables from managerTables on, and from cardTables on for
// network cards other than the first.
const (
	managerTables = 10000
	cardTables    = managerTables + 100
)

// managers says whether the host's network manager has made a route. It configures every link and owns none.
//
// networkd and NetworkManager give their routes the protocol dhcp, ra or static. amazon-ec2-net-utils numbers its
// tables 10000 + 100 × network card + device number (lib/lib.sh). So does the VPC CNI on network cards other than the
// first (CalculateRouteTableId in pkg/networkutils/helper.go of amazon-vpc-cni-k8s), by routes of the protocol boot,
// and on the first from 2: these are marks.
func managers(protocol, table int) bool {
	switch protocol {
	case unix.RTPROT_DHCP, unix.RTPROT_RA, unix.RTPROT_STATIC:
		return true
	}
	return table >= managerTables && table < cardTables || table >= cardTables && protocol != unix.RTPROT_BOOT && protocol != unix.RTPROT_UNSPEC
}

// markStacked marks the links that others of this netns use. Kinds, not names, are given where there can be many.
func markStacked(links []netlink.Link, mark func(index int, format string, args ...any)) {
	slices.SortStableFunc(links, func(a, b netlink.Link) int { return cmp.Compare(a.Type(), b.Type()) })
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Type() + " " + l.Attrs().Name
		if a := l.Attrs(); a.NetNsID < 0 && rtnl.Stacked(l.Type()) {
			mark(a.ParentIndex, "a link of kind %s lies on top of it", l.Type())
		}
	}
	for _, l := range links {
		if a := l.Attrs(); a.MasterIndex != 0 {
			master, ok := names[a.MasterIndex]
			if !ok { // made or gone between two parts of the dump
				master = "another link"
			}
			mark(a.Index, "it is a port of %s", master)
		}
	}
}

func markRules(links []netlink.Link, rules []netlink.Rule, mark func(index int, format string, args ...any)) {
	slices.SortStableFunc(rules, func(a, b netlink.Rule) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.IifName, b.IifName), cmp.Compare(a.OifName, b.OifName))
	})
	for _, l := range links {
		a := l.Attrs()
		for _, r := range rules {
			if r.Table >= managerTables { // a network manager's; the VPC CNI's rules name no ENI
				continue
			}
			if name := ruleLink(r, append([]string{a.Name}, a.AltNames...)); name != "" {
				mark(a.Index, "the policy rule of priority %d names it (%s)", r.Priority, name)
			}
		}
	}
}

// ruleLink says how the rule names a link of those names; "" when it does not.
func ruleLink(r netlink.Rule, names []string) string {
	var how []string
	if slices.Contains(names, r.IifName) {
		how = append(how, "iif "+r.IifName)
	}
	if slices.Contains(names, r.OifName) {
		how = append(how, "oif "+r.OifName)
	}
	return strings.Join(how, ", ")
}

// rules lists the policy rules of both families. A family that the kernel does
// not have (ipv6.disable=1), or has without policy rules, has none.
func (t Table) rules() ([]netlink.Rule, error) {
	var all []netlink.Rule
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		some, err := rtnl.Dump(func() ([]netlink.Rule, error) { return t.nl.RuleList(family) })
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("list policy rules: %w", err)
		}
		all = append(all, some...)
	}
	return all, nil
}
