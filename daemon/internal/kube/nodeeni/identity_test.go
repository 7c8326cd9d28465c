package nodeeni

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

// TestNodeOfAnotherInstance: its NodeENIs do not count for this machine, and nothing is written about it. While an instance is unknown, they count.
func TestNodeOfAnotherInstance(t *testing.T) {
	own := ""
	s := New(&client.Client{NodeName: "node-a"}, Options{Instance: func() string { return own }, Now: nil, Log: fakekube.Quiet()})
	s.entries = map[string]*entry{}
	look := func(provider string) error {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a", UID: "u"}, Spec: corev1.NodeSpec{ProviderID: provider}}
		s.node, s.nodeRead = factsOf(n), true
		_, err := s.List()
		if _, known := s.Node(); known != (err == nil) {
			t.Errorf("%q: the Node is known: %v, and the error is %v", provider, known, err)
		}
		return err
	}
	const here, there = "aws:///us-east-1a/i-0a1b2c3d4e5f60718", "aws:///us-east-1a/i-0a1b2c3d4e5f60719"
	if err := look(there); err != nil {
		t.Errorf("while this instance is not known: %v", err)
	}
	own = "i-0a1b2c3d4e5f60718"
	for _, provider := range []string{here, "", "kind://docker/kind/x"} {
		if err := look(provider); err != nil {
			t.Errorf("%q: %v", provider, err)
		}
	}
	err := look(there)
	var other *OtherInstanceError
	if !errors.As(err, &other) {
		t.Fatalf("error %v, want an OtherInstanceError", err)
	}
	for _, part := range []string{"node-a", own, "i-0a1b2c3d4e5f60719", "NODE_NAME", "delete the Node"} {
		if !strings.Contains(other.Problem().Message, part) {
			t.Errorf("%q lacks %q", other.Problem().Message, part)
		}
	}
}

// TestElsewhere tells a NodeENI that does not select this node from a missing one.
func TestElsewhere(t *testing.T) {
	s := &Source{entries: map[string]*entry{}, node: nodeFacts{ref: client.NodeRef{Name: "node-a"}, labels: map[string]string{"a": "1"}}}
	for name, selector := range map[string]map[string]string{"here": {"a": "1"}, "there": {"a": "2"}} {
		d := &entry{known: true}
		d.object.Spec.NodeSelector = selector
		s.entries[name] = d
	}
	for name, want := range map[string]bool{"here": false, "there": true, "nowhere": false} {
		if s.elsewhere(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}
