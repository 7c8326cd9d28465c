package fakeec2

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// ENI is a network interface. Addresses begin with the primary one.
type ENI struct {
	ID, MAC, SubnetID string
	// Instance, DeviceIndex, NetworkCard and AttachmentID describe its attachment; Instance is "" without one. An
	// AttachmentID of "" stands for the ENI's id with another prefix.
	Instance                 string
	DeviceIndex, NetworkCard int
	AttachmentID             string
	// AttachmentStatus is attaching, attached or detaching; "" with an Instance is attached.
	AttachmentStatus    string
	DeleteOnTermination bool
	// EnaExpress and EnaExpressUDP are the attachment's EnaSrdSpecification.
	EnaExpress, EnaExpressUDP bool

	Description string
	// Groups are ids of security groups.
	Groups []string
	// NoSourceDestCheck is the opposite of EC2's attribute, whose default is true.
	NoSourceDestCheck bool
	// Type is EC2's interface type; "" is "interface".
	Type string
	// RequesterManaged says that another service of AWS owns it.
	RequesterManaged bool
	// Pending says that CreateNetworkInterface has not ended yet.
	Pending  bool
	Tracking Tracking

	Tags       map[string]string
	IPv4, IPv6 []netip.Addr
	Prefixes   []netip.Prefix

	// Token is its ClientToken. Created and Deleted are zero if it was always there, and if it still is.
	Token            string
	Created, Deleted time.Time
}

// Tracking is a ConnectionTrackingSpecification in seconds; 0 is not set.
type Tracking struct{ TCPEstablished, UDPStream, UDP int }

func (e ENI) clone() ENI {
	e.IPv4, e.IPv6, e.Prefixes, e.Groups = slices.Clone(e.IPv4), slices.Clone(e.IPv6), slices.Clone(e.Prefixes), slices.Clone(e.Groups)
	e.Tags = maps.Clone(e.Tags)
	return e
}

// Attachment returns the id of its attachment, or "".
func (e ENI) Attachment() string {
	if e.Instance != "" && e.AttachmentID == "" {
		return "eni-attach-" + strings.TrimPrefix(e.ID, "eni-")
	}
	return e.AttachmentID
}

// Status returns EC2's status of the ENI.
func (e ENI) Status() string {
	switch {
	case e.Instance != "":
		return "in-use"
	case e.Pending:
		return "pending"
	}
	return "available"
}

func (e ENI) attachmentStatus() string {
	if e.Instance != "" && e.AttachmentStatus == "" {
		return "attached"
	}
	return e.AttachmentStatus
}

func (e *ENI) detach() {
	e.Instance, e.DeviceIndex, e.NetworkCard, e.AttachmentID, e.AttachmentStatus = "", 0, 0, "", ""
	e.DeleteOnTermination, e.EnaExpress, e.EnaExpressUDP = false, false, false
}

func sortENIs(enis []ENI) {
	slices.SortFunc(enis, func(a, b ENI) int { return strings.Compare(a.ID, b.ID) })
}

// record is an ENI, and Describe's view of it before the last changes.
type record struct {
	ENI
	before []past
}

type past struct {
	until time.Time
	there bool
	eni   ENI
}

// seen returns Describe's view, and whether it has the ENI at all.
func (r *record) seen(now time.Time) (ENI, bool) {
	for _, p := range r.before {
		if now.Before(p.until) {
			return p.eni, p.there
		}
	}
	return r.ENI, r.Deleted.IsZero()
}

func byID(r *record, id string) int { return strings.Compare(r.ID, id) }

// insert makes an ENI that Describe shows after the lag if it was made at a time.
func (s *Server) insert(e ENI, at time.Time) *record {
	r := &record{}
	if !at.IsZero() {
		r.before = s.hide(r, at, 0)
	}
	s.enis[e.ID] = r
	s.living++
	i, _ := slices.BinarySearchFunc(s.sorted, e.ID, byID)
	s.sorted = slices.Insert(s.sorted, i, r)
	s.commitFrom(r, ENI{}, func(n *ENI) { *n = e }, !at.IsZero())
	return r
}

