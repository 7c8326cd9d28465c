package lifecycle

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

var (
	sequences = flag.Int("sequences", 300, "how many generated stories happen")
	seed      = flag.Uint64("seed", 0, "the first story's seed; 0 takes another each time")
)

// fakeWorld is one story.
type fakeWorld struct {
	rng     *rand.Rand
	region  *fakeRegion
	cluster *fakeCluster
	leader  *fakeController
	frozen  *fakeController
	dead    bool // the leader was killed in a call
	minds   bool // mindEvent goes on
	adopt   bool
	force   time.Duration
	made    int
	story   []string
	fault   string
}

func newFakeWorld(seed uint64) *fakeWorld {
	w := &fakeWorld{rng: rand.New(rand.NewPCG(seed, 22))}
	w.region = &fakeRegion{
		now: time.Unix(1_800_000_000, 0), rng: w.rng, enis: map[string]*fakeENI{}, tokens: map[string]fakeToken{}, flapped: map[string]bool{},
		instances: map[string]*vpc.Instance{},
		say:       w.say, broken: w.broken, held: w.held, lagging: true, trouble: float64(w.rng.IntN(3)) * 0.06,
	}
	w.cluster = &fakeCluster{rng: w.rng, nodeENIs: map[string]*v1alpha1.NodeENI{}, nodes: map[string]*fakeNode{}, trouble: w.region.trouble / 2}
	w.adopt = w.rng.IntN(4) == 0
	if w.rng.IntN(4) == 0 {
		w.force = 20 * time.Minute
	}
	for range 2 {
		w.addNode()
		w.addNodeENI()
	}
	w.leader = newFakeController(w, false)
	return w
}

func (w *fakeWorld) say(format string, args ...any) {
	w.story = append(w.story, w.region.now.UTC().Format("15:04:05.0 ")+fmt.Sprintf(format, args...))
}

func (w *fakeWorld) broken(format string, args ...any) {
	w.say("BROKEN: "+format, args...)
	if w.fault == "" {
		w.fault = fmt.Sprintf(format, args...)
	}
}

func (w *fakeWorld) held(eni string) bool {
	for _, n := range w.cluster.nodes {
		if n.pods[eni] {
			return true
		}
	}
	return false
}

func (w *fakeWorld) nodeOf(instance string) *fakeNode {
	for _, n := range w.cluster.nodes {
		if n.Instance() == instance {
			return n
		}
	}
	return nil
}

// killed notes that the leader died in a call.
func (w *fakeWorld) killed(err error) bool {
	if errors.Is(err, errKilled) || errors.Is(err, errKilledLate) {
		w.dead = true
	}
	return w.dead
}

func (w *fakeWorld) addNode() {
	w.made++
	id := fmt.Sprintf("i-%08x", w.made)
	name := fmt.Sprintf("node-%d", w.made)
	w.region.instances[id] = &vpc.Instance{ID: id, Type: "t", VPCID: "vpc-1", Zone: "z1", State: "running"}
	w.region.add(vpc.Interface{SubnetID: "subnet-primary", VPCID: "vpc-1", Zone: "z1", Status: "in-use",
		Attachment: &vpc.Attachment{ID: "primary-" + id, Instance: id, Status: "attached", DeleteOnTermination: true}})
	w.cluster.nodes[name] = &fakeNode{
		Node:  slots.Node{Name: name, ProviderID: "aws:///z1/" + id, VPC: "vpc-1", Labels: map[string]string{"role": "a"}},
		ready: true, pods: map[string]bool{},
	}
	w.say("node %s appears with %s", name, id)
	if w.rng.IntN(4) == 0 { // as by a launch template
		w.attachForeign(id, 1+w.rng.IntN(2), map[string]string{slots.TagNoManage: "true"})
	}
}

func (w *fakeWorld) addNodeENI() {
	w.made++
	name := fmt.Sprintf("neni-%d", w.made)
	e := &v1alpha1.NodeENI{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), Annotations: map[string]string{}}}
	e.Spec = v1alpha1.NodeENISpec{
		NodeSelector: map[string]string{"role": "a"}, SubnetIDs: []string{"subnet-00000001", "subnet-00000002"}[:1+w.rng.IntN(2)],
		SecurityGroupIDs: []string{"sg-1"}, DeviceIndex: 1 + w.rng.IntN(2), DeleteOnTermination: new(w.rng.IntN(3) > 0),
	}
	w.cluster.nodeENIs[name] = e
	w.say("NodeENI %s appears: %v, index %d, deleteOnTermination %v", name, e.Spec.SubnetIDs, e.Spec.DeviceIndex, *e.Spec.DeleteOnTermination)
}

