package fakeec2

import (
	"net/netip"
	"slices"
)

// room refuses more addresses of a family than an ENI may have: Config.PerENI, and the limit of its instance's type.
func (s *Server) room(e ENI, used, n int) error {
	limit := s.cfg.PerENI
	if i := s.instances[e.Instance]; i != nil && limit == 0 {
		limit = s.types[i.Type].PerENI
	}
	if limit > 0 && used+n > limit {
		return refuse("PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit.")
	}
	return nil
}

func prefixesOf(e ENI, is4 bool) (n int) {
	for _, p := range e.Prefixes {
		if p.Addr().Is4() == is4 {
			n++
		}
	}
	return n
}

// assignIPv4 is AssignPrivateIpAddresses, with a number or addresses, up to the instance type's limit for an ENI.
func (s *Server) assignIPv4(c *call) (string, error) {
	got, err := s.wanted(c, s.subnet(c.r.SubnetID).IPv4, "SecondaryPrivateIpAddressCount", "PrivateIpAddress", "Ipv4PrefixCount", prefix4)
	if err != nil {
		return "", err
	}
	addresses, prefixes := s.assigned(c, got, true)
	out := ""
	for _, a := range addresses {
		out += item("item", item("privateIpAddress", a.String()))
	}
	var networks string
	for _, p := range prefixes {
		networks += item("item", item("ipv4Prefix", p.String()))
	}
	return item("networkInterfaceId", c.r.ID) + item("assignedPrivateIpAddressesSet", out) + item("assignedIpv4PrefixSet", networks), nil
}

func (s *Server) assigned(c *call, got []netip.Prefix, is4 bool) (addresses []netip.Addr, prefixes []netip.Prefix) {
	before := c.r.clone()
	s.set(c, func(e *ENI) {
		for _, p := range got {
			switch {
			case !p.IsSingleIP():
				e.Prefixes = append(e.Prefixes, p)
			case is4:
				e.IPv4 = append(e.IPv4, p.Addr())
			default:
				e.IPv6 = append(e.IPv6, p.Addr())
			}
		}
	})
	if s.cfg.ListAll {
		addresses = append(addresses, before.IPv6...)
		if is4 {
			addresses = slices.Clone(before.IPv4)
		}
		prefixes = slices.DeleteFunc(before.Prefixes, func(p netip.Prefix) bool { return p.Addr().Is4() != is4 })
	}
	for _, p := range got {
		if p.IsSingleIP() {
			addresses = append(addresses, p.Addr())
		} else {
			prefixes = append(prefixes, p)
		}
	}
	s.shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	return addresses, prefixes
}

// assignIPv6 is AssignIpv6Addresses (API_AssignIpv6Addresses.html).
func (s *Server) assignIPv6(c *call) (string, error) {
	got, err := s.wanted(c, s.subnet(c.r.SubnetID).IPv6, "Ipv6AddressCount", "Ipv6Addresses", "Ipv6PrefixCount", prefix6)
	if err != nil {
		return "", err
	}
	addresses, prefixes := s.assigned(c, got, false)
	var out, networks string
	for _, a := range addresses {
		out += item("item", a.String())
	}
	for _, p := range prefixes {
		networks += item("item", p.String())
	}
	return item("networkInterfaceId", c.r.ID) + item("assignedIpv6Addresses", out) + item("assignedIpv6PrefixSet", networks), nil
}

func (s *Server) wanted(c *call, in netip.Prefix, countParam, addressParam, prefixesParam string, prefixBits int) ([]netip.Prefix, error) {
	c.take("NetworkInterfaceId")
	r, subnet := c.r, s.subnet(c.r.SubnetID)
	count, err := c.count(countParam)
	if err != nil {
		return nil, err
	}
	prefixes, err := c.count(prefixesParam)
	if err != nil {
		return nil, err
	}
	names := c.list(addressParam)
	if given := []bool{count > 0, prefixes > 0, len(names) > 0}; len(slices.DeleteFunc(given, func(b bool) bool { return !b })) != 1 {
		return nil, refuse("InvalidParameterCombination", "want one of %s, %s and %s", countParam, addressParam, prefixesParam)
	}
	used := len(r.IPv4)
	if in.Addr().Is6() { // as many as IPv4 ones (API_AssignIpv6Addresses.html)
		used = len(r.IPv6)
	}
	if err := s.room(r.ENI, used+prefixesOf(r.ENI, in.Addr().Is4()), count+prefixes+len(names)); err != nil {
		return nil, err
	}
	switch {
	case names != nil:
		return s.named(subnet, in, names)
	case prefixes > 0:
		return s.choose(subnet, in, prefixBits, prefixes)
	}
	return s.choose(subnet, in, in.Addr().BitLen(), count)
}

func (s *Server) unassignIPv4(c *call) (string, error) {
	if err := s.unassign(c, "PrivateIpAddress", "Ipv4Prefix", func(e *ENI) *[]netip.Addr { return &e.IPv4 }); err != nil {
		return "", err
	}
	return item("return", "true"), nil
}

func (s *Server) unassignIPv6(c *call) (string, error) {
	if err := s.unassign(c, "Ipv6Addresses", "Ipv6Prefix", func(e *ENI) *[]netip.Addr { return &e.IPv6 }); err != nil {
		return "", err
	}
	return item("networkInterfaceId", c.r.ID), nil
}

// unassign removes all addresses of a call, or none. It refuses the primary address.
func (s *Server) unassign(c *call, addressParam, prefixParam string, of func(*ENI) *[]netip.Addr) error {
	c.take("NetworkInterfaceId")
	r := c.r
	addresses, prefixes := c.list(addressParam), c.list(prefixParam)
	if len(addresses)+len(prefixes) == 0 {
		return refuse("MissingParameter", "The request must contain the parameter %s", addressParam)
	}
	next := r.clone()
	have := of(&next)
	for _, v := range addresses {
		i := slices.IndexFunc(*have, func(a netip.Addr) bool { return a.String() == v })
		if i < 0 {
			return refuse("InvalidParameterValue", "Some of the specified IP addresses are not assigned to interface %s", r.ID)
		}
		if i == 0 && (*have)[0].Is4() {
			return refuse("InvalidParameterValue", "Primary IP address %s cannot be unassigned", v)
		}
		*have = slices.Delete(*have, i, i+1)
	}
	for _, v := range prefixes {
		i := slices.IndexFunc(next.Prefixes, func(n netip.Prefix) bool { return n.String() == v })
		if i < 0 {
			return refuse("InvalidParameterValue", "Some of the specified prefixes are not assigned to interface %s", r.ID)
		}
		next.Prefixes = slices.Delete(next.Prefixes, i, i+1)
	}
	s.set(c, func(e *ENI) { *e = next })
	return nil
}
