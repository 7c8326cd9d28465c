package apiserver

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func putState(t *testing.T, c *cluster.Cluster, node string, status v1alpha1.ENINodeStateStatus) {
	t.Helper()
	admin := c.Admin.Discovery().RESTClient()
	body, err := json.Marshal(v1alpha1.ENINodeState{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.NodeStateKind},
		ObjectMeta: metav1.ObjectMeta{Name: node}, Status: status})
	cluster.Must(t, err)
	if a := send(t, admin.Post().AbsPath(states), string(body)); a.Code != 201 {
		t.Fatalf("create: %d %s", a.Code, a.Message)
	}
	apply := admin.Patch("application/apply-patch+yaml").AbsPath(states, node, "status").Param("fieldManager", "multi-enid").Param("force", "true")
	cluster.Must(t, apply.Body(body).Do(t.Context()).Error())
}

// TestKubectlPlugin: the output outside the nodes with the daemon's rights, and with parts missing.
func TestKubectlPlugin(t *testing.T) {
	bin, err := nstest.Binary("kubectl-multi_eni")
	cluster.Must(t, err)
	c := cluster.Start(t)
	putState(t, c, "node-1", fullState())
	config := c.WriteKubeconfig(t)
	plugin := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), bin, args...)
		cmd.Env = []string{"KUBECONFIG=" + config, "HOME=" + t.TempDir()}
		out, err := cmd.CombinedOutput()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(out)
	}
	want := func(words string, args ...string) {
		t.Helper()
		if out := plugin(args...); !strings.Contains(strings.Join(strings.Fields(out), " "), words) {
			t.Errorf("kubectl multi-eni %s lacks %q:\n%s", strings.Join(args, " "), words, out)
		}
	}
	want("node-1 1/2 1 1 Offered InvalidMTU", "status")
	want("eni-0a1b2c3d a 0000:00:07.0 eth1 10.0.2.15/24 intel.com/fast ready", "status", "--node=node-1")
	want(`kind: ENINodeStateList`, "status", "-o", "yaml")
	want(`node "node-2" has no ENINodeState; did you mean node-1?`, "status", "--node=node-2")
	want("default/app node-1 eni-0a1b2c3d a 0000:00:07.0 ready", "who", "app")
	want("default/app node-1", "who", "app", "--namespace=default")
	want("did you mean default/app?", "who", "app", "-n", "other")
	want("default/app node-1", "who", "eni-0a1b2c3d")
	want("not installed in this cluster: no pod has the label app.kubernetes.io/name=multi-enid", "doctor", "--node=node-1")
	want("no cluster: ", "status", "--context=elsewhere")
	want("no cluster: ", "status", "--kubeconfig="+filepath.Join(t.TempDir(), "none"))

	c.DeleteCRD(t, "eninodestates")
	want("multi-eni-cni is not installed in this cluster: it has no eninodestates", "status")
	c.InstallCRDs(t)
	c.RevokePermissions(t, "the plugin says which right is missing")
	cluster.Eventually(t, "permissions revoked", 30*time.Second, func() error {
		if out := plugin("status"); !strings.Contains(out, "not allowed: you may not list eninodestates.networking.k8s.aws") {
			return errors.New(out)
		}
		return nil
	})
	c.Proxy.Set(t, cluster.Refuse)
	want("no cluster: ", "status")
}
