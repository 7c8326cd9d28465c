// Package calls makes the calls to EC2 that the steps of slots ask for.
package calls

import (
	"context"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/enis"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/outside"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// Answer is EC2's answer to the call of a step.
type Answer struct {
	lifecycle.Result
	// Instance is the answer of ReadInstance.
	Instance *vpc.Instance

	step    lifecycle.Step
	cluster string
	list    []vpc.Interface // LookUp
}

// Make makes the call of a step. The UID of the cluster goes into tags, the attempt into the token of Create. It is safe for concurrent use.
func Make(ctx context.Context, ec2 outside.EC2, cluster string, attempt int, step lifecycle.Step) Answer {
	a := Answer{step: step, cluster: cluster}
	slot, eni := step.Slot, step.ENI
	switch step.Do { //nolint:exhaustive // the others make no call
	case lifecycle.LookUp:
		a.list, a.Err = ec2.BySlot(ctx, string(slot.ID))
	case lifecycle.Describe:
		var v vpc.Interface
		v, a.Err = ec2.Interface(ctx, eni)
		a.Interface = &v
	case lifecycle.ReadInstance:
		var i vpc.Instance
		i, a.Err = ec2.Instance(ctx, slot.Instance)
		a.Instance = &i
	case lifecycle.Create:
		var v vpc.Interface
		v, a.Err = ec2.Create(ctx, slots.Creation(*slot, cluster, attempt))
		a.Interface = &v
	case lifecycle.Attach:
		a.Attachment, a.Err = ec2.Attach(ctx, slots.Joining(*slot, eni))
	case lifecycle.SetTermination:
		a.Err = ec2.SetDeleteOnTermination(ctx, eni, step.Attachment, slot.Options.DeleteOnTermination)
	case lifecycle.SetGroups:
		a.Err = ec2.SetGroups(ctx, eni, slot.Groups)
	case lifecycle.SetSourceDestCheck:
		a.Err = ec2.SetSourceDestCheck(ctx, eni, *slot.Options.SourceDestCheck)
	case lifecycle.Tag:
		a.Err = ec2.SetTags(ctx, eni, slots.Tags(*slot, cluster))
	case lifecycle.Detach, lifecycle.ForceDetach:
		a.Err = ec2.Detach(ctx, step.Attachment, step.Do == lifecycle.ForceDetach)
	case lifecycle.Delete:
		a.Err = ec2.Delete(ctx, eni)
	}
	return a
}

// Note takes the answer into the knowledge of the ENIs. Call it once, before Result is used.
func (a *Answer) Note(s *enis.Store, began, now time.Time) {
	eni := a.step.ENI
	switch do := a.step.Do; {
	case do == lifecycle.Describe && enis.NotFound(a.Err):
		s.Missing(began, eni)
	case a.Err != nil:
	case do == lifecycle.LookUp:
		s.SeeSlot(began, string(a.step.Slot.ID), a.list)
	case do == lifecycle.Describe:
		s.See(began, *a.Interface)
	case do == lifecycle.Create:
		if len(a.Interface.Tags) == 0 {
			a.Interface.Tags = slots.Tags(*a.step.Slot, a.cluster)
		}
		a.Interface = s.Created(now, *a.Interface)
	case do == lifecycle.Delete:
		s.Deleted(now, eni)
	case do.Mutates():
		s.Wrote(now, eni, a.write())
	}
}

// write is the change that EC2 has made.
func (a *Answer) write() enis.Write {
	slot := a.step.Slot
	switch a.step.Do { //nolint:exhaustive // Note has the others
	case lifecycle.Attach:
		return enis.Attach(a.Attachment, slots.Joining(*slot, a.step.ENI))
	case lifecycle.SetTermination:
		return enis.DeleteOnTermination(a.step.Attachment, slot.Options.DeleteOnTermination)
	case lifecycle.SetGroups:
		return enis.Groups(slot.Groups)
	case lifecycle.SetSourceDestCheck:
		return enis.SourceDestCheck(*slot.Options.SourceDestCheck)
	case lifecycle.Tag:
		return enis.Tags(slots.Tags(*slot, a.cluster))
	}
	return enis.Detach(a.step.Attachment)
}

// Few is how many ENIs of one NodeENI people wait for as for a single one.
const Few = 20

// Urgency says which calls come first. Opening is the number of the NodeENI's slots without an attached ENI.
func Urgency(step lifecycle.Step, wanted bool, opening int) vpc.Priority {
	switch {
	case !wanted || step.Do == lifecycle.Detach || step.Do == lifecycle.ForceDetach || step.Do == lifecycle.Delete:
		return vpc.PriorityRelease
	case opening <= Few:
		return vpc.PrioritySingle
	case step.Do.Mutates() && step.Do != lifecycle.Create:
		return vpc.PrioritySingle // an ENI that is begun comes first; otherwise each waited until a bulk has all of its Creates
	}
	return vpc.PriorityBulk
}
