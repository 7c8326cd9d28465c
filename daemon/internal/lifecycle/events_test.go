package lifecycle

import (
	"fmt"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// event lets one thing happen that no controller has asked for.
func (w *fakeWorld) event() {
	switch w.rng.IntN(13) {
	case 0, 1:
		w.nodeENIEvent()
	case 2, 3:
		w.nodeEvent()
	case 4, 5, 6:
		w.daemonEvent()
	case 7, 8:
		w.foreignEvent()
	case 9, 10:
		w.leaderEvent()
	case 11:
		d := time.Duration(w.rng.IntN(1200)) * time.Second
		w.say("%v pass", d)
		w.region.advance(w.region.now.Add(d))
	case 12:
		w.mindEvent()
	}
}

// mindEvent lets people change their mind twice about a node, whose daemon is killed while it answers.
func (w *fakeWorld) mindEvent() {
	n, ok := pick(w, w.cluster.nodes)
	if !ok || w.minds {
		return
	}
	w.minds = true
	for i, role := range []string{"b", "a", "b"} {
		n.Labels = map[string]string{"role": role}
		w.say("node %s has %v", n.Name, n.Labels)
		for range 1 + w.rng.IntN(8) {
			w.round(true)
		}
		if i == 0 {
			w.say("the daemon of %s is killed during its write, and another one begins", n.Name)
			n.killDaemon()
		}
	}
	w.minds = false
}

func pick[T any](w *fakeWorld, from map[string]T) (v T, ok bool) {
	keys := slices.Sorted(maps.Keys(from))
	if len(keys) == 0 {
		return v, false
	}
	return from[keys[w.rng.IntN(len(keys))]], true
}

func (w *fakeWorld) nodeENIEvent() {
	e, ok := pick(w, w.cluster.nodeENIs)
	if !ok || len(w.cluster.nodeENIs) < 2 {
		w.addNodeENI()
		return
	}
	e = e.DeepCopy()
	switch w.rng.IntN(7) {
	case 0, 1:
		if e.DeletionTimestamp == nil {
			e.DeletionTimestamp = &metav1.Time{Time: w.region.now}
			w.say("NodeENI %s is deleted", e.Name)
		}
	case 2:
		e.Spec.SubnetIDs = []string{"subnet-00000001", "subnet-00000002"}[w.rng.IntN(2):]
		w.say("NodeENI %s: subnets %v", e.Name, e.Spec.SubnetIDs)
	case 3:
		e.Spec.SecurityGroupIDs = []string{"sg-1", "sg-2"}[w.rng.IntN(2):]
		w.say("NodeENI %s: groups %v", e.Name, e.Spec.SecurityGroupIDs)
	case 4:
		e.Annotations[slots.AnnotationSourceDestCheck] = []string{"true", "false", "no"}[w.rng.IntN(3)]
		w.say("NodeENI %s: %v", e.Name, e.Annotations)
	case 5:
		e.Spec.DeleteOnTermination = new(!*e.Spec.DeleteOnTermination)
		w.say("NodeENI %s: deleteOnTermination %v", e.Name, *e.Spec.DeleteOnTermination)
	case 6:
		e.Spec.Description = fmt.Sprint("edit ", w.rng.IntN(100))
		w.say("NodeENI %s: another description", e.Name)
	}
	w.cluster.nodeENIs[e.Name] = e
}

func (w *fakeWorld) nodeEvent() {
	n, ok := pick(w, w.cluster.nodes)
	if !ok || len(w.cluster.nodes) < 2 {
		w.addNode()
		return
	}
	i := w.region.instances[n.Instance()]
	switch w.rng.IntN(6) {
	case 0:
		if i != nil && i.State != "terminated" && i.State != "shutting-down" {
			w.say("%s of %s is terminated", n.Instance(), n.Name)
			w.region.terminate(n.Instance())
			n.ready, n.dead, n.pods = false, true, map[string]bool{}
		}
	case 1:
		if i == nil || i.State == "terminated" {
			w.say("Node %s is removed", n.Name)
			delete(w.cluster.nodes, n.Name)
		}
	case 2:
		if i != nil && (i.State == "running" || i.State == "stopped") {
			i.State = map[string]string{"running": "stopped", "stopped": "running"}[i.State]
			n.ready, n.dead, n.pods = i.State == "running", i.State == "stopped", map[string]bool{}
			w.say("%s of %s is %s", n.Instance(), n.Name, i.State)
		}
	case 3:
		n.Labels = map[string]string{"role": []string{"a", "b"}[w.rng.IntN(2)]}
		w.say("node %s has %v", n.Name, n.Labels)
	case 4:
		w.addNode()
	case 5:
		n.ready = !n.ready && !n.dead
		w.say("node %s is ready: %v", n.Name, n.ready)
	}
}

func (w *fakeWorld) daemonEvent() {
	n, ok := pick(w, w.cluster.nodes)
	if !ok {
		return
	}
	i := w.region.instances[n.Instance()]
	runs := i != nil && i.State == "running"
	switch w.rng.IntN(5) {
	case 0:
		n.dead = !n.dead || !runs
	case 1:
		n.frozen = !n.frozen
	case 2:
		n.old = !n.old
	case 3:
		n.dead, n.frozen, n.old = !runs, false, false
	case 4:
		if n.state != nil && w.rng.IntN(3) == 0 {
			w.say("somebody deletes the ENINodeState of %s", n.Name)
			n.state = nil
		}
	}
	w.say("the daemon of %s: dead %v, frozen %v, old %v", n.Name, n.dead, n.frozen, n.old)
}

func (w *fakeWorld) foreignEvent() {
	n, ok := pick(w, w.cluster.nodes)
	if !ok {
		return
	}
	id := n.Instance()
	ours := w.region.live(func(i vpc.Interface) bool { return i.Tags[slots.TagCluster] != "" })
	foreign := w.region.live(func(i vpc.Interface) bool {
		return i.Tags[slots.TagManagedBy] == "" && i.SubnetID != "subnet-primary" && i.Tags[slots.TagCluster] == ""
	})
	switch w.rng.IntN(6) {
	case 0, 1:
		tags := map[string]string{}
		if w.rng.IntN(2) == 0 {
			tags[slots.TagNoManage] = "true"
			if e, ok := pick(w, w.cluster.nodeENIs); ok && w.adopt {
				tags[vpc.NodeENITag], tags[slots.TagManagedBy] = e.Name, slots.ManagedBy
			}
		}
		w.attachForeign(id, 1+w.rng.IntN(3), tags)
	case 2:
		if len(foreign) > 0 {
			e := foreign[w.rng.IntN(len(foreign))]
			w.say("somebody removes %s, which is theirs", e.id)
			w.region.remove(e)
		}
	case 3:
		if len(ours) > 0 {
			if e := ours[w.rng.IntN(len(ours))]; e.last().Attachment == nil {
				w.say("somebody deletes %s", e.id)
				w.region.remove(e)
			}
		}
	case 4:
		if len(ours) > 0 {
			if e := ours[w.rng.IntN(len(ours))]; e.last().Attachment != nil && !w.held(e.id) {
				w.say("somebody detaches %s", e.id)
				w.region.part(e, e.last().Attachment.ID)
			}
		}
	case 5:
		if len(ours) > 0 {
			e := ours[w.rng.IntN(len(ours))]
			w.say("%s will not leave its instance", e.id)
			e.stuck = true
		}
	}
}

func (w *fakeWorld) attachForeign(instance string, index int, tags map[string]string) {
	there := w.region.live(func(i vpc.Interface) bool { return i.Attachment != nil && i.Attachment.Instance == instance })
	taken := slices.ContainsFunc(there, func(e *fakeENI) bool { return e.last().Attachment.DeviceIndex == index })
	if i := w.region.instances[instance]; i == nil || i.State != "running" || taken || len(there) >= fakeLimit {
		return
	}
	e := w.region.add(vpc.Interface{SubnetID: "subnet-00000001", VPCID: "vpc-1", Zone: "z1", Status: "in-use", Groups: []string{"sg-9"}, Tags: tags,
		SourceDestCheck: true, Attachment: &vpc.Attachment{ID: "theirs-" + fmt.Sprint(len(w.region.order)), Instance: instance, DeviceIndex: index,
			Status:              "attached",
			DeleteOnTermination: true}})
	w.say("somebody attaches %s to %s at %d with %v", e.id, instance, index, tags)
}

func (w *fakeWorld) leaderEvent() {
	switch w.rng.IntN(3) {
	case 0:
		w.say("the leader is killed")
		w.dead = true
	case 1:
		w.say("the leader freezes past its lease, and resumes")
		w.frozen, w.leader.fenced, w.dead = w.leader, true, true
	case 2:
		w.frozen = nil
	}
}
