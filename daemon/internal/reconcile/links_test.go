package reconcile

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func TestPodsLinkIsLeftAlone(t *testing.T) {
	n := newNode(t, 1)
	n.declare("a", 1)
	rec := n.hold(1)
	n.addLink(1, "eth1") // the plugin is about to move it
	n.sync()
	if len(n.host.changes) != 0 {
		t.Errorf("links were changed: %v", n.host.changes)
	}
	n.must(rec.Remove())
	n.sync()
	n.expect([]string{"a eth1 ready"}, nil, nil)
}

// A pod gets the device after the records were read and before the device is locked.
func TestLockedMeanwhile(t *testing.T) {
	n := newNode(t, 1)
	n.declare("a", 1)
	unlock, err := n.records().LockDevice(t.Context(), pci(1))
	n.must(err)
	n.sync()
	n.expect([]string{"a eth1 pending"}, nil, nil)
	n.hold(1)
	n.addLink(1, "eth1")
	unlock()
	n.sync()
	if len(n.host.changes) != 0 {
		t.Errorf("links were changed: %v", n.host.changes)
	}
}

func TestDefaultRoutes(t *testing.T) {
	t.Run("removed", func(t *testing.T) {
		n := newNode(t, 1)
		n.declare("a", 1)
		n.host.routes[1] = true
		n.settle()
		n.expect([]string{"a eth1 ready"}, nil, nil)
		if n.host.routes[1] || !n.host.routes[0] {
			t.Errorf("default routes %v, want only the primary's", n.host.routes)
		}
	})
	t.Run("the only one is left", func(t *testing.T) {
		n := newNode(t, 1)
		n.declare("a", 1)
		n.host.routes = map[int]bool{1: true}
		n.sync()
		n.expect([]string{"a eth1 ready"}, []string{"OnlyDefaultRoute"}, nil)
		if !n.host.routes[1] {
			t.Error("the node was cut off")
		}
	})
}

func TestLinkThatCannotBeConfigured(t *testing.T) {
	n := newNode(t, 1)
	n.declare("a", 1, "mtu: 9001")
	n.host.fail["mtu"] = errors.New("invalid argument")
	n.settle()
	n.logged()
	n.expect([]string{"a eth1 pending"}, []string{"LinkNotConfigured"}, nil)
	n.settle()
	if got := n.logged(); len(got) != 0 {
		t.Errorf("logged again: %q", got)
	}
	n.host.fail = nil
	n.settle()
	n.expect([]string{"a eth1 ready"}, nil, nil)
}

// DEL ended before the dying netns gave the link back.
func TestRestore(t *testing.T) {
	was := nodestate.LinkState{Name: "eth1", MAC: mac(1), MTU: 9001, Up: true}
	record := func(n *testNode, boot string) {
		n.must(n.records().SaveRestore(nodestate.Restore{
			BootID: boot, Device: nodestate.AttachedDevice{PCIAddress: pci(1), MAC: mac(1), ENIID: eniID(1), Link: &was},
		}))
	}
	waiting := func(n *testNode) int {
		all, err := n.records().Restores()
		n.must(err)
		return len(all)
	}
	tests := []struct {
		name    string
		arrange func(*testNode)
		changes []string
		left    int
		rows    []string
	}{
		{"link still away", func(n *testNode) { delete(n.host.links, 1) }, nil, 1, []string{"a eth1 ready"}},
		{"link back under another name", func(n *testNode) { n.addLink(1, "dev7") }, []string{"restore dev7"}, 0, []string{"a eth1 ready"}},
		{
			"kernel and sysfs do not name its function",
			func(n *testNode) {
				n.addLink(1, "dev7")
				l := n.host.links[1]
				l.Parent, l.Kind = "", "veth"
				n.host.links[1] = l
			},
			[]string{"restore dev7"}, 0, []string{"a eth1 ready"},
		},
		{
			"a link above it has its MAC",
			func(n *testNode) { n.host.links[1] = link.Link{Index: 11, Name: "vlan7", Kind: "vlan", MAC: mac(1)} },
			nil, 1, []string{"a eth1 ready"},
		},
		{"a pod has it again", func(n *testNode) { n.hold(1); n.addLink(1, "dev7") }, nil, 1, []string{"a dev7 ready"}},
		{"its name is taken", func(n *testNode) {
			n.addLink(1, "dev7")
			n.host.fail["restore"] = link.ErrNameTaken
		}, []string{"restore dev7", "up dev7"}, 1, []string{"a dev7 ready"}},
		{"of an earlier boot", func(n *testNode) { n.addLink(1, "eth1"); record(n, "boot-0") }, []string{"up eth1"}, 0, []string{"a eth1 ready"}},
		{"device unplugged", func(n *testNode) { n.unplug(1) }, nil, 0, []string{"a eth1 draining"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := settledNode(t)
			n.host.changes = nil
			record(n, n.boot)
			tt.arrange(n)
			n.sync()
			same(t, "changes of links", tt.changes, n.host.changes)
			if got := waiting(n); got != tt.left {
				t.Errorf("%d restore records are left, want %d", got, tt.left)
			}
			same(t, "rows", tt.rows, n.rows())
		})
	}
}

// The Problem names device, setting, cause and remedy, and ends with its cause. Its reason differs if no pod gets the
// device.
func TestUnrestored(t *testing.T) {
	for reason, tt := range map[string]struct {
		err   error
		words []string
	}{
		"LinkNotRestored": {
			link.Unrestored{{Setting: "MTU", Err: errors.New("invalid argument")}}, []string{"MTU", "invalid argument", "pods get the device", "by hand"},
		},
		"LinkUnfit": {
			link.Unrestored{{Setting: "alias", Err: errors.New("no")}, {Setting: "program", Err: fmt.Errorf("XDP program 7: %w", link.ErrUnfit)}},
			[]string{"alias", "XDP program 7", "no pod gets the device", "detach"},
		},
	} {
		n := settledNode(t)
		was := nodestate.LinkState{Name: "eth1", MAC: mac(1), MTU: 9001, Up: true}
		n.must(n.records().SaveRestore(nodestate.Restore{
			BootID: n.boot, Device: nodestate.AttachedDevice{PCIAddress: pci(1), MAC: mac(1), ENIID: eniID(1), Link: &was},
		}))
		n.host.fail["restore"] = tt.err
		for range 3 {
			n.sync()
		}
		n.expect([]string{"a eth1 ready"}, []string{reason}, nil)
		for _, p := range n.inventory().Problems {
			for _, word := range tt.words {
				if !strings.Contains(p.Message, word) {
					t.Errorf("%s does not say %q: %s", reason, word, p.Message)
				}
			}
			if p.Device != pci(1).String() {
				t.Errorf("%s is about %q", reason, p.Device)
			}
		}
		delete(n.host.fail, "restore")
		n.settle()
		n.expect([]string{"a eth1 ready"}, nil, nil)
	}
}
