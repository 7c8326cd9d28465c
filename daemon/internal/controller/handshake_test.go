package controller

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

var errTest = errors.New("a fault of the test")

// entryOf returns the only entry of a node; the zero value without one.
func (w *world) entryOf(node string) v1alpha1.AttachmentEntry {
	if s := w.api.state(node); s != nil && len(s.Spec.Attachments) == 1 {
		return s.Spec.Attachments[0]
	}
	return v1alpha1.AttachmentEntry{}
}

func (w *world) select1(node string, is bool) {
	w.setNode(node, func(n *fleet.Node) {
		if delete(n.Labels, "role"); is {
			n.Labels["role"] = "worker"
		}
	})
}

// TestStaleLeader: a leader whose informers have stood still since a release does not detach an ENI that another leader has given back.
func TestStaleLeader(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t)
		var unsure atomic.Bool
		w.fault = func(doing string) (before, after error) {
			if doing == "confirm" && unsure.Load() {
				return errTest, nil
			}
			return nil, nil
		}
		w.addNode("node-1")
		w.declare("blue", 1, a1)
		first := w.lead()
		w.wait(time.Minute, "attached", w.attached(1))
		unsure.Store(true)
		w.select1("node-1", false)
		w.wait(time.Minute, "released", func() bool { s := w.api.state("node-1"); return s != nil && len(s.Released) == 1 })
		time.Sleep(10 * time.Second)
		first.kill()
		stale := w.lead()
		stale.forget() // it learns nothing any more
		w.select1("node-1", true)
		w.lead()
		d := w.daemons["node-1"]
		w.wait(time.Minute, "a pod gets the device again", func() bool { return d.startPod("default/pod") != "" })
		unsure.Store(false)
		time.Sleep(10 * time.Minute)
		if !w.attached(1)() {
			t.Error(w.describe())
		}
	})
}

// remake deletes a Node and makes it anew. The old ENINodeState waits for the garbage collector if it stays.
func (w *world) remake(node string, stays bool, edit func(*fleet.Node)) {
	w.api.mu.Lock()
	is, state := clone(w.api.nodes[node].Is), w.api.states[node]
	w.api.mu.Unlock()
	w.deleteNode(node)
	if stays {
		w.api.mu.Lock()
		w.api.putState(new(*state))
		w.api.mu.Unlock()
	}
	if edit != nil {
		w.setNode(node, func(n *fleet.Node) { *n = is; edit(n) })
	}
}

// TestNodeMadeAnew: a Node that comes back under its name has no providerID at first. The daemon must not be told that there are no ENIs.
func TestNodeMadeAnew(t *testing.T) {
	story(t, func(t *testing.T) {
		w, _ := oneENI(t)
		before, provider := w.entryOf("node-1"), ""
		look := w.onState
		w.onState = func(node string) {
			if s := w.api.state(node); s != nil && s.Spec.Protocol != 0 && len(s.Spec.Attachments) == 0 {
				t.Error("the daemon is told that the node has no ENI")
			}
			look(node)
		}
		w.remake("node-1", false, func(n *fleet.Node) { provider, n.ProviderID = n.ProviderID, "" })
		w.daemons["node-1"].wake()
		time.Sleep(time.Minute)
		w.setNode("node-1", func(n *fleet.Node) { n.ProviderID = provider })
		w.wait(time.Minute, "the entry is back", func() bool { e := w.entryOf("node-1"); return e.ENIID == before.ENIID && e.Wanted == before.Wanted })
	})
}

