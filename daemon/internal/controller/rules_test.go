package controller

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/calls"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2/iam"
)

// shippedPolicy is the controller's policy for the cluster of these tests, with the one for adoption or without.
func shippedPolicy(t *testing.T, adopt bool) *iam.Policy {
	t.Helper()
	var all struct {
		Version   string
		Statement []json.RawMessage
	}
	for _, name := range []string{"multi-enid-controller.json", "multi-enid-controller-adopt.json"} {
		if name != "multi-enid-controller.json" && !adopt {
			continue
		}
		document, err := os.ReadFile("../../../deploy/iam/" + name)
		if err != nil {
			t.Fatal(err)
		}
		before := all.Statement
		all.Statement = nil // or Unmarshal writes into it
		if err := json.Unmarshal(document, &all); err != nil {
			t.Fatal(err)
		}
		all.Statement = append(before, all.Statement...)
	}
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	p, err := iam.Parse([]byte(strings.NewReplacer("CLUSTER_UID", "cluster-1", "CLUSTER_NAME", "test").Replace(string(text))))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// must tells which Events have to have been sent, and how often.
func (w *world) must(want map[string]int) {
	w.Helper()
	told := w.told()
	for reason, n := range want {
		if told[reason] != n {
			w.Errorf("Event %s %d times, want %d; all: %v", reason, told[reason], n, told)
		}
	}
}

func (w *world) grow(nodes int) {
	for i := range nodes {
		w.addNode(fmt.Sprintf("node-%d", i))
	}
}

// TestAtRest: at rest nothing is changed. EC2 is asked for one list for each 1,000 ENIs in 10 minutes, and once an hour for an instance with an External
// slot and for its ENIs.
func TestAtRest(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t, func(c *fakeec2.Config) {
			c.ENIs = []fakeec2.ENI{{ID: "eni-0000000e", MAC: "06:00:00:00:00:0e", SubnetID: a1, Tags: map[string]string{slots.TagNoManage: "true"}}}
		})
		w.grow(25)
		w.ec2.Join("eni-0000000e", instanceOf("node-0"), 3)
		w.setNode("node-0", func(n *fleet.Node) { n.Labels["external"] = "yes" })
		w.declare("blue", 1, a1)
		w.declare("green", 2, a2)
		c := w.lead()
		w.wait(5*time.Minute, "attached", w.attached(50))
		w.setNodeENI("red", func(o *v1alpha1.NodeENI) {
			o.Spec = v1alpha1.NodeENISpec{
				NodeSelector: map[string]string{"external": "yes"}, SubnetIDs: []string{a1}, SecurityGroupIDs: []string{sg1}, DeviceIndex: 3,
			}
		})
		w.wait(10*time.Minute, "External", func() bool { return c.tally.Snapshot(time.Now(), "Parked").Slots["External"] == 1 })
		time.Sleep(time.Minute)
		calls, writes := w.ec2.Tally(""), w.written()
		time.Sleep(time.Hour)
		now := w.ec2.Tally("")
		if now.Mutating != calls.Mutating || now.Calls-calls.Calls != 6+2 || w.written() != writes {
			t.Errorf("in an hour %d mutating calls, %d calls, %d writes, want 0, 8 and 0", now.Mutating-calls.Mutating, now.Calls-calls.Calls, w.written()-writes)
		}
		if s := c.tally.Snapshot(time.Now(), "Parked"); !s.Leader || s.Slots["Ready"] != 50 || s.Slots["External"] != 1 || s.Leaked != 0 ||
			time.Since(s.Resynced) > resyncEvery || time.Since(s.Turned) > turnEvery || s.AttachSeconds.Sum == 0 {
			t.Errorf("metrics %+v", s)
		}
		c.kill()
		if s := c.tally.Snapshot(time.Now(), "Parked"); s.Leader || len(s.Slots) != 0 {
			t.Errorf("metrics after the leadership %+v", s)
		}
		w.lead()
		time.Sleep(2 * resyncEvery)
		if calls, after := w.ec2.Tally(""), w.written(); calls.Mutating != now.Mutating || after != writes {
			t.Errorf("a new leader made %d mutating calls and %d writes, want none", calls.Mutating-now.Mutating, after-writes)
		}
	})
}

