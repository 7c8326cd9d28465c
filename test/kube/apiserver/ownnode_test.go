package apiserver

import (
	"cmp"
	"errors"
	"os/exec"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

type ownNode struct {
	*testing.T
	*cluster.Cluster
}

func (o ownNode) pod(name, node string, edit func(*corev1.Pod)) *corev1.Pod {
	o.Helper()
	controller := true
	now := int64(0)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"app": "sriovdp"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "sriovdp", UID: "1", Controller: &controller}},
		},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: "multi-enid", TerminationGracePeriodSeconds: &now,
			Containers: []corev1.Container{{Name: "x", Image: "x"}},
		},
	}
	if edit != nil {
		edit(p)
	}
	made, err := o.Admin.CoreV1().Pods(cmp.Or(p.Namespace, "kube-system")).Create(o.Context(), p, metav1.CreateOptions{})
	cluster.Must(o, err)
	return made
}

func (o ownNode) deletePod(as *rest.Config, name string) error {
	o.Helper()
	client, err := kubernetes.NewForConfig(as)
	cluster.Must(o, err)
	namespace, pod, qualified := strings.Cut(name, "/")
	if !qualified {
		namespace, pod = "kube-system", name
	}
	return client.CoreV1().Pods(namespace).Delete(o.Context(), pod, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
}

func (o ownNode) createState(as *rest.Config, name string) error {
	o.Helper()
	return cluster.TryNodeState(o, as, `"name":"`+name+`"`, "")
}

// createSpec also gives a spec, which only the controller may.
func (o ownNode) createSpec(as *rest.Config, name string) error {
	o.Helper()
	return cluster.TryNodeState(o, as, `"name":"`+name+`"`, `,"spec":{"protocol":1}`)
}

// createWith makes node-1's with more metadata.
func (o ownNode) createWith(as *rest.Config, more string) error {
	o.Helper()
	return cluster.TryNodeState(o, as, `"name":"node-1",`+more, "")
}

// owner is an ownerReference with this kind and name.
func owner(kind, name string) string {
	version := "v1"
	if kind == "DaemonSet" {
		version = "apps/v1"
	}
	return `{"apiVersion":"` + version + `","kind":"` + kind + `","name":"` + name + `","uid":"1"}`
}

// unlessThere is nil if the object exists already: policies are asked before.
func unlessThere(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// createGenerated lets the API server choose the name, with the own node's as prefix.
func (o ownNode) createGenerated(as *rest.Config) error {
	o.Helper()
	return cluster.TryNodeState(o, as, `"generateName":"node-1"`, "")
}

// patchState changes node-1's, which RBAC lets no daemon do: the test grants it.
func (o ownNode) patchState(as *rest.Config, patch string) error {
	o.Helper()
	return cluster.ClientOf(o, as).Patch(types.MergePatchType).AbsPath(states, "node-1").Param("dryRun", "All").Body([]byte(patch)).Do(o.Context()).Error()
}

func (o ownNode) applyStatus(as *rest.Config, name string) error {
	o.Helper()
	body := `{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"ENINodeState","metadata":{"name":"` + name + `"},"status":{}}`
	return cluster.ClientOf(o, as).Patch("application/apply-patch+yaml").AbsPath(states, name, "status").Param("dryRun", "All").
		Param("fieldManager", "test").Param("force", "true").Body([]byte(body)).Do(o.Context()).Error()
}

func (o ownNode) patchNode(as *rest.Config, name, patch string) error {
	o.Helper()
	return cluster.ClientOf(o, as).Patch(types.JSONPatchType).AbsPath("/api/v1/nodes", name).Param("dryRun", "All").Body([]byte(patch)).Do(o.Context()).Error()
}

func (o ownNode) makeNodes() {
	o.Helper()
	for _, name := range []string{"node-1", "node-2"} {
		if _, err := o.Admin.CoreV1().Nodes().Create(o.Context(), &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"ng": "a"}},
			Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "networking.k8s.aws/not-ready", Effect: "NoSchedule"}, {Key: "dedicated", Effect: "NoSchedule"}}},
		}, metav1.CreateOptions{}); err != nil {
			o.Fatal(err)
		}
		create := `{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"ENINodeState","metadata":{"name":"` + name + `","ownerReferences":[` +
			owner("Namespace", "old") + `],"finalizers":["x.example/old"]},"spec":{"protocol":1}}`
		if err := o.Admin.Discovery().RESTClient().Post().AbsPath(states).SetHeader("Content-Type",
			"application/json").Body([]byte(create)).Do(o.Context()).Error(); err != nil {
			o.Fatal(err)
		}
	}
}

