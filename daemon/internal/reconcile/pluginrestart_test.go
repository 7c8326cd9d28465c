package reconcile

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func (n *testNode) view() view.View { return n.views[len(n.views)-1] }

// A removal reaches config and inventory while a restart is being verified.
func TestSyncDoesNotWaitForTheDevicePlugin(t *testing.T) {
	n := newNode(t, 1, 2)
	n.declare("a", 1, "dpdkResourceName: intel.com/a")
	n.declare("b", 2, "dpdkResourceName: intel.com/b")
	n.settle()
	n.restarts.hold = make(chan struct{})
	n.undeclare("a")
	n.sync()
	n.syncAfter(time.Minute)
	if got := n.view().Plugin.State; got != view.PluginRestarting {
		t.Fatalf("state %s, want %s", got, view.PluginRestarting)
	}
	same(t, "the device plugin must offer", map[device.ResourceName][]device.PCIAddress{"intel.com/a": {}, "intel.com/b": {pci(2)}}, n.waitRestart(2).Devices)
	n.undeclare("b")
	n.daemon.Sync(n.Context()) // gives the call up: its config will not be served
	same(t, "pools", pools{}, n.judge())
	n.expect([]string{"a eth1 draining", "b eth2 draining"}, nil, pools{})
	n.restarts.release()
	begin := n.now
	n.settle()
	if len(n.restarts.wanted) != 3 || n.now.Sub(begin) < restartApart {
		t.Errorf("restarted %d times, the last after %v; want 3, the last %v after the one before had deleted pods", len(n.restarts.wanted), n.now.Sub(begin),
			restartApart)
	}
	n.expect(nil, nil, pools{})
	if got := n.view().Plugin; got.State != view.PluginServing || got.ServedHash != n.view().Config.Hash {
		t.Errorf("at last %+v, want it to serve %s", got, n.view().Config.Hash)
	}
}

// During a restart for another config the earlier config returns. The new pod may have read either.
func TestConfigComesBackDuringARestart(t *testing.T) {
	for name, meanwhile := range map[string]func(*testNode){"same daemon": func(*testNode) {}, "new daemon": func(n *testNode) { n.start() }} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 1)
			n.settle()
			before := n.view().Plugin.ServedHash
			n.restarts.hold = make(chan struct{})
			n.declare("a", 1, "dpdkResourceName: intel.com/a")
			n.sync()
			n.syncAfter(time.Minute)
			n.waitRestart(2)
			n.undeclare("a")
			meanwhile(n)
			n.daemon.Sync(n.Context())
			n.restarts.release()
			n.settle()
			if got := len(n.restarts.wanted); got != 3 || n.restarts.last.Hash != before {
				t.Errorf("restarted %d times, the last for %s; want 3, the last for %s again", got, n.restarts.last.Hash, before)
			}
		})
	}
}

// The config changes and returns before the restart is due. A run that started meanwhile may have read the other, so
// the plugin is asked again; earlier runs are left alone.
func TestConfigComesBackBeforeARestart(t *testing.T) {
	n := newNode(t, 1)
	n.settle()
	n.syncAfter(time.Minute)
	served, before := n.view().Plugin.ServedHash, n.now
	n.declare("a", 1, "dpdkResourceName: intel.com/a")
	n.syncAfter(time.Second)
	if got := n.view().Plugin.ServedHash; got != "" {
		t.Errorf("%s is said to be served though another config is on disk", got)
	}
	n.undeclare("a")
	n.settle()
	if got := n.restarts.last; len(n.restarts.wanted) != 2 || got.Hash != served || !got.Before.Equal(before.Add(-readTime)) {
		t.Errorf("asked %d times, last for %+v; want %s, and those from before %v left alone", len(n.restarts.wanted), got, served, before.Add(-readTime))
	}
}

func (n *testNode) waitRestart(times int) pluginrestart.Wanted {
	n.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		n.restarts.mu.Lock()
		calls, last := len(n.restarts.wanted), n.restarts.last
		n.restarts.mu.Unlock()
		if calls >= times {
			return last
		}
	}
	n.Fatalf("Restart was not called %d times", times)
	return pluginrestart.Wanted{}
}

func (f *fakePlugin) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.hold)
	f.hold = nil
}

