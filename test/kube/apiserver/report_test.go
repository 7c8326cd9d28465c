package apiserver

import (
	"bytes"
	stdcmp "cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func untilState(t *testing.T, c *cluster.Cluster, node string, want func(v1alpha1.ENINodeStateStatus) bool) v1alpha1.ENINodeState {
	t.Helper()
	var s v1alpha1.ENINodeState
	cluster.Eventually(t, "ENINodeState", 30*time.Second, func() (err error) {
		if s, err = c.NodeState(t, node); err == nil && !want(s.Status) {
			err = fmt.Errorf("status is %+v", s.Status)
		}
		return err
	})
	return s
}

func hasCondition(s v1alpha1.ENINodeStateStatus, kind, reason string) bool {
	return slices.ContainsFunc(s.Conditions, func(c metav1.Condition) bool { return c.Type == kind && c.Reason == reason })
}

// events returns "kind type reason" of all Events, in order of creation.
func events(t *testing.T, c *cluster.Cluster) []string {
	t.Helper()
	list, err := c.Admin.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
	cluster.Must(t, err)
	slices.SortFunc(list.Items, func(a, b corev1.Event) int { // timestamps have whole seconds
		return stdcmp.Or(a.FirstTimestamp.Compare(b.FirstTimestamp.Time), stdcmp.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name))
	})
	var all []string
	for _, e := range list.Items {
		all = append(all, fmt.Sprintf("%s %s %s", e.InvolvedObject.Kind, e.Type, e.Reason))
	}
	return all
}

func unmanaged() []string { return []string{"--restart=none", "--podresources-socket="} }

// TestNodeState: the node's object equals the inventory, belongs to the Node, and is written only after a change.
func TestNodeState(t *testing.T) {
	c := cluster.Start(t)
	n := c.NewNode(t, "node-1", nil)
	d := n.StartDaemon(t, unmanaged()...)
	e := n.Attach(t, 1)
	declare(t, c, n, "a", e)
	c.CreateNodeENI(t, v1alpha1.NodeENI{
		ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: v1alpha1.NodeENISpec{NodeSelector: map[string]string{}, SubnetID: e.SubnetID, DPDKPCIAddress: "07.0"},
		Status: v1alpha1.NodeENIStatus{Attachments: []v1alpha1.ENIAttachment{{NodeID: n.Name, ENIID: "eni-0a1b2c3d4e5f60009"}}},
	})
	s := untilState(t, c, n.Name, func(s v1alpha1.ENINodeStateStatus) bool {
		return s.DevicesReady == "1/2" && s.ProblemCount > 0 && hasCondition(s, v1alpha1.ConditionDevicesReady, v1alpha1.ReasonDevicesPending) &&
			hasCondition(s, v1alpha1.ConditionConfigCurrent, v1alpha1.ReasonConfigWritten) && s.DevicePlugin != nil && s.DevicePlugin.State == "Unmanaged"
	})
	node, err := c.Admin.CoreV1().Nodes().Get(t.Context(), n.Name, metav1.GetOptions{})
	cluster.Must(t, err)
	if diff := cmp.Diff([]metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: node.UID}}, s.OwnerReferences); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
	if got := s.Status.Devices[0]; got.ENIID != e.ID || got.PCIAddress != e.PCI || got.MAC != e.MAC || got.NodeENI != "a" || got.Phase != "ready" {
		t.Errorf("device %+v, want %+v", got, e)
	}
	if got := s.Status.NodeENIs; len(got) != 2 || got[0].Name != "a" || got[0].ObservedGeneration != 1 || got[0].UID == "" {
		t.Errorf("NodeENIs %+v", got)
	}
	said := events(t, c)
	d.Term(t)
	d.Start(t)
	untilSync(t, n)
	cluster.Holds(t, "object and Events as they were", 5*time.Second, func() error {
		now, err := c.NodeState(t, n.Name)
		if err == nil && now.ResourceVersion != s.ResourceVersion {
			err = fmt.Errorf("written again: %s", cmp.Diff(s.Status, now.Status))
		}
		return errors.Join(err, same(said, events(t, c)))
	})
	cluster.Must(t, c.ENINodeStates().Delete(t.Context(), n.Name, metav1.DeleteOptions{}))
	untilState(t, c, n.Name, func(now v1alpha1.ENINodeStateStatus) bool { return now.DevicesReady == "1/2" }) // though nothing changes
	c.DeleteNodeENI(t, "b")
	untilState(t, c, n.Name, func(s v1alpha1.ENINodeStateStatus) bool { return s.DevicesReady == "1/1" && s.ProblemCount == 0 })
}

