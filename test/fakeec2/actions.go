package fakeec2

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// action is one of EC2's actions. Its parameters are the ones that the fake knows of its page of the API reference (API_DescribeSubnets.html and so
// on); a list is "Name.N". A test compares them with the SDK's model.
type action struct {
	parameters, required []string
	// look finds the resources that the call names, and the rights that it needs.
	look func(*Server, *call) error
	do   func(*Server, *call) (string, error)
}

// call is a call in the making.
type call struct {
	params
	name string
	now  time.Time
	// r and i are the ENI and the instance that it is about, or nil.
	r     *record
	i     *instance
	needs []need
	event Event
	// changed says that it has changed something.
	changed bool
}

func table() map[string]action {
	filters := []string{"MaxResults", "NextToken", "DryRun", "Filter.N.Name", "Filter.N.Value.N"}
	eni := []string{"NetworkInterfaceId"}
	return map[string]action{
		"DescribeNetworkInterfaces": {slices.Concat(filters, []string{"NetworkInterfaceId.N"}), nil, lookNothing, (*Server).describeInterfaces},
		"DescribeInstances":         {slices.Concat(filters, []string{"InstanceId.N"}), nil, lookNothing, (*Server).describeInstances},
		"DescribeInstanceTypes":     {slices.Concat(filters, []string{"InstanceType.N"}), nil, lookNothing, (*Server).describeTypes},
		"DescribeSubnets":           {slices.Concat(filters, []string{"SubnetId.N"}), nil, lookNothing, (*Server).describeSubnets},
		"DescribeSecurityGroups":    {slices.Concat(filters, []string{"GroupId.N", "GroupName.N"}), nil, lookNothing, (*Server).describeGroups},
		"AssignPrivateIpAddresses": {[]string{"NetworkInterfaceId", "SecondaryPrivateIpAddressCount", "PrivateIpAddress.N", "Ipv4PrefixCount"}, eni, lookENI,
			(*Server).assignIPv4},
		"UnassignPrivateIpAddresses": {[]string{"NetworkInterfaceId", "PrivateIpAddress.N", "Ipv4Prefix.N"}, eni, lookENI, (*Server).unassignIPv4},
		"AssignIpv6Addresses": {[]string{"NetworkInterfaceId", "Ipv6AddressCount", "Ipv6Addresses.N", "Ipv6PrefixCount"}, eni, lookENI,
			(*Server).assignIPv6},
		"UnassignIpv6Addresses": {[]string{"NetworkInterfaceId", "Ipv6Addresses.N", "Ipv6Prefix.N"}, eni, lookENI, (*Server).unassignIPv6},
		"CreateNetworkInterface": {[]string{"DryRun", "ClientToken", "SubnetId", "Description", "SecurityGroupId.N", "InterfaceType",
			"SecondaryPrivateIpAddressCount", "Ipv4PrefixCount", "Ipv6AddressCount", "Ipv6PrefixCount", "TagSpecification.N.ResourceType",
			"TagSpecification.N.Tag.N.Key", "TagSpecification.N.Tag.N.Value", "ConnectionTrackingSpecification.TcpEstablishedTimeout",
			"ConnectionTrackingSpecification.UdpStreamTimeout", "ConnectionTrackingSpecification.UdpTimeout"},
			[]string{"SubnetId"}, lookCreate, (*Server).create},
		"DeleteNetworkInterface": {[]string{"DryRun", "NetworkInterfaceId"}, eni, lookENI, (*Server).delete},
		"AttachNetworkInterface": {[]string{"DryRun", "NetworkInterfaceId", "InstanceId", "DeviceIndex", "NetworkCardIndex", "EnaSrdSpecification.EnaSrdEnabled",
			"EnaSrdSpecification.EnaSrdUdpSpecification.EnaSrdUdpEnabled"}, []string{"NetworkInterfaceId", "InstanceId", "DeviceIndex"}, lookAttach, (*Server).attach},
		"DetachNetworkInterface": {[]string{"DryRun", "AttachmentId", "Force"}, []string{"AttachmentId"}, lookDetach, (*Server).detach},
		"ModifyNetworkInterfaceAttribute": {[]string{"DryRun", "NetworkInterfaceId", "Attachment.AttachmentId", "Attachment.DeleteOnTermination",
			"SecurityGroupId.N", "SourceDestCheck.Value", "Description.Value", "ConnectionTrackingSpecification.TcpEstablishedTimeout",
			"ConnectionTrackingSpecification.UdpStreamTimeout", "ConnectionTrackingSpecification.UdpTimeout", "EnaSrdSpecification.EnaSrdEnabled",
			"EnaSrdSpecification.EnaSrdUdpSpecification.EnaSrdUdpEnabled"}, eni, lookModify, (*Server).modify},
		"CreateTags": {[]string{"DryRun", "ResourceId.N", "Tag.N.Key", "Tag.N.Value"}, []string{"ResourceId.1", "Tag.1.Key"}, lookTags, (*Server).createTags},
	}
}

