package routing

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link/internal/rtnl"
)

// How source-based routing is told from everybody else's rules and routes.
const (
	// SourceProtocol is the protocol number (rtm_protocol, FRA_PROTOCOL) of each rule
	// and route of it, and of nothing else.
	SourceProtocol = 161
	// SourcePriority is the priority of its rules. The Amazon VPC CNI has 512 (to its pods),
	// 1024 (marked answers, by the primary ENI) and 1536 (from its pods): traffic to
	// those pods is theirs, everything else from our addresses is ours.
	SourcePriority = 1400
	// sourceTables is added to a link's index for its table: the VPC CNI numbers its
	// own from 2, amazon-ec2-net-utils from 10000.
	sourceTables = 20000
)

// VPCRouter is the IPv6 address of the router of each subnet of a VPC (GetIPv6Gateway in pkg/networkutils/network.go of
// amazon-vpc-cni-k8s). A link that ignores router advertisements learns no other.
var VPCRouter = netip.MustParseAddr("fe80:ec2::1")

// ErrRuleTaken is returned when somebody else's rule is where one of ours should be.
var ErrRuleTaken = errors.New("somebody else's rule has its place")

// Source is a link whose addresses are answered out of it.
type Source struct {
	// Index is the link's.
	Index int
	// From are the addresses and networks that the link is for.
	From []netip.Prefix
	// Subnets are on the link.
	Subnets []netip.Prefix
	// Routers lead to everywhere else, at most one of each family. Without an IPv6 one it is the router of an announced
	// route in the main table, now or at an earlier call, else VPCRouter.
	Routers []netip.Addr
}

func (s *Source) table() int { return sourceTables + s.Index }

// EnsureSources makes source-based routing as it should be for these links, and removes our rules and routes of all
// others. It says whether it changed anything. It costs one dump of each family's rules and one of the routes. A link
// that is gone or down is an error, and so is a rule or route of somebody else where ours should be (ErrRuleTaken,
// ErrRouteTaken). EnsureSources leaves that one as it is, and does all other links first.
func (t Table) EnsureSources(want []Source) (changed bool, err error) {
	rules, err := t.rules()
	if err != nil {
		return false, err
	}
	routes, err := t.routes(unix.RT_TABLE_UNSPEC)
	if err != nil {
		return false, err
	}
	var wantRules []netlink.Rule
	var wantRoutes []netlink.Route
	for _, s := range want {
		wantRules = append(wantRules, s.rules()...)
		wantRoutes = append(wantRoutes, s.routes(routes)...)
	}
	var errs []error
	did := func(what string, err error) {
		changed = changed || err == nil
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, rtnl.NotFound(err)))
		}
	}
	gone := func(err error) error {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
			return nil
		}
		return err
	}
	// Routes before rules, so that no rule leads to an empty table.
	for _, r := range wantRoutes {
		if !slices.ContainsFunc(routes, func(o netlink.Route) bool { return sameSourceRoute(o, r) }) {
			did("add route "+r.String(), t.addSourceRoute(routes, r))
		}
	}
	for _, r := range wantRules {
		if !slices.ContainsFunc(rules, func(o netlink.Rule) bool { return sameSourceRule(o, r) }) {
			did("add rule "+r.String(), t.addSourceRule(rules, r))
		}
	}
	for _, o := range rules {
		if o.Protocol == SourceProtocol && !slices.ContainsFunc(wantRules, func(r netlink.Rule) bool { return sameSourceRule(o, r) }) {
			did("delete rule "+o.String(), gone(t.nl.RuleDel(&o)))
		}
	}
	for _, o := range routes {
		if o.Protocol == SourceProtocol && !slices.ContainsFunc(wantRoutes, func(r netlink.Route) bool { return sameSourceRoute(o, r) }) {
			did("delete route "+o.String(), gone(t.nl.RouteDel(&o)))
		}
	}
	return changed, errors.Join(errs...)
}