// A missing device plugin is a state with a beginning and an end. The removed device may go, and a later plugin reads
// the config by itself.
func TestNoDevicePlugin(t *testing.T) {
	n := newNode(t, 1)
	n.restarts.err = pluginrestart.ErrNoDevicePlugin
	n.declare("a", 1, "dpdkResourceName: intel.com/a")
	n.settle()
	if got := n.view().Plugin; got.State != view.PluginNotFound || len(got.Pods) > 0 {
		t.Fatalf("device plugin %+v, want it not found", got)
	}
	n.undeclare("a")
	n.settle()
	n.expect(nil, nil, pools{})
	tried := len(n.restarts.wanted)
	n.settleAfter(lookEvery - time.Second)
	if got := len(n.restarts.wanted); got != tried {
		t.Errorf("looked for %d times within %v of the last time", got-tried, lookEvery)
	}
	n.restarts.err = nil
	n.daemon.Nudge()
	n.settle()
	if got := n.view().Plugin; got.State != view.PluginServing {
		t.Errorf("device plugin %+v after one has come, want it serving", got)
	}
	var about []string
	for _, m := range n.logged() {
		if m == "no device plugin on this node; one that comes reads the config as it is" || m == "device plugin found" ||
			m == "device plugin restart failed, trying again" {
			about = append(about, m)
		}
	}
	same(t, "log", []string{"no device plugin on this node; one that comes reads the config as it is", "device plugin found"}, about)
	var results []view.RestartResult
	for _, v := range n.views {
		if v.Did.Restart != nil {
			results = append(results, v.Did.Restart.Result)
		}
	}
	same(t, "restarts", []view.RestartResult{view.RestartNoneFound, view.RestartVerified}, results)
}

func TestDevicePluginIsLookedForSeldom(t *testing.T) {
	n := settledNode(t, "dpdkResourceName: intel.com/a")
	looks := n.restarts.looks
	for range 60 {
		n.syncAfter(time.Minute)
	}
	if got := n.restarts.looks - looks; got != 12 || len(n.restarts.wanted) != 1 {
		t.Errorf("%d looks and %d restarts in an hour, want 12 and the first one", got, len(n.restarts.wanted))
	}
}

// News of the API server or the device plugin ends the backoff, but not the least time between restarts.
func TestFailedRestartAndNews(t *testing.T) {
	n := newNode(t, 1)
	n.restarts.err = errors.New("connection refused")
	n.declare("a", 1, "dpdkResourceName: intel.com/a")
	for range 10 {
		n.syncAfter(time.Minute)
	}
	tried := len(n.restarts.wanted)
	if got := n.view().Plugin.State; got != view.PluginFailed {
		t.Fatalf("state %s, want %s", got, view.PluginFailed)
	}
	n.restarts.err = nil
	n.daemon.Nudge()
	n.settle()
	if len(n.restarts.wanted) != tried+1 || n.view().Plugin.State != view.PluginServing {
		t.Errorf("%d restarts after the news and state %s, want one and %s", len(n.restarts.wanted)-tried, n.view().Plugin.State, view.PluginServing)
	}
}

// A device stays while the kubelet offers it or has given it to a pod, and all stay while it cannot be asked.
func TestKubeletDecidesWhenADeviceMayGo(t *testing.T) {
	offers := inventory.Kubelet{Allocatable: map[device.ResourceName][]device.PCIAddress{"intel.com/a": {pci(1)}}}
	given := inventory.Kubelet{Allocated: map[device.PCIAddress][]inventory.Container{pci(1): {{Namespace: "ns", Pod: "p", Container: "c"}}}}
	n := newNode(t, 1)
	n.kubelet = &fakeKubelet{}
	n.start()
	n.declare("a", 1, "dpdkResourceName: intel.com/a")
	n.settle()
	if n.kubelet.asked != 0 {
		t.Errorf("the kubelet was asked %d times though nothing drains", n.kubelet.asked)
	}
	n.undeclare("a")
	for i, step := range []struct {
		kubelet  inventory.Kubelet
		err      error
		problems []string
		holders  int
	}{
		{kubelet: offers},
		{err: errors.New("no such socket"), problems: []string{"KubeletUnreadable"}},
		{kubelet: given, holders: 1},
		{kubelet: inventory.Kubelet{Allocatable: offers.Allocatable, Allocated: given.Allocated}, holders: 1},
	} {
		n.kubelet.devices, n.kubelet.err = step.kubelet, step.err
		n.settle()
		n.sync()
		n.expect([]string{"a eth1 draining"}, step.problems, pools{})
		if got := n.view().Holders; len(got) != step.holders {
			t.Errorf("step %d: holders %+v, want %d", i, got, step.holders)
		}
	}
	n.kubelet.devices, n.kubelet.err = inventory.Kubelet{}, nil
	if out := n.sync(); len(n.rows()) > 0 {
		t.Errorf("rows %q one Sync after the last holder's end, want none; %+v", n.rows(), out)
	}
}

func TestHoldersArePolledEachSecond(t *testing.T) {
	n := newNode(t, 1)
	n.kubelet = &fakeKubelet{devices: inventory.Kubelet{Allocated: map[device.PCIAddress][]inventory.Container{pci(1): {{Pod: "p"}}}}}
	n.start()
	n.declare("a", 1, "dpdkResourceName: intel.com/a")
	n.settle()
	if out := n.sync(); out.After != 0 {
		t.Errorf("at rest: %+v, want no Sync in particular", out)
	}
	n.undeclare("a")
	n.settle()
	if out := n.sync(); out.After == 0 || out.After > holderPoll {
		t.Errorf("while draining: %+v, want a Sync within %v", out, holderPoll)
	}
}

