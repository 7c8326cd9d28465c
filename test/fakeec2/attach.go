package fakeec2

import (
	"strconv"
	"strings"
	"time"
)

// express takes an EnaSrdSpecification.
func (p params) express() (enabled, udp, given bool, err error) {
	enabled, given, err = p.bool("EnaSrdSpecification.EnaSrdEnabled")
	if err != nil {
		return enabled, udp, given, err
	}
	udp, also, err := p.bool("EnaSrdSpecification.EnaSrdUdpSpecification.EnaSrdUdpEnabled")
	if err == nil && udp && !enabled { // "To use ENA Express for UDP, first enable ENA Express", EnaSrdUdpSpecification's page
		err = refuse("InvalidParameterCombination", "ENA Express for UDP needs ENA Express")
	}
	return enabled, udp, given || also, err
}

// attach is AttachNetworkInterface (API_AttachNetworkInterface.html; "Network interfaces", user guide).
func (s *Server) attach(c *call) (string, error) {
	c.take("NetworkInterfaceId")
	c.take("InstanceId")
	index, err := c.number("DeviceIndex")
	if err != nil {
		return "", err
	}
	anyCard := !c.has("NetworkCardIndex")
	card, err := c.number("NetworkCardIndex")
	if err != nil {
		return "", err
	}
	express, udp, _, err := c.express()
	if err != nil {
		return "", err
	}
	if err := s.attachable(c, index, card, anyCard, express); err != nil {
		return "", err
	}
	id := s.id("eni-attach-")
	s.set(c, func(e *ENI) {
		e.Instance, e.DeviceIndex, e.NetworkCard, e.AttachmentID = c.i.ID, index, card, id
		e.AttachmentStatus, e.DeleteOnTermination, e.EnaExpress, e.EnaExpressUDP = "attaching", false, express, udp
	})
	r := c.r
	s.after(c.now, s.cfg.AttachTakes, func(at time.Time) {
		if r.AttachmentID == id && r.AttachmentStatus == "attaching" {
			s.change(r, at, func(e *ENI) { e.AttachmentStatus = "attached" })
		}
	})
	return item("attachmentId", id) + item("networkCardIndex", strconv.Itoa(card)), nil
}

func (s *Server) attachable(c *call, index, card int, anyCard, express bool) error {
	t, i, here, there := s.types[c.i.Type], c.i, s.subnet(c.r.SubnetID), s.subnet(c.i.SubnetID)
	switch {
	case c.r.RequesterManaged:
		return notAllowed()
	case c.r.Instance != "": // the text is in terraform-provider-aws issue 27513
		return refuse("InvalidNetworkInterface.InUse", "Interface: [%s] in use.", c.r.ID)
	case c.r.Pending: // "The resource is in an incorrect state for the request", errors-overview.html
		return refuse("IncorrectState", "The network interface '%s' is pending.", c.r.ID)
	// Hot and warm attach, user guide. Of the two codes of errors-overview.html EC2 was seen to use the first for volumes of a pending instance
	// (github.com/ansible-collections/amazon.aws/pull/497). A client must know both.
	case i.State == "pending" || i.State == "stopping":
		return refuse("IncorrectState", "Instance '%s' is not 'running'.", i.ID)
	case i.State != "running" && i.State != "stopped":
		return refuse("IncorrectInstanceState", "Instance '%s' is not 'running' or 'stopped'.", i.ID)
	case here.Zone != there.Zone:
		return refuse("InvalidParameterCombination", "You may not attach a network interface to an instance if they are not in the same availability zone")
	case here.VPCID != there.VPCID && !s.cfg.MultiVPC:
		return refuse("InvalidParameterCombination", "You may not attach a network interface to an instance if they are not in the same VPC")
	}
	if len(t.Cards) == 0 {
		t.Cards = []int{1 << 20} // the type is not known: no limit
	}
	switch {
	case card >= len(t.Cards):
		return refuse("InvalidParameterValue", "Network card index '%d' is not valid for instance type '%s'.", card, i.Type)
	// Without a card, an index that is taken on another card counts as taken: github.com/cilium/cilium/pull/42512, also the source of the text.
	case i.occupied(card, index, anyCard) != nil || i.kept[[2]int{card, index}]:
		return refuse("InvalidParameterValue", "Instance '%s' already has an interface attached at device index '%d'.", i.ID, index)
	// The text is in github.com/cilium/cilium/issues/15877.
	case len(i.enis) >= t.limit() || i.onCard(card) >= t.Cards[card]:
		return refuse("AttachmentLimitExceeded", "Interface count %d exceeds the limit for %s", len(i.enis)+1, i.Type)
	case express && !t.EnaExpress:
		return refuse("InvalidParameterCombination", "ENA Express is not supported by instance type '%s'", i.Type)
	case t.PerENI > 0 && (len(c.r.IPv4)+prefixesOf(c.r.ENI, true) > t.PerENI || len(c.r.IPv6)+prefixesOf(c.r.ENI, false) > t.PerENI):
		return refuse("PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit.")
	}
	return nil
}

// detach is DetachNetworkInterface (API_DetachNetworkInterface.html). With Force it ends at once, also for an ENI that is stuck.
func (s *Server) detach(c *call) (string, error) {
	id := c.take("AttachmentId")
	force, _, err := c.bool("Force")
	if err != nil {
		return "", err
	}
	c.event.Force = force
	switch {
	case c.r.RequesterManaged || strings.HasPrefix(id, "ela-attach-"): // the text is in boto3 issue 2218
		return "", refuse("OperationNotPermitted", "You are not allowed to manage 'ela-attach' attachments.")
	case c.r.DeviceIndex == 0 && c.r.NetworkCard == 0:
		return "", refuse("OperationNotPermitted", "The network interface at device index 0 and networkCard index 0 cannot be detached.")
	case c.r.attachmentStatus() == "detaching" && !force: // "detach a volume that is not in the available state", IncorrectState; not tried on EC2
		return "", refuse("IncorrectState", "The attachment '%s' is detaching.", id)
	}
	stuck := s.cfg.Stuck != nil && s.cfg.Stuck(c.r.clone())
	s.set(c, func(e *ENI) { e.AttachmentStatus = "detaching" })
	if stuck && !force {
		return item("return", "true"), nil
	}
	takes := s.cfg.DetachTakes
	if force {
		takes = 0
		if s.cfg.ForceKeepsIndex && c.i != nil {
			c.i.kept[[2]int{c.r.NetworkCard, c.r.DeviceIndex}] = true
		}
	}
	r := c.r
	s.after(c.now, takes, func(at time.Time) {
		if r.Instance != "" && r.Attachment() == id {
			s.change(r, at, (*ENI).detach)
		}
	})
	return item("return", "true"), nil
}

// Join attaches an ENI at an index of card 0 as another client does; it is false if EC2 refuses that.
func (s *Server) Join(eni, instance string, index int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.tick()
	r, i := s.enis[eni], s.known(instance, now)
	if r == nil || i == nil || s.attachable(&call{r: r, i: i, now: now}, index, 0, false, false) != nil {
		return false
	}
	id := s.id("eni-attach-")
	s.change(r, now, func(e *ENI) {
		e.Instance, e.DeviceIndex, e.NetworkCard, e.AttachmentID, e.AttachmentStatus = instance, index, 0, id, "attached"
	})
	return true
}

// Part detaches an ENI as another client does. It also ends a detachment that is stuck.
func (s *Server) Part(eni string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.tick(); s.enis[eni].Instance != "" {
		s.change(s.enis[eni], now, (*ENI).detach)
	}
}
