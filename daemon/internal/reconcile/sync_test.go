package reconcile

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func (n *testNode) expect(rows, reasons []string, pools map[string][]device.PCIAddress) {
	n.Helper()
	for what, diff := range map[string]string{
		"rows":     cmp.Diff(rows, n.rows(), cmpopts.EquateEmpty()),
		"problems": cmp.Diff(reasons, n.reasons(), cmpopts.EquateEmpty()),
		"pools":    cmp.Diff(pools, n.judge(), cmpopts.EquateEmpty()),
	} {
		if diff != "" {
			n.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}

func same(t testing.TB, what string, want, got any, opts ...cmp.Option) {
	t.Helper()
	if diff := cmp.Diff(want, got, opts...); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

type pools = map[string][]device.PCIAddress

func TestOneSyncMakesDeclaredDevicesReady(t *testing.T) {
	n := newNode(t, 1, 2, 3)
	n.declare("a", 1, "mtu: 9001")
	n.declare("b", 2, "dpdkResourceName: intel.com/fast")
	n.declare("c", 3, "enableDPDK: true", "dpdkResourceName: intel.com/dpdk", "dpdkPCIAddress: "+pci(3).String())
	n.bind(3, "vfio-pci")
	delete(n.host.links, 3)
	out := n.sync()
	n.expect([]string{"a eth1 ready", "b eth2 ready", "c  ready"}, nil, pools{"intel.com/fast": {pci(2)}, "intel.com/dpdk": {pci(3)}})
	same(t, "changes of links", []string{"mtu eth1", "up eth1", "up eth2"}, n.host.changes)
	if out.Unsettled || out.After != restartQuiet {
		t.Errorf("outcome %+v, want settled, and another Sync when the restart is due", out)
	}
	if got := n.host.links[1].MTU; got != 9001 {
		t.Errorf("MTU %d, want 9001", got)
	}
}

func TestNothingDeclaredGivesThePlaceholder(t *testing.T) {
	n := newNode(t, 1)
	n.settle()
	n.expect(nil, nil, nil)
	config, err := os.ReadFile(n.path("pcidp/config.json"))
	n.must(err)
	if !strings.Contains(string(config), "sriov_placeholder") {
		t.Errorf("no placeholder in\n%s", config)
	}
	if len(n.host.changes) != 0 {
		t.Errorf("links were changed: %v", n.host.changes)
	}
}

// An unchanged Sync writes no file and logs nothing, also after a start.
func TestSteadyNode(t *testing.T) {
	n := newNode(t, 1, 2, 3)
	n.declare("a", 1)
	n.declare("b", 2, "dpdkResourceName: intel.com/fast")
	n.declare("c", 3, "dpdkResourceName: not-a-name")
	n.settle()
	n.hold(2)
	n.settle()
	steady := func() {
		t.Helper()
		n.logged()
		before := n.files()
		for range 3 {
			n.now = n.now.Add(resyncEvery)
			if out := n.sync(); out != (Outcome{}) {
				t.Errorf("outcome %+v, want nothing to wait for", out)
			}
		}
		if diff := cmp.Diff(before, n.files()); diff != "" {
			t.Errorf("files were written (-before +after):\n%s", diff)
		}
	}
	steady()
	if got := n.logged(); len(got) != 0 {
		t.Errorf("logged %q, want nothing", got)
	}
	n.start()
	steady()
	if got := n.logged(); !slices.Equal(got, []string{"problem found"}) {
		t.Errorf("a new daemon logged %q, want the one problem that is still there", got)
	}
	n.restarted(1, "device plugin restarted %d times, want once in all")
}

// The device drains, leaves the config, and after a restart of the device plugin and the end of its pod the inventory.
func TestRemoval(t *testing.T) {
	n := settledNode(t, "dpdkResourceName: intel.com/fast")
	pod := n.hold(1)
	n.settle()
	n.undeclare("a")
	n.sync()
	n.expect([]string{"a eth1 draining"}, nil, nil)
	if len(n.restarts.wanted) != 1 {
		t.Fatal("restarted too early")
	}
	n.settle()
	n.expect([]string{"a eth1 draining"}, nil, nil)
	if len(n.restarts.wanted) != 2 {
		t.Fatalf("device plugin restarted %d times, want twice", len(n.restarts.wanted))
	}
	n.must(pod.Remove())
	n.addLink(1, "eth1")
	n.sync()
	n.expect(nil, nil, nil)
}

func TestRemovalWaitsForTheDevicePlugin(t *testing.T) {
	n := settledNode(t, "dpdkResourceName: intel.com/fast")
	n.restarts.err = errors.New("API server is away")
	n.now = n.now.Add(time.Hour)
	n.undeclare("a")
	n.settle()
	n.expect([]string{"a eth1 draining"}, nil, nil)
	n.start() // the daemon's own restart is none of the device plugin's
	n.settle()
	n.expect([]string{"a eth1 draining"}, nil, nil)
	n.restarts.err = nil
	for range 10 {
		n.syncAfter(resyncEvery)
	}
	n.expect(nil, nil, nil)
}

func TestRemovedWhileDown(t *testing.T) {
	n := newNode(t, 1, 2)
	n.declare("a", 1, "dpdkResourceName: intel.com/fast")
	n.declare("b", 2, "dpdkResourceName: intel.com/fast")
	n.settle()
	n.undeclare("a")
	n.start()
	n.sync()
	n.expect([]string{"a eth1 draining", "b eth2 ready"}, nil, pools{"intel.com/fast": {pci(2)}})
	n.settle()
	n.expect([]string{"b eth2 ready"}, nil, pools{"intel.com/fast": {pci(2)}})
}

type unreadableStory struct {
	name       string
	fail, mend func(*testNode)
	reason     string
}

// A source that fails, also after answers, removes nothing.
func TestUnreadable(t *testing.T) {
	tests := []unreadableStory{
		{
			name: "IMDS", fail: func(n *testNode) { n.imds.err = errors.New("timeout") }, mend: func(n *testNode) { n.imds.err = nil },
			reason: "MetadataUnreadable",
		},
		{
			name: "netlink", fail: func(n *testNode) { n.host.err = errors.New("no buffer space") },
			mend: func(n *testNode) { n.host.err = nil }, reason: "LinksUnreadable",
		},
		{
			name: "sysfs", fail: func(n *testNode) { n.must(os.Rename(n.path("sys"), n.path("sys-away"))) },
			mend: func(n *testNode) { n.must(os.Rename(n.path("sys-away"), n.path("sys"))) }, reason: "SysfsUnreadable",
		},
		{
			name: "NodeENI folder", fail: func(n *testNode) { n.must(os.Rename(n.path("nodeenis"), n.path("away"))) },
			mend: func(n *testNode) { n.must(os.Rename(n.path("away"), n.path("nodeenis"))) }, reason: "NodeENIsUnreadable",
		},
		{
			name:   "one manifest, and its neighbour gone",
			fail:   func(n *testNode) { n.write("{", "nodeenis", "z.yaml"); n.undeclare("a") },
			mend:   func(n *testNode) { n.undeclare("z"); n.declare("a", 1, "dpdkResourceName: intel.com/fast") },
			reason: "UnreadableManifest",
		},
		{
			name: "records",
			fail: func(n *testNode) {
				n.must(os.Rename(n.path("records"), n.path("records-away")))
				n.write("", "records")
			},
			mend: func(n *testNode) {
				n.must(os.Remove(n.path("records")))
				n.must(os.Rename(n.path("records-away"), n.path("records")))
			},
			reason: "RecordsUnreadable",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, tt.play)
	}
}

func (tt unreadableStory) play(t *testing.T) {
	n := newNode(t, 1, 2)
	n.declare("a", 1, "dpdkResourceName: intel.com/fast")
	n.declare("b", 2, "dpdkResourceName: intel.com/fast")
	n.settle()
	n.hold(2)
	n.settle()
	n.logged()
	rows, served := []string{"a eth1 ready", "b eth2 ready"}, pools{"intel.com/fast": {pci(1), pci(2)}}
	n.now = n.now.Add(time.Hour)
	tt.fail(n)
	for range 5 {
		out := n.daemon.Sync(t.Context())
		if !out.Unsettled {
			t.Errorf("settled, though %s cannot be read", tt.name)
		}
		n.now = n.now.Add(time.Minute)
	}
	same(t, "rows", rows, n.rows())
	same(t, "problems", []string{tt.reason}, n.reasons())
	tt.mend(n)
	n.settle()
	n.expect(rows, nil, served)
	same(t, "logged", []string{"problem found", "problem is over"}, n.logged())
	n.restarted(1, "device plugin restarted %d times, want once in all")
}

func TestHotPlug(t *testing.T) {
	n := newNode(t)
	n.declare("a", 1, "dpdkResourceName: intel.com/fast")
	n.settle()
	n.attach(1)
	e := n.imds.enis[1]
	e.DeviceIndex = 0 // as IMDS says in the first seconds
	n.imds.enis[1] = e
	n.now = n.now.Add(metadataApart)
	if out := n.sync(); !out.Unsettled {
		t.Error("settled, though the index is not known yet")
	}
	n.expect([]string{"a  pending"}, nil, nil)
	e.DeviceIndex = 1
	n.imds.enis[1] = e
	n.syncAfter(metadataApart)
	n.expect([]string{"a eth1 ready"}, nil, pools{"intel.com/fast": {pci(1)}})
}

func TestReboot(t *testing.T) {
	n := settledNode(t, "dpdkResourceName: intel.com/fast")
	n.unplug(1)
	n.boot = "boot-2"
	n.start()
	n.sync()
	n.expect([]string{"a  pending"}, []string{"DeviceNotSeen"}, nil)
	n.plug(1, "ena")
	n.sync()
	n.expect([]string{"a eth1 ready"}, nil, pools{"intel.com/fast": {pci(1)}})
	if got := n.inventory().BootID; got != "boot-2" {
		t.Errorf("boot id %q, want boot-2", got)
	}
}

func TestPeoplesConfig(t *testing.T) {
	n := newNode(t, 1)
	n.write(`{"resourceList":[{"resourceName":"theirs","selectors":[{"vendors":["8086"]}]}]}`, "pcidp", "config.json")
	n.declare("a", 1, "dpdkResourceName: intel.com/fast")
	n.settle()
	n.now = n.now.Add(time.Hour)
	before := n.files()
	n.write(`{"resourceList":[{"resourceName":"fast","selectors":[{"drivers":["ena"],"pciAddresses":["`+pci(1).String()+`"]}],"resourcePrefix":"intel.com"},
		{"resourceName":"theirs","selectors":[{"vendors":["15b3"]}]}]}`, "pcidp", "config.json")
	n.settle()
	n.expect([]string{"a eth1 ready"}, nil, pools{"intel.com/fast": {pci(1)}})
	n.restarted(2, "device plugin restarted %d times, want again after the edit")
	if diff := cmp.Diff(before[n.path("run/inventory.json")], n.files()[n.path("run/inventory.json")]); diff != "" {
		t.Errorf("inventory was written (-before +after):\n%s", diff)
	}
}

func TestPhasesAreLoggedOnce(t *testing.T) {
	n := settledNode(t)
	n.undeclare("a")
	n.settle()
	var got []string
	for _, e := range n.logs.AllEntries() {
		if e.Message == "device changed its phase" || e.Message == "device left the inventory" {
			phase, _ := e.Data["phase"].(nodestate.Phase)
			got = append(got, string(phase))
		}
		if e.Level != logrus.InfoLevel {
			t.Errorf("%s: %s", e.Level, e.Message)
		}
	}
	same(t, "phases logged", []string{"ready", "draining", ""}, got)
}

func TestStoppedSyncChangesNothing(t *testing.T) {
	n := newNode(t, 1)
	n.declare("a", 1)
	ctx, cancel := contextOf(t)
	cancel()
	n.daemon.Sync(ctx)
	if got := n.files(); len(got) != 0 {
		t.Errorf("files were written: %v", got)
	}
}
