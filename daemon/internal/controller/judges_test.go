package controller

import (
	"fmt"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

// keep remembers the ENIs that outlive the instance of a node. One that may be on its way to its end is left out.
func (a *tale) keep(node string, all []fakeec2.ENI) {
	a.api.mu.Lock()
	worker := a.api.nodes[node].Is.Labels["role"] == "worker"
	a.api.mu.Unlock()
	for _, w := range a.wishes() {
		for _, e := range all {
			if worker && w.node == node && e.Tags[slots.TagSlot] == string(w.id()) && e.Deleted.IsZero() && e.AttachmentStatus == "attached" &&
				!e.DeleteOnTermination && w.kept && a.settled(w.name) {
				a.note("%s is kept", e.ID)
				a.mu.Lock()
				a.kept[e.ID] = keptENI{w.name, e}
				a.mu.Unlock()
			}
		}
	}
}

// judgeKept finds an ENI that is deleted although its NodeENI keeps it.
func (a *tale) judgeKept(e fakeec2.Event) {
	a.mu.Lock()
	k, ok := a.kept[e.ENI.ID]
	a.mu.Unlock()
	if !ok || e.Action != "DeleteNetworkInterface" || e.Code != "" || e.ENI.Tags[slots.TagSlot] != k.Tags[slots.TagSlot] {
		return
	}
	a.api.mu.Lock()
	o := a.api.enis[k.name]
	a.api.mu.Unlock()
	if o != nil && !o.Deleting && o.UID == k.Tags[slots.TagNodeENI] && !*o.Is.Spec.DeleteOnTermination && slices.Contains(subnetsOf(o.Is.Spec), k.SubnetID) &&
		a.settled(k.name) {
		a.Errorf("%s: %s is deleted, and NodeENI %s keeps it", e.At.Format("15:04:05.000"), e.ENI.ID, k.name)
	}
}

// subnetsOf are the ids of a NodeENI's subnets.
func subnetsOf(spec v1alpha1.NodeENISpec) []string {
	if spec.SubnetName == "blue" {
		return []string{a1}
	}
	return spec.SubnetIDs
}

// judgeRival finds a change that was begun when the leader could know of another controller.
func (a *tale) judgeRival(e fakeec2.Event) {
	a.mu.Lock()
	since := a.rival
	a.mu.Unlock()
	if !since.IsZero() && e.At.Sub(since) > rivalEvery+2*time.Second {
		a.Errorf("%s: %s %v after another controller had come", e.At.Format("15:04:05.000"), e.Action, e.At.Sub(since))
	}
}

// judgeForce finds a Detach that is forced too early, or without the daemon's word.
func (a *tale) judgeForce(e fakeec2.Event) {
	if e.Action != "DetachNetworkInterface" || e.Code != "" {
		return
	}
	a.mu.Lock()
	first, ok := a.detached[e.ENI.Attachment()]
	if !ok {
		a.detached[e.ENI.Attachment()] = e.At
	}
	a.mu.Unlock()
	if !e.Force {
		return
	}
	if !ok || a.force == 0 || e.At.Sub(first) < a.force {
		a.Errorf("%s: %s is forced, and was detached first at %v", e.At.Format("15:04:05.000"), e.ENI.ID, first)
	}
	a.api.mu.Lock()
	defer a.api.mu.Unlock()
	for node, s := range a.api.states {
		if instanceOf(node) == e.ENI.Instance && !slices.ContainsFunc(s.Is.Released, func(r v1alpha1.ReleasedENI) bool { return r.ENIID == e.ENI.ID }) {
			a.Errorf("%s: %s is forced without the word of the daemon of %s", e.At.Format("15:04:05.000"), e.ENI.ID, node)
		}
	}
}

// wish is a wanted ENI.
type wish struct {
	name, uid, node, subnet string
	exact                   int
	kept                    bool
}

func (w wish) id() slots.ID { return slots.NewID("cluster-1", w.uid, instanceOf(w.node), w.subnet) }

func (a *tale) wishes() (list []wish) {
	a.api.mu.Lock()
	defer a.api.mu.Unlock()
	for _, o := range a.api.enis {
		for _, n := range a.api.nodes {
			if o.Deleting || !slots.Selects(o.Is.Spec.NodeSelector, n.Is.Labels) {
				continue
			}
			index := o.Is.Spec.DeviceIndex
			for i, id := range subnetsOf(o.Is.Spec) {
				if slices.Contains(subnetsOf(o.Is.Spec)[:i], id) {
					continue
				}
				if (id == b1) == (n.Is.Labels["topology.kubernetes.io/zone"] == zone(1)) {
					list = append(list, wish{o.Name, o.UID, n.Name, id, index, !*o.Is.Spec.DeleteOnTermination})
				}
				index++
			}
		}
	}
	return list
}

// lacks says what is not as declared; "" for nothing.
func (a *tale) lacks() string {
	wishes, own, listed, missing, on := a.wishes(), map[string]fakeec2.ENI{}, 0, 0, map[string]int{}
	for _, e := range a.live() {
		own[e.Tags[slots.TagSlot]] = e
	}
	for _, e := range a.ec2.All() {
		on[e.Instance]++
	}
	given := map[string]bool{}
	for _, w := range wishes {
		id := string(w.id())
		e, ok := own[id]
		delete(own, id)
		switch {
		case !ok && a.external(w, given):
		case e.Instance == "" && on[instanceOf(w.node)] == a.most(w.node):
			missing++
		case !ok:
			return fmt.Sprintf("no ENI of %+v", w)
		case ok && (e.Instance != instanceOf(w.node) || e.AttachmentStatus != "attached" || e.DeleteOnTermination == w.kept):
			return fmt.Sprintf("%+v has %+v", w, e)
		}
	}
	a.api.mu.Lock()
	defer a.api.mu.Unlock()
	for _, o := range a.api.enis {
		if listed += len(o.Is.Status.Attachments); o.Deleting {
			return o.Name + " is being deleted"
		}
		for id, e := range own {
			if e.Tags[slots.TagNodeENI] == o.UID && e.Instance == "" && !*o.Is.Spec.DeleteOnTermination && slices.Contains(subnetsOf(o.Is.Spec), e.SubnetID) {
				delete(own, id) // parked
			}
		}
	}
	if len(own) > 0 || listed != len(wishes)-missing {
		return fmt.Sprintf("%d ENIs, want %d but %d; more are %v", listed, len(wishes), missing, own)
	}
	return ""
}

// judgeEntries finds an entry that does not show its ENI as EC2 has it, two entries with one ENI, and a kept ENI that is not the same any more.
func (a *tale) judgeEntries() {
	of := map[string]string{}
	for _, node := range a.nodes {
		s := a.state(node)
		if s == nil {
			continue
		}
		for _, e := range s.Spec.Attachments {
			if e.ENIID == "" {
				continue
			}
			if other, ok := of[e.ENIID]; ok {
				a.Errorf("%s satisfies both slot %s and slot %s on %s", e.ENIID, other, e.Slot, node)
			}
			of[e.ENIID] = e.Slot
			v := a.ec2.ENI(e.ENIID)
			if e.MAC != v.MAC || len(e.Addresses) != len(v.IPv4) && v.Tags[slots.TagSlot] != "" || v.Instance != "" && e.AttachmentID != v.Attachment() {
				a.Errorf("the entry on %s is %+v, EC2 has %+v", node, e, v)
			}
			if k, ok := a.kept[e.ENIID]; ok && (e.MAC != k.MAC || fmt.Sprint(e.Addresses) != fmt.Sprint(k.IPv4)) {
				a.Errorf("the entry on %s is %+v, kept was %+v", node, e, k.ENI)
			}
		}
	}
}

// most is how many ENIs a node's instance takes.
func (a *tale) most(node string) int {
	a.api.mu.Lock()
	defer a.api.mu.Unlock()
	if n := a.api.nodes[node]; n != nil && n.Is.Labels["node.kubernetes.io/instance-type"] == "m5.large" {
		return 3
	}
	return 8
}

// external says whether somebody else's ENI satisfies a wish, and none of the earlier ones.
func (a *tale) external(w wish, given map[string]bool) bool {
	return slices.ContainsFunc(strangers, func(id string) bool {
		if given[id] {
			return false
		}
		e := a.ec2.ENI(id)
		given[id] = e.Instance == instanceOf(w.node) && e.SubnetID == w.subnet && e.DeviceIndex == w.exact && e.Tags[slots.TagNoManage] != ""
		return given[id]
	})
}
