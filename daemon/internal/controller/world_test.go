package controller

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode/region"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/outside"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/tally"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

// world is a cluster on EC2: an API server, a region, daemons with pods, and controllers.
type world struct {
	*testing.T
	*api
	ec2     *fakeec2.Server
	daemons map[string]*daemon
	log     logrus.FieldLogger

	holdersMu sync.Mutex
	// holders are pods by the ENI that they have, bySlot are slots of live ENIs.
	holders, bySlot map[string]string
	adopts          atomic.Bool // the public controller's ENIs may be tagged
}

const (
	a1    = "subnet-000000a1"
	a2    = "subnet-000000a2"
	b1    = "subnet-000000b1"
	small = "subnet-00000050"
	sg1   = "sg-00000001"
	sg2   = "sg-00000002"
)

func zone(i int) string { return fmt.Sprintf("eu-central-1%c", 'a'+i) }

// oneENI is a world with one attached ENI, of NodeENI blue on node-1, and its controller.
func oneENI(t *testing.T) (*world, *controller) {
	t.Helper()
	w := newWorld(t)
	w.addNode("node-1")
	w.declare("blue", 1, a1)
	c := w.lead()
	w.wait(time.Minute, "attached", w.attached(1))
	return w, c
}

// newWorld has two subnets in each of two zones, a small one, and two groups. It has no node.
func newWorld(t *testing.T, edit ...func(*fakeec2.Config)) *world {
	t.Helper()
	w := &world{T: t, api: newAPI(), daemons: map[string]*daemon{}, holders: map[string]string{}}
	log := logrus.New()
	log.SetOutput(io.Discard)
	if testing.Verbose() && *verbose {
		log.SetOutput(t.Output())
		log.SetLevel(logrus.DebugLevel)
	}
	w.log = log
	cfg := fakeec2.Config{
		Subnets: []fakeec2.Subnet{
			{ID: a1, IPv4: netip.MustParsePrefix("10.1.0.0/16"), Zone: zone(0), Tags: map[string]string{"Name": "blue"}},
			{ID: a2, IPv4: netip.MustParsePrefix("10.2.0.0/16"), Zone: zone(0)},
			{ID: b1, IPv4: netip.MustParsePrefix("10.3.0.0/16"), Zone: zone(1)},
			{ID: small, IPv4: netip.MustParsePrefix("10.4.0.0/28"), Zone: zone(0)},
		},
		Groups: []fakeec2.Group{{ID: sg1, Name: "pods"}, {ID: sg2, Name: "more"}},
		Now:    time.Now, OnUnknown: func(r string) { t.Errorf("unknown to EC2: %s", r) }, OnChange: w.judgeChange, OnEvent: w.judgeCall,
		Latency: func(string) time.Duration { return 100 * time.Millisecond },
	}
	for _, e := range edit {
		if e != nil {
			e(&cfg)
		}
	}
	w.ec2 = fakeec2.New(cfg)
	w.onState = func(node string) {
		if d := w.daemons[node]; d != nil {
			d.wake()
		}
	}
	w.latency = 5 * time.Millisecond
	return w
}

// judgeCall finds a call about somebody else's ENI.
func (w *world) judgeCall(e fakeec2.Event) {
	if e.ENI.ID == "" || e.ENI.Tags[slots.TagCluster] == "cluster-1" || w.adopts.Load() && e.Action == "CreateTags" && e.ENI.Tags[slots.TagManagedBy] != "" {
		return
	}
	w.Errorf("%s: %s of %s, which is not ours", e.At.Format("15:04:05.000"), e.Action, e.ENI.ID)
}

// judgeChange finds an ENI that is taken from a pod, and a second ENI of a slot.
func (w *world) judgeChange(e fakeec2.ENI) {
	w.judgeSlot(e)
	if e.Instance != "" && e.AttachmentStatus != "detaching" && e.Deleted.IsZero() {
		return
	}
	w.holdersMu.Lock()
	defer w.holdersMu.Unlock()
	if pod := w.holders[e.ID]; pod != "" {
		w.Errorf("%s: %s is detached or deleted while pod %s has it", time.Now().Format("15:04:05.000"), e.ID, pod)
		delete(w.holders, e.ID)
	}
}

// judgeSlot finds a second live ENI of a slot.
func (w *world) judgeSlot(e fakeec2.ENI) {
	w.holdersMu.Lock()
	defer w.holdersMu.Unlock()
	if w.bySlot == nil {
		w.bySlot = map[string]string{}
	}
	if w.bySlot[e.ID] = e.Tags[slots.TagSlot]; !e.Deleted.IsZero() {
		delete(w.bySlot, e.ID)
	}
	for id, slot := range w.bySlot {
		if id != e.ID && slot != "" && slot == w.bySlot[e.ID] {
			w.Errorf("%s: slot %s has both %s and %s", time.Now().Format("15:04:05.000"), slot, id, e.ID)
		}
	}
}

func instanceOf(node string) string {
	sum := 0
	for _, c := range node {
		sum = sum*31 + int(c)
	}
	return fmt.Sprintf("i-%017x", sum)
}

// addNode launches an instance whose daemon answers.
func (w *world) addNode(name string, edit ...func(*fleet.Node)) {
	w.launch(name, instanceOf(name), edit...)
	d := &daemon{world: w, node: name, reaction: 50 * time.Millisecond, protocol: v1alpha1.Protocol, alive: true}
	w.daemons[name] = d
	d.wake()
}

