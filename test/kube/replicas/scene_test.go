package replicas

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/plane"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// Names of the world of the controller's tests.
const (
	accountNamespace = "kube-system"
	controllerName   = "multi-enid-controller"
	leaseName        = "nodeeni-controller-leader-election"
	fleetNode        = "node-1"
	fleetInstance    = "i-0123456789abcdef0"
	fleetZone        = "eu-central-1a"
	fleetSubnet      = "subnet-0a1b2c3d4e5f60001"
	fleetGroup       = "sg-0a1b2c3d4e5f60001"
)

const (
	group    = "/apis/networking.k8s.aws/v1alpha1"
	nodeENIs = group + "/nodeenis"
	states   = group + "/eninodestates"
	label    = "multi-eni-test"
)

const (
	soon = 30 * time.Second
	// calm is how long nothing may change.
	calm = 5 * time.Second
)

// region is a cluster with one node, its fake EC2, and the replicas of the controller. The test plays the node's daemon.
type region struct {
	*testing.T
	*cluster.Cluster
	ec2 *fakeec2.Server
	// kubeconfig is the controller's account's.
	kubeconfig string
	// deniesFine: the test sends requests as the controller that are denied.
	deniesFine bool
}

// Context is the test's.
func (r *region) Context() context.Context { return r.T.Context() }

func newRegion(t *testing.T, enis ...fakeec2.ENI) *region {
	t.Helper()
	r := &region{T: t, Cluster: cluster.Start(t)}
	for _, o := range cluster.ReadFile(t, cluster.Kustomize(t, "resources: [DEPLOY]\ncomponents: [DEPLOY/components/controller]\n")) {
		if slices.Contains([]string{"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}, o.GetKind()) {
			r.Apply(t, o)
		}
	}
	r.kubeconfig = r.WriteAccountKubeconfig(t, accountNamespace, controllerName)
	r.ec2 = fakeec2.New(fakeec2.Config{
		Subnets: []fakeec2.Subnet{{ID: fleetSubnet, IPv4: netip.MustParsePrefix("10.0.1.0/24"), Zone: fleetZone}},
		Groups:  []fakeec2.Group{{ID: fleetGroup, Name: "pods"}},
		Instances: []fakeec2.Instance{{
			ID: fleetInstance, Type: "m5.large", SubnetID: fleetSubnet, Tags: map[string]string{"kubernetes.io/cluster/test": "owned"},
		}},
		ENIs:      enis,
		OnUnknown: func(request string) { t.Errorf("EC2: unknown: %s", request) },
	})
	r.addNode()
	t.Cleanup(func() {
		gone := r.Admin.CoordinationV1().Leases(accountNamespace).Delete(context.Background(), leaseName, metav1.DeleteOptions{})
		if gone != nil {
			t.Errorf("delete the Lease: %v", gone)
		}
		for _, denied := range r.Requests(t, r.user()) {
			if denied.Code == http.StatusForbidden && !r.deniesFine {
				t.Errorf("the controller lacks a right of its manifests: %v", denied)
			}
		}
	})
	return r
}

func (r *region) user() string {
	return "system:serviceaccount:" + accountNamespace + ":" + controllerName
}

func (r *region) addNode() {
	r.Helper()
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: fleetNode, Labels: map[string]string{
			label: "yes", "topology.kubernetes.io/zone": fleetZone, "node.kubernetes.io/instance-type": "m5.large",
		}},
		Spec: corev1.NodeSpec{ProviderID: "aws:///" + fleetZone + "/" + fleetInstance},
	}
	n, err := r.Admin.CoreV1().Nodes().Create(r.Context(), n, metav1.CreateOptions{})
	cluster.Must(r, err)
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}}
	_, err = r.Admin.CoreV1().Nodes().UpdateStatus(r.Context(), n, metav1.UpdateOptions{})
	cluster.Must(r, err)
}

// declareENI makes the NodeENI "a". It has no status.
func (r *region) declareENI() {
	r.Helper()
	r.CreateNodeENI(r, v1alpha1.NodeENI{
		ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Spec: v1alpha1.NodeENISpec{
			NodeSelector: map[string]string{label: "yes"}, SubnetID: fleetSubnet, SecurityGroupIDs: []string{fleetGroup}, DeviceIndex: 1,
		},
	})
}