// makePods makes pods of daemon, device plugin and others, and returns the client of the daemon on node-1.
func (o ownNode) makePods() (here *rest.Config) {
	o.Helper()
	daemon := func(p *corev1.Pod) { p.Labels = map[string]string{"app.kubernetes.io/name": "multi-enid"} }
	here = o.InPod(o, o.pod("multi-enid-1", "node-1", daemon))
	o.pod("multi-enid-2", "node-2", daemon)
	o.pod("multi-enid-3", "node-1", daemon)
	o.pod("multi-enid-1", "node-1", func(p *corev1.Pod) {
		daemon(p)
		p.Namespace, p.Spec.ServiceAccountName = "default", ""
	})
	o.pod("own", "node-1", nil)
	o.pod("other-label", "node-1", func(p *corev1.Pod) { p.Labels = map[string]string{"name": "sriov-device-plugin"} })
	o.pod("others", "node-2", nil)
	o.pod("bare", "node-1", func(p *corev1.Pod) { p.OwnerReferences = nil })
	o.pod("replicas", "node-1", func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "ReplicaSet" })
	o.pod("no-labels", "node-1", func(p *corev1.Pod) { p.Labels = nil })
	o.pod("dns", "node-1", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "dns"} })
	o.pod("unscheduled", "", nil)
	in := func(namespace string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Namespace, p.Spec.ServiceAccountName = namespace, "" }
	}
	o.EnsureNamespace(o, "kube-public")
	o.pod("own", "node-1", in("kube-public"))
	return here
}

// TestOwnNode: a daemon's token restarts its node's device plugin and writes its ENINodeState, and nothing else.
func TestOwnNode(t *testing.T) {
	o := ownNode{t, cluster.Start(t)}
	o.ExpectDenials("the policy is tried")
	o.ApplyOwnNode(t, "deploy/components/startup-taint/rbac.yaml", "test/kube/apiserver/testdata/patch-states.yaml")
	o.makeNodes()
	here, nowhere := o.makePods(), o.InNoPod(t)
	cluster.Eventually(t, "the policy in force", settleTimeout, func() error {
		if o.deletePod(nowhere, "own") == nil {
			return errors.New("nothing is denied")
		}
		return nil
	})
	o.judge(o.ownerAttempts(here))
	o.doctorSees()
	o.judge(map[string]attempt{
		"own device plugin":         {o.deletePod(here, "own"), ""},
		"own, by its other label":   {o.deletePod(here, "other-label"), ""},
		"own pod":                   {o.deletePod(here, "multi-enid-1"), ""},
		"own pod, no node":          {o.deletePod(nowhere, "multi-enid-1"), "the token names no node"},
		"the daemon elsewhere":      {o.deletePod(here, "multi-enid-2"), "of its own node only"},
		"another daemon's pod here": {o.deletePod(here, "multi-enid-3"), "of the SR-IOV device plugin"},
		"its name, other namespace": {o.deletePod(here, "default/multi-enid-1"), "of the SR-IOV device plugin"},
		"device plugin elsewhere":   {o.deletePod(here, "others"), "of its own node only"},
		"pod on no node":            {o.deletePod(here, "unscheduled"), "of its own node only"},
		"bare pod":                  {o.deletePod(here, "bare"), "a DaemonSet makes anew"},
		"pod of a ReplicaSet":       {o.deletePod(here, "replicas"), "a DaemonSet makes anew"},
		"pod without labels":        {o.deletePod(here, "no-labels"), "of the SR-IOV device plugin"},
		"another DaemonSet's pod":   {o.deletePod(here, "dns"), "of the SR-IOV device plugin"},
		"own state":                 {o.applyStatus(here, "node-1"), ""},
		"state of another node":     {o.applyStatus(here, "node-2"), "of its own node only"},
		"own new state":             {unlessThere(o.createState(here, "node-1")), ""},
		"own new state with a spec": {o.createSpec(here, "node-1"), "and multi-enid-controller its spec"},
		"new state of another node": {o.createState(here, "node-3"), "of its own node only"},
		"new state, name generated": {o.createGenerated(here), "of its own node only"},
		"state, unbound token":      {o.applyStatus(nowhere, "node-1"), "the token names no node"},
		"new state, unbound token":  {o.createState(nowhere, "node-3"), "the token names no node"},
		"device plugin, no node":    {o.deletePod(nowhere, "own"), "the token names no node"},
		"startup taint":             {o.patchNode(here, "node-1", `[{"op":"remove","path":"/spec/taints/0"}]`), ""},
		"startup taint elsewhere":   {o.patchNode(here, "node-2", `[{"op":"remove","path":"/spec/taints/0"}]`), "its own Node only"},
		"startup taint, no node":    {o.patchNode(nowhere, "node-1", `[{"op":"remove","path":"/spec/taints/0"}]`), "the token names no node"},
		"another taint":             {o.patchNode(here, "node-1", `[{"op":"remove","path":"/spec/taints/1"}]`), "only take away the taint"},
		"all taints":                {o.patchNode(here, "node-1", `[{"op":"remove","path":"/spec/taints"}]`), "only take away the taint"},
		"a new taint": {o.patchNode(here, "node-1", `[{"op":"add","path":"/spec/taints/-","value":{"key":"k","effect":"NoExecute"}}]`),
			"only take away the taint"},
		"a label":       {o.patchNode(here, "node-1", `[{"op":"add","path":"/metadata/labels/x","value":"y"}]`), "only take away the taint"},
		"an annotation": {o.patchNode(here, "node-1", `[{"op":"add","path":"/metadata/annotations","value":{"x":"y"}}]`), "only take away the taint"},
		"cordon":        {o.patchNode(here, "node-1", `[{"op":"add","path":"/spec/unschedulable","value":true}]`), "only take away the taint"},
		"a finalizer": {o.patchNode(here, "node-1", `[{"op":"add","path":"/metadata/finalizers","value":["x.example/y"]}]`),
			"only take away the taint"},
		"somebody else, a label":     {o.patchNode(o.Administrator(), "node-2", `[{"op":"add","path":"/metadata/labels/x","value":"y"}]`), ""},
		"somebody else, a bare pod":  {o.deletePod(o.Administrator(), "bare"), ""},
		"somebody else, other state": {o.applyStatus(o.Administrator(), "node-2"), ""},
		"one of no such namespace":   {o.deletePod(here, "kube-public/own"), "in the namespaces of --dp-namespaces"},
	})
}

