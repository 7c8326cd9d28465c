package controller

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

// The public controller (read in its source, v1.3.8) knows its ENIs by status.attachments alone: an ENI of a node and subnet that the status lacks is
// created again. It asks for the instance, the ENI and, by a dry run of Detach, the attachment of each entry. The tags serve people and eni-manager.

// publicTags are those of the public controller for NodeENI blue on node-1 in the subnet a1.
func publicTags() map[string]string {
	return map[string]string{
		"Name": "nodeeni-blue-node-1-000000a1", "NodeENI": "blue", "Node": "node-1", "SubnetID": a1,
		"kubernetes.io/cluster/managed-by": "nodeeni-controller", "node.k8s.amazonaws.com/no_manage": "true",
	}
}

// publicFinalizer is the public controller's.
const publicFinalizer = "nodeeni.networking.k8s.aws/finalizer"

// publicWorld has node-1 with an ENI that the public controller has made, at another index than planned, and node agent's fields in the status.
func publicWorld(t *testing.T) (*world, v1alpha1.ENIAttachment) {
	t.Helper()
	w := newWorld(t, func(c *fakeec2.Config) {
		c.ENIs = []fakeec2.ENI{{
			ID: "eni-0000000a", MAC: "06:00:00:00:00:0a", SubnetID: a1, Instance: instanceOf("node-1"), DeviceIndex: 2, Groups: []string{sg1},
			AttachmentStatus: "attached", DeleteOnTermination: true, Tags: publicTags(),
		}}
		c.Instances = []fakeec2.Instance{{
			ID: instanceOf("node-1"), Type: "m5.4xlarge", SubnetID: a1, Tags: map[string]string{"kubernetes.io/cluster/test": "owned"},
		}}
	})
	w.daemons["node-1"] = &daemon{world: w, node: "node-1", reaction: 50 * time.Millisecond, protocol: v1alpha1.Protocol, alive: true}
	w.setNode("node-1", func(n *fleet.Node) {
		*n = fleet.Node{ProviderID: "aws:///" + zone(0) + "/" + instanceOf("node-1"), Ready: true, Labels: map[string]string{
			"topology.kubernetes.io/zone": zone(0), "node.kubernetes.io/instance-type": "m5.4xlarge", "role": "worker",
		}}
	})
	a := v1alpha1.ENIAttachment{
		NodeID: "node-1", InstanceID: instanceOf("node-1"), ENIID: "eni-0000000a", AttachmentID: "eni-attach-0000000a", SubnetID: a1,
		SubnetCIDR: "10.1.0.0/16", DeviceIndex: 2, Status: "attached", LastUpdated: metav1Now(),
		DPDKBound: true, DPDKDriver: "vfio-pci", DPDKResourceName: "intel.com/blue", DPDKPCIAddress: "0000:00:06.0",
	}
	w.declare("blue", 1, a1)
	w.setNodeENI("blue", func(o *v1alpha1.NodeENI) { o.Status.Attachments = []v1alpha1.ENIAttachment{a} })
	return w, a
}

// publicAsks fails the test if the public controller could not find an ENI by the NodeENI's status, or the finalizer, or a tag.
func (w *world) publicAsks(a v1alpha1.ENIAttachment) {
	w.Helper()
	o := w.nodeENI("blue")
	if d := cmp.Diff([]string{publicFinalizer}, o.Is.Finalizers); d != "" {
		w.Error("finalizers", d)
	}
	if d := cmp.Diff([]v1alpha1.ENIAttachment{a}, o.Is.Status.Attachments); d != "" {
		w.Error("status", d)
	}
	e := w.ec2.ENI(a.ENIID)
	if !e.Deleted.IsZero() || e.Instance != a.InstanceID || e.Attachment() != a.AttachmentID || e.DeviceIndex != a.DeviceIndex || e.SubnetID != a.SubnetID {
		w.Errorf("EC2 has %+v, the status %+v", e, a)
	}
	for k, v := range publicTags() {
		if e.Tags[k] != v {
			w.Errorf("tag %s is %q, want %q", k, e.Tags[k], v)
		}
	}
}

// listed lets time pass, and fails if the status lacks the ENI for a moment: the daemons that follow the status would drain it, and
// the public controller would make another one.
func (w *world) listed(during time.Duration, eni string) {
	w.Helper()
	for begin := time.Now(); time.Since(begin) < during; time.Sleep(50 * time.Millisecond) {
		list := w.nodeENI("blue").Is.Status.Attachments
		if len(list) != 1 || list[0].ENIID != eni || list[0].Status != "attached" {
			w.Fatalf("after %v the status has %+v, without the attached %s", time.Since(begin), list, eni)
		}
	}
}

// TestWayBackAfterAdoption: an adopted ENI leaves the public status as it was, lastUpdated and the node agent's fields included, at every moment.
func TestWayBackAfterAdoption(t *testing.T) {
	story(t, func(t *testing.T) {
		w, a := publicWorld(t)
		c := w.lead(func(o *Options) { o.AdoptPublic = true })
		w.listed(15*time.Minute, a.ENIID)
		c.kill()
		if len(w.live()) != 1 {
			t.Errorf("not adopted:\n%s", w.describe())
		}
		w.publicAsks(a)
		if n := w.written(); n > 10 {
			t.Errorf("%d writes for one adoption", n)
		}
	})
}

// TestWayBackAfterOwn: an ENI that this controller has made has everything that the public controller asks for. The status keeps it while an attribute is
// changed, and when EC2 refuses that.
func TestWayBackAfterOwn(t *testing.T) {
	story(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.addNode("node-1")
		w.declare("blue", 1, a1)
		c := w.lead()
		w.wait(time.Minute, "attached", w.attached(1))
		e := w.live()[0]
		groups := func(ids ...string) {
			w.setNodeENI("blue", func(o *v1alpha1.NodeENI) { o.Spec.SecurityGroupIDs = ids })
		}
		groups(sg2)
		w.listed(time.Minute, e.ID)
		if got := w.ec2.ENI(e.ID).Groups; !cmp.Equal(got, []string{sg2}) {
			t.Errorf("groups %v", got)
		}
		w.ec2.Fail("ModifyNetworkInterfaceAttribute", "OperationNotPermitted", "OperationNotPermitted", "OperationNotPermitted")
		groups(sg1)
		w.listed(time.Minute, e.ID)
		c.kill()
		w.publicAsks(v1alpha1.ENIAttachment{
			NodeID: "node-1", InstanceID: instanceOf("node-1"), ENIID: e.ID, AttachmentID: e.Attachment(), SubnetID: a1, SubnetCIDR: "10.1.0.0/16",
			DeviceIndex: 1, Status: "attached", LastUpdated: w.nodeENI("blue").Is.Status.Attachments[0].LastUpdated,
		})
		if w.nodeENI("blue").Is.Status.Attachments[0].LastUpdated.IsZero() {
			t.Error("lastUpdated is missing")
		}
	})
}
