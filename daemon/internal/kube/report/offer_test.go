package report

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestServingOfOffer: the condition speaks of the daemon's own offer as soon as the devices depend on it.
func TestServingOfOffer(t *testing.T) {
	for _, tt := range []struct {
		offer  view.OfferView
		plugin view.PluginState
		want   string
	}{
		{view.OfferView{}, view.PluginServing, "True Serving"},
		{view.OfferView{Mode: nodestate.OfferPCIDP, Wanted: nodestate.OfferPCIDP}, view.PluginNotFound, "False NotFound"},
		{view.OfferView{Mode: nodestate.OfferPCIDP, State: view.OfferUnknown}, view.PluginServing, "True Serving"},
		{view.OfferView{Mode: nodestate.OfferDevicePlugin, State: view.OfferUnknown}, view.PluginNotFound, "Unknown OfferUnknown"},
		{view.OfferView{Mode: nodestate.OfferDevicePlugin, State: view.OfferOffered}, view.PluginNotFound, "True Offered"},
		{view.OfferView{Mode: nodestate.OfferDevicePlugin, State: view.OfferOffered}, view.PluginUnmanaged, "True Offered"},
		{view.OfferView{Mode: nodestate.OfferDevicePlugin, State: view.OfferTakingOver}, view.PluginRestarting, "False TakingOver"},
		{view.OfferView{Mode: nodestate.OfferDevicePlugin, State: view.OfferWaiting}, view.PluginServing, "False KubeletAway"},
		{view.OfferView{Mode: nodestate.OfferPCIDP, Wanted: nodestate.OfferDevicePlugin, State: view.OfferRefused}, view.PluginServing, "False TakeoverRefused"},
		{view.OfferView{Mode: nodestate.OfferPCIDP, Wanted: nodestate.OfferPCIDP, State: view.OfferHandingBack}, view.PluginServing, "False HandingBack"},
	} {
		c := pluginServing(view.View{Offer: tt.offer, Plugin: view.PluginView{State: tt.plugin}})
		if got := string(c.Status) + " " + c.Reason; c.Type != v1alpha1.ConditionDevicePluginServing || got != tt.want {
			t.Errorf("%+v, %s: %s, want %s", tt.offer, tt.plugin, got, tt.want)
		}
	}
	c := pluginServing(view.View{Offer: view.OfferView{State: view.OfferRefused, Message: "an entry of yours"}})
	if c.Message != "an entry of yours" {
		t.Errorf("message %q", c.Message)
	}
}

func TestOfferState(t *testing.T) {
	v := readyView()
	if got := statusOf(v, v1alpha1.ENINodeStateStatus{}).Offer; got != nil {
		t.Errorf("of an unknown offer: %+v", got)
	}
	v.Offer = view.OfferView{Mode: nodestate.OfferPCIDP, Wanted: nodestate.OfferDevicePlugin, State: view.OfferRefused, Message: "m",
		Resources: []view.OfferedResource{{Name: "intel.com/a", Registered: true, Healthy: 2, Unhealthy: 1}, {Name: "intel.com/b"}}}
	want := &v1alpha1.OfferState{Mode: "pcidp", Wanted: "deviceplugin", State: "TakeoverRefused", Message: "m",
		Resources: []v1alpha1.OfferedResource{{Name: "intel.com/a", Registered: true, Healthy: 2, Unhealthy: 1}, {Name: "intel.com/b"}}}
	if diff := cmp.Diff(want, statusOf(v, v1alpha1.ENINodeStateStatus{}).Offer); diff != "" {
		t.Errorf("offer (-want +got):\n%s", diff)
	}
}

