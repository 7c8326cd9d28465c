package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

const aNodeENI = `{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}","networking.k8s.aws/tags":"a=b"},
	"finalizers":["other/finalizer"],"managedFields":[{"manager":"kubectl"}]},"spec":{"nodeSelector":{"ng":"x"},"subnetID":"subnet-1"}}`

const aNode = `{"metadata":{"labels":{"ng":"x"},"annotations":{"networking.k8s.aws/a":"1","other/b":"2"}},"spec":{"providerID":"aws:///z/i-1"},
	"status":{"conditions":[{"type":"MemoryPressure","status":"False"},{"type":"Ready","status":"True"}],"images":[{"names":["x"]}]}}`

const aState = `{"metadata":{"labels":{"people":"theirs"},"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"node-a","uid":"uid-of-node"}]},
	"spec":{"protocol":1,"attachments":[{"slot":"s1","nodeENI":{"name":"a","uid":"u"},"instanceID":"i-1","subnetID":"subnet-1","networkCard":0,"deviceIndex":1,
	"wanted":"Attached"}]},"status":{"problemCount":0,"protocol":1,"released":[{"slot":"s2","eniID":"eni-2"}],
	"devices":[{"eniID":"eni-1","nodeENI":"a","phase":"ready","deviceIndex":1,"networkCard":0,"holders":["red/p"]}]}}`

