package fakeec2

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// describe is DescribeNetworkInterfaces, by attachment.instance-id.
func (s *Server) describe(p params) (string, error) {
	most, err := p.count("MaxResults")
	if err != nil {
		return "", err
	}
	if most != 0 && (most < 5 || most > 1000) {
		return "", refuse("InvalidParameterValue", "Value ( %d ) for parameter maxResults is invalid. Expecting a value between 5 and 1000.", most)
	}
	name, values := p.take("Filter.1.Name"), p.list("Filter.1.Value")
	if name != "attachment.instance-id" {
		return "", refuse("InvalidParameterValue", "The filter '%s' is invalid", name)
	}
	var shown []ENI
	for _, r := range s.enis {
		if e := s.seen(r); slices.Contains(values, e.Instance) {
			shown = append(shown, e)
		}
	}
	slices.SortFunc(shown, func(a, b ENI) int { return strings.Compare(a.ID, b.ID) })
	from := 0
	if token := p.take("NextToken"); token != "" {
		if from, err = strconv.Atoi(strings.TrimPrefix(token, "page-")); err != nil || from > len(shown) {
			return "", refuse("InvalidParameterValue", "Invalid value '%s' for nextToken", token)
		}
	}
	next := ""
	shown = shown[from:]
	if most != 0 && len(shown) > most {
		shown, next = shown[:most], item("nextToken", "page-"+strconv.Itoa(from+most))
	}
	var all string
	for _, e := range shown {
		all += item("item", describeENI(e))
	}
	return item("networkInterfaceSet", all) + next, nil
}

func describeENI(e ENI) string {
	var v4, v6, p4, p6, tags string
	for i, a := range e.IPv4 {
		v4 += item("item", item("privateIpAddress", a.String())+item("primary", strconv.FormatBool(i == 0)))
	}
	for _, a := range e.IPv6 {
		v6 += item("item", item("ipv6Address", a.String()))
	}
	for _, p := range e.Prefixes {
		if p.Addr().Is4() {
			p4 += item("item", item("ipv4Prefix", p.String()))
		} else {
			p6 += item("item", item("ipv6Prefix", p.String()))
		}
	}
	for k, v := range e.Tags {
		tags += item("item", item("key", text(k))+item("value", text(v)))
	}
	attachment := item("attachmentId", "eni-attach-"+strings.TrimPrefix(e.ID, "eni-")) + item("instanceId", e.Instance) +
		item("deviceIndex", strconv.Itoa(e.DeviceIndex)) + item("networkCardIndex", "0") + item("status", "attached")
	return item("networkInterfaceId", e.ID) + item("subnetId", e.SubnetID) + item("vpcId", "vpc-0a1b2c3d") + item("macAddress", e.MAC) + item("status", "in-use") +
		item("attachment", attachment) + item("privateIpAddressesSet", v4) + item("ipv4PrefixSet", p4) + item("ipv6AddressesSet", v6) + item("ipv6PrefixSet", p6) + item("tagSet", tags)
}

// seen is the ENI as Describe shows it.
func (s *Server) seen(r *record) ENI {
	for _, past := range r.before {
		if s.cfg.Now().Before(past.until) {
			return past.eni
		}
	}
	return r.ENI
}

// changing finds the ENI of a call that changes it.
func (s *Server) changing(p params) (*record, error) {
	id := p.take("NetworkInterfaceId")
	r := s.enis[id]
	if r == nil {
		return nil, refuse("InvalidNetworkInterfaceID.NotFound", "The networkInterface ID '%s' does not exist", id)
	}
	if s.cfg.MayChange != nil && !s.cfg.MayChange(r.ENI) {
		return nil, refuse("UnauthorizedOperation", "You are not authorized to perform this operation.")
	}
	return r, nil
}

// change makes a change that Describe shows later.
func (s *Server) change(r *record, edit func(*ENI)) {
	if s.cfg.Lag > 0 {
		r.before = append(r.before, past{s.cfg.Now().Add(s.cfg.Lag), r.clone()})
	}
	edit(&r.ENI)
}

func (s *Server) subnet(id string) Subnet {
	for _, n := range s.cfg.Subnets {
		if n.ID == id {
			return n
		}
	}
	return Subnet{}
}

// taken says whether some ENI has an address, or a prefix that overlaps.
func (s *Server) taken(p netip.Prefix) bool {
	for _, r := range s.enis {
		for _, a := range slices.Concat(r.IPv4, r.IPv6) {
			if p.Contains(a) {
				return true
			}
		}
		if slices.ContainsFunc(r.Prefixes, p.Overlaps) {
			return true
		}
	}
	return false
}

