package fakeec2

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// created is what a ClientToken has made ("Ensuring idempotency in Amazon EC2 API requests", developer guide).
type created struct{ parameters, eni string }

// specified takes the tags of TagSpecification.N, which must be for network-interface (API_CreateNetworkInterface.html).
func specified(p params) (map[string]string, error) {
	all := map[string]string{}
	for i := 1; p.has("TagSpecification." + strconv.Itoa(i) + ".ResourceType"); i++ {
		prefix := "TagSpecification." + strconv.Itoa(i)
		if kind := p.take(prefix + ".ResourceType"); kind != "network-interface" {
			return nil, refuse("InvalidParameterValue", "'%s' is not a valid taggable resource type for this operation.", kind)
		}
		tags, err := p.tags(prefix + ".Tag")
		if err != nil {
			return nil, err
		}
		if len(tags) == 0 { // seen from EC2 as "Tag specification must have at least one tag"
			return nil, refuse("InvalidParameterValue", "Tag specification must have at least one tag")
		}
		maps.Copy(all, tags)
	}
	return all, nil
}

// create is CreateNetworkInterface (API_CreateNetworkInterface.html).
func (s *Server) create(c *call) (string, error) {
	token := c.take("ClientToken")
	if len(token) > 64 { // "up to 64 ASCII characters", developer guide
		return "", refuse("InvalidParameterValue", "The client token is longer than 64 characters")
	}
	shape := canonical(c.params)
	if old, known := s.tokens[token]; known && token != "" {
		if old.parameters != shape {
			return "", refuse("IdempotentParameterMismatch", "The client token is already in use with different request parameters.")
		}
		clear(c.params)
		c.event.Repeated, c.event.ENI = true, s.enis[old.eni].clone()
		return item("clientToken", text(token)) + item("networkInterface", s.showENI(s.enis[old.eni].ENI)), nil
	}
	e, err := s.design(c)
	if err != nil {
		return "", err
	}
	if s.cfg.PerRegion > 0 && s.living >= s.cfg.PerRegion {
		return "", refuse("NetworkInterfaceLimitExceeded", "Maximum number of network interfaces, %d, reached.", s.cfg.PerRegion)
	}
	e.ID, e.MAC, e.Token, e.Created, e.Pending = s.id("eni-"), s.mac(), token, c.now, s.cfg.CreateTakes > 0
	r := s.insert(e, c.now)
	if token != "" {
		s.tokens[token] = created{shape, e.ID}
	}
	c.changed, c.event.ENI = true, r.clone()
	answer := r.clone()
	answer.Pending = true // the answer's status is pending; an example is on the action's page
	if s.cfg.CreateTakes > 0 {
		s.after(c.now, s.cfg.CreateTakes, func(at time.Time) {
			if r.Deleted.IsZero() {
				s.change(r, at, func(e *ENI) { e.Pending = false })
			}
		})
	}
	return item("clientToken", text(token)) + item("networkInterface", s.showENI(answer)), nil
}

// design reads the parameters of a new ENI, and chooses its addresses.
func (s *Server) design(c *call) (e ENI, err error) {
	subnet := s.subnet(c.take("SubnetId"))
	e = ENI{SubnetID: subnet.ID, Description: c.take("Description"), Groups: c.list("SecurityGroupId"), Type: c.take("InterfaceType")}
	if len(e.Groups) == 0 { // "the default security group", user guide of network interfaces
		e.Groups = []string{s.defaultGroup(subnet.VPCID)}
	}
	switch e.Type {
	case "", "interface", "efa", "efa-only", "trunk":
	default:
		return e, refuse("InvalidParameterValue", "Value (%s) for parameter interfaceType is invalid.", e.Type)
	}
	if e.Tags, err = specified(c.params); err != nil {
		return e, err
	}
	if e.Tracking, _, err = c.tracking(); err != nil {
		return e, err
	}
	var n [4]int
	for i, name := range []string{"SecondaryPrivateIpAddressCount", "Ipv4PrefixCount", "Ipv6AddressCount", "Ipv6PrefixCount"} {
		if n[i], err = c.number(name); err != nil {
			return e, err
		}
	}
	if n[0] > 0 && n[1] > 0 || n[2] > 0 && n[3] > 0 { // "You can't specify a count of ...", the action's page
		return e, refuse("InvalidParameterCombination", "A number of addresses and a number of prefixes of one family exclude each other.")
	}
	if (n[2] > 0 || n[3] > 0) && !subnet.IPv6.IsValid() {
		return e, refuse("InvalidParameterValue", "The subnet '%s' has no IPv6 CIDR block.", subnet.ID)
	}
	if limit := s.cfg.PerENI; limit > 0 && (1+n[0]+n[1] > limit || n[2]+n[3] > limit) {
		return e, refuse("PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit.")
	}
	return e, s.furnish(&e, subnet, n)
}

func (s *Server) furnish(e *ENI, subnet Subnet, n [4]int) error {
	own := 1 + n[0]
	if !subnet.IPv4.IsValid() {
		own = 0
	}
	got, err := s.choose(subnet, subnet.IPv4, 32, own)
	for _, a := range got {
		e.IPv4 = append(e.IPv4, a.Addr())
	}
	if err == nil && n[1] > 0 {
		e.Prefixes, err = s.choose(subnet, subnet.IPv4, prefix4, n[1], got...)
	}
	if err == nil && n[2] > 0 {
		got, err = s.choose(subnet, subnet.IPv6, 128, n[2])
		for _, a := range got {
			e.IPv6 = append(e.IPv6, a.Addr())
		}
	}
	if err == nil && n[3] > 0 {
		var more []netip.Prefix
		more, err = s.choose(subnet, subnet.IPv6, prefix6, n[3])
		e.Prefixes = append(e.Prefixes, more...)
	}
	return err
}

