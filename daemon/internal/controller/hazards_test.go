package controller

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

// hazards are the things in a tale that the controller does not do: ENIs of others, stopped instances, detachments that are stuck.
type hazards struct {
	// force is --force-detach-after, adopt --adopt=public. sticky: a Detach may not end.
	force         time.Duration
	adopt, sticky bool
	// slow: EC2 is asked so seldom that calls wait for each other. named: NodeENIs name subnets by their tag where that can be had.
	slow, named bool
	// rival is since when another controller has been at work; zero for never.
	rival   time.Time
	stopped map[string]bool
	started int // pods
	// declared is when each NodeENI was last changed, by name.
	declared map[string]time.Time
	// kept are ENIs that have outlived their instance, detached the first Detach of each attachment.
	kept     map[string]keptENI
	detached map[string]time.Time
}

type keptENI struct {
	name string // of its NodeENI
	fakeec2.ENI
}

// strangers are ENIs of other programs, publicOnes of the public controller.
var (
	strangers  = []string{"eni-000000f1", "eni-000000f2", "eni-000000f3", "eni-000000f4"}
	publicOnes = []string{"eni-000000d1", "eni-000000d2"}
)

func (a *tale) draw() {
	a.stopped, a.declared, a.kept, a.detached = map[string]bool{}, map[string]time.Time{}, map[string]keptENI{}, map[string]time.Time{}
	a.force = []time.Duration{0, 20 * time.Minute}[a.rnd.IntN(2)]
	a.sticky, a.adopt = a.rnd.IntN(3) == 0, a.rnd.IntN(4) == 0
	a.slow, a.named = a.rnd.IntN(3) == 0, a.rnd.IntN(2) == 0
}

func (a *tale) prepare(c *fakeec2.Config) {
	judge := c.OnEvent
	c.OnEvent = func(e fakeec2.Event) { judge(e); a.judgeForce(e); a.judgeKept(e); a.judgeRival(e) }
	c.Stuck = func(fakeec2.ENI) bool { return a.sticky && a.chance(4) == 0 }
	c.StopTakes, c.LaunchTakes = 20*time.Second, time.Duration(a.rnd.IntN(2))*5*time.Second
	for i, subnet := range []string{a1, a1, a2, b1} {
		tags := map[string]string{"foreign": "yes", slots.TagNoManage: "true"}
		if i == 0 {
			delete(tags, slots.TagNoManage)
		}
		c.ENIs = append(c.ENIs, fakeec2.ENI{ID: strangers[i], MAC: fmt.Sprintf("06:00:00:00:00:f%d", i), SubnetID: subnet, Groups: []string{sg1}, Tags: tags})
	}
	if !a.adopt {
		return
	}
	for i, subnet := range []string{a1, a2} {
		e := fakeec2.ENI{
			ID: publicOnes[i], MAC: fmt.Sprintf("06:00:00:00:00:d%d", i), SubnetID: subnet, Groups: []string{sg1}, Instance: instanceOf("node-1"), DeviceIndex: 1 + i,
			AttachmentStatus: "attached", DeleteOnTermination: true,
			Tags: map[string]string{
				"NodeENI": []string{"blue", "green"}[i], slots.TagManagedBy: slots.ManagedBy, slots.TagNoManage: "true", slots.TagNode: "node-1", slots.TagSubnet: subnet,
			},
		}
		if i == 1 && a.rnd.IntN(2) == 0 {
			e.Instance, e.DeviceIndex, e.AttachmentStatus, e.DeleteOnTermination = "", 0, "", false
		}
		c.ENIs = append(c.ENIs, e)
	}
}

