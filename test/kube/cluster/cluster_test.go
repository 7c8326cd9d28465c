package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }

func client(t *testing.T, c *cluster.Cluster) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.WriteKubeconfig(t))
	cluster.Must(t, err)
	config.Timeout = 5 * time.Second // of any request, watches too
	client, err := kubernetes.NewForConfig(config)
	cluster.Must(t, err)
	return client
}

func TestAccountAndAudit(t *testing.T) {
	c := cluster.Start(t)
	daemon := client(t, c)
	if _, err := daemon.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatalf("list nodes as the daemon: %v", err)
	}
	if got := c.Denied(t); len(got) != 0 {
		t.Errorf("denied: %v", got)
	}
	if _, err := daemon.CoreV1().Secrets("default").Get(t.Context(), "s", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("get a secret as the daemon: %v, want Forbidden", err)
	}
	c.ExpectDenials("a secret was asked for")
	var got []string
	for _, r := range c.DaemonRequests(t) {
		got = append(got, fmt.Sprint(r.Verb, " ", r.Resource, " ", r.Name, " ", r.Code, " ", r.Stage))
	}
	want := "list nodes  200 ResponseComplete|get secrets s 403 ResponseComplete"
	if strings.Join(got, "|") != want {
		t.Errorf("audit log has %q, want %q", got, want)
	}
	if denied := c.Denied(t); len(denied) != 1 || denied[0].Resource != "secrets" {
		t.Errorf("denied: %v", denied)
	}
}

func TestNothingIsLeftForTheNextTest(t *testing.T) {
	for range 2 {
		t.Run("round", func(t *testing.T) {
			c := cluster.Start(t)
			n := c.NewNode(t, "node-1", nil)
			e := n.Attach(t, 1)
			c.CreateNodeENI(t, v1alpha1.NodeENI{
				ObjectMeta: metav1.ObjectMeta{Name: "a", Finalizers: []string{"test.invalid/keep"}},
				Status:     v1alpha1.NodeENIStatus{Attachments: []v1alpha1.ENIAttachment{n.Attachment(e)}},
			})
			o, err := c.NodeENIs().Get(t.Context(), "a", metav1.GetOptions{})
			if err != nil || !strings.Contains(fmt.Sprint(o.Object["status"]), e.ID) {
				t.Errorf("status.attachments: %v, %v", o, err)
			}
		})
	}
}

func TestProxyFaults(t *testing.T) {
	c := cluster.Start(t)
	daemon := client(t, c)
	ask := func() error {
		_, err := daemon.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		return err
	}
	for _, tt := range []struct {
		name  string
		fault cluster.Fault
		check func(took time.Duration, err error) error
	}{
		{"pass", cluster.Pass, func(_ time.Duration, err error) error { return err }},
		{"refuse", cluster.Refuse, failure("connection refused")},
		{"pass after refuse", cluster.Pass, func(_ time.Duration, err error) error { return err }},
		{"blackhole", cluster.Blackhole, failure("exceeded")},
		{"slow", cluster.Slow, func(took time.Duration, err error) error {
			if err == nil && took < cluster.SlowBy {
				err = fmt.Errorf("took %v only", took)
			}
			return err
		}},
		{"pass after slow", cluster.Pass, func(_ time.Duration, err error) error { return err }},
	} {
		c.Proxy.Set(t, tt.fault)
		before, started := c.Proxy.Received(), time.Now()
		err := ask()
		if err := tt.check(time.Since(started), err); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if tt.fault == cluster.Pass && c.Proxy.Received() == before {
			t.Errorf("%s: no byte was counted", tt.name)
		}
	}
}

func failure(with string) func(time.Duration, error) error {
	return func(_ time.Duration, err error) error {
		if err == nil || !strings.Contains(err.Error(), with) {
			return fmt.Errorf("%w: not %q", err, with)
		}
		return nil
	}
}

func TestWatchEndsWhenConnectionsAreCut(t *testing.T) {
	c := cluster.Start(t)
	ended := watch(t, client(t, c))
	c.Proxy.Cut()
	started := time.Now()
	<-ended
	if took := time.Since(started); took > 20*time.Second { // without Cut it goes on for minutes
		t.Errorf("the watch went on for %v after Cut", took)
	}
}

func watch(t *testing.T, client kubernetes.Interface) <-chan struct{} {
	t.Helper()
	w, err := client.CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{})
	cluster.Must(t, err)
	t.Cleanup(w.Stop)
	out := make(chan struct{})
	go func() {
		defer close(out)
		for range w.ResultChan() {
			continue
		}
	}()
	return out
}

func TestExpireAnswersGone(t *testing.T) {
	c := cluster.Start(t)
	daemon := client(t, c)
	list, err := daemon.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	cluster.Must(t, err)
	c.NewNode(t, "node-1", nil)
	c.Expire(t)
	w, err := daemon.CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err == nil {
		defer w.Stop()
		err = apierrors.FromObject((<-w.ResultChan()).Object)
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("watch from before: %v, want 410 Gone", err)
	}
}

func TestAPIServerGoneAndBack(t *testing.T) {
	c := cluster.Start(t)
	daemon := client(t, c)
	c.NewNode(t, "node-1", nil)
	for name, end := range map[string]func(testing.TB){"stopped": c.StopAPIServer, "killed": c.KillAPIServer} {
		end(t)
		if _, err := daemon.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err == nil {
			t.Errorf("%s: it still answers", name)
		}
		c.StartAPIServer(t)
		if _, err := daemon.CoreV1().Nodes().Get(t.Context(), "node-1", metav1.GetOptions{}); err != nil {
			t.Errorf("%s and started: %v", name, err)
		}
	}
}

func TestTokens(t *testing.T) {
	c := cluster.Start(t)
	ask := func() error {
		_, err := client(t, c).CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}) // reads the token anew
		return err
	}
	cluster.Must(t, ask())
	c.InvalidateToken(t)
	cluster.Eventually(t, "401 for the old token", 30*time.Second, func() error {
		if err := ask(); !apierrors.IsUnauthorized(err) {
			return fmt.Errorf("answered %w", errors.Join(err))
		}
		return nil
	})
	c.RotateToken(t)
	if err := ask(); err != nil {
		t.Errorf("with a new token: %v", err)
	}
}

func TestPermissions(t *testing.T) {
	c := cluster.Start(t)
	daemon := client(t, c)
	c.RevokePermissions(t, "that is the test")
	ask := func(ctx context.Context) error {
		_, err := daemon.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		return err
	}
	cluster.Eventually(t, "403", 10*time.Second, func() error {
		if err := ask(t.Context()); !apierrors.IsForbidden(err) {
			return fmt.Errorf("answered %w", errors.Join(err))
		}
		return nil
	})
	c.RestorePermissions(t)
	cluster.Eventually(t, "an answer", 10*time.Second, func() error { return ask(t.Context()) })
}

func TestCRDGoneAndBack(t *testing.T) {
	c := cluster.Start(t)
	c.DeleteCRD(t, "nodeenis")
	if _, err := c.NodeENIs().List(t.Context(), metav1.ListOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("list without the CRD: %v, want 404", err)
	}
	c.InstallCRDs(t)
	c.CreateNodeENI(t, v1alpha1.NodeENI{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
}