// entry is the only entry of the node's spec.
func (r *region) entry() (v1alpha1.AttachmentEntry, error) {
	s, err := r.NodeState(r, fleetNode)
	if err == nil && len(s.Spec.Attachments) != 1 {
		err = fmt.Errorf("spec %+v, want one entry", s.Spec)
	}
	if err != nil {
		return v1alpha1.AttachmentEntry{}, err
	}
	return s.Spec.Attachments[0], nil
}

// awaitEntry waits until the entry is as wanted.
func (r *region) awaitEntry(what string, ok func(v1alpha1.AttachmentEntry) bool) (e v1alpha1.AttachmentEntry) {
	r.Helper()
	cluster.Eventually(r, what, soon, func() (err error) {
		if e, err = r.entry(); err == nil && !ok(e) {
			err = fmt.Errorf("the entry is %+v", e)
		}
		return err
	})
	return e
}

func attached(e v1alpha1.AttachmentEntry) bool {
	return e.AttachmentID != "" && (e.Phase == "Attached" || e.Phase == "Ready")
}

// report writes the status as the daemon does, as its own account. A list of nil is left out.
func (r *region) report(devices, released []any) {
	r.Helper()
	status := map[string]any{"protocol": v1alpha1.Protocol, "problemCount": 0}
	if devices != nil {
		status["devices"] = devices
	}
	if released != nil {
		status["released"] = released
	}
	cluster.Must(r, r.apply(r.InNoPod(r), "status", status, "status"))
}

func (r *region) device(e v1alpha1.AttachmentEntry, phase string, holders ...any) []any {
	return []any{map[string]any{"eniID": e.ENIID, "nodeENI": "a", "phase": phase, "deviceIndex": e.DeviceIndex, "networkCard": e.NetworkCard, "holders": holders}}
}

// live are the ENIs that the controller has made and EC2 still has.
func (r *region) live() (out []fakeec2.ENI) {
	for _, e := range r.ec2.All() {
		if e.Deleted.IsZero() && e.Tags["NodeENI"] != "" {
			out = append(out, e)
		}
	}
	return out
}

// holder is the identity of the leader, or "".
func (r *region) holder() string {
	l, err := r.Admin.CoordinationV1().Leases(accountNamespace).Get(r.Context(), leaseName, metav1.GetOptions{})
	if err != nil || l.Spec.HolderIdentity == nil {
		return ""
	}
	parts := strings.Split(*l.Spec.HolderIdentity, "_")
	return parts[min(1, len(parts)-1)]
}

func (r *region) awaitLeader(c *replica) {
	r.Helper()
	cluster.Eventually(r, "leader "+c.name, takeover, func() error {
		if got := r.holder(); got != c.name {
			return fmt.Errorf("the Lease is %q's", got)
		}
		return nil
	})
}

// takeover bounds the time until another replica leads: the Lease lasts 15 s.
const takeover = 30 * time.Second

// replica is one process of the controller. Its calls to EC2 go through a server of its own.
type replica struct {
	name string
	r    *region
	proc *plane.Process

	mu sync.Mutex
	// made are its calls that change something; a call for its rights is none.
	made []string
	hold *held
}

// held is a call that EC2 carries out, and whose answer waits.
type held struct {
	action string
	// done is closed once EC2 has carried it out. The answer comes once let is closed.
	done, let chan struct{}
}

// start runs a replica.
func (r *region) start(name string, flags ...string) *replica {
	r.Helper()
	bin, err := nstest.Binary("multi-enid")
	if err != nil {
		cluster.Unavailable(r, err.Error())
	}
	c := &replica{name: name, r: r}
	front := httptest.NewServer(c)
	r.Cleanup(front.Close)
	log := filepath.Join(r.TempDir(), name+".log")
	c.proc, err = plane.StartProcess(log, []string{
		"AWS_ENDPOINT_URL_EC2=" + front.URL, "AWS_REGION=eu-central-1", "AWS_ACCESS_KEY_ID=AKID" + strings.ToUpper(name), "AWS_SECRET_ACCESS_KEY=secret",
		"AWS_EC2_METADATA_DISABLED=true",
	}, append([]string{
		bin, "controller", "--kubeconfig=" + r.kubeconfig, "--namespace=" + accountNamespace, "--identity=" + name, "--listen=off", "--log-format=json",
	}, flags...)...)
	cluster.Must(r, err)
	r.Cleanup(func() {
		c.proc.Kill()
		if out, err := os.ReadFile(log); r.Failed() {
			r.Logf("log of controller %s (%v):\n%s", name, err, out)
		}
	})
	return c
}