// addSourceRoute replaces an outdated route of ours. The kernel would as well replace one of somebody else's.
func (t Table) addSourceRoute(have []netlink.Route, r netlink.Route) error {
	for _, o := range have {
		if o.Protocol != SourceProtocol && o.Table == r.Table && destination(o) == destination(r) {
			return fmt.Errorf("%w: %s", ErrRouteTaken, t.describeRoute(o))
		}
	}
	return t.nl.RouteReplace(&r)
}

// addSourceRule adds a rule. The kernel refuses one for which it has the same but for
// its protocol or an inversion (rule_exists of net/core/fib_rules.c).
func (t Table) addSourceRule(have []netlink.Rule, r netlink.Rule) error {
	for _, o := range have {
		key := o
		key.Invert = r.Invert
		if o.Protocol != SourceProtocol && sameRule(key, r) {
			return fmt.Errorf("%w: protocol %d, not inverted: %t", ErrRuleTaken, o.Protocol, !o.Invert)
		}
	}
	return t.nl.RuleAdd(&r)
}

func (s *Source) rules() (out []netlink.Rule) {
	for _, from := range s.From {
		r := netlink.NewRule()
		r.Src, r.Table, r.Priority, r.Protocol, r.Family = rtnl.IPNet(from.Masked()), s.table(), SourcePriority, SourceProtocol, family(from.Addr())
		out = append(out, *r)
	}
	return out
}

// routes are the wanted routes of the link's table. Have are all routes of the netns.
func (s *Source) routes(have []netlink.Route) (out []netlink.Route) {
	route := func(dst netip.Prefix) netlink.Route {
		return netlink.Route{LinkIndex: s.Index, Dst: rtnl.IPNet(dst), Table: s.table(), Protocol: SourceProtocol, Family: family(dst.Addr())}
	}
	var v4, v6 bool
	for _, subnet := range s.Subnets {
		r := route(subnet.Masked())
		if subnet.Addr().Is4() {
			r.Scope = netlink.SCOPE_LINK
		}
		v4, v6 = v4 || subnet.Addr().Is4(), v6 || subnet.Addr().Is6()
		if !slices.ContainsFunc(out, func(o netlink.Route) bool { return sameSourceRoute(o, r) }) {
			out = append(out, r)
		}
	}
	routers := s.Routers
	if v6 && !slices.ContainsFunc(routers, netip.Addr.Is6) {
		routers = append(slices.Clone(routers), s.announced(have))
	}
	for _, router := range routers {
		everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if router.Is6() {
			everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		if router.Is4() && !v4 || router.Is6() && !v6 {
			continue
		}
		r := route(everywhere)
		r.Gw = router.AsSlice()
		out = append(out, r)
	}
	return out
}

// announced returns the link's IPv6 router: the gateway of its default route in the main
// table, else of the one in its own table, else VPCRouter.
func (s *Source) announced(have []netlink.Route) netip.Addr {
	router := VPCRouter
	for _, r := range have {
		gw, isAddr := netip.AddrFromSlice(r.Gw)
		if !isAddr || !gw.Is6() || r.LinkIndex != s.Index || !isDefault(r) {
			continue
		}
		switch {
		case r.Table == unix.RT_TABLE_MAIN:
			return gw
		case r.Table == s.table() && r.Protocol == SourceProtocol:
			router = gw
		}
	}
	return router
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func sameSourceRule(a, b netlink.Rule) bool { return a.Protocol == b.Protocol && sameRule(a, b) }

// sameRule says whether two rules are alike but for their protocols.
func sameRule(a, b netlink.Rule) bool {
	from, _ := rtnl.Prefix(a.Src)
	other, _ := rtnl.Prefix(b.Src)
	a.Src, a.Protocol, b.Src, b.Protocol = nil, 0, nil, 0
	return from == other && reflect.DeepEqual(a, b) //nolint:forbidigo // every field, those too that the kernel gets later
}

func sameSourceRoute(a, b netlink.Route) bool {
	gw, _ := netip.AddrFromSlice(a.Gw)
	other, _ := netip.AddrFromSlice(b.Gw)
	return a.Protocol == b.Protocol && a.Table == b.Table && a.LinkIndex == b.LinkIndex && gw.Unmap() == other.Unmap() &&
		destination(a) == destination(b)
}