// TestBulk: at the default rate, many ENIs share their Describes, and EC2's rate for one action is the only limit.
func TestBulk(t *testing.T) {
	nodes := 600
	if testing.Short() {
		nodes = 120
	}
	story(t, func(t *testing.T) {
		w := newWorld(t)
		w.grow(nodes)
		w.leadAt(4, 20)
		time.Sleep(time.Minute)
		w.declare("blue", 1, a1)
		w.declare("green", 2, a2)
		w.declare("red", 3, a1)
		begin := w.ec2.Tally("")
		start := time.Now()
		for time.Since(start) < 20*time.Minute && w.ec2.Tally("").Mutating-begin.Mutating < 9*nodes {
			time.Sleep(5 * time.Second)
		}
		took := time.Since(start)
		time.Sleep(time.Minute)
		now := w.ec2.Tally("")
		enis, changes := 3*nodes, now.Mutating-begin.Mutating
		looks := now.Calls - begin.Calls - changes
		t.Logf("%d ENIs in %v: %d changes, %d Describes, %.3f for each", enis, took, changes, looks, float64(looks)/float64(enis))
		// A NodeENI's last 20 are asked about at once.
		if mostLooks := enis/20 + 4*calls.Few; len(w.live()) != enis || changes != 3*enis || looks > mostLooks {
			t.Errorf("%d ENIs live, %d mutating calls, %d Describes; want %d, %d, at most %d", len(w.live()), changes, looks, enis, 3*enis, mostLooks)
		}
		if most := time.Duration(enis/4)*time.Second + 30*time.Second; took > most {
			t.Errorf("all were attached after %v, want %v at most", took, most)
		}
	})
}

func TestLeastPrivilege(t *testing.T) {
	policy := shippedPolicy(t, false)
	story(t, func(t *testing.T) {
		w := newWorld(t, func(c *fakeec2.Config) { c.Policy = policy })
		w.addNode("node-1")
		w.lead()
		w.declare("blue", 1, a1, a2)
		w.wait(time.Minute, "attached", w.attached(2))
		w.setNodeENI("blue", func(o *v1alpha1.NodeENI) { o.Spec.SecurityGroupIDs = []string{sg1, sg2} })
		w.wait(time.Minute, "groups", func() bool {
			return !slices.ContainsFunc(w.live(), func(e fakeec2.ENI) bool { return len(e.Groups) != 2 })
		})
		w.deleteNodeENI("blue")
		w.wait(5*time.Minute, "gone", w.gone)
		if denied := w.ec2.Denied(); len(denied) > 0 {
			t.Errorf("denied: %v", denied)
		}
		w.must(map[string]int{"ENIAttached": 2, "ENIDetached": 2, "ENIDeleted": 2})
	})
}

func TestForbidden(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t, func(c *fakeec2.Config) {
			c.May = func(action string, _ fakeec2.ENI) bool { return action != "CreateNetworkInterface" }
		})
		w.grow(5)
		c := w.lead()
		w.declare("blue", 1, a1)
		time.Sleep(4 * time.Minute)
		if n := w.ec2.Tally("CreateNetworkInterface").Refused; n < 1 || n > 5 {
			t.Errorf("%d refused calls, want at most one for each slot", n)
		}
		before := w.ec2.Tally("CreateNetworkInterface").Refused
		time.Sleep(5 * time.Minute)
		if n := w.ec2.Tally("CreateNetworkInterface").Refused - before; n != 1 {
			t.Errorf("%d calls in the next 5 minutes, want 1: the others wait for it", n)
		}
		w.must(map[string]int{"Forbidden": 5})
		if s := c.tally.Snapshot(time.Now(), "Parked"); s.Blocked["Forbidden"] != 5 {
			t.Errorf("blocked %v", s.Blocked)
		}
	})
}

// idle deselects nodes that have an ENI.
func (w *world) idle(nodes int) {
	for _, e := range w.live()[:nodes] {
		for name := range w.daemons {
			if instanceOf(name) == e.Instance {
				w.setNode(name, func(n *fleet.Node) { n.Labels["role"] = "idle" })
			}
		}
	}
}

func TestSubnetFull(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t)
		w.grow(14) // the subnet has 11 addresses
		w.lead()
		w.declare("blue", 1, small)
		time.Sleep(10 * time.Minute)
		if n, refused := len(w.live()), w.ec2.Tally("CreateNetworkInterface").Refused; n != 11 || refused > 7 {
			t.Errorf("%d ENIs and %d refused calls, want 11 and few", n, refused)
		}
		w.must(map[string]int{"SubnetFull": 3})
		w.idle(3)
		w.wait(15*time.Minute, "the others", func() bool { return w.told()["ENIAttached"] == 14 && w.attached(11)() })
	})
}

// TestSubnetFullWave: many refusals at once, and successes beside them, count as one: free addresses are used after the first wait.
func TestSubnetFullWave(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t, func(c *fakeec2.Config) {
			c.Latency = func(action string) time.Duration {
				if action == "CreateNetworkInterface" {
					return time.Duration(1000+rand.IntN(2000)) * time.Millisecond
				}
				return 100 * time.Millisecond
			}
		})
		w.grow(40) // the subnet has 11 addresses
		w.lead()
		w.declare("blue", 1, small)
		full := func() bool { return w.ec2.Tally("CreateNetworkInterface").Refused == 29 }
		w.wait(time.Minute, "29 are refused", full)
		begin := time.Now()
		time.Sleep(time.Minute)
		if !full() || !w.attached(11)() {
			t.Errorf("in the first minute %d ENIs and %d refused calls, want 11 and 29", len(w.live()), w.ec2.Tally("CreateNetworkInterface").Refused)
		}
		w.idle(5)
		w.wait(time.Minute, "addresses are free", func() bool { return len(w.live()) == 11-5 })
		w.wait(10*time.Minute, "the free ones are used", w.attached(11))
		if took := time.Since(begin); took > 2*time.Minute+20*time.Second {
			t.Errorf("free addresses were used %v after the refusals, want the first wait of 2 minutes and a little", took)
		}
	})
}

