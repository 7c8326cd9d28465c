package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// InstanceID is the ID of every Node; a cluster has one at a time.
const InstanceID = "i-0123456789abcdef0"

// Node is a node of the cluster without a kubelet: a Node object, the links and the sysfs tree of nstest,
// a metadata service, and a daemon's folders. Its netns is the API server's.
type Node struct {
	*nstest.Node
	Name string
	IMDS *fakeimds.Running

	cluster *Cluster
	enis    []nstest.ENI
}

// ENI describes an ENI that is attached to a Node.
type ENI struct {
	nstest.ENI
	ID         string
	SubnetID   string
	SubnetCIDR string
	Index      int
}

// NewNode makes the node of a test, with its primary ENI and these labels. A test has one.
func (c *Cluster) NewNode(t testing.TB, name string, labels map[string]string) *Node {
	t.Helper()
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	if _, err := c.Admin.CoreV1().Nodes().Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatalf("create Node %s: %v", name, err)
	}
	inner, err := nstest.NewNode(t.TempDir())
	Must(t, err)
	n := &Node{Node: inner, Name: name, cluster: c, IMDS: fakeimds.Start(t, fakeimds.Config{State: fakeimds.State{InstanceID: InstanceID}})}
	t.Cleanup(func() { n.close(t) })
	n.Attach(t, 0)
	return n
}

func (n *Node) close(t testing.TB) {
	for _, e := range n.enis {
		if err := n.Node.Detach(e); err != nil {
			t.Errorf("detach %s: %v", e.Name, err)
		}
	}
	if err := nstest.DeleteNetns(n.VPC); err != nil {
		t.Error(err)
	}
}

// Attach plugs in the ENI with this device index; 0 is the primary one.
func (n *Node) Attach(t testing.TB, index int) ENI {
	t.Helper()
	e := ENI{
		ENI: nstest.ENI{PCI: fmt.Sprintf("0000:00:%02x.0", 5+index), Name: fmt.Sprintf("eth%d", index), MAC: fmt.Sprintf("02:00:00:00:00:%02x", 5+index)},
		ID:  fmt.Sprintf("eni-0a1b2c3d4e5f6%04x", index), SubnetID: fmt.Sprintf("subnet-0a1b2c3d4e5f6%04x", index),
		SubnetCIDR: fmt.Sprintf("10.0.%d.0/24", index), Index: index,
	}
	Must(t, n.Node.Attach(e.ENI))
	n.enis = append(n.enis, e.ENI)
	n.IMDS.Attach(fakeimds.ENI{
		ID: e.ID, MAC: e.MAC, Primary: index == 0, DeviceIndex: index, SubnetID: e.SubnetID, SubnetIPv4CIDR: e.SubnetCIDR,
		IPv4s: []string{fmt.Sprintf("10.0.%d.15", index)},
	})
	return e
}

// Detach pulls an ENI out and removes it from the metadata.
func (n *Node) Detach(t testing.TB, e ENI) {
	t.Helper()
	Must(t, n.Node.Detach(e.ENI))
	for i, have := range n.enis {
		if have == e.ENI {
			n.enis = append(n.enis[:i], n.enis[i+1:]...)
			break
		}
	}
	n.IMDS.Detach(e.MAC)
}

// Attachment is the attaching controller's entry for an ENI.
func (n *Node) Attachment(e ENI) v1alpha1.ENIAttachment {
	return v1alpha1.ENIAttachment{
		NodeID: n.Name, InstanceID: InstanceID, ENIID: e.ID, AttachmentID: "eni-attach-" + e.ID[len("eni-"):],
		SubnetID: e.SubnetID, SubnetCIDR: e.SubnetCIDR, DeviceIndex: e.Index, Status: "attached",
	}
}

// Inventory reads the daemon's inventory file.
func (n *Node) Inventory() (nodestate.Inventory, error) {
	return nodestate.ReadInventory(n.inventoryPath())
}

// Config returns the bytes of the device plugin's config.
func (n *Node) Config() ([]byte, error) { return os.ReadFile(n.ConfigPath()) }

// ConfigPath is the path of the device plugin's config.
func (n *Node) ConfigPath() string { return filepath.Join(n.Dir, "pcidp", "config.json") }

// AttachmentsDir is the folder of the plugin's attachment records.
func (n *Node) AttachmentsDir() nodestate.AttachmentDir {
	return nodestate.AttachmentDir(filepath.Join(n.Dir, "attachments"))
}

func (n *Node) inventoryPath() string { return filepath.Join(n.Dir, "run", "inventory.json") }

// SetNodeLabel sets one label of a Node object.
func (c *Cluster) SetNodeLabel(t testing.TB, node, key, value string) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q}}}`, key, value)
	if _, err := c.Admin.CoreV1().Nodes().Patch(t.Context(), node, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// DeleteNode deletes a Node object; the node itself stays.
func (c *Cluster) DeleteNode(t testing.TB, node string) {
	t.Helper()
	Must(t, c.Admin.CoreV1().Nodes().Delete(t.Context(), node, metav1.DeleteOptions{}))
}
