package doctor

import (
	"errors"
	"testing"
)

// TestClusterFaults: a missing right costs as much as the daemon does with it.
func TestClusterFaults(t *testing.T) {
	find(t, map[string]fault{
		"no client": {func(w *world) { w.o.ClusterErr = errors.New("no Kubernetes client") }, Fail, "Kubernetes API", []string{"--kubeconfig"}},
		"API gone": {func(w *world) { w.server.fails = map[string]error{"version": errors.New("connection refused")} }, Fail, "Kubernetes API",
			[]string{"connection refused", "not looked at"}},
		"one CRD": {func(w *world) { w.server.resources = []string{"nodeenis"} }, Fail, "CRDs", []string{"eninodestates.networking.k8s.aws", "deploy/crd"}},
		"startup taint": {func(w *world) { w.o.StartupTaint, w.server.denied = true, []string{"patch nodes"} },
			Fail, "RBAC nodes", []string{"patch denied", "deploy/components/startup-taint/rbac.yaml"}},
		"denied": {func(w *world) { w.server.denied = []string{"watch nodeenis"} }, Fail, "RBAC nodeenis.networking.k8s.aws",
			[]string{"watch denied", "deploy/rbac.yaml"}},
		"denied events": {func(w *world) { w.server.denied = []string{"create events"} }, Warn, "RBAC events", []string{"create denied"}},
		"denied pods": {func(w *world) { w.server.denied = []string{"delete pods default"} }, Warn, "RBAC pods",
			[]string{"denied in default (delete)", "--dp-namespaces", "components/namespaced-pods"}},
		"no Node": {func(w *world) { w.server.node = false }, Fail, "Node object", []string{"node-a", "spec.nodeName"}},
		"admission": {func(w *world) { w.server.fails = map[string]error{"report": errors.New("the token names no node")} }, Fail, "ENINodeState",
			[]string{"the token names no node", "would detach ENIs that pods have", "own-node.yaml"}},
		"another mode": {func(w *world) { w.server.listed = 2 }, Warn, "ENINodeState", []string{"2 ENIs", "--attachments-from=controller"}},
		"no right to report": {func(w *world) { w.server.denied = []string{"create eninodestates"} }, Fail,
			"RBAC eninodestates.networking.k8s.aws", []string{"create denied: the cluster cannot see this node's devices", "deploy/rbac.yaml"}},
	})
}

// TestClusterUnknown: a question that the server does not answer is a finding of its own, and keeps no other from being asked.
func TestClusterUnknown(t *testing.T) {
	fails := func(question string) func(w *world) {
		return func(w *world) {
			w.server.fails = map[string]error{question: errors.New("etcdserver: request timed out")}
		}
	}
	find(t, map[string]fault{
		"CRDs": {fails("resources"), Fail, "CRDs", []string{"they cannot be looked for: etcdserver: request timed out",
			"whether the API server is healthy"}},
		"a right":            {fails("list nodeenis"), Fail, "RBAC nodeenis.networking.k8s.aws", []string{"it cannot be asked: etcdserver: request timed out"}},
		"a right to Events":  {fails("patch events"), Fail, "RBAC events", []string{"it cannot be asked"}},
		"a right to pods":    {fails("delete pods default"), Fail, "RBAC pods", []string{"it cannot be asked: etcdserver: request timed out"}},
		"the Node":           {fails("node"), Fail, "Node object", []string{"node-a cannot be read: etcdserver: request timed out", "RBAC findings above"}},
		"what is not needed": {func(w *world) { fails("patch nodes")(w); w.o.NodeName = "" }, Fail, "node name", []string{"none is given"}},
	})
}

// TestPods: namespaces with and without rights are told apart, and a server that is gone leaves the rights unasked.
func TestPods(t *testing.T) {
	w := newWorld(t)
	w.server.denied = []string{"list pods default", "delete pods default"}
	w.says(pods, "ok RBAC pods: list, delete allowed in kube-system",
		"warn RBAC pods: denied in default (list, delete): a device plugin there would serve its old config until people restart it; if there is one, apply "+
			"deploy/rbac.yaml")
	w.o.Namespaces = []string{"default"}
	w.says(pods, "warn RBAC pods: denied in default (list, delete)")
	w.o.Namespaces = nil
	w.says(pods)

	w.server.fails = map[string]error{"version": errors.New("x509: certificate has expired")}
	w.says(cluster, "FAIL Kubernetes API: x509: certificate has expired; see the server's address in the kubeconfig or KUBERNETES_SERVICE_HOST")
	w.o.Cluster = nil
	w.says(cluster, "ok Kubernetes API: not asked, nor RBAC and CRDs, since NodeENIs come from kube")
}

// TestStartupTaintRight is asked for only where the daemon removes the taint.
func TestStartupTaintRight(t *testing.T) {
	w := newWorld(t)
	w.server.denied = []string{"patch nodes"}
	without := len(access(t.Context(), w.o))
	w.o.StartupTaint = true
	all := access(t.Context(), w.o)
	if len(all) != without+1 || Failed(all) != 1 {
		t.Errorf("%d findings without the flag, then %v", without, all)
	}
}