func TestOtherController(t *testing.T) {
	for name, tt := range map[string]struct {
		begin, end func(w *world)
	}{
		"lease": {
			func(w *world) { w.setRival(&fleet.Rival{Namespace: "other", Holder: "public"}) },
			func(w *world) { w.setRival(nil) },
		},
		"status": {func(w *world) {
			w.setNodeENI("blue", func(o *v1alpha1.NodeENI) {
				o.Status.Attachments = []v1alpha1.ENIAttachment{{NodeID: "node-9", ENIID: "eni-9", LastUpdated: metav1Now()}}
			})
		}, func(*world) {}},
	} {
		t.Run(name, func(t *testing.T) {
			story(t, func(t *testing.T) {
				w, c := oneENI(t)
				time.Sleep(time.Minute)
				tt.begin(w)
				time.Sleep(15 * time.Second)
				calls, writes := w.ec2.Tally("").Mutating, w.written()
				w.declare("green", 2, a2)
				w.setNode("node-1", func(n *fleet.Node) { n.Labels["role"] = "idle" })
				time.Sleep(5 * time.Minute)
				if n, m := w.ec2.Tally("").Mutating-calls, w.written()-writes; n != 0 || m != 0 {
					t.Errorf("%d mutating calls and %d writes beside another controller", n, m)
				}
				w.must(map[string]int{"OtherController": 1})
				if s := c.tally.Snapshot(time.Now(), "Parked"); !s.OtherController {
					t.Errorf("metrics %+v", s)
				}
				tt.end(w)
				w.setNode("node-1", func(n *fleet.Node) { n.Labels["role"] = "worker" })
				w.wait(20*time.Minute, "both attached", w.attached(2))
			})
		})
	}
}

func TestAdoptPublic(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t, func(c *fakeec2.Config) {
			public := func(id string, index int) fakeec2.ENI {
				return fakeec2.ENI{
					ID: id, MAC: "06:00:00:00:00:0" + id[len(id)-1:], SubnetID: a1, Instance: instanceOf("node-1"), DeviceIndex: index, Groups: []string{sg1},
					AttachmentStatus: "attached", DeleteOnTermination: true, Tags: map[string]string{
						"NodeENI": "blue", slots.TagManagedBy: slots.ManagedBy, slots.TagNoManage: "true", slots.TagNode: "node-1", slots.TagSubnet: a1,
					},
				}
			}
			c.ENIs = []fakeec2.ENI{public("eni-0000000a", 2)}
			c.Instances = []fakeec2.Instance{{
				ID: instanceOf("node-1"), Type: "m5.4xlarge", SubnetID: a1, Tags: map[string]string{"kubernetes.io/cluster/test": "owned"},
			}}
		})
		d := &daemon{world: w, node: "node-1", reaction: 50 * time.Millisecond, protocol: v1alpha1.Protocol, alive: true}
		w.daemons["node-1"] = d
		w.setNode("node-1", func(n *fleet.Node) {
			*n = fleet.Node{ProviderID: "aws:///" + zone(0) + "/" + instanceOf("node-1"), Ready: true, Labels: map[string]string{
				"topology.kubernetes.io/zone": zone(0), "node.kubernetes.io/instance-type": "m5.4xlarge", "role": "worker",
			}}
		})
		w.declare("blue", 1, a1)
		w.setNodeENI("blue", func(o *v1alpha1.NodeENI) {
			o.Status.Attachments = []v1alpha1.ENIAttachment{{
				NodeID: "node-1", InstanceID: instanceOf("node-1"), ENIID: "eni-0000000a", AttachmentID: "eni-attach-0000000a", SubnetID: a1, Status: "attached",
				LastUpdated: metav1Now(),
			}}
		})
		w.lead(func(o *Options) { o.AdoptPublic = true })
		w.wait(time.Minute, "adopted", w.attached(1))
		time.Sleep(5 * time.Minute)
		for _, e := range w.ec2.Events() {
			if e.Action != "CreateTags" {
				t.Errorf("%s %s: only tags may change", e.Action, e.ENI.ID)
			}
		}
		if n := w.ec2.Tally("").Mutating; n != 1 {
			t.Errorf("%d mutating calls, want 1", n)
		}
	})
}