func canonical(p params) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(p)) {
		b.WriteString(k + "=" + strings.Join(p[k], ",") + "\n")
	}
	return b.String()
}

// tracking takes a ConnectionTrackingSpecification; the page of ConnectionTrackingSpecificationRequest has the ranges.
func (p params) tracking() (t Tracking, given bool, err error) {
	for _, f := range []struct {
		name        string
		to          *int
		least, most int
	}{{"TcpEstablishedTimeout", &t.TCPEstablished, 60, 432000}, {"UdpStreamTimeout", &t.UDPStream, 60, 180}, {"UdpTimeout", &t.UDP, 30, 60}} {
		name := "ConnectionTrackingSpecification." + f.name
		if !p.has(name) {
			continue
		}
		given = true
		if *f.to, err = p.number(name); err == nil && (*f.to < f.least || *f.to > f.most) {
			err = refuse("InvalidParameterValue", "Value (%d) for parameter %s is invalid.", *f.to, f.name)
		}
		if err != nil {
			return t, given, err
		}
	}
	return t, given, nil
}

// delete is DeleteNetworkInterface: "You must detach the network interface before you can delete it." For an ENI in use EC2 has two codes: see
// InvalidNetworkInterface.InUse in errors-overview.html.
func (s *Server) delete(c *call) (string, error) {
	c.take("NetworkInterfaceId")
	switch {
	case c.r.RequesterManaged:
		return "", notAllowed()
	case c.r.Instance != "" && c.r.attachmentStatus() != "attached":
		return "", refuse("InvalidNetworkInterface.InUse", "The network interface '%s' is in use.", c.r.ID)
	case c.r.Instance != "":
		return "", refuse("InvalidParameterValue", "Network interface '%s' is currently in use.", c.r.ID)
	}
	c.changed = true
	s.remove(c.r, c.now)
	return item("return", "true"), nil
}

func notAllowed() error {
	return refuse("OperationNotPermitted", "You do not have permission to access the specified resource.")
}

// modify is ModifyNetworkInterfaceAttribute: "You can specify only one attribute at a time."
func (s *Server) modify(c *call) (string, error) {
	c.take("NetworkInterfaceId")
	if c.r.RequesterManaged {
		return "", notAllowed()
	}
	var edits []func(*ENI)
	attachment := c.take("Attachment.AttachmentId")
	if ends, given, err := c.bool("Attachment.DeleteOnTermination"); err != nil {
		return "", err
	} else if given || attachment != "" {
		if attachment == "" {
			return "", refuse("MissingParameter", "The request must contain the parameter attachment.attachmentId")
		}
		if c.r.Instance == "" || c.r.Attachment() != attachment {
			return "", refuse("InvalidAttachmentID.NotFound", "The attachment ID '%s' does not exist", attachment)
		}
		edits = append(edits, func(e *ENI) { e.DeleteOnTermination = ends })
	}
	if groups := c.list("SecurityGroupId"); len(groups) > 0 {
		edits = append(edits, func(e *ENI) { e.Groups = groups })
	}
	if check, given, err := c.bool("SourceDestCheck.Value"); err != nil {
		return "", err
	} else if given {
		edits = append(edits, func(e *ENI) { e.NoSourceDestCheck = !check })
	}
	if c.has("Description.Value") {
		description := c.take("Description.Value")
		edits = append(edits, func(e *ENI) { e.Description = description })
	}
	if t, given, err := c.tracking(); err != nil {
		return "", err
	} else if given {
		edits = append(edits, func(e *ENI) { e.Tracking = t })
	}
	if express, udp, given, err := c.express(); err != nil {
		return "", err
	} else if given {
		if c.r.Instance == "" {
			return "", refuse("InvalidParameterCombination", "ENA Express needs an attached network interface")
		}
		edits = append(edits, func(e *ENI) { e.EnaExpress, e.EnaExpressUDP = express, udp })
	}
	switch {
	case len(edits) == 0:
		return "", refuse("MissingParameter", "No attributes specified.")
	case len(edits) > 1:
		return "", refuse("InvalidParameterCombination", "Fields for multiple attributes specified")
	}
	s.set(c, edits[0])
	return item("return", "true"), nil
}

// createTags is CreateTags for ENIs: a tag with the key of an older one replaces it.
func (s *Server) createTags(c *call) (string, error) {
	ids := c.list("ResourceId")
	tags, err := c.tags("Tag")
	if err != nil {
		return "", err
	}
	for _, id := range ids {
		all := maps.Clone(s.enis[id].Tags)
		if all == nil {
			all = map[string]string{}
		}
		maps.Copy(all, tags)
		if len(all) > maxTags {
			return "", refuse("TagLimitExceeded", "The maximum number of tags for %s has been reached", id)
		}
	}
	for _, id := range ids {
		c.changed = true
		s.change(s.enis[id], c.now, func(e *ENI) {
			e.Tags = maps.Clone(e.Tags)
			if e.Tags == nil {
				e.Tags = map[string]string{}
			}
			maps.Copy(e.Tags, tags)
		})
	}
	return item("return", "true"), nil
}