// TestTellOfOffer: a change of mode is an Event about the Node, and a missing device plugin is none where the daemon offers the devices.
func TestTellOfOffer(t *testing.T) {
	v := readyView()
	sent := historyFrom(statusOf(v, v1alpha1.ENINodeStateStatus{}))
	noPlugin := &view.RestartDone{Result: view.RestartNoneFound}
	pcidp, ours := view.OfferView{Mode: nodestate.OfferPCIDP}, view.OfferView{Mode: nodestate.OfferDevicePlugin, State: view.OfferOffered}
	for _, step := range []struct {
		when  string
		offer view.OfferView
		did   view.Did
		want  []string
	}{
		{"taken over", ours, view.Did{Offered: nodestate.OfferDevicePlugin}, []string{"Normal Node OfferTakenOver"}},
		{"while it lasts", ours, view.Did{}, nil},
		{"no device plugin is needed", ours, view.Did{Restart: noPlugin}, nil},
		{"a restart for people's entries fails", ours, view.Did{Restart: &view.RestartDone{Result: view.RestartFailed}},
			[]string{"Warning Node DevicePluginRestartFailed"}},
		{"back", pcidp, view.Did{Offered: nodestate.OfferPCIDP}, []string{"Normal Node OfferHandedBack"}},
		{"a device plugin is needed", pcidp, view.Did{Restart: noPlugin}, []string{"Warning Node DevicePluginNotFound"}},
		{"still", pcidp, view.Did{Restart: noPlugin}, nil},
	} {
		v.Offer, v.Did = step.offer, step.did
		var got []string
		for _, e := range sent.events(reportNode, v) {
			got = append(got, e.kind+" "+e.about.Kind+" "+string(e.reason))
			if e.about.UID != "u-node" || e.message == "" {
				t.Errorf("%s: %+v", step.when, e)
			}
		}
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.when, diff)
		}
	}
}

// TestOfferAfterRestart: a device plugin that was missing while the daemon offered the devices is told of once it is needed.
func TestOfferAfterRestart(t *testing.T) {
	for mode, want := range map[nodestate.OfferMode]int{nodestate.OfferPCIDP: 0, nodestate.OfferDevicePlugin: 1} {
		v := readyView()
		v.Plugin.State, v.Offer.Mode = view.PluginNotFound, mode
		sent := historyFrom(statusOf(v, v1alpha1.ENINodeStateStatus{}))
		v.Offer.Mode, v.Did.Restart = nodestate.OfferPCIDP, &view.RestartDone{Result: view.RestartNoneFound}
		if got := sent.events(reportNode, v); len(got) != want {
			t.Errorf("after %s: %d Events, want %d", mode, len(got), want)
		}
	}
}

// TestUnsettledOffer: at the start, the object is not written before the kubelet has the daemon's offer, or the mode is known.
func TestUnsettledOffer(t *testing.T) {
	const ours = nodestate.OfferDevicePlugin
	for _, tt := range []struct {
		offer  view.OfferView
		plugin view.PluginState
		want   bool
	}{
		{view.OfferView{}, view.PluginServing, false},
		{view.OfferView{}, view.PluginUnknown, true},
		{view.OfferView{Mode: nodestate.OfferPCIDP, Wanted: nodestate.OfferPCIDP}, view.PluginServing, false},
		{view.OfferView{Mode: nodestate.OfferPCIDP}, view.PluginServing, true},
		{view.OfferView{Mode: ours, Wanted: ours, State: view.OfferWaiting}, view.PluginUnknown, true},
		{view.OfferView{Mode: ours, Wanted: ours, State: view.OfferTakingOver}, view.PluginServing, false},
		{view.OfferView{Mode: ours, Wanted: ours, State: view.OfferOffered}, view.PluginUnknown, false},
	} {
		v := readyView()
		v.Offer, v.Plugin.State = tt.offer, tt.plugin
		if got := unsettled(v); got != tt.want {
			t.Errorf("%+v: %v, want %v", tt.offer, got, tt.want)
		}
	}
}

// TestDrainingHolder: a pod is told of the kubelet's five minutes only where they hold.
func TestDrainingHolder(t *testing.T) {
	for mode, want := range map[nodestate.OfferMode]bool{"": true, nodestate.OfferPCIDP: true, nodestate.OfferDevicePlugin: false} {
		v := readyView()
		v.Inventory.Devices[0].Phase, v.Offer.Mode = nodestate.PhaseDraining, mode
		v.Holders = []view.Holder{{PCIAddress: v.Inventory.Devices[0].PCIAddress, Pod: "default/a"}}
		var told []string
		sent := historyFrom(v1alpha1.ENINodeStateStatus{})
		for _, e := range sent.events(reportNode, v) {
			if e.about.Kind == "Pod" {
				told = append(told, e.message)
			}
		}
		if len(told) != 1 || !strings.Contains(told[0], "keeps the device until it ends") || strings.Contains(told[0], "5 minutes") != want {
			t.Errorf("mode %q: %q", mode, told)
		}
	}
}
