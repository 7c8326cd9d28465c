package replicas

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// asController applies the controller's account, rights and policy, and returns a client of that account.
func asController(t *testing.T, c *cluster.Cluster) *kubernetes.Clientset {
	t.Helper()
	repo, err := nstest.Repo()
	cluster.Must(t, err)
	for _, file := range []string{"rbac.yaml", "admission.yaml"} {
		for _, o := range c.ApplyFile(t, filepath.Join(repo, "deploy/components/controller", file)) {
			t.Cleanup(func() { c.Delete(t, o) })
		}
	}
	answer, err := c.Admin.CoreV1().ServiceAccounts("kube-system").CreateToken(t.Context(), "multi-enid-controller", &authenticationv1.TokenRequest{},
		metav1.CreateOptions{})
	cluster.Must(t, err)
	config := rest.AnonymousClientConfig(c.Administrator())
	config.BearerToken = answer.Status.Token
	client, err := kubernetes.NewForConfig(config)
	cluster.Must(t, err)
	return client
}

// controllerRights are all rights of the controller's account; "named" follows a resource of which it may use one object only.
func controllerRights() map[string][]string {
	const lease = "coordination.k8s.io/leases in kube-system"
	return map[string][]string{
		"networking.k8s.aws/nodeenis": {"list", "watch", "patch"}, "networking.k8s.aws/nodeenis/status": {"patch"},
		"networking.k8s.aws/eninodestates": {"get", "list", "watch", "create", "patch", "delete"}, "networking.k8s.aws/eninodestates/status": nil,
		"/nodes": {"list", "watch"}, "/events": {"create", "patch"}, "/namespaces": nil, "/namespaces named kube-system": {"get"},
		lease: {"create"}, lease + " named nodeeni-controller-leader-election": {"create", "get", "list", "update"},
		"coordination.k8s.io/leases": nil, "coordination.k8s.io/leases named nodeeni-controller-leader-election": {"list"},
		"coordination.k8s.io/leases in default": nil, "/nodes/status": nil, "/pods in kube-system": nil, "/secrets in kube-system": nil,
		"/configmaps in kube-system": nil, "/serviceaccounts/token in kube-system": nil, "apps/deployments in kube-system": nil,
	}
}

// TestControllerRights: the API server allows the controller's account exactly the listed verbs.
func TestControllerRights(t *testing.T) {
	client := asController(t, cluster.Start(t))
	for right, allowed := range controllerRights() {
		for _, verb := range []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"} {
			if got, want := cluster.Allowed(t, client, right, verb), slices.Contains(allowed, verb); got != want {
				t.Errorf("%s %s: allowed %v, want %v", verb, right, got, want)
			}
		}
	}
}

// TestControllerWrites: the controller's requests are allowed, and it cannot change the spec of a NodeENI.
func TestControllerWrites(t *testing.T) {
	c := cluster.Start(t)
	c.ExpectDenials("the policy is tried")
	api := asController(t, c).Discovery().RESTClient()
	admin := c.Admin.Discovery().RESTClient()
	for path, body := range map[string]string{
		nodeENIs: `{"kind":"NodeENI","metadata":{"name":"a"},"spec":{"nodeSelector":{"ng":"x"},"subnetID":"subnet-0a1b2c3d"}}`,
		states:   `{"kind":"ENINodeState","metadata":{"name":"node-1"}}`,
	} {
		body = strings.Replace(body, "{", `{"apiVersion":"networking.k8s.aws/v1alpha1",`, 1)
		cluster.Must(t, admin.Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(t.Context()).Error())
	}
	t.Cleanup(func() {
		_ = admin.Delete().AbsPath(nodeENIs, "a").Do(t.Context()).Error() // may be gone with the CRD
	})
	patch := func(body string, path ...string) error {
		return api.Patch(types.MergePatchType).AbsPath(append([]string{group}, path...)...).Param("dryRun", "All").Body([]byte(body)).Do(t.Context()).Error()
	}
	cluster.Eventually(t, "the policy in force", soon, func() error {
		if patch(`{"spec":{"mtu":9000}}`, "nodeenis", "a") == nil {
			return errors.New("nothing is denied")
		}
		return nil
	})
	leases, err := api.Get().AbsPath("/apis/coordination.k8s.io/v1/leases").Param("fieldSelector", "metadata.name=nodeeni-controller-leader-election").
		Do(t.Context()).Raw()
	if err != nil || !strings.Contains(string(leases), "LeaseList") {
		t.Errorf("list the Leases of one name: %v", err)
	}
	for name, tt := range map[string]struct {
		err    error
		denied bool
	}{
		"finalizer":   {patch(`{"metadata":{"finalizers":["nodeeni.networking.k8s.aws/finalizer"]}}`, "nodeenis", "a"), false},
		"annotation":  {patch(`{"metadata":{"annotations":{"aws-multi-eni-controller/cleanup-start-time":"2026-01-02T03:04:05Z"}}}`, "nodeenis", "a"), false},
		"status":      {patch(`{"status":{"attachments":[{"nodeID":"node-1"}]}}`, "nodeenis", "a", "status"), false},
		"spec":        {patch(`{"spec":{"mtu":9000}}`, "nodeenis", "a"), true},
		"label":       {patch(`{"metadata":{"labels":{"a":"b"}}}`, "nodeenis", "a"), true},
		"state":       {patch(`{"spec":{"protocol":1,"attachments":[]}}`, "eninodestates", "node-1"), false},
		"its report":  {patch(`{"status":{"protocol":1}}`, "eninodestates", "node-1", "status"), true},
		"another one": {patch(`{"metadata":{"uid":"x","resourceVersion":"1"},"spec":{"protocol":1}}`, "eninodestates", "node-1"), false},
	} {
		switch {
		case name == "another one":
			if !apierrors.IsConflict(tt.err) {
				t.Errorf("%s: %v, want a conflict", name, tt.err)
			}
		case tt.denied != apierrors.IsForbidden(tt.err), !tt.denied && tt.err != nil:
			t.Errorf("%s: %v, want it denied %v", name, tt.err, tt.denied)
		}
	}
}
