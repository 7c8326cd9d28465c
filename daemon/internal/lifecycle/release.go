package lifecycle

import (
	"fmt"
	"strings"
	"time"
)

// release is the way to nothing.
func (d *decider) release() Step {
	a := d.attachment()
	switch {
	case d.eni == nil:
		return d.end()
	case a == nil:
		return d.free()
	case a.Instance != d.s.Instance:
		return d.foreign(a)
	case d.o.Instance == nil && !d.m.instanceGone || d.o.InstanceAt.Before(d.m.instanceAfter):
		if a.Status == "detaching" {
			return Step{Do: ReadInstance, Phase: Detaching}
		}
		return Step{Do: ReadInstance, Phase: Draining}
	case d.gone():
		return d.poll(Step{Phase: Detaching, Reason: InstanceGone, Message: fmt.Sprintf("instance %s has ended: EC2 detaches %s, or deletes it",
			d.s.Instance, d.eni.ID)}, time.Minute)
	case a.Status == "detaching":
		return d.detaching()
	case (d.m.drainingSince.IsZero() || d.o.Node.Lost) && d.o.Node.Exists:
		return Step{Do: Store, Phase: Draining, note: note{draining: true, attempt: d.m.Attempt, request: d.m.Request}}
	}
	if st, ok := d.mayDetach(); !ok {
		return st
	}
	return Step{Do: Detach, ENI: d.eni.ID, Attachment: a.ID, Phase: Detaching}
}

// mayDetach reports whether no pod has the device, and none can get it.
func (d *decider) mayDetach() (Step, bool) {
	n := d.o.Node
	wait := func(reason, format string, args ...any) (Step, bool) {
		return Step{Phase: Draining, Reason: reason, Message: fmt.Sprintf(format, args...)}, false
	}
	if state := d.o.Instance.State; state != "running" && state != "pending" {
		st, _ := wait(InstanceNotRunning, "instance %s of node %s is %s: %s is detached when the instance runs again, or when it is terminated",
			d.s.Instance, d.s.Node, state, d.eni.ID)
		st.At = d.o.InstanceAt.Add(instanceWait)
		if !d.now.Before(st.At) {
			st.Do = ReadInstance
		}
		return st, false
	}
	switch {
	case len(n.Holders) > 0:
		return wait(DeviceInUse, "%s on node %s is in use by %s: it is detached when these pods have ended", d.eni.ID, d.s.Node, some(n.Holders))
	case n.Released:
		return Step{}, true
	case !n.Reported && !d.found() && !d.never().After(d.now):
		return Step{}, true
	case !n.Reported && !d.found() && n.Exists && n.Ready:
		st, _ := wait(WaitingForNode, "no daemon has reported on node %s: %s is detached at %s, or when a daemon has released it",
			d.s.Node, d.eni.ID, d.never().UTC().Format(time.RFC3339))
		st.At = d.never()
		return st, false
	case !n.Reported && !d.found():
		st, _ := wait(WaitingForNode, "node %s is not Ready, and no daemon has reported there: %s is detached at %s, or when a daemon has released it",
			d.s.Node, d.eni.ID, d.never().UTC().Format(time.RFC3339))
		st.At = d.never()
		return st, false
	case !n.Exists:
		st, _ := wait(WaitingForNode, "node %s does not exist, and its instance %s runs: %s is detached when the daemon there has released it, or when the "+
			"instance ends", d.s.Node, d.s.Instance, d.eni.ID)
		if st.At = d.o.InstanceAt.Add(instanceWait); !d.now.Before(st.At) {
			st.Do = ReadInstance
		}
		return st, false
	case !n.Ready:
		return wait(WaitingForNode, "node %s is not Ready: %s is detached when the daemon there has released it", d.s.Node, d.eni.ID)
	case n.Reported && n.Protocol < 1:
		return wait(DaemonTooOld, "the daemon of node %s reports no status.protocol: run it with --attachments-from=controller, in a version that has this flag",
			d.s.Node)
	case !n.Reported:
		return wait(WaitingForNode, "no daemon has reported on node %s, and %s was found there: it is detached when a daemon has released it", d.s.Node, d.eni.ID)
	}
	return wait("", "")
}

// some names the first pods: the message goes into an object with others.
func some(pods []string) string {
	const most = 5
	if len(pods) <= most {
		return strings.Join(pods, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(pods[:most], ", "), len(pods)-most)
}

// found reports whether the ENI may have been given to pods by a daemon whose report is lost.
func (d *decider) found() bool { return d.m.Found || d.m.reported || d.o.Node.Lost }

// never is when an ENI may go whose node no daemon has ever reported on.
func (d *decider) never() time.Time {
	t := d.o.Node.Since
	if d.m.drainingSince.After(t) {
		t = d.m.drainingSince
	}
	return t.Add(neverAfter)
}

// detaching waits for EC2.
func (d *decider) detaching() Step {
	since := d.m.detachingSince
	st := d.poll(Step{Phase: Detaching, note: note{detaching: true}}, 15*time.Second)
	if since.IsZero() || d.now.Sub(since) < stuckAfter {
		return st
	}
	st = d.poll(Step{Phase: Detaching, Reason: DetachStuck, note: note{detaching: true}, Message: fmt.Sprintf(
		"%s is detaching from %s (node %s) since %s: stop the instance or end the program that has the device; --force-detach-after is %s, where 0 never forces",
		d.eni.ID, d.s.Instance, d.s.Node, since.UTC().Format(time.RFC3339), d.o.ForceAfter)}, time.Minute)
	if d.o.ForceAfter > 0 && d.now.Sub(since) >= d.o.ForceAfter && d.o.Node.Released && len(d.o.Node.Holders) == 0 {
		st.Do, st.ENI, st.Attachment, st.At = ForceDetach, d.eni.ID, d.eni.Attachment.ID, time.Time{}
	}
	return st
}

// free: the ENI is attached to nothing.
func (d *decider) free() Step {
	if d.o.ParkUnknown {
		return Step{Phase: d.m.Phase, At: d.now.Add(time.Minute)} // the answer is news
	}
	if d.o.Park {
		if d.o.Instance == nil && !d.m.instanceGone {
			return Step{Do: ReadInstance}
		}
		if d.gone() {
			return Step{Phase: Parked}
		}
	}
	return Step{Do: Delete, ENI: d.eni.ID, Phase: Deleting}
}

// end: no ENI is known.
func (d *decider) end() Step {
	if d.m.Request != "" && d.o.LookedAt.Before(d.m.settled) {
		return d.lookUpBy(d.m.settled, Deleting) // an answer may have been lost, and the ENI not be listed yet
	}
	return Step{Do: Drop}
}
