package apiserver

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

func TestNodeOfAnotherInstance(t *testing.T) {
	c := cluster.Start(t)
	n := c.NewNode(t, "node-1", nil)
	patch := []byte(`{"spec":{"providerID":"aws:///us-east-1a/i-0ffffffffffffffff"}}`)
	if _, err := c.Admin.CoreV1().Nodes().Patch(t.Context(), "node-1", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	d := n.StartDaemon(t, "--restart=none", "--podresources-socket=")
	cluster.Eventually(t, "end of the daemon", 30*time.Second, func() error {
		if d.Runs() {
			return errors.New("it runs")
		}
		return nil
	})
	for _, path := range []string{n.ConfigPath(), filepath.Join(n.Dir, "state", "checkpoint.json")} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was written (%v)", path, err)
		}
	}
}
