package apiserver

import (
	"slices"
	"testing"

	"k8s.io/client-go/kubernetes"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

// rights are all rights of the daemon's ServiceAccount: on resources without a namespace, and in each namespace.
func rights() map[string][]string {
	return map[string][]string{
		"networking.k8s.aws/nodeenis": {"get", "list", "watch"}, "networking.k8s.aws/eninodestates": {"get", "list", "watch", "create"},
		"networking.k8s.aws/eninodestates/status": {"patch"},
		"/nodes": {"get", "list", "watch"}, "/events": {"create", "patch"},
		// own-node.yaml denies all of these but the device plugin's: see TestOwnNode.
		"/pods": {"list", "delete"}, "/pods in kube-public": {"list", "delete"},
	}
}

func forbidden() []string {
	return []string{
		"networking.k8s.aws/nodeenis/status", "/nodes/status", "/nodes/proxy", "/pods/exec in kube-system", "/pods/eviction in kube-system",
		"/pods/log in kube-system",
		"/secrets in kube-system", "/configmaps in kube-system", "/serviceaccounts in kube-system", "/serviceaccounts/token in kube-system",
		"apps/daemonsets in kube-system",
		"rbac.authorization.k8s.io/clusterroles", "rbac.authorization.k8s.io/rolebindings in kube-system", "admissionregistration.k8s.io/validatingadmissionpolicies",
		"apiextensions.k8s.io/customresourcedefinitions", "k8s.cni.cncf.io/network-attachment-definitions in default", "coordination.k8s.io/leases in kube-system",
		"/namespaces",
	}
}

// TestRights: the API server allows the daemon's account exactly the listed verbs, and other tests need them all.
func TestRights(t *testing.T) {
	c := cluster.Start(t)
	client, err := kubernetes.NewForConfig(c.InNoPod(t))
	cluster.Must(t, err)
	asked := rights()
	for _, what := range forbidden() {
		asked[what] = nil
	}
	verbs := []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "impersonate", "bind", "escalate"}
	for what, allowed := range asked {
		for _, verb := range verbs {
			if got, want := cluster.Allowed(t, client, what, verb), slices.Contains(allowed, verb); got != want {
				t.Errorf("%s %s: allowed %v, want %v", verb, what, got, want)
			}
		}
	}
}