// TestReportOfAnEarlierNode: a report counts still when its ENINodeState is about to go with an earlier Node, and the leader is new.
func TestReportOfAnEarlierNode(t *testing.T) {
	for name, edit := range map[string]func(*fleet.Node){"made anew without its label": func(n *fleet.Node) { delete(n.Labels, "role") }, "gone": nil} {
		t.Run(name, func(t *testing.T) {
			story(t, func(t *testing.T) {
				w, first := oneENI(t)
				d := w.daemons["node-1"]
				w.wait(time.Minute, "a pod has the device", func() bool { return d.startPod("default/pod") != "" })
				d.set(false)
				first.kill()
				w.remake("node-1", true, edit)
				w.lead()
				time.Sleep(time.Hour) // judgeChange looks
				if live := w.live(); len(live) != 1 || live[0].Instance == "" {
					t.Error(w.describe())
				}
			})
		})
	}
}

// TestENIAfterALostReport: the daemon has reported, somebody deletes the object, and another ENI comes before the daemon can write again.
func TestENIAfterALostReport(t *testing.T) {
	story(t, func(t *testing.T) {
		w, _ := oneENI(t)
		w.daemons["node-1"].set(false)
		w.api.mu.Lock()
		delete(w.states, "node-1")
		w.stamp()
		w.tell("State", "node-1", w.version)
		w.api.mu.Unlock()
		w.declare("green", 2, a2)
		w.wait(time.Minute, "attached", w.attached(2))
		w.holdersMu.Lock()
		for _, e := range w.ec2.All() {
			if e.Tags[slots.TagSlot] != "" {
				w.holders[e.ID] = "default/pod"
			}
		}
		w.holdersMu.Unlock()
		w.deleteNodeENI("green")
		time.Sleep(time.Hour) // judgeChange looks
		w.endPod("default/pod")
		w.daemons["node-1"].set(true)
		w.wait(time.Minute, "the released one goes", w.attached(1))
	})
}

// TestNodeRenamed: an instance comes back as a Node of another name, and keeps its ENI.
func TestNodeRenamed(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		story(t, func(t *testing.T) {
			w := newWorld(t)
			w.addNode("node-1")
			w.declare("blue", 1, a1)
			c := w.lead()
			defer func() { c.kill() }()
			w.wait(time.Minute, "attached", w.attached(1))
			before := w.entryOf("node-1")
			is := clone(w.nodes["node-1"].Is)
			w.daemons["node-1"].set(false)
			calls := w.ec2.Tally("").Mutating
			renamed := &daemon{world: w, node: "node-9", reaction: 50 * time.Millisecond, protocol: v1alpha1.Protocol, alive: true}
			w.daemons["node-9"] = renamed
			w.setNode("node-9", func(n *fleet.Node) { *n = is }) // for a moment there are both
			renamed.wake()
			time.Sleep(2 * time.Second)
			w.deleteNode("node-1")
			if restarts {
				c.kill()
				c = w.lead()
			}
			w.wait(15*time.Minute, "the entry has moved", func() bool { return w.entryOf("node-9").ENIID == before.ENIID })
			w.wait(15*time.Minute, "a pod has the device", func() bool { return renamed.startPod("default/pod") != "" })
			time.Sleep(30 * time.Minute)
			if n := w.ec2.Tally("").Mutating - calls; n != 0 {
				t.Errorf("%d changes", n)
			}
			if s := c.tally.Snapshot(time.Now(), "Parked"); len(s.Slots) != 1 || s.Slots["Ready"] != 1 {
				t.Errorf("slots: %v, want one that is Ready", s.Slots)
			}
			w.deleteNodeENI("blue")
			time.Sleep(30 * time.Minute)
			w.endPod("default/pod")
			w.wait(time.Minute, "gone", w.gone)
		})
	}
}

// TestNoStormOfWrites: while the API server refuses all writes for an hour, each object is tried once a minute.
func TestNoStormOfWrites(t *testing.T) {
	for name, refusal := range map[string]error{"away": errTest, "without CRD": fleet.ErrGone} {
		t.Run(name, func(t *testing.T) {
			story(t, func(t *testing.T) {
				w := newWorld(t)
				var tries atomic.Int64
				w.fault = func(string) (before, after error) { tries.Add(1); return refusal, nil }
				w.addNode("node-1")
				w.declare("blue", 1, a1)
				w.lead()
				time.Sleep(time.Hour)
				if n := tries.Load(); n < 30 || n > 200 {
					t.Errorf("%d tries", n)
				}
				if n := len(w.ec2.All()); n > 1 { // the instance's own
					t.Errorf("%d ENIs", n)
				}
			})
		})
	}
}