// doctorSees: a daemon whose token admission refuses has every right by RBAC, and doctor says that it cannot report.
func (o ownNode) doctorSees() {
	o.Helper()
	bin, err := nstest.Binary("multi-enid")
	cluster.Must(o, err)
	for node, state := range map[string]string{"node-1": "is there", "node-3": "would be made"} {
		cmd := exec.CommandContext(o.Context(), bin, "doctor", "--node-name="+node, "--nodeeni-source=kube", "--kubeconfig="+o.WriteKubeconfig(o), "--dp-namespaces=")
		cmd.Env = []string{"AWS_EC2_METADATA_DISABLED=true"}
		report, err := cmd.Output()
		if err == nil {
			o.Error("doctor found no fault")
		}
		wantLines(o.T, string(report), "ok    RBAC eninodestates.networking.k8s.aws/status: patch allowed\n", "FAIL  ENINodeState: this node cannot report, ")
		if !strings.Contains(string(report), "the token names no node") {
			o.Errorf("the ENINodeState %s: doctor does not say why:\n%s", state, report)
		}
	}
}

// ownerAttempts try to keep node-1's ENINodeState from ending with its Node.
func (o ownNode) ownerAttempts(here *rest.Config) map[string]attempt {
	o.Helper()
	return map[string]attempt{
		"own new state of its Node":           {unlessThere(o.createWith(here, `"ownerReferences":[`+owner("Node", "node-1")+`]`)), ""},
		"own new state of a Node that is not": {o.createWith(here, `"ownerReferences":[`+owner("Node", "node-2")+`]`), "its own Node only"},
		"own new state of another kind":       {o.createWith(here, `"ownerReferences":[`+owner("Namespace", "node-1")+`]`), "its own Node only"},
		"own new state of a DaemonSet":        {o.createWith(here, `"ownerReferences":[`+owner("DaemonSet", "node-1")+`]`), "its own Node only"},
		"own new state of two": {o.createWith(here, `"ownerReferences":[`+owner("Node", "node-1")+`,`+owner("Node", "node-2")+`]`),
			"its own Node only"},
		"own new state, finalizer": {o.createWith(here, `"finalizers":["x.example/y"]`), "no finalizer"},
		"own state, as it is":      {o.patchState(here, `{"metadata":{"ownerReferences":[`+owner("Namespace", "old")+`],"finalizers":["x.example/old"]}}`), ""},
		"own state, to its Node":   {o.patchState(here, `{"metadata":{"ownerReferences":[`+owner("Node", "node-1")+`]}}`), ""},
		"own state, to another":    {o.patchState(here, `{"metadata":{"ownerReferences":[`+owner("Node", "node-2")+`]}}`), "its own Node only"},
		"own state, a finalizer":   {o.patchState(here, `{"metadata":{"finalizers":["x.example/old","x.example/y"]}}`), "no finalizer"},
		"somebody else, finalizer": {o.patchState(o.Administrator(), `{"metadata":{"finalizers":["x.example/y"]}}`), ""},
	}
}

type attempt struct {
	err    error
	denied string // "" when it is allowed
}

func (o ownNode) judge(attempts map[string]attempt) {
	o.Helper()
	for name, tt := range attempts {
		if tt.denied == "" {
			if tt.err != nil {
				o.Errorf("%s: %v, want it allowed", name, tt.err)
			}
			continue
		}
		if !apierrors.IsForbidden(tt.err) || !strings.Contains(tt.err.Error(), tt.denied) {
			o.Errorf("%s: %v, want it forbidden: %s", name, tt.err, tt.denied)
		}
	}
}
