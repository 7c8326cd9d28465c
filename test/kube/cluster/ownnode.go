package cluster

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// policyTimeout bounds the time until the API server acts on a policy's deletion.
const policyTimeout = 30 * time.Second

// ApplyOwnNode applies deploy/admission/own-node.yaml and more manifests, by their paths in the repository, until the test's end. The caller waits until
// they are in force. At the end they are out of force again, so that the next test's daemon, in no pod, can report.
func (c *Cluster) ApplyOwnNode(t testing.TB, more ...string) {
	t.Helper()
	t.Cleanup(func() { // after the deletion
		over := lasting{t}
		Eventually(over, "the policy out of force", policyTimeout, func() error { return TryNodeState(over, c.InNoPod(t), `"name":"node-3"`, "") })
	})
	for _, file := range append([]string{"deploy/admission/own-node.yaml"}, more...) {
		for _, object := range c.ApplyFile(t, filepath.Join(repo(t), file)) {
			t.Cleanup(func() { c.Delete(t, object) })
		}
	}
}

// lasting is a test whose context does not end before its cleanup.
type lasting struct{ testing.TB }

func (lasting) Context() context.Context { return context.Background() }

// TryNodeState makes an ENINodeState as an account, in a dry run. metadata are its fields in JSON; more, after a comma, are further ones of the object.
func TryNodeState(t testing.TB, as *rest.Config, metadata, more string) error {
	t.Helper()
	body := `{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"ENINodeState","metadata":{` + metadata + `}` + more + `}`
	return ClientOf(t, as).Post().AbsPath("/apis/networking.k8s.aws/v1alpha1/eninodestates").Param("dryRun", "All").
		SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(t.Context()).Error()
}

// ClientOf returns an account's client for requests by path.
func ClientOf(t testing.TB, as *rest.Config) rest.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(as)
	Must(t, err)
	return client.Discovery().RESTClient()
}