// run follows the server until the test ends.
func run(t *testing.T, config *rest.Config) *Fleet {
	t.Helper()
	f := connect(t, config)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { f.Run(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	return f
}

func synced(t *testing.T, f *Fleet) {
	t.Helper()
	fakekube.Await(t, "all kinds are known", func() bool { return f.Unread() == nil })
}

// TestTrims: of each object the parts that matter are kept, by either form of a list.
func TestTrims(t *testing.T) {
	for _, streams := range []bool{true, false} {
		s := newAPIServer(t, streams)
		s.put(pathNodeENIs, "a", aNodeENI)
		s.put(pathNodes, "node-a", aNode)
		s.put(pathStates, "node-a", aState)
		for n := range 2 * pageSize {
			s.put(pathNodes, fmt.Sprint("many-", n), `{}`)
		}
		f := run(t, s.serve())
		synced(t, f)
		all, err := f.Snapshot()
		if err != nil || len(all.Nodes) != 2*pageSize+1 || len(all.NodeENIs) != 1 || len(all.States) != 1 {
			t.Fatalf("%v: %d Nodes, %d NodeENIs, %d ENINodeStates", err, len(all.Nodes), len(all.NodeENIs), len(all.States))
		}
		wantNode := Node{Labels: map[string]string{"ng": "x"}, Annotations: map[string]string{"networking.k8s.aws/a": "1"}, ProviderID: "aws:///z/i-1", Ready: true}
		if diff := cmp.Diff(wantNode, all.Nodes["node-a"].Is); diff != "" {
			t.Errorf("Node (-want +got):\n%s", diff)
		}
		wantState := State{
			Owner: "uid-of-node", Reported: true, Protocol: 1, Released: []v1alpha1.ReleasedENI{{Slot: "s2", ENIID: "eni-2"}},
			Devices: []Device{{ENI: "eni-1", Phase: "ready", Holders: []string{"red/p"}}},
			Spec: v1alpha1.ENINodeStateSpec{Protocol: 1, Attachments: []v1alpha1.AttachmentEntry{{Slot: "s1", NodeENI: v1alpha1.NodeENIReference{Name: "a", UID: "u"},
				InstanceID: "i-1", SubnetID: "subnet-1", DeviceIndex: 1, Wanted: v1alpha1.WantedAttached}}},
		}
		if diff := cmp.Diff(wantState, all.States["node-a"].Is); diff != "" {
			t.Errorf("ENINodeState (-want +got):\n%s", diff)
		}
		got := all.NodeENIs["a"]
		if got.Is.ManagedFields != nil || got.Is.Annotations[corev1.LastAppliedConfigAnnotation] != "" || got.Is.Annotations["networking.k8s.aws/tags"] != "a=b" ||
			got.Is.Spec.SubnetID != "subnet-1" || got.UID == "" || string(got.Is.UID) != got.UID {
			t.Errorf("NodeENI %+v", got)
		}
	}
}

// TestFollows: changes arrive, and each is told once, after a lost history too.
func TestFollows(t *testing.T) {
	s := newAPIServer(t, true)
	s.put(pathNodeENIs, "a", aNodeENI)
	f := run(t, s.serve())
	synced(t, f)
	<-f.Changed()
	if diff := cmp.Diff(News{NodeENIs: []string{"a"}}, f.Take()); diff != "" {
		t.Errorf("at first (-want +got):\n%s", diff)
	}
	told := func(what string, want News) {
		t.Helper()
		var got News
		fakekube.Await(t, what, func() bool {
			news := f.Take()
			got.Nodes, got.NodeENIs = append(got.Nodes, news.Nodes...), append(got.NodeENIs, news.NodeENIs...)
			return len(got.Nodes) >= len(want.Nodes) && len(got.NodeENIs) >= len(want.NodeENIs)
		})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	s.put(pathNodes, "node-a", aNode)
	told("a new Node", News{Nodes: []string{"node-a"}})
	s.put(pathNodes, "node-a", aNode) // another resourceVersion only
	s.put(pathStates, "node-b", aState)
	told("an ENINodeState of a Node that does not exist", News{Nodes: []string{"node-b"}})
	s.remove(pathNodes, "node-a")
	told("no Node", News{Nodes: []string{"node-a"}})
	s.put(pathNodeENIs, "b", aNodeENI)
	told("a NodeENI", News{NodeENIs: []string{"b"}})
	s.forget()
	s.remove(pathNodeENIs, "a")
	told("one less after a new list", News{NodeENIs: []string{"a"}})
	if f.NodeENI("a") != nil || f.NodeENI("b") == nil || f.Node("node-a") != nil || f.State("node-b") == nil {
		t.Error("objects differ")
	}
}

// TestUnreadable: an object that cannot be read keeps its name, and its last readable version. It hides no other object.
func TestUnreadable(t *testing.T) {
	s := newAPIServer(t, true)
	s.put(pathNodeENIs, "new", `{"spec":{"deviceIndex":"one"}}`)
	s.put(pathNodeENIs, "old", aNodeENI)
	s.put(pathNodeENIs, "replaced", aNodeENI)
	s.put(pathStates, "node-a", aState)
	f := run(t, s.serve())
	synced(t, f)
	if o := f.NodeENI("new"); o.Known || o.Fault == "" || o.UID == "" {
		t.Errorf("new: %+v", o)
	}
	s.put(pathNodeENIs, "old", `{"spec":{"deviceIndex":"one"}}`)
	s.remove(pathNodeENIs, "replaced")
	s.put(pathNodeENIs, "replaced", `{"spec":{"deviceIndex":"one"}}`)
	s.put(pathStates, "node-a", `{"spec":{"protocol":1,"attachments":{}}}`)
	fakekube.Await(t, "faults", func() bool {
		return f.NodeENI("old").Fault != "" && f.NodeENI("replaced") != nil && f.NodeENI("replaced").Fault != "" && f.State("node-a").Fault != ""
	})
	if o := f.NodeENI("old"); !o.Known || o.Is.Spec.SubnetID != "subnet-1" {
		t.Errorf("old: %+v", o)
	}
	if o := f.NodeENI("replaced"); o.Known {
		t.Errorf("another object's version is kept: %+v", o)
	}
	if o := f.State("node-a"); !o.Known || len(o.Is.Spec.Attachments) != 1 {
		t.Errorf("state: %+v", o)
	}
	leader(f)
	if err := f.AddFinalizer(t.Context(), f.NodeENI("old")); !errors.Is(err, ErrRefused) {
		t.Errorf("a NodeENI that cannot be read is written: %v", err)
	}
	if err := f.WriteSpec(t.Context(), "node-a", f.State("node-a"), v1alpha1.ENINodeStateSpec{}); !errors.Is(err, ErrRefused) {
		t.Errorf("an ENINodeState that cannot be read is written: %v", err)
	}
	s.put(pathNodeENIs, "old", aNodeENI)
	fakekube.Await(t, "no fault", func() bool { return f.NodeENI("old").Fault == "" })
}

// TestUnknown: a kind that was never read is unknown. One that was read stays as it was.
func TestUnknown(t *testing.T) {
	s := newAPIServer(t, true)
	s.put(pathNodes, "node-a", aNode)
	forbid := func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == pathStates {
			fakekube.Refuse(w, http.StatusForbidden)
		}
		return r.URL.Path == pathStates
	}
	s.refuse = forbid
	f := run(t, s.serve())
	fakekube.Await(t, "a fault", func() bool { return errors.Is(f.Unread(), ErrForbidden) && f.Node("node-a") != nil })
	if _, err := f.Snapshot(); !errors.Is(err, ErrUnknown) {
		t.Errorf("Snapshot: %v", err)
	}
	s.do(func() { s.refuse = nil })
	s.put(pathStates, "node-a", aState)
	synced(t, f)
	s.do(func() { s.refuse, s.cut = forbid, s.cut+1 })
	fakekube.Await(t, "trouble", func() bool { return len(f.Troubles()) == 1 })
	if all, err := f.Snapshot(); err != nil || len(all.States) != 1 || !errors.Is(f.Troubles()["ENINodeState"], ErrForbidden) {
		t.Errorf("Snapshot: %v, %d ENINodeStates, troubles %v", err, len(all.States), f.Troubles())
	}
}

// TestEvents: Events of a NodeENI are sent in order, and a warning about a node also to its Node, by the UID that kubectl asks for.
func TestEvents(t *testing.T) {
	s := newAPIServer(t, true)
	s.put(pathNodes, "node-a", aNode)
	f := run(t, s.serve())
	synced(t, f)
	f.Tell(Event{NodeENI: "a", UID: "u", Node: "node-a", Reason: "ENIAttached", Message: "m"})
	f.Tell(Event{NodeENI: "a", UID: "u", Node: "node-a", Warning: true, Reason: "WaitingForNode", Message: "m"})
	f.Tell(Event{NodeENI: "a", UID: "u", Node: "node-a", Warning: true, Reason: "NoSubnetInZone", Message: "NodeENI a has no subnet"})
	f.Tell(Event{NodeENI: "a", UID: "u", Node: "gone", Warning: true, Reason: "InstanceGone", Message: "m"})
	f.Tell(Event{NodeENI: "a", UID: "u", Warning: true, Reason: "NoSubnet", Message: "m"})
	want := []string{
		"Normal NodeENI a u ENIAttached: m", "Warning NodeENI a u InstanceGone: m", "Warning NodeENI a u NoSubnet: m", "Warning NodeENI a u WaitingForNode: m",
		"Warning Node node-a " + f.Node("node-a").UID + " WaitingForNode: NodeENI a: m",
		"Warning NodeENI a u NoSubnetInZone: NodeENI a has no subnet",
		"Warning Node node-a " + f.Node("node-a").UID + " NoSubnetInZone: NodeENI a has no subnet",
	}
	fakekube.Await(t, "all", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.events) == len(want) })
	slices.Sort(want)
	slices.Sort(s.events)
	if diff := cmp.Diff(want, s.events); diff != "" || f.Dropped() != 0 {
		t.Errorf("Events (-want +got):\n%s", diff)
	}
}
