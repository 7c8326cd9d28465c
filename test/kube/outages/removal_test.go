package outages

import (
	"errors"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

var errStill = errors.New("not yet")

// forms are the ways to remove a NodeENI from a node. The last takes a minute: the public controller writes stale status.
func forms() []func(t *testing.T, s *scene, e cluster.ENI) {
	return []func(*testing.T, *scene, cluster.ENI){
		func(t *testing.T, s *scene, e cluster.ENI) { s.DeleteNodeENI(t, name(e)) },
		func(t *testing.T, s *scene, e cluster.ENI) { // it stays, with a deletionTimestamp
			s.PatchNodeENI(t, name(e), map[string]any{"metadata": map[string]any{"finalizers": []any{"test.invalid/keep"}}})
			s.DeleteNodeENI(t, name(e))
		},
		func(t *testing.T, s *scene, e cluster.ENI) {
			s.PatchNodeENI(t, name(e), map[string]any{"spec": map[string]any{"nodeSelector": map[string]any{label: "no"}}})
		},
		func(t *testing.T, s *scene, e cluster.ENI) { s.SetAttachments(t, name(e)) },
	}
}

// TestRemoval: a daemon that ran, lost the API server, or was down notices each form, once it reaches the server.
func TestRemoval(t *testing.T) {
	for when, around := range map[string]struct{ before, after func(*testing.T, *scene) }{
		"while the daemon runs": {func(*testing.T, *scene) {}, func(*testing.T, *scene) {}},
		"while the API server is out of reach": {
			func(t *testing.T, s *scene) { s.Proxy.Set(t, cluster.Refuse) },
			func(t *testing.T, s *scene) {
				s.unchanged(t, "during the outage", calm, s.enis...)
				s.Proxy.Set(t, cluster.Pass)
			},
		},
		"while the daemon is down": {
			func(t *testing.T, s *scene) { s.daemon.Term(t) },
			func(t *testing.T, s *scene) {
				s.unchanged(t, "while the daemon is down", calm, s.enis...)
				s.daemon.Start(t)
			},
		},
		"while the daemon is down, before the API server is back": {
			func(t *testing.T, s *scene) {
				s.daemon.Term(t)
				s.Proxy.Set(t, cluster.Refuse)
			},
			func(t *testing.T, s *scene) {
				s.unchanged(t, "while the daemon is down", calm, s.enis...)
				s.daemon.Start(t)
				// It says in the inventory's problems that it has read nothing. The devices stay.
				cluster.Holds(t, "before the API server answers", calm, func() error { return s.shows(s.enis...) })
				s.Proxy.Set(t, cluster.Pass)
			},
		},
	} {
		t.Run(when, func(t *testing.T) {
			all := forms()
			s := stage(t, len(all))
			around.before(t, s)
			for i, remove := range all {
				remove(t, s, s.enis[i])
			}
			around.after(t, s)
			last := s.enis[len(all)-1]
			s.eventually(t, "all but the lost attachment", recovery, last)
			s.unchanged(t, "the lost attachment, for its first minute", 30*time.Second, last)
			s.eventually(t, "the lost attachment too", recovery)
		})
	}
}

// TestNodeLabels: a change of the node's labels removes a NodeENI and brings it back. A missing Node is unknown.
func TestNodeLabels(t *testing.T) {
	s := stage(t, 1)
	s.SetNodeLabel(t, s.node.Name, label, "no")
	s.eventually(t, "removal by label", recovery)
	s.SetNodeLabel(t, s.node.Name, label, "yes")
	s.eventually(t, "back by label", recovery, s.enis...)
	lines := len(s.daemon.Log(t))
	s.DeleteNode(t, s.node.Name)
	s.awaitLines(t, lines, recovery, "lost NoNode")
	s.unchanged(t, "without a Node", calm, s.enis...)
}