// Actions returns the names of all actions, sorted.
func Actions() []string { return slices.Sorted(maps.Keys(table())) }

// Parameters lists an action's parameters without Action and Version; a list is "Name.N".
func Parameters(action string) []string { return table()[action].parameters }

// call carries out a call; lost says that its caller will have no answer.
func (s *Server) call(name string, p params, lost bool) (out string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &call{params: p, name: name, now: s.tick()}
	c.event = Event{At: c.now, Action: name, Lost: lost}
	if out, err = s.carryOut(c); err != nil {
		s.tally[name].Refused++
		c.event.Code = "InternalError"
		if e, ok := err.(*apiError); ok { //nolint:errorlint // made by refuse
			c.event.Code = e.code
		}
	} else if c.changed {
		s.tally[name].Mutating++
	}
	if _, known := s.tables[name]; known && !strings.HasPrefix(name, "Describe") {
		s.events = append(s.events, c.event)
		if s.cfg.OnEvent != nil {
			s.cfg.OnEvent(c.event)
		}
	}
	return out, err
}

func (s *Server) carryOut(c *call) (string, error) {
	c.take("Action")
	if v := c.take("Version"); v != version {
		return "", refuse("NoSuchVersion", "The requested version (%s) of service AmazonEC2 does not exist", v)
	}
	a, ok := s.tables[c.name]
	if !ok {
		s.unknown("action " + c.name)
		return "", refuse("InvalidAction", "The action %s is not valid for this web service.", c.name)
	}
	for name := range c.params {
		if name != "DryRun" && !slices.Contains(a.parameters, number.ReplaceAllString(name, ".N")) {
			return "", s.noParameter(c, name)
		}
	}
	if s.throttled(c.name, c.now) {
		return "", refuse("RequestLimitExceeded", "Request limit exceeded.")
	}
	for _, name := range a.required {
		if c.peek(name) == "" {
			return "", refuse("MissingParameter", "The request must contain the parameter %s", strings.TrimSuffix(name, ".1"))
		}
	}
	if err := a.look(s, c); err != nil {
		return "", err
	}
	if c.r != nil {
		c.event.ENI = c.r.clone()
	}
	if err := s.authorize(c); err != nil {
		return "", err
	}
	if c.has("DryRun") && !s.cfg.DryRun && !slices.Contains(a.parameters, "DryRun") {
		return "", refuse("UnknownParameter", "The parameter DryRun is not recognized")
	}
	if dry, _, err := c.bool("DryRun"); err != nil {
		return "", err
	} else if dry { // it is about rights only, not about whether the call makes sense
		return "", refuse("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
	}
	out, err := a.do(s, c)
	for name := range c.params {
		if err == nil {
			return "", s.noParameter(c, name)
		}
	}
	return out, err
}

func (s *Server) noParameter(c *call, name string) error {
	s.unknown("parameter " + name + " of " + c.name)
	return refuse("UnknownParameter", "The parameter %s is not recognized", name)
}

// set makes a change of the call's ENI.
func (s *Server) set(c *call, edit func(*ENI)) {
	c.changed = true
	s.change(c.r, c.now, edit)
}
