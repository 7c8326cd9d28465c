package reconcile

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fields"
)

// The daemon writes a file for each change of the checkpoint or the inventory, however deep, and only then.
func TestEveryChangeIsWritten(t *testing.T) {
	s := fields.Samples{}
	fields.Sample(s, eniID(1), eniID(2))
	fields.Sample(s, mac(1), mac(2))
	fields.Sample(s, pci(1), pci(2))
	fields.Sample(s, subnet(1), subnet(2))
	fields.Sample(s, device.ResourceName("intel.com/a"), "intel.com/b")
	fields.Sample(s, netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("10.0.0.2/24"))
	fields.Sample(s, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), time.Date(2026, 1, 2, 3, 4, 5, 1, time.UTC))
	fields.Sample(s, json.RawMessage(`{"a":1}`), json.RawMessage(`{"a":2}`))
	fields.Sample(s, nodestate.Settings{"rings": "1"}, nodestate.Settings{"rings": "2"})

	n := newNode(t)
	check := func(path, file string, save func(other bool)) {
		save(false)
		before := n.files()[n.path(file)]
		if save(false); n.files()[n.path(file)] != before {
			t.Errorf("%s: %s is written without need", file, path)
		}
		if save(true); n.files()[n.path(file)] == before {
			t.Errorf("%s: a change of %s is not written", file, path)
		}
	}
	fields.Each(s, func(path string, base, other nodestate.Checkpoint) {
		if path == ".SchemaVersion" { // the writer's
			return
		}
		check(path, "state/checkpoint.json", func(changed bool) {
			n.must(n.daemon.files.Save(func(c *nodestate.Checkpoint) {
				if *c = base; changed {
					*c = other
				}
			}))
		})
	})
	fields.Each(s, func(path string, base, other nodestate.Inventory) {
		if path == ".SchemaVersion" || path == ".UpdatedAt" {
			return
		}
		check(path, "run/inventory.json", func(changed bool) {
			v := base
			if changed {
				v = other
			}
			n.daemon.files.NodeName, n.daemon.files.BootID = v.NodeName, v.BootID
			n.must(n.daemon.files.WriteInventory(v.Devices, v.Problems))
		})
	})
}