// ServeHTTP passes a call on to EC2.
func (c *replica) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		c.r.Errorf("a call that is no form: %v", err)
	}
	action := form.Get("Action")
	c.mu.Lock()
	hold := c.hold
	if !strings.HasPrefix(action, "Describe") && form.Get("DryRun") != "true" {
		c.made = append(c.made, action)
	}
	c.mu.Unlock()
	req.Body = io.NopCloser(bytes.NewReader(body))
	if hold == nil || hold.action != action {
		c.r.ec2.ServeHTTP(w, req)
		return
	}
	answer := httptest.NewRecorder()
	c.r.ec2.ServeHTTP(answer, req)
	c.mu.Lock()
	c.hold = nil
	c.mu.Unlock()
	close(hold.done)
	select {
	case <-hold.let:
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes()) // the client may be dead
	case <-req.Context().Done():
	}
}

// holdNext keeps back the answer of the next call of an action.
func (c *replica) holdNext(action string) *held {
	h := &held{action: action, done: make(chan struct{}), let: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = h
	return h
}

func (c *replica) mutating() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.made)
}

func (c *replica) log() string {
	out, err := os.ReadFile(c.proc.Log)
	if err != nil {
		return err.Error()
	}
	return string(out)
}

func (c *replica) awaitLog(what string, after int) {
	c.r.Helper()
	cluster.Eventually(c.r, c.name+" says: "+what, soon, func() error {
		if !strings.Contains(c.log()[after:], what) {
			return errors.New("it does not")
		}
		return nil
	})
}

// writes are the requests of the controller's account that change an object, besides those for the Lease.
func (r *region) writes() (out []plane.Request) {
	r.Helper()
	for _, q := range r.Requests(r, r.user()) {
		if !slices.Contains([]string{"get", "list", "watch"}, q.Verb) && q.Resource != "leases" {
			out = append(out, q)
		}
	}
	return out
}

// rival is the Lease of the public controller, renewed now.
func rival(namespace string) *coordinationv1.Lease {
	now, lasts, who := metav1.NowMicro(), int32(15), "nodeeni-controller-7d4b9c_0a1b2c3d"
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: leaseName, Namespace: namespace},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &who, LeaseDurationSeconds: &lasts, AcquireTime: &now, RenewTime: &now},
	}
}

// renew renews the Lease of the public controller.
func (r *region) renew(namespace string) error {
	patch := fmt.Appendf(nil, `{"spec":{"renewTime":%q}}`, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"))
	_, err := r.Admin.CoordinationV1().Leases(namespace).Patch(r.Context(), leaseName, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

const leases = "/apis/coordination.k8s.io/v1/namespaces/" + accountNamespace + "/leases"

// apply writes a field of the node's ENINodeState as an account.
func (r *region) apply(as *rest.Config, field string, value map[string]any, subresource ...string) error {
	r.Helper()
	body, err := json.Marshal(map[string]any{
		"apiVersion": v1alpha1.APIVersion, "kind": v1alpha1.NodeStateKind, "metadata": map[string]any{"name": fleetNode}, field: value,
	})
	cluster.Must(r, err)
	return cluster.ClientOf(r, as).Patch(types.ApplyPatchType).AbsPath(append([]string{states, fleetNode}, subresource...)...).
		Param("fieldManager", "multi-enid").Param("force", "true").Body(body).Do(r.Context()).Error()
}

// createWithSpec makes an ENINodeState that has a spec already.
func (r *region) createWithSpec(as *rest.Config, name string) error {
	r.Helper()
	return cluster.TryNodeState(r, as, `"name":"`+name+`"`, `,"spec":{"protocol":1}`)
}

// patchNodeENI merges a patch into the NodeENI "a", as a dry run.
func (r *region) patchNodeENI(as *rest.Config, patch string) error {
	r.Helper()
	return cluster.ClientOf(r, as).Patch(types.MergePatchType).AbsPath(nodeENIs, "a").Param("dryRun", "All").Body([]byte(patch)).Do(r.Context()).Error()
}
