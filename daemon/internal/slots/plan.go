package slots

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// Plan says where the slots of one node go.
type Plan struct {
	// Slots are the given ones, with Index and Card.
	Slots []Slot
	// External are ENIs of somebody else that satisfy a slot, each of them one.
	External map[ID]vpc.Interface
	// Faults are of slots that must not be created or attached.
	Faults map[ID]Fault
	// Holders names the ENIs of the instance, for a message.
	Holders string
}

// place is a device index of a network card.
type place struct{ card, index int }

// PlanNode places the wanted slots of one instance. The interfaces are those attached to it, and the unattached ones of the slots. The type must be
// known. An ENI that EC2 has attached keeps its place; the others get their exact index, or the next free one upward. Recorded names the external ENI
// that satisfied a slot before: it stays with this slot while it can. No place depends on the order of the arguments.
func PlanNode(wanted []Slot, interfaces []vpc.Interface, recorded map[ID]string, kind vpc.InstanceType) Plan {
	p := planner{
		Plan:  Plan{Slots: slices.Clone(wanted), External: map[ID]vpc.Interface{}, Faults: map[ID]Fault{}},
		kind:  kind,
		taken: map[place]bool{}, onCard: map[int]int{}, own: map[ID]vpc.Interface{},
	}
	if len(wanted) == 0 {
		return p.Plan
	}
	p.read(wanted[0].Instance, interfaces)
	var open []*Slot
	for i := range p.Slots {
		if s := &p.Slots[i]; !p.joined(s) {
			open = append(open, s)
		}
	}
	// First the slots with an ENI. The order does not depend on time.
	slices.SortStableFunc(open, func(a, b *Slot) int {
		_, hasA := p.own[a.ID]
		_, hasB := p.own[b.ID]
		if hasA != hasB {
			if hasA {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.Exact, b.Exact), cmp.Compare(a.NodeENI.Name, b.NodeENI.Name), cmp.Compare(a.ID, b.ID))
	})
	p.settle(p.assign(open, recorded))
	return p.Plan
}

type planner struct {
	Plan
	kind     vpc.InstanceType
	attached int
	taken    map[place]bool
	onCard   map[int]int
	own      map[ID]vpc.Interface
	there    []vpc.Interface
}

func (p *planner) read(instance string, interfaces []vpc.Interface) {
	var holders []string
	for _, e := range interfaces {
		if id := ID(e.Tags[TagSlot]); id != "" && (p.own[id].Attachment == nil) {
			p.own[id] = e
		}
		a := e.Attachment
		if a == nil || a.Instance != instance || a.Status == "detached" {
			continue
		}
		p.there = append(p.there, e)
		p.attached++
		p.onCard[a.NetworkCard]++
		p.taken[place{a.NetworkCard, a.DeviceIndex}] = true
		who := e.Tags[vpc.NodeENITag]
		if who == "" {
			who = cmp.Or(e.Tags[TagName], e.Description, "no NodeENI")
		}
		holders = append(holders, fmt.Sprintf("%s (%s)", e.ID, who))
	}
	slices.SortFunc(p.there, func(a, b vpc.Interface) int { return cmp.Compare(a.ID, b.ID) })
	slices.Sort(holders)
	p.Holders = strings.Join(holders, ", ")
}

// joined reports whether EC2 has attached the slot's own ENI to its instance.
func (p *planner) joined(s *Slot) bool {
	a := p.own[s.ID].Attachment
	if a == nil || a.Instance != s.Instance {
		return false
	}
	s.Index, s.Card = a.DeviceIndex, a.NetworkCard
	return true
}

// assign gives each external ENI to one open slot at most: first to the slot that had it, then to the first one in order. It returns the other slots.
func (p *planner) assign(open []*Slot, recorded map[ID]string) []*Slot {
	given := map[string]bool{}
	for _, again := range []bool{true, false} {
		var left []*Slot
		for _, s := range open {
			i := slices.IndexFunc(p.there, func(e vpc.Interface) bool { return !given[e.ID] && (!again || e.ID == recorded[s.ID]) && p.suits(e, s) })
			if i < 0 {
				left = append(left, s)
				continue
			}
			e := p.there[i]
			given[e.ID], p.External[s.ID] = true, e
			s.Index, s.Card = e.Attachment.DeviceIndex, e.Attachment.NetworkCard
		}
		open = left
	}
	return open
}

// suits reports whether an ENI of the instance is an external one at the slot's place, and the slot has none of its own.
func (p *planner) suits(e vpc.Interface, s *Slot) bool {
	_, own := p.own[s.ID]
	a := e.Attachment
	return !own && e.SubnetID == s.Subnet && a.DeviceIndex == s.Exact && (s.AnyCard || a.NetworkCard == s.Card) && external(e)
}

func external(e vpc.Interface) bool {
	if e.Tags[TagNoManage] != "true" {
		return false
	}
	for k := range e.Tags {
		if strings.HasPrefix(k, TagPrefix) {
			return false
		}
	}
	return true
}

// Foreign reports whether an ENI may satisfy a slot, and is not the public controller's either.
func Foreign(e vpc.Interface) bool { return external(e) && e.Tags[vpc.NodeENITag] == "" }

// settle gives the open slots their places: first exact indexes, then the others.
func (p *planner) settle(open []*Slot) {
	var moved []*Slot
	for _, s := range open {
		s.Index = s.Exact
		if f, ok := p.room(s); !ok {
			p.Faults[s.ID] = f
			continue
		}
		p.attached++
		p.onCard[s.Card]++
		if at := (place{s.Card, s.Exact}); !p.taken[at] {
			p.taken[at] = true
		} else {
			moved = append(moved, s)
		}
	}
	for _, s := range moved {
		at := place{s.Card, s.Exact}
		for p.taken[at] {
			at.index++
		}
		p.taken[at], s.Index = true, at.index
	}
}

// room chooses the slot's card, and says whether one more ENI is possible there.
func (p *planner) room(s *Slot) (Fault, bool) {
	full := Fault{Reason: NoFreeInterface, NodeENI: s.NodeENI, Node: s.Node}
	if p.attached >= p.kind.Interfaces {
		full.Message = fmt.Sprintf("instance %s of node %s (%s) takes %d ENIs, and all are taken or promised; attached are %s: remove one, or use a larger type",
			s.Instance, s.Node, p.kind.Name, p.kind.Interfaces, p.Holders)
		return full, false
	}
	best, free, known := -1, 0, false
	for _, c := range p.kind.Cards {
		left := c.Interfaces - p.onCard[c.Index]
		if c.Index == s.Card {
			known = true
		}
		if (s.AnyCard || c.Index == s.Card) && left > free {
			best, free = c.Index, left
		}
	}
	if best >= 0 {
		s.Card = best
		return Fault{}, true
	}
	if !s.AnyCard && !known {
		return Fault{Reason: InvalidOption, NodeENI: s.NodeENI, Node: s.Node, Message: fmt.Sprintf(
			"annotation %s %d of NodeENI %s: type %s of node %s has %d network cards, counted from 0: correct it, or write auto",
			AnnotationNetworkCard, s.Card, s.NodeENI.Name, p.kind.Name, s.Node, len(p.kind.Cards))}, false
	}
	full.Message = fmt.Sprintf("network card %d of instance %s of node %s (%s) is full; attached are %s: remove one, or let annotation %s choose another card",
		s.Card, s.Instance, s.Node, p.kind.Name, p.Holders, AnnotationNetworkCard)
	return full, false
}
