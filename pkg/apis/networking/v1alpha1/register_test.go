package v1alpha1

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// A scheme makes of each kind's name its Go type, and gives out copies of its own: a reader cannot change the other.
func TestAddToScheme(t *testing.T) {
	s := runtime.NewScheme()
	if err := AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{Kind, ListKind, NodeStateKind, NodeStateListKind} {
		o, err := s.New(SchemeGroupVersion.WithKind(kind))
		if err != nil {
			t.Error(err)
			continue
		}
		if kinds, _, err := s.ObjectKinds(o); err != nil || len(kinds) != 1 || kinds[0].Kind != kind {
			t.Errorf("%s came back as %v, %v", kind, kinds, err)
		}
	}
	if !s.Recognizes(SchemeGroupVersion.WithKind("ListOptions")) {
		t.Error("the options of requests are not known")
	}
}

func TestDeepCopySharesNothing(t *testing.T) {
	full := func() *ENINodeState {
		return &ENINodeState{Status: ENINodeStateStatus{
			Conditions:   []metav1.Condition{{Type: ConditionDevicesReady}},
			Devices:      []DeviceState{{ENIID: "eni-0a1b2c3d", Addresses: []string{"10.0.2.15/24"}, Holders: []string{"default/app"}}},
			Config:       &ConfigState{Path: "/etc/pcidp/config.json"},
			DevicePlugin: &DevicePluginState{Pods: []string{"kube-system/dp"}},
		}}
	}
	o := full()
	c := o.DeepCopy()
	c.Status.Conditions[0].Type = "x"
	c.Status.Devices[0].Addresses[0] = "x"
	c.Status.Devices[0].Holders[0] = "x"
	c.Status.Config.Path = "x"
	c.Status.DevicePlugin.Pods[0] = "x"
	if diff := cmp.Diff(full(), o); diff != "" {
		t.Errorf("a change of the copy changed the original (-before +after):\n%s", diff)
	}
}
