package cluster

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/test/kube/plane"
)

var shared struct {
	sync.Once
	plane  *plane.Plane
	remove func()
	err    error
}

func stopShared() {
	if shared.plane != nil {
		shared.plane.Stop()
	}
	if shared.remove != nil {
		shared.remove()
	}
}

// Cluster is one test's view of the API: everything that Start did not find there is deleted when the test
// ends. Tests that use it must not run in parallel. Methods that take a test end it on failure.
type Cluster struct {
	// Admin has all rights, and does not go through Proxy.
	Admin kubernetes.Interface
	// Dynamic is Admin for kinds of any group.
	Dynamic dynamic.Interface
	// Proxy is between the daemon and the API server.
	Proxy *Proxy

	plane   *plane.Plane
	account account
	token   string // path of the daemon's token

	mu          sync.Mutex
	auditFrom   int64
	denialsFine string // the reason why a denied request is no failure
	starts      []span // of the API server
}

// span is a period; a zero end is open.
type span struct{ from, to time.Time }

// Start returns the cluster with deploy/ applied and nothing else in it. The first call of a test binary
// starts the control plane. At the test's end a request of the daemon that got 403 fails it.
func Start(t testing.TB) *Cluster {
	t.Helper()
	Available(t)
	if os.Getenv(insideEnv) == "" {
		t.Fatal("this package has no TestMain that calls cluster.Main")
	}
	shared.Do(func() {
		var dir string
		if dir, shared.remove, shared.err = WorkFolder(os.Getenv(partEnv)); shared.err == nil {
			shared.plane, shared.err = start(context.Background(), dir) // outlives the test
		}
	})
	if shared.err != nil {
		t.Fatalf("start the control plane: %v", shared.err)
	}
	c := &Cluster{plane: shared.plane}
	c.connect(t)
	c.applyDeploy(t)
	c.auditFrom = c.auditEnd(t)
	c.Proxy = startProxy(t, plane.Address)
	c.RotateToken(t)
	t.Cleanup(func() { c.end(t) })
	return c
}

// Unavailable skips a test that cannot run here, with the reason. With CI=true it fails the test.
func Unavailable(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

func (c *Cluster) connect(t testing.TB) {
	t.Helper()
	var err error
	admin := c.plane.Admin()
	admin.WarningHandler = rest.NoWarnings{} // who wants to see warnings asks for them
	if c.Admin, err = kubernetes.NewForConfig(admin); err != nil {
		t.Fatal(err)
	}
	if c.Dynamic, err = dynamic.NewForConfig(admin); err != nil {
		t.Fatal(err)
	}
}

func (c *Cluster) end(t testing.TB) {
	if !c.plane.APIServerRuns() {
		if err := c.plane.StartAPIServer(context.Background()); err != nil { // the test's own context is over
			t.Fatal(err)
		}
	}
	c.mu.Lock()
	fine := c.denialsFine
	c.mu.Unlock()
	if denied := c.Denied(t); len(denied) > 0 && fine == "" {
		t.Errorf("requests of the daemon that its permissions in deploy/ do not cover:\n%s", Lines(denied))
	}
	c.empty(t)
}

// Lines formats requests for a message, one a line.
func Lines(requests []plane.Request) string {
	var b strings.Builder
	for _, r := range requests {
		fmt.Fprintf(&b, "\t%v\n", r)
	}
	return b.String()
}

const cleanTimeout = time.Minute

func (c *Cluster) empty(t testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout) // the test's own is over
	defer cancel()
	for _, kind := range []string{"nodeenis", "eninodestates"} {
		c.deleteAll(ctx, kind)
	}
	now := int64(0)
	gone := metav1.DeleteOptions{GracePeriodSeconds: &now}
	namespaces, err := c.Admin.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Errorf("empty the cluster: %v", err)
		return
	}
	for _, ns := range namespaces.Items {
		if err := c.Admin.CoreV1().Pods(ns.Name).DeleteCollection(ctx, gone, metav1.ListOptions{}); err != nil {
			t.Errorf("empty the cluster of pods: %v", err)
		}
	}
	if err := c.Admin.CoreV1().Nodes().DeleteCollection(ctx, gone, metav1.ListOptions{}); err != nil {
		t.Errorf("empty the cluster of nodes: %v", err)
	}
}

// Requests returns a user's requests since the test began, in the order of the answers.
func (c *Cluster) Requests(t testing.TB, user string) []plane.Request {
	t.Helper()
	all, _, err := c.plane.ReadAudit(c.auditFrom)
	Must(t, err)
	var out []plane.Request
	for _, r := range all {
		if r.User == user {
			out = append(out, r)
		}
	}
	return out
}

// DaemonRequests returns the daemon's requests since the test began, in the order of the answers.
func (c *Cluster) DaemonRequests(t testing.TB) []plane.Request {
	t.Helper()
	return c.Requests(t, c.account.user())
}

// Denied returns the daemon's requests that got 403. It omits denials by an API server that was not ready:
// it denies everything until it has read the roles.
func (c *Cluster) Denied(t testing.TB) []plane.Request {
	t.Helper()
	var out []plane.Request
	for _, r := range c.DaemonRequests(t) {
		if r.Code == http.StatusForbidden && !c.whileStarting(r.At) {
			out = append(out, r)
		}
	}
	return out
}

func (c *Cluster) whileStarting(at time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.starts, func(s span) bool { return at.After(s.from) && at.Before(s.to) })
}

// ExpectDenials says why this test revokes permissions, so that denied requests do not fail it.
func (c *Cluster) ExpectDenials(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.denialsFine = why
}

func (c *Cluster) auditEnd(t testing.TB) int64 {
	t.Helper()
	_, end, err := c.plane.ReadAudit(0)
	Must(t, err)
	return end
}

// StopAPIServer ends the API server until StartAPIServer or the test's end. Admin does not work in between.
func (c *Cluster) StopAPIServer(t testing.TB) {
	t.Helper()
	Must(t, c.plane.StopAPIServer())
}

// KillAPIServer ends the API server as a crash does; StartAPIServer brings it back.
func (c *Cluster) KillAPIServer(t testing.TB) {
	t.Helper()
	c.plane.KillAPIServer()
}

// StartAPIServer runs the API server again, with the same address and data.
func (c *Cluster) StartAPIServer(t testing.TB) {
	t.Helper()
	from := time.Now()
	Must(t, c.plane.StartAPIServer(t.Context()))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.starts = append(c.starts, span{from, time.Now()})
}

// Expire invalidates every earlier resourceVersion: it stops the API server, compacts etcd and starts it
// again. A client that returns with an old version, because Proxy cut it off for instance, gets 410.
func (c *Cluster) Expire(t testing.TB) {
	t.Helper()
	Must(t, c.plane.StopAPIServer())
	Must(t, c.plane.Compact(t.Context()))
	c.StartAPIServer(t)
}