func (w *world) launch(name, instance string, edit ...func(*fleet.Node)) {
	n := fleet.Node{
		ProviderID: "aws:///" + zone(0) + "/" + instance, Ready: true,
		Labels: map[string]string{"topology.kubernetes.io/zone": zone(0), "node.kubernetes.io/instance-type": "m5.4xlarge", "role": "worker"},
	}
	for _, e := range edit {
		e(&n)
	}
	subnet := a1
	if n.Labels["topology.kubernetes.io/zone"] == zone(1) {
		subnet = b1
	}
	w.ec2.Launch(fakeec2.Instance{
		ID: instance, Type: n.Labels["node.kubernetes.io/instance-type"], SubnetID: subnet, Tags: map[string]string{"kubernetes.io/cluster/test": "owned"},
	})
	w.setNode(name, func(o *fleet.Node) { *o = n })
}

// declare makes a NodeENI of the group sg1 for all nodes with role=worker.
func (w *world) declare(name string, index int, subnets ...string) {
	w.setNodeENI(name, func(o *v1alpha1.NodeENI) {
		o.Spec = v1alpha1.NodeENISpec{
			NodeSelector: map[string]string{"role": "worker"}, SubnetIDs: subnets, SecurityGroupIDs: []string{sg1}, DeviceIndex: index,
			DeleteOnTermination: new(true), DPDKResourceName: "intel.com/" + name,
		}
	})
}

// controller is a replica that leads.
type controller struct {
	*world
	view  *view
	tally tally.Tally
	stop  context.CancelFunc
	ended chan struct{}
	// frozen: the fence has fallen.
	mu     sync.Mutex
	fenced bool
}

func (c *controller) fence() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fenced {
		return fleet.ErrNotLeader
	}
	return nil
}

func (c *controller) dropFence() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fenced = true
}

// lead starts a controller that nearly never waits for EC2's rate.
func (w *world) lead(edit ...func(*Options)) *controller {
	w.Helper()
	return w.leadAt(100, 1000, edit...)
}

// leadAt starts a controller with a rate of calls.
func (w *world) leadAt(qps float64, burst int, edit ...func(*Options)) *controller {
	w.Helper()
	return w.leadBy(func(c *controller) *region.Client {
		return region.New(region.Config{Guard: c.fence, Now: time.Now, HTTPClient: w.ec2, QPS: qps, Burst: burst})
	}, edit...)
}

func (w *world) leadBy(ec2 func(*controller) *region.Client, edit ...func(*Options)) *controller {
	w.Helper()
	c := &controller{world: w, ended: make(chan struct{})}
	c.view = w.api.view(c.fence)
	client := ec2(c)
	o := Options{EC2: client, Cluster: c.view, Tally: &c.tally, Log: w.log, Now: time.Now, LeakSweep: outside.SweepDelete}
	for _, e := range edit {
		e(&o)
	}
	w.adopts.Store(o.AdoptPublic)
	ctx, cancel := context.WithCancel(w.Context())
	c.stop = cancel
	go func() {
		defer close(c.ended)
		Lead(ctx, o)
	}()
	w.Cleanup(c.kill)
	return c
}

// kill ends the controller as SIGKILL does: its calls under way have no answer, and none follows. The end of the test kills it, too.
func (c *controller) kill() {
	c.dropFence()
	c.stop()
	<-c.ended
	c.forget()
}

func (c *controller) forget() {
	c.api.mu.Lock()
	defer c.api.mu.Unlock()
	c.views = slices.DeleteFunc(c.views, func(v *view) bool { return v == c.view })
}

// live returns the ENIs of the cluster that exist.
func (w *world) live() []fakeec2.ENI {
	return slices.DeleteFunc(w.ec2.All(), func(e fakeec2.ENI) bool { return !e.Deleted.IsZero() || e.Tags[slots.TagSlot] == "" })
}

// wait lets time pass until ok, at most for the given time.
func (w *world) wait(most time.Duration, what string, ok func() bool) time.Duration {
	w.Helper()
	begin := time.Now()
	for time.Since(begin) < most {
		if ok() {
			return time.Since(begin)
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.Fatalf("not within %v: %s\n%s", most, what, w.describe())
	return 0
}

// describe is the world for a failure's message.
func (w *world) describe() string {
	var b strings.Builder
	for _, e := range w.live() {
		fmt.Fprintf(&b, "%s slot %s on %q %s index %d\n", e.ID, e.Tags[slots.TagSlot], e.Instance, e.AttachmentStatus, e.DeviceIndex)
	}
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	for name, s := range w.states {
		fmt.Fprintf(&b, "%s: protocol %d released %v devices %v\n", name, s.Is.Protocol, s.Is.Released, s.Is.Devices)
		for _, e := range s.Is.Spec.Attachments {
			fmt.Fprintf(&b, "  %s %s %s %s attempt %d %s %s\n", e.Slot, e.ENIID, e.Wanted, e.Phase, e.Attempt, e.Reason, e.Message)
		}
	}
	for name, o := range w.enis {
		fmt.Fprintf(&b, "NodeENI %s deleting %v %v: %d attachments\n", name, o.Deleting, o.Is.Finalizers, len(o.Is.Status.Attachments))
	}
	return b.String()
}

// attached says whether n ENIs of the cluster exist, each attached and listed so in a NodeENI's status.
func (w *world) attached(n int) func() bool {
	return func() bool {
		live := w.live()
		if len(live) != n {
			return false
		}
		for _, e := range live {
			if e.Instance == "" || e.AttachmentStatus != "attached" || !e.DeleteOnTermination {
				return false
			}
		}
		listed := 0
		w.api.mu.Lock()
		defer w.api.mu.Unlock()
		for _, o := range w.enis {
			listed += len(o.Is.Status.Attachments)
		}
		return listed == n
	}
}

func (w *world) gone() bool {
	w.api.mu.Lock()
	left := len(w.enis)
	w.api.mu.Unlock()
	return left == 0 && len(w.live()) == 0
}
