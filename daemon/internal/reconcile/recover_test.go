package reconcile

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/checkpoint"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const peoplesEntry = `{"resourceName":"other","selectors":{"drivers":["i40e"],"pciAddresses":["0000:00:1f.0"]}}`

var lostCheckpoints = map[string]func(n *testNode){
	"missing": func(n *testNode) { n.must(os.Remove(nodestate.CheckpointPath(n.path("state")))) },
	"corrupt": func(n *testNode) { n.must(os.Truncate(nodestate.CheckpointPath(n.path("state")), 10)) },
}

// The inventory remembers the devices and the entries that offer them, so nothing changes. A device removed meanwhile
// drains as usual.
func TestLostCheckpointOfThisBoot(t *testing.T) {
	for how, lose := range lostCheckpoints {
		t.Run(how, func(t *testing.T) {
			n := newNode(t, 1, 2, 3)
			n.write(`{"resourceList":[`+peoplesEntry+`]}`, "pcidp/config.json")
			n.declare("a", 1, "dpdkResourceName: intel.com/a")
			n.declare("b", 2, "dpdkResourceName: intel.com/b")
			n.declare("c", 3, "dpdkResourceName: intel.com/c")
			n.settle()
			n.hold(2).Close()
			lose(n)
			n.undeclare("a")
			n.undeclare("b")
			n.start()
			n.settle()
			n.expect([]string{"b eth2 draining", "c eth3 ready"}, nil, pools{"intel.com/c": {pci(3)}})
			config, err := os.ReadFile(n.path("pcidp/config.json"))
			n.must(err)
			if !strings.Contains(string(config), `"other"`) {
				t.Errorf("people's entry is gone:\n%s", config)
			}
			c, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(n.path("state")))
			n.must(err)
			if diff := cmp.Diff([]device.ResourceName{"intel.com/c"}, c.OwnedResources); diff != "" || c.Forgotten {
				t.Errorf("owned (-want +got):\n%s forgotten: %v", diff, c.Forgotten)
			}
			if got := n.logged(); !slices.ContainsFunc(got, func(m string) bool { return strings.Contains(m, "checkpoint tells nothing") }) {
				t.Errorf("logged %q, and not that the checkpoint tells nothing", got)
			}
		})
	}
}

// Nothing tells our entry from people's. It stays, with a Problem, until it is gone or has a key that we do not write.
// A declared entry is ours again.
func TestLostCheckpointOfAnotherBoot(t *testing.T) {
	for how, lose := range lostCheckpoints {
		t.Run(how, func(t *testing.T) {
			n := newNode(t, 1, 2)
			n.write(`{"resourceList":[`+peoplesEntry+`]}`, "pcidp/config.json")
			n.declare("a", 1, "dpdkResourceName: intel.com/a")
			n.declare("b", 2, "dpdkResourceName: intel.com/b")
			n.settle()
			lose(n)
			n.boot = "boot-2"
			n.must(os.Remove(n.path("run/inventory.json")))
			n.undeclare("a")
			restart := func() { n.start(); n.settle() }
			lostEntry := pools{"intel.com/a": {pci(1)}, "intel.com/b": {pci(2)}}
			restart()
			n.expect([]string{"b eth2 ready"}, []string{"CheckpointLost"}, lostEntry)
			for _, part := range []string{"intel.com/a", "state/checkpoint.json", "delete it"} {
				if m := n.inventory().Problems[0].Message; !strings.Contains(m, part) {
					t.Errorf("%q lacks %q", m, part)
				}
			}
			restart() // it is not forgotten that it was forgotten
			n.expect([]string{"b eth2 ready"}, []string{"CheckpointLost"}, lostEntry)

			n.declare("a", 1, "dpdkResourceName: intel.com/a")
			n.settle()
			n.expect([]string{"a eth1 ready", "b eth2 ready"}, nil, lostEntry)
			n.undeclare("a")
			n.settle()
			n.expect([]string{"b eth2 ready"}, nil, pools{"intel.com/b": {pci(2)}})
		})
	}
}

// A key that we do not write makes the entry theirs.
func TestEntryOfNobodyIsPeoples(t *testing.T) {
	n := newNode(t, 1)
	entry := `{"resourcePrefix":"intel.com","resourceName":"a","selectors":{"drivers":["ena"],"pciAddresses":["` + pci(1).String() + `"]}`
	n.write(`{"resourceList":[`+entry+`}]}`, "pcidp/config.json")
	n.settle()
	n.expect(nil, []string{"CheckpointLost"}, pools{"intel.com/a": {pci(1)}})
	n.write(`{"resourceList":[`+entry+`,"deviceType":"netDevice"}]}`, "pcidp/config.json")
	n.settle()
	n.expect(nil, nil, pools{"intel.com/a": {pci(1)}})
	c, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(n.path("state")))
	n.must(err)
	if c.Forgotten {
		t.Error("it is looked for still")
	}
}

func TestOwnEntries(t *testing.T) {
	n := newNode(t, 1, 2)
	n.declare("a", 1, "dpdkResourceName: intel.com/a")
	n.declare("b", 2, "dpdkResourceName: intel.com/a")
	n.settle()
	config, err := os.ReadFile(n.path("pcidp/config.json"))
	n.must(err)
	if diff := cmp.Diff(map[device.ResourceName][]device.PCIAddress{"intel.com/a": {pci(1), pci(2)}}, checkpoint.OwnEntries(config)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, other := range []string{
		``, `{`, `{"resourceList":[` + peoplesEntry + `]}`, `{"resourceList":{}}`,
		`{"resourceList":[{"resourcePrefix":"intel.com","resourceName":"a","selectors":{"drivers":["ena"]}}]}`,
		`{"resourceList":[{"resourcePrefix":"intel.com","resourceName":"a","selectors":{"drivers":["ena","x"],"pciAddresses":["0000:00:06.0"]}}]}`,
		`{"resourceList":[{"resourcePrefix":"intel.com","resourceName":"a","selectors":{"drivers":["ena"],"pciAddresses":["0000:00:06.0"],"vendors":["1d0f"]}}]}`,
		`{"resourceList":[{"resourcePrefix":"intel.com","resourceName":"a","selectors":[]}]}`,
		`{"resourceList":[{"resourcePrefix":"intel.com","resourceName":"sriov_placeholder",` +
			`"selectors":[{"drivers":["placeholder"],"pciAddresses":["0000:00:00.0"]}]}]}`,
	} {
		if got := checkpoint.OwnEntries([]byte(other)); len(got) > 0 {
			t.Errorf("%s has %v", other, got)
		}
	}
}