// begin lets the first controller lead. With --adopt=public, a NodeENI's status has the public controller's ENIs.
func (a *tale) begin() {
	if a.adopt {
		a.growNode()
		for i, subnet := range []string{a1, a2} {
			name := []string{"blue", "green"}[i]
			a.declareKept(name, false, 1+i, subnet)
			a.setNodeENI(name, func(o *v1alpha1.NodeENI) {
				o.Status.Attachments = []v1alpha1.ENIAttachment{{
					NodeID: "node-1", InstanceID: instanceOf("node-1"), ENIID: publicOnes[i], AttachmentID: "eni-attach-" + strings.TrimPrefix(publicOnes[i], "eni-"),
					SubnetID: subnet, DeviceIndex: 1 + i, Status: "attached", LastUpdated: metav1Now(),
				}}
			})
		}
	}
	a.lead = a.newLeader()
	a.onWrite = func(doing, name string) { a.note("write %s %s", doing, name) }
	wake, told := a.onState, map[string]string{}
	a.onState = func(node string) {
		if s := a.state(node); s != nil {
			for _, e := range s.Spec.Attachments {
				a.noteEntry(node, e, told)
			}
		}
		wake(node)
	}
}

func (a *tale) noteEntry(node string, e v1alpha1.AttachmentEntry, told map[string]string) {
	text := fmt.Sprintf("entry on %s: %.4s %s %s %s %s %d", node, e.Slot, e.ENIID, e.Wanted, e.Phase, e.Reason, e.DeviceIndex)
	a.mu.Lock()
	news := told[e.Slot] != text
	told[e.Slot] = text
	a.mu.Unlock()
	if news {
		a.note("%s", text)
	}
}

func (a *tale) newLeader() *controller {
	qps, burst := 100.0, 1000
	if a.slow {
		qps, burst = 0.2, 1
	}
	return a.leadAt(qps, burst, func(o *Options) { o.ForceDetachAfter, o.AdoptPublic = a.force, a.adopt })
}

// beside lets another controller hold its Lease for a while.
func (a *tale) beside() {
	a.mu.Lock()
	there := !a.rival.IsZero()
	if !there {
		a.rival = time.Now()
	}
	a.mu.Unlock()
	if there {
		return
	}
	a.note("another controller comes")
	a.setRival(&fleet.Rival{Namespace: "other", Holder: "public"})
	time.AfterFunc(time.Duration(5+a.chance(55))*time.Second, a.alone)
}

// alone ends the other controller.
func (a *tale) alone() {
	a.note("no other controller is there")
	a.mu.Lock()
	a.rival = time.Time{}
	a.mu.Unlock()
	a.setRival(nil)
}

func (a *tale) declareKept(name string, kept bool, index int, subnets ...string) {
	a.note("NodeENI %s in %v at %d, kept %v", name, subnets, index, kept)
	a.touch(name)
	a.declare(name, index, subnets...)
	a.setNodeENI(name, func(o *v1alpha1.NodeENI) {
		o.Spec.DeleteOnTermination = new(!kept)
		if a.named && slices.Equal(subnets, []string{a1}) {
			o.Spec.SubnetIDs, o.Spec.SubnetName = nil, "blue"
		}
	})
}

// touch notes a change of a NodeENI.
func (a *tale) touch(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.declared[name] = time.Now()
}

// settled says whether a NodeENI has been the same for a while.
func (a *tale) settled(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Since(a.declared[name]) > 30*time.Second
}

// foreigner lets another program attach or detach an ENI of its own.
func (a *tale) foreigner() {
	id := strangers[a.chance(len(strangers))]
	if e := a.ec2.ENI(id); e.Instance != "" {
		a.note("%s is detached from %s by its owner", id, e.Instance)
		a.ec2.Part(id)
		return
	}
	node, index := a.someNode(), 1+a.chance(4)
	if a.ec2.Join(id, instanceOf(node), index) {
		a.note("%s is attached to %s at %d by its owner", id, node, index)
	}
}

// startPod lets a pod take a device, if EC2 has it there still.
func (a *tale) startPod(d *daemon) {
	a.started++
	pod := fmt.Sprintf("default/pod-%d", a.started)
	eni := d.startPod(pod)
	switch {
	case eni == "":
	case a.ec2.ENI(eni).Instance != instanceOf(d.node):
		a.endPod(pod)
	default:
		a.note("%s on %s gets %s", pod, d.node, eni)
		a.pods = append(a.pods, pod)
	}
}