func same(want, got []string) error {
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("(-want +got):\n%s", diff)
	}
	return nil
}

func untilSync(t *testing.T, n *cluster.Node) {
	t.Helper()
	cluster.Eventually(t, "ready", 30*time.Second, func() error {
		if code, body, err := cluster.DaemonGet(t, "readyz"); err != nil || code != http.StatusOK {
			return fmt.Errorf("readyz: %d %s %w", code, body, err)
		}
		_, err := n.Inventory()
		return err
	})
}

func TestEvents(t *testing.T) {
	c := cluster.Start(t)
	// Events outlive the tests that caused them.
	cluster.Must(t, c.Admin.CoreV1().Events("default").DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	n := c.NewNode(t, "node-1", nil)
	e := n.Attach(t, 1)
	n.StartDaemon(t, unmanaged()...)
	declare(t, c, n, "a", e)
	untilSaid(t, n, "a ready")
	rec := hold(t, n, e, "default")
	c.DeleteNodeENI(t, "a")
	untilSaid(t, n, "a draining")
	cluster.Eventually(t, "Event on the pod", 20*time.Second, func() error {
		list, err := c.Admin.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Pod,involvedObject.uid=uid-of-p"})
		if err == nil && (len(list.Items) != 1 || !strings.Contains(list.Items[0].Message, "of NodeENI a drains (there is no NodeENI a)")) {
			err = fmt.Errorf("Events %+v", list.Items)
		}
		return err
	})
	cluster.Must(t, rec.Remove())
	untilSaid(t, n)
	want := []string{"NodeENI Normal DeviceReady", "NodeENI Normal DeviceReleased", "NodeENI Normal DeviceRemoved", "Pod Warning DeviceRemoved"}
	cluster.Eventually(t, "all Events, once each", 20*time.Second, func() error {
		got := events(t, c)
		slices.Sort(got)
		return same(want, got)
	})
}

// TestEventsOfATerminatingNamespace: Kubernetes rejects Events in such a namespace; other reports go on.
func TestEventsOfATerminatingNamespace(t *testing.T) {
	c := cluster.Start(t)
	const going = "going"
	namespaces := c.Admin.CoreV1().Namespaces()
	if _, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: going, Finalizers: []string{"example.com/kept"}}},
		metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := namespaces.Patch(context.WithoutCancel(t.Context()), going, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`),
			metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	})
	cluster.Must(t, namespaces.Delete(t.Context(), going, metav1.DeleteOptions{}))
	c.ExpectDenials("the namespace is being deleted")
	n := c.NewNode(t, "node-1", nil)
	e := n.Attach(t, 1)
	d := n.StartDaemon(t, unmanaged()...)
	declare(t, c, n, "a", e)
	untilSaid(t, n, "a ready")
	rec := hold(t, n, e, going)
	c.DeleteNodeENI(t, "a")
	untilSaid(t, n, "a draining")
	cluster.Must(t, rec.Remove())
	untilSaid(t, n)
	cluster.Eventually(t, "the Event after it", 20*time.Second, func() error {
		list, err := c.Admin.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=NodeENI,reason=DeviceReleased"})
		if err == nil && len(list.Items) == 0 {
			err = errors.New("no such Event")
		}
		return err
	})
	cluster.Eventually(t, "one line", 20*time.Second, func() error {
		return lines(t, d, "the API server takes no such Event, it is given up", 1)
	})
}

func hold(t *testing.T, n *cluster.Node, e cluster.ENI, namespace string) *nodestate.Record {
	t.Helper()
	boot, err := nodestate.BootID()
	cluster.Must(t, err)
	rec, err := n.AttachmentsDir().Begin(nodestate.Attachment{
		AttachmentID: nodestate.AttachmentID{ContainerID: "c1", IfName: "net1"}, BootID: boot, Mode: nodestate.ModeDPDK, Pod: namespace + "/p",
		PodUID: "uid-of-p", Netns: nodestate.Netns{Path: "/proc/1/ns/net"},
		Device: nodestate.AttachedDevice{PCIAddress: device.PCIAddress(e.PCI), MAC: device.MAC(e.MAC), ENIID: device.ENIID(e.ID)},
	})
	cluster.Must(t, err)
	rec.State = nodestate.StateComplete
	cluster.Must(t, rec.Save())
	return rec
}

// TestOperations: metrics, probes and the status command of a running daemon, and its files after it has ended.
func TestOperations(t *testing.T) {
	c := cluster.Start(t)
	n := c.NewNode(t, "node-1", nil)
	e := n.Attach(t, 1)
	d := n.StartDaemon(t, unmanaged()...)
	declare(t, c, n, "a", e)
	untilSaid(t, n, "a ready")
	untilSync(t, n)
	_, metrics, err := cluster.DaemonGet(t, "metrics")
	cluster.Must(t, err)
	for _, want := range []string{`multi_eni_devices{phase="ready"} 1`, "multi_eni_api_reachable 1", "multi_eni_config_current 1",
		"multi_eni_events_dropped_total 0"} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("metrics lack %s:\n%s", want, metrics)
		}
	}
	c.Proxy.Set(t, cluster.Refuse)
	cluster.Eventually(t, "API fault in the metrics", 30*time.Second, func() error {
		_, body, err := cluster.DaemonGet(t, "metrics")
		if err == nil && !strings.Contains(body, `multi_eni_api_fault{reason="Unreachable"} 1`) {
			err = errors.New("no fault")
		}
		return err
	})
	for _, probe := range []string{"healthz", "readyz"} {
		if code, body, err := cluster.DaemonGet(t, probe); err != nil || code != http.StatusOK {
			t.Errorf("%s without an API server: %d %q, %v; want it well, its pods are", probe, code, body, err)
		}
	}
	if text := status(t, n); !strings.Contains(text, "a ") || !strings.Contains(text, "Unreachable") {
		t.Errorf("status lacks the device or the API's state:\n%s", text)
	}
	var live struct{ Live *struct{ Version string } }
	if err := json.Unmarshal([]byte(status(t, n, "-o", "json")), &live); err != nil || live.Live == nil {
		t.Errorf("status -o json is not of the running daemon: %v", err)
	}
	before := tree(t, n)
	d.Term(t)
	if diff := cmp.Diff(before, tree(t, n)); diff != "" {
		t.Errorf("SIGTERM has changed files (-before +after):\n%s", diff)
	}
	if text := status(t, n); !strings.Contains(text, "eth1") {
		t.Errorf("status of the files lacks the device:\n%s", text)
	}
}

func status(t *testing.T, n *cluster.Node, flags ...string) string {
	t.Helper()
	bin, err := nstest.Binary("multi-enid")
	cluster.Must(t, err)
	args := append([]string{"status", "--inventory=" + filepath.Join(n.Dir, "run", "inventory.json"), "--attachments-dir=" + string(n.AttachmentsDir())}, flags...)
	out, err := exec.CommandContext(t.Context(), bin, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("status: %v\n%s", err, out)
	}
	return string(out)
}

func tree(t *testing.T, n *cluster.Node) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range []string{"run/inventory.json", "state/checkpoint.json", "pcidp/config.json"} {
		content, err := os.ReadFile(filepath.Join(n.Dir, name))
		cluster.Must(t, err)
		all[name] = string(bytes.TrimSpace(content))
	}
	return all
}