// hide returns the views of a record with the present one, for as long as the lag of a change at a time.
func (s *Server) hide(r *record, at time.Time, atLeast time.Duration) []past {
	lag := s.cfg.Lag
	if s.cfg.LagOf != nil {
		lag = s.cfg.LagOf()
	}
	views := slices.DeleteFunc(r.before, func(p past) bool { return !at.Before(p.until) })
	if lag = max(lag, atLeast); lag <= 0 {
		return views
	}
	return append(views, past{at.Add(lag), r.ID != "" && r.Deleted.IsZero(), r.clone()})
}

// change makes a change at a time that Describe shows after the lag.
func (s *Server) change(r *record, at time.Time, edit func(*ENI)) {
	r.before = s.hide(r, at, 0)
	s.commit(r, edit)
}

func (s *Server) remove(r *record, at time.Time) {
	r.before = s.hide(r, at, s.cfg.DeleteLag)
	s.living--
	s.commit(r, func(e *ENI) {
		e.detach()
		e.Deleted = at
	})
}

// commit makes a change and keeps indexes, addresses and instances up to date.
func (s *Server) commit(r *record, edit func(*ENI)) { s.commitFrom(r, r.clone(), edit, true) }

func (s *Server) commitFrom(r *record, before ENI, edit func(*ENI), tell bool) {
	edit(&r.ENI)
	if r.IPv4 != nil || before.IPv4 != nil || r.IPv6 != nil || before.IPv6 != nil || r.Prefixes != nil || before.Prefixes != nil {
		s.account(before, -1)
		s.account(r.ENI, +1)
	}
	for _, key := range keysOf(r.ENI) {
		if s.index[key] == nil {
			s.index[key] = map[*record]struct{}{}
		}
		s.index[key][r] = struct{}{}
	}
	if i := s.instances[before.Instance]; i != nil && (before.Instance != r.Instance || !r.Deleted.IsZero()) {
		delete(i.enis, r)
	}
	if i := s.instances[r.Instance]; i != nil {
		i.enis[r] = struct{}{}
	}
	if tell && s.cfg.OnChange != nil {
		s.cfg.OnChange(r.clone())
	}
}

// keysOf lists the keys under which an ENI is found. Keys of past views stay until somebody looks them up.
func keysOf(e ENI) []string {
	keys := []string{"subnet-id=" + e.SubnetID}
	for k, v := range e.Tags {
		keys = append(keys, "tag:"+k+"="+v, "tag-key="+k)
	}
	if e.Instance != "" {
		keys = append(keys, "attachment.instance-id="+e.Instance, "attachment.attachment-id="+e.Attachment())
	}
	return keys
}

// under returns the records that have, or had in a view still shown, a key.
func (s *Server) under(key string, now time.Time) []*record {
	var out []*record
	for r := range s.index[key] {
		has := r.Deleted.IsZero() && slices.Contains(keysOf(r.ENI), key)
		for _, p := range r.before {
			has = has || now.Before(p.until) && p.there && slices.Contains(keysOf(p.eni), key)
		}
		if has {
			out = append(out, r)
		} else {
			delete(s.index[key], r)
		}
	}
	return out
}

// find returns an ENI that exists, for all actions besides the Describes.
func (s *Server) find(id string) (*record, error) {
	if !strings.HasPrefix(id, "eni-") {
		return nil, refuse("InvalidNetworkInterfaceId.Malformed", "Invalid id: \"%s\" (expecting \"eni-...\")", id)
	}
	r := s.enis[id]
	if r == nil || !r.Deleted.IsZero() || s.cfg.Now().Before(r.Created.Add(s.cfg.CreateLag)) {
		return nil, refuse("InvalidNetworkInterfaceID.NotFound", "The networkInterface ID '%s' does not exist", id)
	}
	return r, nil
}

// findAttachment returns the ENI with an attachment.
func (s *Server) findAttachment(id string) (*record, error) {
	for _, r := range s.under("attachment.attachment-id="+id, s.cfg.Now()) {
		if r.Deleted.IsZero() && r.Instance != "" && r.Attachment() == id {
			return r, nil
		}
	}
	return nil, refuse("InvalidAttachmentID.NotFound", "The attachment ID '%s' does not exist", id)
}
