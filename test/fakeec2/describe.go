package fakeec2

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// listing is a page in the making.
type listing struct {
	after string // the last id of the page before
	most  int    // 0 is all
}

// listing takes the parameters of a page: least to 1000 items. Ids and MaxResults exclude each other (the actions' pages).
func (c *call) listing(ids []string, least int) (l listing, err error) {
	if l.most, err = c.count("MaxResults"); err != nil {
		return l, err
	}
	if l.most != 0 && (l.most < least || l.most > 1000) {
		return l, refuse("InvalidParameterValue", "Value ( %d ) for parameter maxResults is invalid. Expecting a value between %d and 1000.", l.most, least)
	}
	if l.most != 0 && len(ids) > 0 {
		return l, refuse("InvalidParameterCombination", "The parameters maxResults and ids cannot be used in the same request")
	}
	if token := c.take("NextToken"); token != "" {
		last, err := hex.DecodeString(strings.TrimPrefix(token, "page-"))
		if err != nil || len(last) == 0 {
			return l, refuse("InvalidParameterValue", "Invalid value '%s' for nextToken", token)
		}
		l.after = string(last)
	}
	return l, nil
}

func next(last string) string { return item("nextToken", "page-"+hex.EncodeToString([]byte(last))) }

// describeInterfaces is DescribeNetworkInterfaces (API_DescribeNetworkInterfaces.html).
func (s *Server) describeInterfaces(c *call) (string, error) {
	ids := c.list("NetworkInterfaceId")
	l, err := c.listing(ids, 5)
	if err != nil {
		return "", err
	}
	filters, err := c.filters()
	if err != nil {
		return "", err
	}
	for _, f := range filters {
		if _, err := f.keeps(&ENI{}); err != nil {
			return "", err
		}
	}
	from, err := s.candidates(ids, filters, c.now)
	if err != nil {
		return "", err
	}
	i, found := slices.BinarySearchFunc(from, l.after, byID)
	if found {
		i++
	}
	var shown []ENI
	more := ""
	for _, r := range from[i:] {
		e, there := r.seen(c.now)
		for _, f := range filters {
			if keeps, _ := f.keeps(&e); !keeps { // the names were checked above
				there = false
				break
			}
		}
		if !there {
			continue
		}
		if l.most != 0 && len(shown) == l.most {
			more = next(shown[l.most-1].ID)
			break
		}
		shown = append(shown, e)
	}
	s.shuffle(len(shown), func(i, j int) { shown[i], shown[j] = shown[j], shown[i] })
	return items("networkInterfaceSet", shown, s.showENI) + more, nil
}

// candidates are the records among which a Describe finds its ENIs, sorted: those with the given ids, else the fewest that a filter leaves.
// One id that does not exist fails the whole call.
func (s *Server) candidates(ids []string, filters []filter, now time.Time) ([]*record, error) {
	var best []*record
	for _, id := range ids {
		if !strings.HasPrefix(id, "eni-") {
			return nil, refuse("InvalidNetworkInterfaceId.Malformed", "Invalid id: \"%s\" (expecting \"eni-...\")", id)
		}
		r := s.enis[id]
		if r != nil {
			if _, there := r.seen(now); there {
				best = append(best, r)
				continue
			}
		}
		return nil, refuse("InvalidNetworkInterfaceID.NotFound", "The networkInterface ID '%s' does not exist", id)
	}
	limited := len(ids) > 0
	for _, f := range filters {
		indexed := strings.HasPrefix(f.name, "tag") || strings.HasPrefix(f.name, "attachment.") || f.name == "subnet-id" || f.name == "network-interface-id"
		if limited || !indexed || f.wild() {
			continue
		}
		best, limited = s.having(f, now), true
	}
	if !limited {
		s.sweep(now)
		return s.sorted, nil
	}
	slices.SortFunc(best, func(a, b *record) int { return strings.Compare(a.ID, b.ID) })
	return slices.Compact(best), nil
}

func (s *Server) having(f filter, now time.Time) (out []*record) {
	for _, v := range f.values {
		if f.name == "network-interface-id" {
			if r := s.enis[v]; r != nil {
				out = append(out, r)
			}
			continue
		}
		out = append(out, s.under(f.name+"="+v, now)...)
	}
	return out
}

// sweep drops deleted ENIs from the list once no view shows them.
func (s *Server) sweep(now time.Time) {
	s.sorted = slices.DeleteFunc(s.sorted, func(r *record) bool {
		_, there := r.seen(now)
		return !there && !r.Deleted.IsZero()
	})
}