// choose finds n free addresses or prefixes of a subnet's range.
func (s *Server) choose(in netip.Prefix, bits, n int) (out []netip.Prefix, err error) {
	reserved := func(p netip.Prefix) bool {
		last := in.Addr()
		if in.Addr().Is4() {
			b := in.Addr().As4()
			for i := in.Bits(); i < 32; i++ {
				b[i/8] |= 1 << (7 - i%8)
			}
			last = netip.AddrFrom4(b)
		}
		first := in.Addr()
		for range 4 {
			if p.Contains(first) {
				return true
			}
			first = first.Next()
		}
		return in.Addr().Is4() && p.Contains(last)
	}
	tries := 0
	for p := netip.PrefixFrom(in.Addr(), bits); in.IsValid() && in.Contains(p.Addr()) && len(out) < n && tries < 1<<12; p = after(p) {
		tries++
		if !reserved(p) && !s.taken(p) {
			out = append(out, p)
		}
	}
	if len(out) < n {
		return nil, refuse("InsufficientFreeAddressesInSubnet", "The specified subnet does not have enough free addresses to satisfy the request.")
	}
	return out, nil
}

// after is the next network of the same length.
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

func (s *Server) room(used, n int, code string) error {
	if s.cfg.PerENI > 0 && used+n > s.cfg.PerENI {
		return refuse(code, "Number of private addresses will exceed limit.")
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

func (s *Server) assignIPv4(p params) (string, error) {
	r, err := s.changing(p)
	if err != nil {
		return "", err
	}
	addresses, err := p.count("SecondaryPrivateIpAddressCount")
	if err != nil {
		return "", err
	}
	prefixes, err := p.count("Ipv4PrefixCount")
	if err != nil {
		return "", err
	}
	if addresses > 0 == (prefixes > 0) {
		return "", refuse("InvalidParameterCombination", "want one of SecondaryPrivateIpAddressCount and Ipv4PrefixCount")
	}
	if err := s.room(len(r.IPv4)+prefixesOf(r.ENI, true), addresses+prefixes, "PrivateIpAddressLimitExceeded"); err != nil {
		return "", err
	}
	in := s.subnet(r.SubnetID).IPv4
	if addresses > 0 {
		got, err := s.choose(in, 32, addresses)
		if err != nil {
			return "", err
		}
		var out string
		s.change(r, func(e *ENI) {
			for _, a := range got {
				e.IPv4 = append(e.IPv4, a.Addr())
				out += item("item", item("privateIpAddress", a.Addr().String()))
			}
		})
		return item("networkInterfaceId", r.ID) + item("assignedPrivateIpAddressesSet", out), nil
	}
	got, err := s.choose(in, 28, prefixes)
	if err != nil {
		return "", err
	}
	var out string
	s.change(r, func(e *ENI) {
		for _, a := range got {
			e.Prefixes = append(e.Prefixes, a)
			out += item("item", item("ipv4Prefix", a.String()))
		}
	})
	return item("networkInterfaceId", r.ID) + item("assignedIpv4PrefixSet", out), nil
}

func (s *Server) assignIPv6(p params) (string, error) {
	r, err := s.changing(p)
	if err != nil {
		return "", err
	}
	addresses, err := p.count("Ipv6AddressCount")
	if err != nil {
		return "", err
	}
	prefixes, err := p.count("Ipv6PrefixCount")
	if err != nil {
		return "", err
	}
	if addresses > 0 == (prefixes > 0) {
		return "", refuse("InvalidParameterCombination", "want one of Ipv6AddressCount and Ipv6PrefixCount")
	}
	if err := s.room(len(r.IPv6)+prefixesOf(r.ENI, false), addresses+prefixes, "Ipv6AddressLimitExceeded"); err != nil {
		return "", err
	}
	bits := 128
	if prefixes > 0 {
		bits = 80
	}
	got, err := s.choose(s.subnet(r.SubnetID).IPv6, bits, addresses+prefixes)
	if err != nil {
		return "", err
	}
	var out string
	s.change(r, func(e *ENI) {
		for _, a := range got {
			if prefixes > 0 {
				e.Prefixes = append(e.Prefixes, a)
				out += item("item", a.String())
			} else {
				e.IPv6 = append(e.IPv6, a.Addr())
				out += item("item", a.Addr().String())
			}
		}
	})
	name := "assignedIpv6Addresses"
	if prefixes > 0 {
		name = "assignedIpv6PrefixSet"
	}
	return item("networkInterfaceId", r.ID) + item(name, out), nil
}

func (s *Server) unassignIPv4(p params) (string, error) {
	if err := s.unassign(p, "PrivateIpAddress", "Ipv4Prefix", func(e *ENI) *[]netip.Addr { return &e.IPv4 }); err != nil {
		return "", err
	}
	return item("return", "true"), nil
}

func (s *Server) unassignIPv6(p params) (string, error) {
	id := ""
	if v := p["NetworkInterfaceId"]; len(v) > 0 {
		id = v[0]
	}
	if err := s.unassign(p, "Ipv6Addresses", "Ipv6Prefix", func(e *ENI) *[]netip.Addr { return &e.IPv6 }); err != nil {
		return "", err
	}
	return item("networkInterfaceId", id), nil
}

// unassign takes all of what a call names, or nothing.
func (s *Server) unassign(p params, addressParam, prefixParam string, of func(*ENI) *[]netip.Addr) error {
	r, err := s.changing(p)
	if err != nil {
		return err
	}
	addresses, prefixes := p.list(addressParam), p.list(prefixParam)
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
	s.change(r, func(e *ENI) { *e = next })
	return nil
}
