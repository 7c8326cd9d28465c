package fakeec2

import (
	"net/netip"
	"slices"
)

// prefix4 and prefix6 are the lengths of delegated prefixes ("Prefix delegation", EC2 user guide).
const (
	prefix4 = 28
	prefix6 = 80
)

// pool counts the uses of a VPC's addresses. Each is counted as itself and in the delegated prefix around it.
type pool struct {
	single, within, delegated map[netip.Prefix]int
	odd                       map[netip.Prefix]int    // delegated prefixes of other lengths
	next                      map[span]netip.Addr     // everything before it is taken
	used                      map[netip.Prefix]uint64 // IPv4 addresses by subnet
}

type span struct {
	in   netip.Prefix
	bits int
}

func newPool() *pool {
	return &pool{map[netip.Prefix]int{}, map[netip.Prefix]int{}, map[netip.Prefix]int{}, map[netip.Prefix]int{}, map[span]netip.Addr{},
		map[netip.Prefix]uint64{}}
}

func around(a netip.Addr) netip.Prefix {
	bits := prefix6
	if a.Is4() {
		bits = prefix4
	}
	p, _ := a.Prefix(bits) // both lengths are valid
	return p
}

// account adds an ENI's addresses to its VPC's pool (+1), or takes them away (-1).
func (s *Server) account(e ENI, by int) {
	if !e.Deleted.IsZero() {
		return
	}
	subnet := s.subnet(e.SubnetID)
	p := s.pool(subnet.VPCID)
	for _, a := range slices.Concat(e.IPv4, e.IPv6) {
		p.single[netip.PrefixFrom(a, a.BitLen())] += by
		p.within[around(a)] += by
		p.count(subnet.IPv4, netip.PrefixFrom(a, a.BitLen()), by)
	}
	for _, n := range e.Prefixes {
		if n.Bits() == around(n.Addr()).Bits() {
			p.delegated[n] += by
		} else {
			p.odd[n] += by
		}
		p.count(subnet.IPv4, n, by)
	}
}

func (p *pool) count(subnet, what netip.Prefix, by int) {
	if what.Addr().Is4() {
		p.used[subnet] += uint64(int64(by) << (32 - what.Bits())) //nolint:gosec // wraps around to a subtraction
	}
	if by > 0 {
		return
	}
	for sp, next := range p.next {
		if first, err := what.Addr().Prefix(min(sp.bits, what.Bits())); err == nil && sp.in.Contains(first.Addr()) && first.Addr().Less(next) {
			p.next[sp] = first.Addr()
		}
	}
}

func (p *pool) taken(n netip.Prefix) bool {
	if n.IsSingleIP() && (p.single[n] > 0 || p.delegated[around(n.Addr())] > 0) || !n.IsSingleIP() && (p.within[n] > 0 || p.delegated[n] > 0) {
		return true
	}
	for other, uses := range p.odd {
		if uses > 0 && other.Overlaps(n) {
			return true
		}
	}
	return false
}

func (s *Server) pool(vpc string) *pool {
	if s.pools[vpc] == nil {
		s.pools[vpc] = newPool()
	}
	return s.pools[vpc]
}

// reserved says whether an address or prefix has one of the VPC's own.
func reserved(in, p netip.Prefix) bool {
	first, last := in.Addr(), in.Addr()
	if in.Addr().Is4() {
		b := in.Addr().As4()
		for i := in.Bits(); i < 32; i++ {
			b[i/8] |= 1 << (7 - i%8)
		}
		last = netip.AddrFrom4(b)
	}
	for range 4 {
		if p.Contains(first) {
			return true
		}
		first = first.Next()
	}
	return in.Addr().Is4() && p.Contains(last)
}

// choose returns the first n free addresses or prefixes of a subnet, each once, except the ones that the call has chosen already.
func (s *Server) choose(subnet Subnet, in netip.Prefix, bits, n int, except ...netip.Prefix) (out []netip.Prefix, err error) {
	p, sp := s.pool(subnet.VPCID), span{in, bits}
	next, known := p.next[sp]
	if !known && in.IsValid() {
		next = in.Masked().Addr()
	}
	first := netip.Addr{}
	for at := netip.PrefixFrom(next, bits); in.IsValid() && at.IsValid() && in.Contains(at.Addr()) && len(out) < n; at = after(at) {
		next = after(at).Addr()
		if reserved(in, at) || p.taken(at) {
			continue
		}
		if !first.IsValid() {
			first = at.Addr()
		}
		if !slices.ContainsFunc(except, at.Overlaps) {
			out = append(out, at)
		}
	}
	if first.IsValid() {
		next = first
	}
	if in.IsValid() {
		p.next[sp] = next
	}
	if len(out) < n && bits < in.Addr().BitLen() {
		return nil, refuse("InsufficientCidrBlocks", "The specified subnet does not have enough free cidr blocks to satisfy the request.")
	}
	if len(out) < n {
		return nil, refuse("InsufficientFreeAddressesInSubnet", "The specified subnet does not have enough free addresses to satisfy the request.")
	}
	return out, nil
}

// named returns the given addresses if they are free.
func (s *Server) named(subnet Subnet, in netip.Prefix, names []string) (out []netip.Prefix, err error) {
	for _, name := range names {
		a, err := netip.ParseAddr(name)
		if err != nil || a.Is4() != in.Addr().Is4() {
			return nil, refuse("InvalidParameterValue", "invalid value for parameter address: %s", name)
		}
		p := netip.PrefixFrom(a, a.BitLen())
		switch {
		case !in.Contains(a):
			return nil, refuse("InvalidParameterValue", "Address %s does not fall within the subnet's address range", name)
		case reserved(in, p):
			return nil, refuse("InvalidParameterValue", "Address %s is in subnet's reserved address range", name)
		case s.pool(subnet.VPCID).taken(p):
			return nil, refuse("InvalidParameterValue", "[%s] have already been assigned, but move is not allowed", name)
		}
		out = append(out, p)
	}
	return out, nil
}

// after returns the next prefix of the same length; it may wrap around.
func after(p netip.Prefix) netip.Prefix {
	b := p.Addr().AsSlice()
	for i := (p.Bits() - 1) / 8; i >= 0; i-- {
		step := 1
		if i == (p.Bits()-1)/8 {
			step = 1 << (7 - (p.Bits()-1)%8)
		}
		sum := int(b[i]) + step
		b[i] = byte(sum)
		if sum < 256 {
			break
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.Bits())
}

// free is the number of free IPv4 addresses of a subnet: all but five and those in use.
func (s *Server) free(subnet Subnet) int {
	if !subnet.IPv4.IsValid() {
		return 0
	}
	size := uint64(1) << (32 - subnet.IPv4.Bits())
	return int(size) - 5 - int(s.pool(subnet.VPCID).used[subnet.IPv4]) //nolint:gosec // at most 2^32
}