// keeps says whether a filter holds. Its name must be one of the action's page that the fake knows.
func (f filter) keeps(e *ENI) (bool, error) {
	if holds, asked := f.tagged(e.Tags); asked {
		return holds, nil
	}
	attached := e.Instance != ""
	switch f.name {
	case "attachment.instance-id":
		return attached && f.holds(e.Instance), nil
	case "attachment.attachment-id":
		return attached && f.holds(e.Attachment()), nil
	case "attachment.status":
		return attached && f.holds(e.attachmentStatus()), nil
	case "attachment.device-index":
		return attached && f.holds(strconv.Itoa(e.DeviceIndex)), nil
	case "subnet-id":
		return f.holds(e.SubnetID), nil
	case "status":
		return f.holds(e.Status()), nil
	case "network-interface-id":
		return f.holds(e.ID), nil
	case "mac-address":
		return f.holds(e.MAC), nil
	case "description":
		return f.holds(e.Description), nil
	case "group-id":
		return f.holds(e.Groups...), nil
	case "interface-type":
		return f.holds(e.kind()), nil
	case "requester-managed":
		return f.holds(strconv.FormatBool(e.RequesterManaged)), nil
	}
	return false, refuse("InvalidParameterValue", "The filter '%s' is invalid", f.name)
}

func (e ENI) kind() string {
	if e.Type == "" {
		return "interface"
	}
	return e.Type
}

func (s *Server) showENI(e ENI) string {
	if s.cfg.Shuffle != nil {
		e = e.clone()
	}
	var primary netip.Addr
	if len(e.IPv4) > 0 {
		primary = e.IPv4[0]
	}
	s.shuffle(len(e.IPv4), func(i, j int) { e.IPv4[i], e.IPv4[j] = e.IPv4[j], e.IPv4[i] })
	s.shuffle(len(e.IPv6), func(i, j int) { e.IPv6[i], e.IPv6[j] = e.IPv6[j], e.IPv6[i] })
	s.shuffle(len(e.Prefixes), func(i, j int) { e.Prefixes[i], e.Prefixes[j] = e.Prefixes[j], e.Prefixes[i] })
	var p4, p6 []netip.Prefix
	for _, p := range e.Prefixes {
		if p.Addr().Is4() {
			p4 = append(p4, p)
		} else {
			p6 = append(p6, p)
		}
	}
	subnet := s.subnet(e.SubnetID)
	out := item("networkInterfaceId", e.ID) + item("subnetId", e.SubnetID) + item("vpcId", subnet.VPCID) + item("availabilityZone", subnet.Zone) +
		item("description", text(e.Description)) + item("ownerId", Account) + item("requesterManaged", strconv.FormatBool(e.RequesterManaged)) +
		item("status", e.Status()) + item("macAddress", e.MAC) + item("sourceDestCheck", strconv.FormatBool(!e.NoSourceDestCheck)) +
		item("interfaceType", e.kind())
	if e.Instance != "" {
		out += item("attachment", s.showAttachment(e))
	}
	if t := e.Tracking; t != (Tracking{}) {
		out += item("connectionTrackingConfiguration", item("tcpEstablishedTimeout", strconv.Itoa(t.TCPEstablished))+
			item("udpStreamTimeout", strconv.Itoa(t.UDPStream))+item("udpTimeout", strconv.Itoa(t.UDP)))
	}
	if primary.IsValid() {
		out += item("privateIpAddress", primary.String())
	}
	return out + s.showGroups(e.Groups) +
		items("privateIpAddressesSet", e.IPv4, func(a netip.Addr) string {
			return item("privateIpAddress", a.String()) + item("primary", strconv.FormatBool(a == primary))
		}) +
		items("ipv6AddressesSet", e.IPv6, func(a netip.Addr) string { return item("ipv6Address", a.String()) }) +
		items("ipv4PrefixSet", p4, func(p netip.Prefix) string { return item("ipv4Prefix", p.String()) }) +
		items("ipv6PrefixSet", p6, func(p netip.Prefix) string { return item("ipv6Prefix", p.String()) }) +
		tagSet(e.Tags)
}

func (s *Server) showGroups(ids []string) string {
	return items("groupSet", ids, func(id string) string { return item("groupId", id) + item("groupName", text(s.groups[id].Name)) })
}

func (s *Server) showAttachment(e ENI) string {
	out := item("attachmentId", e.Attachment()) + item("instanceId", e.Instance) + item("instanceOwnerId", Account) +
		item("deviceIndex", strconv.Itoa(e.DeviceIndex)) + item("networkCardIndex", strconv.Itoa(e.NetworkCard)) + item("status", e.attachmentStatus()) +
		item("deleteOnTermination", strconv.FormatBool(e.DeleteOnTermination))
	if e.EnaExpress {
		out += item("enaSrdSpecification", item("enaSrdEnabled", "true")+
			item("enaSrdUdpSpecification", item("enaSrdUdpEnabled", strconv.FormatBool(e.EnaExpressUDP))))
	}
	return out
}
