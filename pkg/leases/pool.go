package leases

import (
	"errors"
	"iter"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// The families of addresses, as netconfs and leases name them.
const (
	IPv4 = "ipv4"
	IPv6 = "ipv6"
)

// Pool are the addresses of an ENI that pods which share it may be given, of one
// family: every one but the first, which is the ENI's own, and its prefixes.
type Pool struct {
	// Family is IPv4 or IPv6.
	Family string
	spans  []span
}

// span are the addresses of a network, each with the length of the subnet.
type span struct {
	netip.Prefix
	bits int
}

// FamilyOf returns the family of an address.
func FamilyOf(a netip.Addr) string {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Pools returns the device's pools, IPv4 first. A prefix is left out while the subnet's
// length is not known; IPv6 subnets of a VPC all have 64.
func Pools(d *nodestate.Device) []Pool {
	bits4 := 0
	if s := d.SubnetCIDR; s.IsValid() && s.Addr().Is4() {
		bits4 = s.Bits()
	}
	return []Pool{pool(d, IPv4, bits4), pool(d, IPv6, 64)}
}

// pool is the device's of one family, whose subnet's length is bits unless an address says otherwise; 0 is not known.
func pool(d *nodestate.Device, family string, bits int) Pool {
	p, own := Pool{Family: family}, false
	for _, a := range d.Addresses {
		if FamilyOf(a.Addr()) != family {
			continue
		}
		if bits = a.Bits(); own {
			p.spans = append(p.spans, span{netip.PrefixFrom(a.Addr(), a.Addr().BitLen()), bits})
		}
		own = true
	}
	for _, prefix := range d.Prefixes {
		if FamilyOf(prefix.Addr()) == family && bits != 0 {
			p.spans = append(p.spans, span{prefix.Masked(), bits})
		}
	}
	return p
}

// Find returns the address with the length of its subnet, if it is the pool's.
func (p Pool) Find(a netip.Addr) (netip.Prefix, bool) {
	if i := p.spanOf(a); i >= 0 {
		return netip.PrefixFrom(a, p.spans[i].bits), true
	}
	return netip.Prefix{}, false
}

func (p Pool) spanOf(a netip.Addr) int {
	return slices.IndexFunc(p.spans, func(s span) bool { return s.Contains(a) })
}

// Size is how many addresses the pool has, math.MaxInt for more than that.
func (p Pool) Size() int {
	n := 0
	for _, s := range p.spans {
		if n += Size(s.Prefix); n < 0 {
			return math.MaxInt
		}
	}
	return n
}

// Size is how many addresses a network has, math.MaxInt for more than that.
func Size(p netip.Prefix) int {
	if host := p.Addr().BitLen() - p.Bits(); host < 63 {
		return 1 << host
	}
	return math.MaxInt
}

// Behind yields the pool's addresses once around, beginning behind one of it,
// which comes last. Of an address that is not the pool's it begins at the first.
func (p Pool) Behind(last netip.Addr) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		walk := func(s span, from, to netip.Addr) bool {
			for a := from; s.Contains(a); a = a.Next() {
				if !yield(netip.PrefixFrom(a, s.bits)) {
					return false
				}
				if a == to {
					return true
				}
			}
			return true
		}
		i := p.spanOf(last)
		if i >= 0 && !walk(p.spans[i], last.Next(), netip.Addr{}) {
			return
		}
		for n := range p.spans {
			if s := p.spans[(i+1+n)%len(p.spans)]; !walk(s, s.Addr(), last) {
				return
			}
		}
	}
}

// String lists addresses and prefixes for messages.
func (p Pool) String() string {
	var out []string
	for _, s := range p.spans {
		if s.IsSingleIP() {
			out = append(out, s.Addr().String())
		} else {
			out = append(out, s.Prefix.String())
		}
	}
	if out == nil {
		return "none"
	}
	return strings.Join(out, ", ")
}

// PoolCount counts the addresses of a pool: all, and those that are not free. Size is math.MaxInt for more than that.
type PoolCount struct {
	Size     int `json:"size"`
	Leased   int `json:"leased"`
	Cooling  int `json:"cooling"`
	Retiring int `json:"retiring"`
}

// Free is how many addresses of the pool can be given.
func (c PoolCount) Free() int { return c.Size - c.Leased - c.Cooling - c.Retiring }

// PoolState counts the addresses of one family that an ENI has for pods which share it.
type PoolState struct {
	ENIID device.ENIID `json:"eniID"`
	// Family is IPv4 or IPv6.
	Family string `json:"family"`
	PoolCount
}

// Pools counts the pools of all devices; devices without any are left out. The error names the files that could not be read; the others count.
func (d Dir) Pools(bootID string, devices []nodestate.Device) (all []PoolState, err error) {
	now, err := nodestate.Uptime()
	if err != nil {
		return nil, err
	}
	var errs []error
	for i := range devices {
		pools := slices.DeleteFunc(Pools(&devices[i]), func(p Pool) bool { return p.Size() == 0 })
		if len(pools) == 0 {
			continue
		}
		l, err := d.Read(bootID, devices[i].ENIID)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, p := range pools {
			c, _ := l.Count(p, now)
			all = append(all, PoolState{devices[i].ENIID, p.Family, c})
		}
	}
	return all, errors.Join(errs...)
}

// Count counts a pool's leases at a time since boot. Next is the time until the first
// cooling address can be given if no other is free; 0 without a cooling one.
func (l *Leases) Count(p Pool, now time.Duration) (c PoolCount, next time.Duration) {
	c.Size = p.Size()
	for _, lease := range l.Leases {
		if _, ok := p.Find(lease.Address); !ok || !lease.Holds(now) {
			continue
		}
		switch lease.State {
		case Held:
			c.Leased++
		case Cooling:
			if c.Cooling++; next == 0 || lease.ScarceAt()-now < next {
				next = max(lease.ScarceAt()-now, 1)
			}
		}
	}
	for _, retiring := range l.Retiring {
		if _, ok := p.Find(retiring.Addr()); ok {
			c.Retiring += Size(retiring)
		}
	}
	return c, next
}

// Spans are the pool's single addresses (with their full length) and prefixes, in its order.
func (p Pool) Spans() (out []netip.Prefix) {
	for _, s := range p.spans {
		out = append(out, s.Prefix)
	}
	return out
}
