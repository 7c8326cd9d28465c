package replicas

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

// The objects and tags here are those that the public controller v1.3.8 left on this API server and this stand-in of EC2, when somebody ran it there by
// hand. It took ENIs of both tests back without Create or Detach, and deleted them with their NodeENI.

// publicTags are the public controller's.
func publicTags() map[string]string {
	return map[string]string{
		"Name": "nodeeni-a-node-1-e5f60001", "NodeENI": "a", "Node": fleetNode, "SubnetID": fleetSubnet,
		"kubernetes.io/cluster/managed-by": "nodeeni-controller", "node.k8s.amazonaws.com/no_manage": "true",
	}
}

// publicStatus is the public controller's for an ENI.
func publicStatus(e fakeec2.ENI, updated any) map[string]any {
	return map[string]any{"attachments": []any{map[string]any{
		"nodeID": fleetNode, "instanceID": fleetInstance, "eniID": e.ID, "attachmentID": e.Attachment(), "subnetID": fleetSubnet, "subnetCIDR": "10.0.1.0/24",
		"deviceIndex": int64(1), "status": "attached", "lastUpdated": updated,
	}}}
}

// object is the NodeENI "a" without the fields that each write changes.
func (r *region) object() map[string]any {
	r.Helper()
	o, err := r.NodeENIs().Get(r.Context(), "a", metav1.GetOptions{})
	cluster.Must(r, err)
	o.SetManagedFields(nil)
	o.SetResourceVersion("")
	return o.Object
}

// TestWayBackAfterAdoption: adoption changes four tags and nothing else, at no moment: the NodeENI is the public controller's to the last field.
func TestWayBackAfterAdoption(t *testing.T) {
	e := fakeec2.ENI{
		ID: "eni-0a1b2c3d4e5f6000a", MAC: "06:00:00:00:00:0a", SubnetID: fleetSubnet, Instance: fleetInstance, DeviceIndex: 1, DeleteOnTermination: true,
		IPv4: []netip.Addr{netip.MustParseAddr("10.0.1.10")}, Groups: []string{fleetGroup}, Tags: publicTags(),
	}
	r := newRegion(t, e)
	r.declareENI()
	r.PatchNodeENI(t, "a", map[string]any{"metadata": map[string]any{"finalizers": []any{finalizer}}})
	r.PatchNodeENI(t, "a", map[string]any{"status": publicStatus(e, "2026-01-02T03:04:05Z")}, "status")
	before := r.object()
	changes, err := r.NodeENIs().Watch(t.Context(), metav1.ListOptions{ResourceVersion: r.version()})
	cluster.Must(t, err)
	defer changes.Stop()

	c := r.start("a", "--adopt=public")
	entry := r.awaitEntry("adopted", attached)
	r.report(r.device(entry, "ready", "default/p"), nil)
	cluster.Holds(t, "only tags change", calm+calm/2, func() error { // a status is written at most each five seconds
		if got := c.mutating(); !slices.Equal(got, []string{"CreateTags"}) {
			return fmt.Errorf("calls %q", got)
		}
		return nil
	})
	cluster.Must(t, c.proc.Stop())
	if d := cmp.Diff(before, r.object()); d != "" {
		t.Error("the NodeENI", d)
	}
	select {
	case w := <-changes.ResultChan():
		if w.Type != watch.Bookmark {
			t.Errorf("the NodeENI was written in between: %s %+v", w.Type, w.Object)
		}
	default:
	}
	r.keepsPublicTags()
}

// TestWayBackAfterOwn: an ENI of this controller, and its NodeENI, are as the public controller leaves them.
func TestWayBackAfterOwn(t *testing.T) {
	r := newRegion(t)
	r.declareENI()
	want := r.object()
	c := r.start("a")
	entry := r.awaitEntry("an attached entry", attached)
	cluster.Eventually(t, "status.attachments", soon, r.statusNames(entry))
	cluster.Must(t, c.proc.Stop())
	got := r.object()
	updated, _, err := unstructured.NestedFieldNoCopy(got, "status", "attachments")
	cluster.Must(t, err)
	list, _ := updated.([]any)
	first, _ := list[0].(map[string]any)
	want["metadata"].(map[string]any)["finalizers"] = []any{finalizer} //nolint:errcheck,forcetypeassert // the API server's
	want["status"] = publicStatus(r.live()[0], first["lastUpdated"])
	if d := cmp.Diff(want, got); d != "" {
		t.Error("the NodeENI", d)
	}
	r.keepsPublicTags()
}

// version is the NodeENI's.
func (r *region) version() string {
	r.Helper()
	o, err := r.NodeENIs().Get(r.Context(), "a", metav1.GetOptions{})
	cluster.Must(r, err)
	return o.GetResourceVersion()
}

func (r *region) keepsPublicTags() {
	r.Helper()
	live := r.live()
	if len(live) != 1 {
		r.Fatalf("EC2 has %+v, want one ENI", live)
	}
	tags := maps.Clone(live[0].Tags)
	for _, name := range []string{"cluster", "nodeeni-uid", "slot", "instance"} {
		if tags["multi-eni.networking.k8s.aws/"+name] == "" {
			r.Errorf("tag %s is missing", name)
		}
		delete(tags, "multi-eni.networking.k8s.aws/"+name)
	}
	if d := cmp.Diff(publicTags(), tags); d != "" {
		r.Error("tags", d)
	}
}