func (w *fakeWorld) input() slots.Input {
	in := slots.Input{Cluster: fakeUID, Catalog: slots.Catalog{SubnetIDs: map[string][]vpc.Subnet{}, GroupIDs: map[string][]vpc.SecurityGroup{}}}
	for _, s := range []string{"subnet-00000001", "subnet-00000002"} {
		in.Catalog.SubnetIDs[s] = []vpc.Subnet{{ID: s, VPCID: "vpc-1", Zone: "z1"}}
	}
	for _, g := range []string{"sg-1", "sg-2"} {
		in.Catalog.GroupIDs[g] = []vpc.SecurityGroup{{ID: g, VPCID: "vpc-1"}}
	}
	for _, e := range w.cluster.nodeENIs {
		in.NodeENIs = append(in.NodeENIs, *e)
	}
	for _, n := range w.cluster.nodes {
		in.Nodes = append(in.Nodes, n.Node)
	}
	return in
}

// round lets everybody act, and time pass.
func (w *fakeWorld) round(events bool) {
	if w.dead {
		w.say("a new leader")
		w.dead = false
		w.leader = newFakeController(w, w.rng.IntN(3) == 0)
	}
	if events && w.rng.IntN(3) == 0 {
		w.event()
	}
	for _, name := range slices.Sorted(maps.Keys(w.cluster.nodes)) {
		n := w.cluster.nodes[name]
		w.cluster.runPods(n, !events)
		if n.late != nil && w.rng.IntN(12) == 0 {
			if n.state != nil {
				w.say("a write of an earlier daemon of %s lands", n.Name)
				n.state.report(*n.late)
			}
			n.late = nil
		}
		if !events || w.rng.IntN(2) == 0 {
			w.cluster.runDaemon(n)
		}
	}
	c := w.leader
	if c.resynced.IsZero() || w.region.now.Sub(c.resynced) >= 10*time.Minute {
		c.resync()
	}
	w.turn(w.frozen)
	w.turn(c)
	w.region.advance(w.region.now.Add(time.Duration(200+w.rng.IntN(1500)) * time.Millisecond))
	w.finish()
}

// turn lets each slot of a controller take a few steps.
func (w *fakeWorld) turn(c *fakeController) {
	if c == nil {
		return
	}
	c.sync()
	for _, id := range slices.Sorted(maps.Keys(c.cells)) {
		for range 1 + w.rng.IntN(4) {
			cell := c.cells[id]
			if w.dead || cell == nil || !c.step(cell) {
				break
			}
		}
	}
}

// finish removes deleted NodeENIs of which nothing is left.
func (w *fakeWorld) finish() {
	for name, e := range w.cluster.nodeENIs {
		if e.DeletionTimestamp == nil || w.leader == nil || w.dead {
			continue
		}
		left := len(w.region.live(func(i vpc.Interface) bool { return i.Tags[slots.TagNodeENI] == string(e.UID) })) > 0
		for _, cell := range w.leader.cells {
			left = left || cell.slot.NodeENI.UID == string(e.UID)
		}
		if !left || slots.Abandoned(*e) {
			delete(w.cluster.nodeENIs, name)
			w.say("NodeENI %s is gone", name)
		}
	}
}

// settled reports whether nothing is to be done but to wait.
func (w *fakeWorld) settled(limit time.Duration) bool {
	end := w.region.now.Add(limit)
	for w.region.now.Before(end) {
		changes, writes := w.region.changes, w.cluster.writes
		for range 40 {
			w.round(false)
		}
		w.region.advance(w.region.now.Add(4 * time.Minute))
		w.round(false)
		w.region.advance(w.region.now.Add(8 * time.Minute))
		w.round(false)
		w.round(false)
		moving := w.region.live(func(i vpc.Interface) bool { return i.Attachment != nil && i.Attachment.Status != "attached" })
		missing := false
		for _, cell := range w.leader.cells {
			missing = missing || !cell.mem.missingSince.IsZero()
		}
		if w.region.changes == changes && w.cluster.writes == writes && len(moving) == 0 && !missing {
			return true
		}
	}
	return false
}

