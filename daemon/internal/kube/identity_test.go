package kube

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestInstanceOf(t *testing.T) {
	for provider, want := range map[string]string{
		"aws:///us-east-1a/i-0a1b2c3d4e5f60718":                               "i-0a1b2c3d4e5f60718",
		"aws:///us-east-1a/i-0a1b2c3d":                                        "i-0a1b2c3d",
		"aws:///us-east-1a/fargate-ip-192-168-1-1.us-east-1.compute.internal": "",
		"eks-hybrid:///us-west-2/my-cluster/mi-0a1b2c3d4e5f60718":             "",
		"gce://project/zone/i-0a1b2c3d":                                       "",
		"":                                                                    "",
		"aws:///us-east-1a/i-0A1B2C3D":                                        "",
		"kind://docker/kind/i-0a1b2c3d":                                       "",
	} {
		if got := instanceOf(provider); got != want {
			t.Errorf("%q is of %q, want %q", provider, got, want)
		}
	}
}

// TestNodeOfAnotherInstance: its NodeENIs do not count for this machine, and nothing is
// written about it. While either instance is unknown, the Node counts as this machine's.
func TestNodeOfAnotherInstance(t *testing.T) {
	own := ""
	s := NewSource(&Client{nodeName: "node-a"}, SourceOptions{Instance: func() string { return own }, Now: nil, Log: quiet()})
	s.declared = map[string]*declaration{}
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