// The time runs from when the removal was seen until the config was without the device.
func TestRemovalIsTimed(t *testing.T) {
	n := newNode(t, 1, 2)
	n.declare("a", 1, "dpdkResourceName: intel.com/a")
	n.declare("b", 2, "dpdkResourceName: intel.com/a")
	n.settle()
	config := n.path("pcidp/config.json")
	n.must(os.Rename(config, n.path("kept")))
	n.must(os.Mkdir(config, 0o755)) // it cannot be read, and not be replaced
	n.undeclare("a")
	n.daemon.Sync(n.Context())
	if got := n.view().Config; got.Current {
		t.Errorf("config %+v is said to be current", got)
	}
	n.now = n.now.Add(7 * time.Second)
	n.must(os.Remove(config))
	n.must(os.Rename(n.path("kept"), config))
	n.sync()
	var took []time.Duration
	for _, v := range n.views {
		took = slices.Concat(took, v.Did.Withdrawn)
	}
	same(t, "removals took", []time.Duration{7 * time.Second}, took)
}

func TestView(t *testing.T) {
	n := newNode(t, 1)
	n.declare("a", 1, "dpdkResourceName: intel.com/a")
	rec := n.hold(1)
	rec.Pod, rec.PodUID = "ns/p", "u-1"
	n.must(rec.Save())
	n.settle()
	v := n.view()
	want := []view.Holder{{PCIAddress: pci(1), Pod: "ns/p", PodUID: "u-1", ContainerID: "c1", IfName: "net1", Mode: nodestate.ModeExclusive,
		State: nodestate.StateComplete}}
	same(t, "holders", want, v.Holders)
	if diff := cmp.Diff(n.inventory().Devices, v.Inventory.Devices, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("devices (-file +view):\n%s", diff)
	}
	if len(v.Declared) != 1 || v.Declared[0].Name != "a" || !v.Config.Current || v.Config.Hash == "" {
		t.Errorf("declared %+v, config %+v", v.Declared, v.Config)
	}
}

// guarded is a source on whose nodes others attach ENIs too.
type guarded struct{ NodeENIs }

func (g guarded) List() (inventory.Snapshot, error) {
	snap, err := g.NodeENIs.List()
	snap.Lookup = inventory.LookupGuarded
	return snap, err
}

// A device that is still in the config stays in the inventory, even after earlier withdrawals.
func TestRemovedWhileTheConfigCannotBeWritten(t *testing.T) {
	n := newNode(t, 1, 2)
	n.declare("a", 1, "dpdkResourceName: intel.com/a")
	n.declare("b", 2, "dpdkResourceName: intel.com/b")
	n.settle()
	n.host.err = errors.New("no buffer space")
	n.undeclare("a")
	for range 5 {
		n.syncAfter(time.Second)
	}
	n.expect([]string{"a eth1 draining", "b eth2 ready"}, []string{"LinksUnreadable"}, pools{"intel.com/a": {pci(1)}, "intel.com/b": {pci(2)}})
	n.host.err = nil
	n.settle()
	n.expect([]string{"b eth2 ready"}, nil, pools{"intel.com/b": {pci(2)}})
}

// A symbolic link, as in a ConfigMap, is left alone.
func TestConfigThatIsNotOurs(t *testing.T) {
	n := newNode(t, 1)
	n.mkdir("pcidp")
	n.must(os.Symlink("elsewhere", n.path("pcidp/config.json")))
	n.declare("a", 1, "dpdkResourceName: intel.com/a")
	n.settle()
	if got := n.view().Config; got.Current || got.Hash != "" {
		t.Errorf("config %+v, want it not current", got)
	}
}

func TestRemovalTakenBack(t *testing.T) {
	n := settledNode(t, "dpdkResourceName: intel.com/a")
	n.host.err = errors.New("no buffer space") // the config stays as it is
	n.undeclare("a")
	n.sync()
	n.declare("a", 1, "dpdkResourceName: intel.com/a")
	n.sync()
	n.host.err = nil
	n.settle()
	for _, v := range n.views {
		if len(v.Did.Withdrawn) > 0 {
			t.Errorf("%v are said to have been withdrawn", v.Did.Withdrawn)
		}
	}
}

// Where others restart the device plugin, a removed device waits only until the config has settled: no least time
// between restarts applies.
func TestUnmanagedPlugin(t *testing.T) {
	n := newNode(t, 1, 2)
	n.must(n.startWith(func(o *Options) { o.DevicePlugin, o.Jitter = nil, 5*time.Second }))
	for range 3 {
		n.declare("a", 1, "dpdkResourceName: intel.com/a")
		n.settle()
		n.undeclare("a")
		if took := n.settle(); took > restartQuiet+time.Second {
			t.Errorf("removal took %v, want little more than the %v in which a config settles", took, restartQuiet)
		}
		n.expect(nil, nil, map[string][]device.PCIAddress{})
	}
}