// calm ends all trouble but for what the story has made of the cluster.
func (w *fakeWorld) calm() {
	w.say("calm")
	w.region.trouble, w.cluster.trouble, w.frozen = 0, 0, nil
	for _, name := range slices.Sorted(maps.Keys(w.cluster.nodes)) {
		n := w.cluster.nodes[name]
		n.dead, n.frozen, n.old, n.ready = false, false, false, true
		if i := w.region.instances[n.Instance()]; i == nil || i.State == "terminated" || i.State == "shutting-down" {
			delete(w.cluster.nodes, name)
		} else {
			i.State = "running"
		}
	}
	for _, e := range w.region.enis {
		e.stuck = false
	}
}

func (w *fakeWorld) run(events int) {
	for range events {
		w.round(true)
		if w.fault != "" {
			return
		}
	}
	w.calm()
	calls := w.region.calls
	if !w.settled(4 * time.Hour) {
		w.broken("it does not come to rest")
		return
	}
	w.checkMade()
	for _, name := range slices.Sorted(maps.Keys(w.cluster.nodeENIs)) {
		if e := w.cluster.nodeENIs[name]; e.DeletionTimestamp == nil {
			e.DeletionTimestamp = &metav1.Time{Time: w.region.now}
			w.say("NodeENI %s is deleted", name)
		}
	}
	if !w.settled(4 * time.Hour) {
		w.broken("it does not come to rest after the end of the NodeENIs")
		return
	}
	if n := w.region.calls - calls; n > 2000 {
		w.broken("%d calls until all is at rest", n)
	}
	w.checkGone()
}

// checkMade: each slot that can have an ENI has it, as declared, and no ENI satisfies two slots.
func (w *fakeWorld) checkMade() {
	by := map[string]slots.ID{}
	for id, cell := range w.leader.cells {
		if eni := cell.entry.ENIID; eni != "" && cell.wanted {
			if other, ok := by[eni]; ok {
				w.broken("%s satisfies both slot %s and slot %s on %s", eni, other, id, cell.slot.Node)
			}
			by[eni] = id
		}
		if !cell.wanted || cell.step.Phase == Blocked || cell.step.Phase == External {
			continue
		}
		list := w.region.live(func(i vpc.Interface) bool { return slots.ID(i.Tags[slots.TagSlot]) == id })
		if len(list) != 1 {
			w.broken("slot %s on %s has %d ENIs, and is %s", id, cell.slot.Node, len(list), cell.step.Phase)
			continue
		}
		i := list[0].last()
		if i.Attachment == nil || i.Attachment.Instance != cell.slot.Instance || i.Attachment.Status != "attached" ||
			i.Attachment.DeleteOnTermination != cell.slot.Options.DeleteOnTermination || !slices.Equal(i.Groups, cell.slot.Groups) {
			w.broken("the ENI of slot %s on %s is %+v with %+v", id, cell.slot.Node, i, i.Attachment)
		}
	}
}

// checkGone: nothing of ours is left, and all that is somebody else's.
func (w *fakeWorld) checkGone() {
	for _, e := range w.region.live(func(i vpc.Interface) bool { return i.Tags[slots.TagCluster] != "" }) {
		w.broken("%s is left: %+v", e.id, e.last())
	}
	for id, cell := range w.leader.cells {
		w.broken("slot %s is left: %+v", id, cell.step)
	}
	for _, n := range w.cluster.nodes {
		if n.state != nil && len(n.state.spec) > 0 {
			w.broken("the entries of %s are left: %v", n.Name, n.state.spec)
		}
	}
}

func TestSequences(t *testing.T) {
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano()) //nolint:gosec // any will do
	}
	t.Logf("-seed %d -sequences %d", first, *sequences)
	for i := range *sequences {
		s := first + uint64(i) //nolint:gosec // not negative
		w := newFakeWorld(s)
		w.run(40 + w.rng.IntN(120))
		if w.fault != "" {
			t.Fatalf("%s\nagain: -run '^TestSequences$' -sequences 1 -seed %d\n%s", w.fault, s, strings.Join(w.story, "\n"))
		}
	}
}
