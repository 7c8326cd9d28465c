package reconcile

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/checkpoint"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const thisInstance, otherInstance = "i-0a1b2c3d4e5f60718", "i-0a1b2c3d4e5f60719"

func of(instance string) func() string { return func() string { return instance } }

// A start under another name changes nothing and fails, whichever file remembers the old name, unless an operator
// confirms it.
func TestRenamedNode(t *testing.T) {
	renamed := func(o *Options) { o.NodeName = "node-b" }
	forget := func(n *testNode) { n.must(os.Remove(nodestate.CheckpointPath(n.path("state")))) }
	tests := map[string]struct {
		change  func(*testNode)
		options func(*Options)
		refused bool
	}{
		"by NODE_NAME":                           {func(*testNode) {}, renamed, true},
		"after a reboot":                         {func(n *testNode) { n.boot = "boot-2" }, renamed, true},
		"the checkpoint is lost":                 {forget, renamed, true},
		"the checkpoint is lost, after a reboot": {func(n *testNode) { forget(n); n.boot = "boot-2" }, renamed, false},
		"same instance":                          {func(*testNode) {}, func(o *Options) { renamed(o); o.Instance = of(thisInstance) }, true},
		"another instance":                       {func(n *testNode) { n.boot = "boot-2" }, func(o *Options) { renamed(o); o.Instance = of(otherInstance) }, false},
		"meant":                                  {func(*testNode) {}, func(o *Options) { renamed(o); o.RenamedFrom = "node-a" }, false},
		"another renaming is meant":              {func(*testNode) {}, func(o *Options) { renamed(o); o.RenamedFrom = "node-c" }, true},
		"the same name":                          {func(*testNode) {}, func(*Options) {}, false},
		"nothing is remembered": {func(n *testNode) {
			n.undeclare("a")
			n.settle()
		}, renamed, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 1)
			n.must(n.startWith(func(o *Options) { o.Instance = of(thisInstance) }))
			n.declare("a", 1, "dpdkResourceName: intel.com/a")
			n.settle()
			tt.change(n)
			before := n.files()
			err := n.startWith(tt.options)
			var other *checkpoint.OtherNodeError
			if !tt.refused {
				n.must(err)
				n.settle()
				return
			}
			if !errors.As(err, &other) || other.Was != "node-a" || other.Is != "node-b" {
				t.Fatalf("error %v, want an OtherNodeError for node-a and node-b", err)
			}
			for _, part := range []string{`"node-a"`, `"node-b"`, other.File, "NODE_NAME", `--renamed-from=node-a`} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q lacks %q", err, part)
				}
			}
			if diff := cmp.Diff(before, n.files()); diff != "" {
				t.Errorf("files were changed:\n%s", diff)
			}
		})
	}
}

func TestRenamedNodeGoesOn(t *testing.T) {
	n := settledNode(t, "dpdkResourceName: intel.com/a")
	n.must(n.startWith(func(o *Options) { o.NodeName, o.RenamedFrom = "node-b", "node-a" }))
	n.settle()
	n.expect([]string{"a eth1 ready"}, nil, pools{"intel.com/a": {pci(1)}})
	n.must(n.startWith(func(o *Options) { o.NodeName = "node-b" }))
	if got := n.inventory().NodeName; got != "node-b" {
		t.Errorf("the inventory is of %q", got)
	}
}

// The checkpoint came with a snapshot of a disk: nothing drains, its config entries go, and one log line says so.
func TestCheckpointOfAnotherInstance(t *testing.T) {
	for _, late := range []bool{false, true} {
		n := newNode(t, 1, 2)
		n.must(n.startWith(func(o *Options) { o.Instance = of(otherInstance) }))
		n.declare("a", 1, "dpdkResourceName: intel.com/a")
		n.settle()
		n.boot = "boot-2"
		n.must(os.Remove(n.path("run/inventory.json")))
		n.undeclare("a")
		n.declare("b", 2)
		n.logged()
		id := ""
		if !late {
			id = thisInstance
		}
		n.must(n.startWith(func(o *Options) { o.Instance = func() string { return id } }))
		id = thisInstance
		n.settle()
		n.expect([]string{"b eth2 ready"}, nil, nil)
		for _, v := range n.views {
			for _, d := range v.Inventory.Devices {
				if d.Phase == nodestate.PhaseDraining {
					t.Errorf("%s drains", d.ENIID)
				}
			}
		}
		said := 0
		for _, m := range n.logged() {
			if strings.Contains(m, "of another instance") {
				said++
			}
		}
		c, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(n.path("state")))
		n.must(err)
		if said != 1 || c.Instance != thisInstance {
			t.Errorf("said %d times, and the checkpoint is of %q", said, c.Instance)
		}
	}
}

func TestInstanceUnknown(t *testing.T) {
	n := newNode(t, 1)
	n.must(n.startWith(func(o *Options) { o.Instance = of(thisInstance) }))
	n.declare("a", 1, "dpdkResourceName: intel.com/a")
	n.settle()
	n.start()
	n.settle()
	n.expect([]string{"a eth1 ready"}, nil, pools{"intel.com/a": {pci(1)}})
	c, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(n.path("state")))
	n.must(err)
	if c.Instance != thisInstance || c.NodeName != "node-a" {
		t.Errorf("the checkpoint is of %q on %q", c.NodeName, c.Instance)
	}
}
