package fakeec2

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// describe is DescribeNetworkInterfaces by attachment.instance-id; MaxResults is 5 to 1000.
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
	s.shuffle(len(shown), func(i, j int) { shown[i], shown[j] = shown[j], shown[i] })
	for _, e := range shown {
		all += item("item", s.describeENI(e))
	}
	return item("networkInterfaceSet", all) + next, nil
}

func (s *Server) shuffle(n int, swap func(i, j int)) {
	if s.cfg.Shuffle != nil {
		s.cfg.Shuffle(n, swap)
	}
}

func (s *Server) describeENI(e ENI) string {
	var v4, v6, p4, p6, tags string
	e = e.clone()
	var primary netip.Addr
	if len(e.IPv4) > 0 {
		primary = e.IPv4[0]
	}
	s.shuffle(len(e.IPv4), func(i, j int) { e.IPv4[i], e.IPv4[j] = e.IPv4[j], e.IPv4[i] })
	s.shuffle(len(e.IPv6), func(i, j int) { e.IPv6[i], e.IPv6[j] = e.IPv6[j], e.IPv6[i] })
	s.shuffle(len(e.Prefixes), func(i, j int) { e.Prefixes[i], e.Prefixes[j] = e.Prefixes[j], e.Prefixes[i] })
	for _, a := range e.IPv4 {
		v4 += item("item", item("privateIpAddress", a.String())+item("primary", strconv.FormatBool(a == primary)))
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
		item("attachment", attachment) + item("privateIpAddressesSet", v4) + item("ipv4PrefixSet", p4) + item("ipv6AddressesSet", v6) + item("ipv6PrefixSet", p6) +
		item("tagSet", tags)
}

func (s *Server) seen(r *record) ENI {
	for _, past := range r.before {
		if s.cfg.Now().Before(past.until) {
			return past.eni
		}
	}
	return r.ENI
}

func (s *Server) changing(p params) (*record, error) {
	r := s.enis[p.take("NetworkInterfaceId")]
	if r == nil {
		return nil, refuse("MissingParameter", "The request must contain the parameter networkInterfaceId")
	}
	return r, nil
}

// change makes a change that Describe shows after the lag, unless this is a dry run.
func (s *Server) change(r *record, edit func(*ENI)) {
	if s.dry {
		return
	}
	if s.cfg.Lag > 0 {
		r.before = append(r.before, past{s.cfg.Now().Add(s.cfg.Lag), r.clone()})
	}
	s.edit(r, edit)
}

func (s *Server) subnet(id string) Subnet {
	for _, n := range s.cfg.Subnets {
		if n.ID == id {
			return n
		}
	}
	return Subnet{}
}

func (s *Server) taken(p netip.Prefix) bool {
	for _, r := range s.enis {
		if slices.ContainsFunc(slices.Concat(r.IPv4, r.IPv6), p.Contains) || slices.ContainsFunc(r.Prefixes, p.Overlaps) {
			return true
		}
	}
	return false
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

func (s *Server) choose(in netip.Prefix, bits, n int) (out []netip.Prefix, err error) {
	tries := 0
	for p := netip.PrefixFrom(in.Addr(), bits); in.IsValid() && in.Contains(p.Addr()) && len(out) < n && tries < 1<<12; p = after(p) {
		tries++
		if !reserved(in, p) && !s.taken(p) {
			out = append(out, p)
		}
	}
	if len(out) < n && bits < in.Addr().BitLen() {
		return nil, refuse("InsufficientCidrBlocks", "The specified subnet does not have enough free cidr blocks to satisfy the request.")
	}
	if len(out) < n {
		return nil, refuse("InsufficientFreeAddressesInSubnet", "The specified subnet does not have enough free addresses to satisfy the request.")
	}
	return out, nil
}

func (s *Server) named(in netip.Prefix, names []string) (out []netip.Prefix, err error) {
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
		case s.taken(p):
			return nil, refuse("InvalidParameterValue", "[%s] have already been assigned, but move is not allowed", name)
		}
		out = append(out, p)
	}
	return out, nil
}

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

func (s *Server) room(used, n int) error {
	if s.cfg.PerENI > 0 && used+n > s.cfg.PerENI {
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
func (s *Server) assignIPv4(p params) (string, error) {
	r, err := s.changing(p)
	if err != nil {
		return "", err
	}
	got, err := s.wanted(r, p, s.subnet(r.SubnetID).IPv4, "SecondaryPrivateIpAddressCount", "PrivateIpAddress", "Ipv4PrefixCount", 28)
	if err != nil {
		return "", err
	}
	addresses, prefixes := s.assigned(r, got, true)
	out := ""
	for _, a := range addresses {
		out += item("item", item("privateIpAddress", a.String()))
	}
	var networks string
	for _, p := range prefixes {
		networks += item("item", item("ipv4Prefix", p.String()))
	}
	return item("networkInterfaceId", r.ID) + item("assignedPrivateIpAddressesSet", out) + item("assignedIpv4PrefixSet", networks), nil
}

func (s *Server) assigned(r *record, got []netip.Prefix, is4 bool) (addresses []netip.Addr, prefixes []netip.Prefix) {
	before := r.clone()
	s.change(r, func(e *ENI) {
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
func (s *Server) assignIPv6(p params) (string, error) {
	r, err := s.changing(p)
	if err != nil {
		return "", err
	}
	got, err := s.wanted(r, p, s.subnet(r.SubnetID).IPv6, "Ipv6AddressCount", "Ipv6Addresses", "Ipv6PrefixCount", 80)
	if err != nil {
		return "", err
	}
	addresses, prefixes := s.assigned(r, got, false)
	var out, networks string
	for _, a := range addresses {
		out += item("item", a.String())
	}
	for _, p := range prefixes {
		networks += item("item", p.String())
	}
	return item("networkInterfaceId", r.ID) + item("assignedIpv6Addresses", out) + item("assignedIpv6PrefixSet", networks), nil
}

func (s *Server) wanted(r *record, p params, in netip.Prefix, countParam, addressParam, prefixesParam string, prefixBits int) ([]netip.Prefix, error) {
	count, err := p.count(countParam)
	if err != nil {
		return nil, err
	}
	prefixes, err := p.count(prefixesParam)
	if err != nil {
		return nil, err
	}
	names := p.list(addressParam)
	if given := []bool{count > 0, prefixes > 0, len(names) > 0}; len(slices.DeleteFunc(given, func(b bool) bool { return !b })) != 1 {
		return nil, refuse("InvalidParameterCombination", "want one of %s, %s and %s", countParam, addressParam, prefixesParam)
	}
	used := len(r.IPv4)
	if in.Addr().Is6() { // as many as IPv4 ones (API_AssignIpv6Addresses.html)
		used = len(r.IPv6)
	}
	if err := s.room(used+prefixesOf(r.ENI, in.Addr().Is4()), count+prefixes+len(names)); err != nil {
		return nil, err
	}
	switch {
	case names != nil:
		return s.named(in, names)
	case prefixes > 0:
		return s.choose(in, prefixBits, prefixes)
	}
	return s.choose(in, in.Addr().BitLen(), count)
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

// unassign removes all addresses of a call, or none. It refuses the primary address.
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
