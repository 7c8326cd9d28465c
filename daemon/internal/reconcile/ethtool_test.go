package reconcile

import (
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func (n *testNode) profileOf(nodeENI string) nodestate.Settings {
	n.Helper()
	for _, d := range n.inventory().Devices {
		if d.NodeENI == nodeENI {
			return d.Ethtool
		}
	}
	n.Fatalf("no row of %s", nodeENI)
	return nil
}

// The inventory has an idle device's settings as an administrator last chose them, never a pod's.
func TestProfile(t *testing.T) {
	n := newNode(t, 1)
	n.host.ethtool = map[int]nodestate.Settings{1: {"rings": "256 0 0 256"}}
	n.declare("a", 1)
	want := func(when, rings string) {
		t.Helper()
		n.sync()
		if got := n.profileOf("a"); !maps.Equal(got, nodestate.Settings{"rings": rings}) {
			t.Errorf("%s: profile %v; want rings %s", when, got, rings)
		}
	}
	n.sync()
	want("idle", "256 0 0 256")
	read := n.host.ethtoolRead
	n.sync()
	if n.host.ethtoolRead != read {
		t.Error("read again at once, though some drivers ask their hardware")
	}
	n.host.ethtool[1] = nodestate.Settings{"rings": "512 0 0 512"}
	n.now = n.now.Add(2 * time.Minute)
	want("changed by an administrator", "512 0 0 512")

	rec := n.hold(1)
	n.host.ethtool[1] = nodestate.Settings{"rings": "64 0 0 64"}
	n.now = n.now.Add(2 * time.Minute)
	want("in a pod", "512 0 0 512")
	rec.Device.Link = &nodestate.LinkState{Name: "eth1", MAC: mac(1), MTU: 1500, Up: true}
	n.must(n.records().SaveRestore(nodestate.Restore{BootID: n.boot, Device: rec.Device}))
	n.must(rec.Remove())
	n.addLink(1, "eth1")
	n.host.fail = map[string]error{"restore": errors.New("device or resource busy")}
	n.now = n.now.Add(2 * time.Minute)
	want("back, but not restored", "512 0 0 512")
	n.host.ethtool[1] = nodestate.Settings{"rings": "512 0 0 512"}
	n.host.fail = nil
	n.now = n.now.Add(2 * time.Minute)
	want("restored", "512 0 0 512")

	n.host.fail = map[string]error{"ethtool": errors.New("no such device")}
	n.now = n.now.Add(2 * time.Minute)
	want("unreadable", "512 0 0 512")
	n.boot = "another"
	n.start()
	n.sync()
	if got := n.profileOf("a"); got != nil {
		t.Errorf("after a boot: %v; want none before the device was read", got)
	}
}
