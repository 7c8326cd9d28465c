package onenode

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
	"github.com/multi-eni/multi-eni-cni/test/kube/plane"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	controllerName    = "multi-enid-controller"
	controllerListens = "127.0.0.1:9617"
	// attachTakes and detachTakes are about EC2's own.
	attachTakes = 600 * time.Millisecond
	detachTakes = time.Second
	// kubeletFresh is how long a kubelet that has just started may not know all of its pods: the daemon releases nothing meanwhile.
	kubeletFresh = time.Minute
)

// account is an EC2 whose attachments become links of the node, and the controller that calls it.
type account struct {
	*stage
	ec2        *fakeec2.Server
	eni        eni // where EC2 attaches what is made
	controller *plane.Process

	mu     sync.Mutex
	linked time.Time
	mac    string
}

// newAccount has an instance with its primary ENI, and a Node that says so.
func newAccount(t *testing.T) *account {
	t.Helper()
	s := newNode(t)
	c := &account{stage: s, eni: newENI(0)}
	s.paths = paths{s.path("pcidp/config.json"), s.path("inventory.json"), s.path("state"), s.path("attachments")}
	s.deploy()
	for _, o := range cluster.ReadFile(t, cluster.Kustomize(t, "resources: [DEPLOY]\ncomponents: [DEPLOY/components/controller]\n")) {
		if slices.Contains([]string{"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}, o.GetKind()) {
			s.cluster().Apply(t, o)
			if o.GetName() == controllerName {
				t.Cleanup(func() { s.cluster().Delete(cleanup{t}, o) })
			}
		}
	}
	primary := s.metadata.ENIs[0]
	imds := fakeimds.Start(t, fakeimds.Config{State: s.metadata})
	c.ec2 = fakeec2.Start(t, fakeec2.Config{
		Subnets: []fakeec2.Subnet{
			{ID: primary.SubnetID, IPv4: netip.MustParsePrefix(primary.SubnetIPv4CIDR), Zone: zone},
			{ID: c.eni.subnet, IPv4: netip.MustParsePrefix(c.eni.cidr()), Zone: zone},
		},
		Groups: []fakeec2.Group{{ID: group, Name: "pods"}}, Instances: []fakeec2.Instance{{ID: instanceID, Type: "m5.large", SubnetID: primary.SubnetID}},
		ENIs: []fakeec2.ENI{{
			ID: primary.ID, MAC: primary.MAC, SubnetID: primary.SubnetID, Instance: instanceID, DeleteOnTermination: true, Groups: []string{group},
			IPv4: []netip.Addr{netip.MustParseAddr(primary.IPv4s[0])},
		}},
		AttachTakes: attachTakes, DetachTakes: detachTakes,
		OnChange: func(e fakeec2.ENI) { c.changed(e, imds) },
	})
	s.describeNode()
	s.installPlugin("multi-eni")
	s.useNetconf(map[string]any{
		"cniVersion": "1.0.0", "name": "dataplane", "type": "multi-eni", "capabilities": map[string]any{"deviceID": true},
		"sysfs": s.host.Sysfs, "dataDir": string(s.attachments()), "inventory": s.paths.inventory, "ipam": map[string]any{"type": "eni-ipam"},
	})
	s.unlabel()
	s.startDaemon(imds.URL, "--attachments-from=controller", "--offer=deviceplugin")
	c.startController()
	return c
}

// changed is fakeec2's OnChange: the instance has one slot besides the primary ENI's.
func (c *account) changed(e fakeec2.ENI, imds *fakeimds.Running) {
	c.mu.Lock()
	defer c.mu.Unlock()
	attached := e.Instance == instanceID && (e.AttachmentStatus == "" || e.AttachmentStatus == "attached")
	switch {
	case attached && e.DeviceIndex > 0 && c.mac == "":
		c.eni.MAC, c.eni.id = e.MAC, e.ID
		if err := c.host.Attach(c.eni.ENI); err != nil {
			c.Errorf("attach the link: %v", err)
		}
		metadata := c.eni.metadata(e.DeviceIndex)
		metadata.IPv4s = []string{e.IPv4[0].String()}
		imds.Attach(metadata)
		c.mac, c.linked = e.MAC, time.Now()
	case e.Instance == "" && e.MAC == c.mac:
		if err := c.host.Detach(c.eni.ENI); err != nil {
			c.Errorf("detach the link: %v", err)
		}
		imds.Detach(c.mac)
		c.mac = ""
	}
}

// describeNode gives the Node what a cloud provider gives it.
func (s *stage) describeNode() {
	s.Helper()
	patch := func(body string) error {
		_, err := s.Admin.CoreV1().Nodes().Patch(context.Background(), node.Name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
		return err
	}
	const labels = `{"metadata":{"labels":{"topology.kubernetes.io/zone":%s,"node.kubernetes.io/instance-type":%s}}}`
	s.must(patch(`{"spec":{"providerID":"aws:///` + zone + `/` + instanceID + `"}}`))
	s.must(patch(fmt.Sprintf(labels, `"`+zone+`"`, `"m5.large"`)))
	s.Cleanup(func() { s.must(patch(fmt.Sprintf(labels, "null", "null"))) })
}

func (c *account) startController() {
	c.Helper()
	binary, err := nstest.Binary("multi-enid")
	c.must(err)
	env := []string{"AWS_REGION=eu-west-1", "AWS_EC2_METADATA_DISABLED=true"}
	for _, name := range []string{"AWS_ENDPOINT_URL_EC2", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		env = append(env, name+"="+os.Getenv(name))
	}
	log := c.path("controller.log")
	c.controller, err = plane.StartProcess(log, env, binary, "controller", "--namespace=kube-system", "--identity=one", "--listen="+controllerListens,
		"--kubeconfig="+c.WriteKubeconfig(c.T, "kube-system", controllerName))
	c.must(err)
	c.Cleanup(func() {
		c.controller.Kill()
		if out, err := os.ReadFile(log); c.Failed() {
			c.Logf("log of the controller (%v):\n%s", err, out)
		}
	})
	cluster.Eventually(c.T, "a controller that is ready", settle, func() error {
		r, err := http.NewRequestWithContext(c.Context(), http.MethodGet, "http://"+controllerListens+"/readyz", nil)
		c.must(err)
		answer, err := (&http.Client{Timeout: callTimeout}).Do(r)
		if err != nil {
			return err
		}
		return errors.Join(answer.Body.Close(), want(answer.StatusCode, http.StatusOK))
	})
}

// declaration is the NodeENI, for the node with a host name.
func (c *account) declaration(host string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.k8s.aws/v1alpha1", "kind": "NodeENI", "metadata": map[string]any{"name": c.eni.letter},
		"spec": map[string]any{
			"nodeSelector": map[string]any{"kubernetes.io/hostname": host}, "subnetID": c.eni.subnet, "deviceIndex": int64(1),
			"securityGroupIDs": []any{group}, "dpdkResourceName": c.eni.resource(),
		},
	}}
}