// TestLateStatus: a daemon is killed while its answer is under way, and a pod gets the device from the next daemon. The answer to the earlier
// wish does not count for the next one, whenever it lands, and whoever leads then.
func TestLateStatus(t *testing.T) {
	for _, after := range []bool{false, true} {
		for _, restarts := range []bool{false, true} {
			t.Run(fmt.Sprintf("after the next wish %v, another leader %v", after, restarts), func(t *testing.T) {
				story(t, func(t *testing.T) {
					w, first := oneENI(t)
					d := w.daemons["node-1"]
					land, number := d.killNext(), w.entryOf("node-1").Release
					w.select1("node-1", false)
					w.wait(time.Minute, "the daemon is killed", func() bool { d.mu.Lock(); defer d.mu.Unlock(); return !d.alive })
					w.select1("node-1", true)
					w.wait(time.Minute, "wanted again", func() bool { return w.entryOf("node-1").Wanted == v1alpha1.WantedAttached })
					d.set(true)
					w.wait(time.Minute, "a pod has the device", func() bool { return d.startPod("default/pod") != "" })
					d.mu.Lock()
					d.reaction = time.Minute // so long the late answer stands
					d.mu.Unlock()
					if !after {
						land()
					}
					if restarts {
						first.kill()
						w.lead()
					}
					w.select1("node-1", false)
					w.wait(time.Minute, "the next wish", func() bool {
						e := w.entryOf("node-1")
						return e.Wanted == v1alpha1.WantedReleased && e.Release == number+2
					})
					if after {
						land()
					}
					if s := w.api.state("node-1"); len(s.Released) != 1 || s.Released[0].Release != number+1 {
						t.Errorf("the status is not the late one: %+v", s.Released)
					}
					time.Sleep(time.Hour) // judgeChange looks
					w.endPod("default/pod")
					w.wait(10*time.Minute, "detached and deleted", func() bool { return len(w.live()) == 0 })
				})
			})
		}
	}
}

// TestLateStatusOfAnEarlierObject: the same, but somebody deletes the ENINodeState, and the next leader makes it anew. The late answer lands there.
func TestLateStatusOfAnEarlierObject(t *testing.T) {
	story(t, func(t *testing.T) {
		w, first := oneENI(t)
		d := w.daemons["node-1"]
		d.set(false)
		for i := range 4 { // so that the earlier object has seen more wishes than the next one
			w.select1("node-1", i%2 == 1)
			time.Sleep(5 * time.Second)
		}
		land := d.killNext()
		w.select1("node-1", false)
		time.Sleep(5 * time.Second)
		d.set(true)
		w.wait(time.Minute, "the daemon is killed", func() bool { d.mu.Lock(); defer d.mu.Unlock(); return !d.alive })
		first.kill()
		earlier := w.entryOf("node-1").Release
		w.select1("node-1", true)
		w.api.mu.Lock()
		delete(w.states, "node-1")
		w.api.mu.Unlock()
		w.lead()
		d.set(true)
		w.wait(time.Minute, "a pod has the device", func() bool { return d.startPod("default/pod") != "" })
		d.mu.Lock()
		d.reaction = time.Minute
		d.mu.Unlock()
		w.select1("node-1", false)
		w.wait(time.Minute, "the next wish", func() bool { return w.entryOf("node-1").Wanted == v1alpha1.WantedReleased })
		if n := w.entryOf("node-1").Release; n <= earlier {
			t.Errorf("the wish has number %d, and the earlier object had one with %d", n, earlier)
		}
		land()
		time.Sleep(time.Hour) // judgeChange looks
		w.endPod("default/pod")
		w.wait(10*time.Minute, "detached and deleted", func() bool { return len(w.live()) == 0 })
	})
}