// publicOne lets a person detach an ENI of the public controller, or attach it again.
func (a *tale) publicOne() {
	id := publicOnes[a.chance(len(publicOnes))]
	if !a.adopt || !a.ec2.ENI(id).Deleted.IsZero() {
		return
	}
	e := a.ec2.ENI(id)
	a.holdersMu.Lock()
	pod := a.holders[id]
	a.holdersMu.Unlock()
	switch {
	case e.Instance != "" && pod == "":
		a.note("a person detaches %s", id)
		a.ec2.Part(id)
	case e.Instance == "" && e.Tags[slots.TagCluster] == "" && a.ec2.Join(id, instanceOf("node-1"), 1+a.chance(3)):
		a.note("a person attaches %s", id)
	}
}

// stopOrStart stops an instance with everything on it, or starts one.
func (a *tale) stopOrStart() {
	node := a.someNode()
	if a.stopped[node] {
		a.startNode(node)
		return
	}
	a.note("%s is stopped", node)
	a.stopped[node] = true
	a.daemons[node].set(false)
	a.setNode(node, func(n *fleet.Node) { n.Ready = false })
	a.ec2.StopInstance(instanceOf(node))
}

func (a *tale) startNode(node string) {
	a.note("%s is started", node)
	delete(a.stopped, node)
	a.ec2.StartInstance(instanceOf(node))
	a.setNode(node, func(n *fleet.Node) { n.Ready = true })
	a.daemons[node].set(true)
}

// heal ends all trouble. Programs give most ENIs back, and people settle the public controller's.
func (a *tale) heal() {
	a.note("all heals")
	a.alone()
	a.mu.Lock()
	a.trouble, a.killAt, a.sticky = 0, 0, false
	a.mu.Unlock()
	for _, node := range a.nodes {
		if a.stopped[node] {
			a.startNode(node)
		}
		a.daemons[node].set(true)
	}
	for _, pod := range a.pods {
		a.endPod(pod)
	}
	there := map[string]bool{}
	for _, id := range strangers {
		if on := a.ec2.ENI(id).Instance; on != "" && there[on] {
			a.ec2.Part(id)
		} else {
			there[on] = true
		}
	}
	if a.force > 0 || a.adopt {
		time.Sleep(a.force + 15*time.Minute)
	}
	for _, e := range a.ec2.All() {
		if e.AttachmentStatus == "detaching" { // without --force-detach-after, or wanted again since its Detach
			a.ec2.Part(e.ID)
		}
	}
	if a.adopt {
		a.settle()
	}
	if len(a.kept) > 0 {
		a.growNode() // for the kept ones
	}
}

// settle lets people do about the public controller's ENIs as the Event AdoptionConflict says: they delete them, or correct tag and status.
func (a *tale) settle() {
	for _, id := range publicOnes {
		e := a.ec2.ENI(id)
		if e.Tags[slots.TagCluster] != "" || !e.Deleted.IsZero() {
			continue
		}
		if e.Instance == "" {
			a.note("a person deletes %s", id)
			a.ec2.Change(id, func(e *fakeec2.ENI) { e.Deleted = time.Now() })
			continue
		}
		a.note("a person corrects the tags of %s, and its place in a status once the controller has seen them", id)
		a.ec2.Change(id, func(e *fakeec2.ENI) { e.Tags = map[string]string{"foreign": "yes"} })
		time.Sleep(11 * time.Minute)
		for _, name := range []string{"blue", "green", "red"} { // another than the tag's, if it was external
			if a.nodeENI(name) == nil {
				continue
			}
			a.setNodeENI(name, func(o *v1alpha1.NodeENI) {
				o.Status.Attachments = slices.DeleteFunc(o.Status.Attachments, func(s v1alpha1.ENIAttachment) bool { return s.ENIID == id })
			})
		}
	}
}