// saw returns when EC2 saw the first call of an action, and whether it has.
func (c *account) saw(action string) (time.Time, bool) {
	for _, e := range c.ec2.Events() {
		if e.Action == action {
			return e.At, true
		}
	}
	return time.Time{}, false
}

// made are the ENIs besides the primary one that EC2 has.
func (c *account) made() (out []fakeec2.ENI) {
	for _, e := range c.ec2.All() {
		if e.Deleted.IsZero() && e.DeviceIndex > 0 || e.Deleted.IsZero() && e.Instance == "" {
			out = append(out, e)
		}
	}
	return out
}

// TestController: a NodeENI, and nothing else, gives a pod of the real kubelet an interface. The pod keeps it for as long as it runs,
// although the NodeENI is deleted; then nothing is left, neither on the node nor in EC2.
func TestController(t *testing.T) {
	c := newAccount(t)
	c.must(plane.AwaitEvents(t.Context(), c.nodeENIs, c.declaration("none")))
	declared := time.Now()
	_, err := c.nodeENIs.Create(t.Context(), c.declaration(node.Name), metav1.CreateOptions{})
	c.must(err)
	took := func(at time.Time) time.Duration { return at.Sub(declared).Round(time.Millisecond) }
	row := func(phase nodestate.Phase) func() error { return func() error { return c.lists(c.eni, phase)() } }
	cluster.Eventually(t, "a ready device", settle, row(nodestate.PhaseReady))
	ready := time.Now()
	cluster.Eventually(t, "allocatable 1", settle, c.counts(c.eni, 1))
	allocatable := time.Now()
	c.must(c.create("p1", c.eni.resource()))
	cluster.Eventually(t, "pod p1", settle, c.inPhase("p1", corev1.PodRunning))
	running := time.Now()
	c.must(c.hasDevice("p1", c.eni))
	created, _ := c.saw("CreateNetworkInterface")
	c.mu.Lock()
	t.Logf("NodeENI to created %v, to a link %v (EC2 takes %v of it), to ready %v, to allocatable %v, to a pod that runs %v", took(created),
		took(c.linked), attachTakes, took(ready), took(allocatable), took(running))
	c.mu.Unlock()

	c.must(c.withdraw(c.eni))
	cluster.Eventually(t, "draining", settle, row(nodestate.PhaseDraining))
	cluster.Holds(t, "kept while the pod runs", 5*time.Second, func() error {
		if at, saw := c.saw("DetachNetworkInterface"); saw {
			return fmt.Errorf("EC2 saw Detach at %v", at)
		}
		return errors.Join(c.hasDevice("p1", c.eni), row(nodestate.PhaseDraining)())
	})
	ended := time.Now()
	c.must(c.delete("p1"))
	cluster.Eventually(t, "the NodeENI gone", kubeletFresh+settle, func() error {
		_, err := c.nodeENIs.Get(c.Context(), c.eni.letter, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %w", err)
	})
	gone := time.Now()
	detached, _ := c.saw("DetachNetworkInterface")
	t.Logf("end of the pod to Detach %v, to nothing left %v (EC2 takes %v of it)", detached.Sub(ended).Round(time.Millisecond),
		gone.Sub(ended).Round(time.Millisecond), detachTakes)
	if left := c.made(); len(left) > 0 || c.home(c.eni) == nil {
		t.Errorf("left: in EC2 %+v, and the link: %v", left, c.home(c.eni) == nil)
	}
	cluster.Eventually(t, "an empty inventory", settle, row(""))
	c.must(c.unheld())
}