// TestAnswerWithoutNumber: a daemon that knows no number never loses an ENI, and neither does one to a wish that has none.
func TestAnswerWithoutNumber(t *testing.T) {
	for _, wish := range []string{v1alpha1.WantedAttached, v1alpha1.WantedReleased} {
		story(t, func(t *testing.T) {
			w, first := oneENI(t)
			d := w.daemons["node-1"]
			d.set(false)
			first.kill()
			e := w.entryOf("node-1")
			w.setStatus("node-1", func(s *fleet.State) {
				s.Spec.Attachments[0].Wanted, s.Spec.Attachments[0].Release = wish, 0
				s.Released = []v1alpha1.ReleasedENI{{Slot: e.Slot, ENIID: e.ENIID}}
			})
			w.select1("node-1", false)
			before := w.ec2.Tally("")
			w.lead()
			time.Sleep(time.Hour)
			if now := w.ec2.Tally(""); now.Mutating != before.Mutating || now.Refused != before.Refused {
				t.Errorf("changes, or tries: %+v, before %+v", now, before)
			}
			if n := w.entryOf("node-1").Release; n != 1 {
				t.Errorf("the wish has number %d, want 1", n)
			}
			d.set(true)
			w.wait(time.Hour, "detached and deleted", func() bool { return len(w.live()) == 0 })
		})
	}
}

// TestOutages: EC2 is away for an hour, then the API server, then both; what people want meanwhile is done once afterwards, and nothing else.
func TestOutages(t *testing.T) {
	story(t, func(t *testing.T) {
		var ec2Down, apiDown atomic.Bool
		w := newWorld(t, func(c *fakeec2.Config) {
			c.Fault = func(string) string {
				if ec2Down.Load() {
					return fakeec2.Drop
				}
				return ""
			}
		})
		w.fault = func(string) (before, after error) {
			if apiDown.Load() {
				return errDown, nil
			}
			return nil, nil
		}
		for _, node := range []string{"node-1", "node-2", "node-3"} {
			w.addNode(node)
		}
		w.declare("blue", 1, a1)
		w.declare("green", 2, a2)
		w.lead()
		w.wait(time.Minute, "attached", w.attached(6))
		for _, d := range w.daemons {
			w.wait(time.Minute, "pods", func() bool { return d.startPod("default/"+d.node) != "" })
		}
		calls := func() int { return w.ec2.Tally("").Calls }
		for i, outage := range []struct{ ec2, api bool }{{ec2: true}, {api: true}, {true, true}} {
			before := calls()
			ec2Down.Store(outage.ec2)
			apiDown.Store(outage.api)
			w.addNode([]string{"node-4", "node-5", "node-6"}[i])
			w.select1("node-1", i == 1)
			time.Sleep(time.Hour)
			if n := calls() - before; n > 5000 {
				t.Errorf("outage %d: %d calls", i, n)
			}
			ec2Down.Store(false)
			apiDown.Store(false)
			took := w.wait(10*time.Minute, "healed", func() bool {
				attached := 0
				for _, e := range w.live() {
					if e.Instance != "" && e.Instance != instanceOf("node-1") {
						attached++
					}
				}
				return attached == 6+2*i // without node-1's
			})
			t.Logf("outage %d: %d calls, healed in %v", i, calls()-before, took)
			time.Sleep(20 * time.Minute)
		}
		if t.Log(w.told()); w.told()["ENIDetached"] > 3 {
			t.Error("more was released than was asked for")
		}
		sum := 0
		for _, n := range w.told() {
			sum += n
		}
		if sum > 60 {
			t.Errorf("%d Events", sum)
		}
		if live := w.live(); len(live) != 11 {
			t.Errorf("%d ENIs, want two on five nodes and the one that a pod has on node-1\n%s", len(live), w.describe())
		}
	})
}
