package outages

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

// outage is a fault: the node does not change, one log line marks its start and one its end, and work goes on.
type outage struct {
	name       string
	reason     string
	begin, end func(t *testing.T, s *scene)
	// noAPI: nothing can change in the API meanwhile.
	noAPI bool
}

func outages() []outage {
	proxy := func(f cluster.Fault) func(*testing.T, *scene) {
		return func(t *testing.T, s *scene) { s.Proxy.Set(t, f) }
	}
	start := func(t *testing.T, s *scene) { s.StartAPIServer(t) }
	return []outage{
		{name: "connections refused", reason: "Unreachable", begin: proxy(cluster.Refuse), end: proxy(cluster.Pass)},
		{name: "packets dropped", reason: "Unreachable", begin: proxy(cluster.Blackhole), end: proxy(cluster.Pass)},
		{name: "stopped and started", reason: "Unreachable", noAPI: true, begin: func(t *testing.T, s *scene) { s.StopAPIServer(t) }, end: start},
		{name: "crashed and started", reason: "Unreachable", noAPI: true, begin: func(t *testing.T, s *scene) { s.KillAPIServer(t) }, end: start},
		{name: "its versions forgotten meanwhile, 410", reason: "Unreachable", begin: proxy(cluster.Refuse), end: func(t *testing.T, s *scene) {
			s.Expire(t)
			s.Proxy.Set(t, cluster.Pass)
		}},
		{name: "permissions revoked", reason: "Forbidden", begin: func(t *testing.T, s *scene) {
			s.RevokePermissions(t, "that is the test")
			s.Proxy.Cut() // a watch that has begun goes on
		}, end: func(t *testing.T, s *scene) { s.RestorePermissions(t) }},
		{name: "token invalid", reason: "Unauthorized", begin: func(t *testing.T, s *scene) {
			s.InvalidateToken(t)
			cutUntilLost(t, s)
		}, end: func(t *testing.T, s *scene) { s.RotateToken(t) }},
	}
}

// cutUntilLost cuts connections until a request got 401: the API server takes a cached token for a while.
func cutUntilLost(t *testing.T, s *scene) {
	t.Helper()
	var last time.Time
	cluster.Eventually(t, "a request answered 401", recovery, func() error {
		_, metrics, err := cluster.DaemonGet(t, "metrics")
		if err == nil && strings.Contains(metrics, `multi_eni_api_fault{reason="Unauthorized"} 1`) {
			return nil
		}
		if time.Since(last) > 2*time.Second {
			s.Proxy.Cut()
			last = time.Now()
		}
		return errStill
	})
}

func TestOutages(t *testing.T) {
	for _, o := range outages() {
		t.Run(o.name, func(t *testing.T) {
			s := stage(t, 1)
			lines := len(s.daemon.Log(t))
			o.begin(t, s)
			s.awaitLines(t, lines, recovery, "lost "+o.reason)
			later := s.node.Attach(t, 2)
			if !o.noAPI {
				s.declare(t, later)
			}
			s.unchanged(t, "during the outage", calm, s.enis...)
			o.end(t, s)
			if o.noAPI {
				s.declare(t, later)
			}
			s.enis = append(s.enis, later)
			s.eventually(t, "what was declared meanwhile", recovery, s.enis...)
			s.awaitLines(t, lines, recovery, "lost "+o.reason, "found")
			s.unchanged(t, "after the outage", calm, s.enis...)
			if got := s.apiLines(t, lines); len(got) != 2 {
				t.Errorf("logged %q, want one line at each change", got)
			}
		})
	}
}

func TestHardlyNoticed(t *testing.T) {
	for name, fault := range map[string]func(*testing.T, *scene){
		"connections cut": func(_ *testing.T, s *scene) { s.Proxy.Cut() },
		"token rotated":   func(t *testing.T, s *scene) { s.RotateToken(t) },
		"slow":            func(t *testing.T, s *scene) { s.Proxy.Set(t, cluster.Slow) },
	} {
		t.Run(name, func(t *testing.T) {
			s := stage(t, 1)
			lines := len(s.daemon.Log(t))
			fault(t, s)
			s.enis = append(s.enis, s.node.Attach(t, 2))
			s.declare(t, s.enis[1])
			s.eventually(t, "what was declared meanwhile", recovery, s.enis...)
			s.unchanged(t, "afterwards", calm, s.enis...)
			if got := s.apiLines(t, lines); len(got) != 0 {
				t.Errorf("logged %q, want nothing", got)
			}
		})
	}
}

// TestCRDGoneAndBack: objects that vanish with their CRD are removed. The 404 is a state that ends with the CRD's return.
func TestCRDGoneAndBack(t *testing.T) {
	s := stage(t, 1)
	lines := len(s.daemon.Log(t))
	s.DeleteCRD(t, "nodeenis")
	s.eventually(t, "removal with the CRD", recovery)
	s.awaitLines(t, lines, recovery, "lost NoCRD")
	s.unchanged(t, "without the CRD", calm)
	s.InstallCRDs(t)
	s.declare(t, s.enis[0])
	s.eventually(t, "what was declared with the CRD back", recovery, s.enis...)
	s.awaitLines(t, lines, recovery, "lost NoCRD", "found")
}

func TestStateCRDGoneAndBack(t *testing.T) {
	s := stage(t, 1)
	cluster.Eventually(t, "ENINodeState", soon, func() error {
		_, err := s.NodeState(t, s.node.Name)
		return err
	})
	s.DeleteCRD(t, "eninodestates")
	s.unchanged(t, "without the CRD", calm, s.enis...)
	s.InstallCRDs(t)
	cluster.Eventually(t, "ENINodeState", time.Minute, func() error {
		now, err := s.NodeState(t, s.node.Name)
		if err == nil && now.Status.DevicesReady != "1/1" {
			err = fmt.Errorf("status is %+v", now.Status)
		}
		return err
	})
}

// TestAtRest: without changes the daemon sends no request; the three watches stay open.
func TestAtRest(t *testing.T) {
	s := stage(t, 1)
	s.unchanged(t, "at rest", calm, s.enis...)
	before := len(s.DaemonRequests(t))
	s.unchanged(t, "at rest", 4*calm, s.enis...)
	if more := s.DaemonRequests(t)[before:]; len(more) > 0 {
		t.Errorf("requests at rest:\n%s", cluster.Lines(more))
	}
	open := map[string]int{}
	for _, r := range s.DaemonRequests(t) {
		if r.Verb == "watch" {
			open[r.Resource] += map[string]int{"ResponseStarted": 1, "ResponseComplete": -1}[r.Stage]
		}
	}
	for _, resource := range []string{"nodeenis", "nodes", "eninodestates"} {
		if open[resource] != 1 {
			t.Errorf("%d open watches of %s, want one", open[resource], resource)
		}
	}
}
