package controller

import (
	"cmp"
	"context"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/place"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// makePlan says where the node's wanted slots go, as far as the ENIs of its instance are known.
func (l *loop) makePlan(n *node) {
	n.plan, n.plannedAt = slots.Plan{}, time.Time{}
	attached, read := l.enis.Instance(n.instance)
	for i := range attached {
		if v := attached[i].VPCID; v != "" {
			n.vpcID = v
		}
	}
	kind := l.types[n.kind()]
	if n.instance == "" || read.IsZero() || kind == nil {
		return
	}
	var wanted []slots.Slot
	external := map[slots.ID]string{}
	for _, s := range n.sorted() {
		if s.wanted && s.declared && s.Instance == n.instance {
			wanted = append(wanted, *s.Slot)
			if e := s.present(); e.Phase == string(lifecycle.External) {
				external[s.ID] = e.ENIID
			}
			own, _ := l.enis.Slot(string(s.ID))
			for i := range own {
				if own[i].Attachment == nil {
					attached = append(attached, own[i])
				}
			}
		}
	}
	n.plan, n.plannedAt = slots.PlanNode(wanted, attached, external, *kind), read
	for _, p := range n.plan.Slots {
		if s := n.slots[p.ID]; s.Index != p.Index || s.Card != p.Card {
			s.Slot = &p
		}
	}
}

// readNode asks EC2 for the ENIs and the type of a node's instance.
func (l *loop) readNode(n *node) {
	if n.reading || n.instance == "" {
		return
	}
	n.reading = true
	instance, kind := n.instance, n.kind()
	began := l.Now()
	_, typed := l.types[kind]
	do(l, l.looks, vpc.PrioritySingle, func(ctx context.Context) (place.Place, error) { return place.Read(ctx, l.EC2, instance, kind, typed) },
		func(a place.Place, err error) {
			n.reading = false
			if err == nil {
				l.enis.SeeInstance(began, instance, a.Attached)
				if !typed {
					l.types[a.Named] = &a.Kind
				}
				if n.instance == instance {
					n.ownType = a.Instance.Type
				}
				read := a.Instance // a slot keeps it, and not all of a
				for _, s := range n.slots {
					if s.Instance == instance {
						s.instance, s.instanceAt = &read, began
					}
				}
			}
			for _, r := range n.readers {
				if l.slots[r.ID] == r.slot {
					r.slot.done()
					l.ended(n, r.slot, r.step, lifecycle.Result{Err: err})
				}
			}
			n.readers = nil
			l.answered("the look at an instance", nodeKey+n.name, err, func() { l.dirtyNodes[n.name] = true })
		})
}

// kind is the node's instance type: EC2's word, before it is known the label's.
func (n *node) kind() string { return cmp.Or(n.ownType, n.is.Type()) }
