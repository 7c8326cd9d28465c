package fakeec2

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Instance is an EC2 instance.
type Instance struct {
	ID, Type, SubnetID string
	// State is pending, running, stopping, stopped, shutting-down or terminated; "" is running.
	State string
	Tags  map[string]string
	// NoPrimary makes it without an ENI at index 0. Else a launch makes one unless there is one.
	NoPrimary bool
}

type instance struct {
	Instance
	enis    map[*record]struct{} // attached, attaching or detaching
	kept    map[[2]int]bool      // card and index after a Detach with Force
	life    int                  // grows with each change of State, so that an older change does not come later
	forget  time.Time            // when DescribeInstances no longer shows it
	forgets bool
}

// occupied returns the ENI at an index of a card, or at that index of any card.
func (i *instance) occupied(card, index int, anyCard bool) *record {
	for r := range i.enis {
		if r.DeviceIndex == index && (anyCard || r.NetworkCard == card) {
			return r
		}
	}
	return nil
}

func (i *instance) onCard(card int) (n int) {
	for r := range i.enis {
		if r.NetworkCard == card {
			n++
		}
	}
	return n
}

// Launch starts an instance with a primary ENI, which is deleted with it. It is pending for Config.LaunchTakes.
func (s *Server) Launch(i Instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.launch(i, s.tick())
}

func (s *Server) launch(i Instance, at time.Time) {
	made := &instance{Instance: i, enis: map[*record]struct{}{}, kept: map[[2]int]bool{}}
	made.Tags = maps.Clone(i.Tags)
	if made.State == "" {
		made.State = "running"
	}
	s.instances[i.ID] = made
	for r := range s.index["attachment.instance-id="+i.ID] {
		if r.Instance == i.ID && r.Deleted.IsZero() {
			made.enis[r] = struct{}{}
		}
	}
	if !at.IsZero() && s.cfg.LaunchTakes > 0 {
		made.State = "pending"
		s.turn(made, at, s.cfg.LaunchTakes, "running")
	}
	if i.NoPrimary || made.occupied(0, 0, false) != nil {
		return
	}
	subnet := s.subnet(i.SubnetID)
	e := ENI{ID: s.id("eni-"), MAC: s.mac(), SubnetID: i.SubnetID, Instance: i.ID, AttachmentStatus: "attached", DeleteOnTermination: true, Created: at}
	e.AttachmentID = strings.Replace(e.ID, "eni-", "eni-attach-", 1)
	if g := s.defaultGroup(subnet.VPCID); g != "" {
		e.Groups = []string{g}
	}
	if got, err := s.choose(subnet, subnet.IPv4, 32, 1); err == nil {
		e.IPv4 = []netip.Addr{got[0].Addr()}
	}
	s.insert(e, at)
}

// turn changes an instance's state later, unless something else has changed it by then.
func (s *Server) turn(i *instance, now time.Time, wait time.Duration, state string, then ...func(at time.Time)) {
	i.life++
	life := i.life
	s.after(now, wait, func(at time.Time) {
		if i.life != life {
			return
		}
		i.State = state
		for _, do := range then {
			do(at)
		}
	})
}

// StopInstance stops an instance; it is stopping for Config.StopTakes. It keeps its ENIs.
func (s *Server) StopInstance(id string) { s.begins(id, "stopping", s.cfg.StopTakes, "stopped") }

// StartInstance starts a stopped instance; it is pending for Config.LaunchTakes.
func (s *Server) StartInstance(id string) { s.begins(id, "pending", s.cfg.LaunchTakes, "running") }

func (s *Server) begins(id, state string, wait time.Duration, next string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.tick()
	i := s.instances[id]
	i.State = state
	s.turn(i, now, wait, next, func(time.Time) { clear(i.kept) })
}

// Terminate ends an instance; it is shutting down for Config.TerminateTakes. Then its ENIs with DeleteOnTermination are deleted, and the others
// become available ("Terminate Amazon EC2 instances", user guide).
func (s *Server) Terminate(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.tick()
	i := s.instances[id]
	if i == nil || i.State == "shutting-down" || i.State == "terminated" {
		return
	}
	i.State = "shutting-down"
	s.turn(i, now, s.cfg.TerminateTakes, "terminated", func(at time.Time) { s.end(i, at) })
}

func (s *Server) end(i *instance, at time.Time) {
	i.forget, i.forgets = at.Add(s.cfg.TerminatedFor), true
	for _, r := range sortedRecords(i.enis) {
		if r.DeleteOnTermination {
			s.remove(r, at)
		} else {
			s.change(r, at, (*ENI).detach)
		}
	}
}

// Forget makes EC2 no longer know an instance, as an hour after its end. If it has not ended it ends now.
func (s *Server) Forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.tick()
	if i := s.instances[id]; i != nil {
		i.life++
		s.end(i, now)
	}
	delete(s.instances, id)
}

// InstanceState returns an instance's state, or "" if EC2 does not know it.
func (s *Server) InstanceState(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.known(id, s.tick()); i != nil {
		return i.State
	}
	return ""
}

// known returns an instance that EC2 still shows, or nil.
func (s *Server) known(id string, now time.Time) *instance {
	i := s.instances[id]
	if i != nil && i.forgets && !now.Before(i.forget) {
		return nil
	}
	return i
}

func (s *Server) findInstance(id string) (*instance, error) {
	if !strings.HasPrefix(id, "i-") {
		return nil, refuse("InvalidInstanceID.Malformed", "Invalid id: \"%s\" (expecting \"i-...\")", id)
	}
	if i := s.known(id, s.cfg.Now()); i != nil {
		return i, nil
	}
	return nil, refuse("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
}

func sortedRecords(set map[*record]struct{}) []*record {
	out := make([]*record, 0, len(set))
	for r := range set {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *record) int { return strings.Compare(a.ID, b.ID) })
	return out
}
