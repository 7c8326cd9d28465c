package reconcile

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/devicelock"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func (r *Reconciler) readTaken() (inventory.Fact[map[device.PCIAddress]nodestate.Restore], error) {
	f := inventory.Sources{Held: map[device.PCIAddress]bool{}}
	for _, found := range r.readRestores(&f) {
		if found.Err != nil {
			return f.Taken, found.Err
		}
	}
	return f.Taken, nil
}

// faults make a file from its content that this version does not understand.
var faults = map[string]func(path string, content []byte) error{
	"missing":       func(path string, _ []byte) error { return os.Remove(path) },
	"empty":         func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) },
	"torn":          func(path string, content []byte) error { return os.WriteFile(path, content[:len(content)/2], 0o600) },
	"other version": func(path string, content []byte) error { return os.WriteFile(path, ofVersion(2, content), 0o600) },
	"other version, other keys": func(path string, _ []byte) error {
		return os.WriteFile(path, []byte(`{"schemaVersion":7,"device":"x","devices":[7,{"phase":"parked"}]}`), 0o600)
	},
	"unreadable": func(path string, _ []byte) error { return os.WriteFile(path, make([]byte, 5<<20), 0o600) }, // larger than any reader takes
	"untrusted":  func(path string, _ []byte) error { return os.Chmod(path, 0o666) },
}

var version = regexp.MustCompile(`"schemaVersion": *1`)

func ofVersion(v int, content []byte) []byte {
	return version.ReplaceAll(content, []byte(`"schemaVersion": `+string(rune('0'+v))))
}

// fate is the outcome for two devices that are removed while a file about the first, or about both, is spoilt.
type fate struct {
	// first and second are the phases in which they stay; "" is gone.
	first, second nodestate.Phase
	reason        string
	refuses       bool
	stays         bool
}

const drains = nodestate.PhaseDraining

// kinds has the outcome of each fault in each kind of file. A pod has the first device for Attachment and Checkpoint.
var kinds = map[string]struct {
	path  string
	fates map[string]fate
}{
	"Attachment": {"records/c1-net1.json", map[string]fate{
		"missing":                   {},
		"empty":                     {reason: "RecordUnreadable", stays: true},
		"torn":                      {reason: "RecordUnreadable", stays: true},
		"other version":             {first: drains, reason: "RecordUnreadable", stays: true},
		"other version, other keys": {first: drains, second: drains, reason: "RecordUnreadable", stays: true},
		"unreadable":                {first: drains, second: drains, reason: "RecordUnreadable", stays: true},
		"untrusted":                 {first: drains, second: drains, reason: "RecordUnreadable", stays: true},
	}},
	"Restore": {"records/restore/0000:01:00.0.json", map[string]fate{
		"missing":                   {},
		"empty":                     {},
		"torn":                      {},
		"other version":             {first: drains, reason: "RecordUnreadable", stays: true},
		"other version, other keys": {first: drains, reason: "RecordUnreadable", stays: true},
		"unreadable":                {},
		"untrusted":                 {reason: "RecordsUnreadable", stays: true}, // no device changes its driver; these have their own
	}},
	"Checkpoint": {"state/checkpoint.json", map[string]fate{ // the inventory of the same boot fills its gaps
		"missing":                   {first: drains},
		"empty":                     {first: drains},
		"torn":                      {first: drains},
		"other version":             {first: drains, reason: "CheckpointOtherVersion"},
		"other version, other keys": {first: drains, reason: "CheckpointOtherVersion"},
		"unreadable":                {first: drains},
		"untrusted":                 {refuses: true, stays: true},
	}},
	"Inventory": {"run/inventory.json", map[string]fate{ // it tells nothing that the checkpoint does not
		"missing": {}, "empty": {}, "torn": {}, "other version": {}, "other version, other keys": {}, "unreadable": {}, "untrusted": {},
	}},
	"Leases": {"leases/boot-1/eni-00000000000000001.json", map[string]fate{
		"missing":                   {},
		"empty":                     {reason: "LeasesUnreadable", stays: true},
		"torn":                      {reason: "LeasesUnreadable", stays: true},
		"other version":             {reason: "LeasesUnreadable", stays: true},
		"other version, other keys": {reason: "LeasesUnreadable", stays: true},
		"unreadable":                {reason: "LeasesUnreadable", stays: true},
		"untrusted":                 {reason: "LeasesUnreadable", stays: true},
	}},
}

// A file that the daemon cannot understand holds each device that it names or may name. A lost file holds none.
func TestEveryKindOfFile(t *testing.T) {
	for name, k := range kinds {
		if diff := cmp.Diff(keys(faults), keys(k.fates)); diff != "" {
			t.Errorf("%s has no row for a fault, or one for none (-faults +rows):\n%s", name, diff)
		}
		for fault, want := range k.fates {
			t.Run(name+", "+fault, func(t *testing.T) {
				n := newNode(t, 1, 2)
				n.declare("a", 1, "dpdkResourceName: intel.com/fast")
				n.declare("b", 2, "dpdkResourceName: intel.com/fast")
				n.settle()
				path := n.path(k.path)
				switch name {
				case "Attachment", "Checkpoint":
					n.hold(1)
				case "Restore":
					n.must(n.records().SaveRestore(nodestate.Restore{BootID: n.boot, Device: nodestate.AttachedDevice{
						PCIAddress: pci(1), MAC: mac(1), Link: &nodestate.LinkState{Name: "was1", MAC: mac(1)},
					}}))
				case "Leases":
					l, err := leases.Dir(n.path("leases")).Lock(t.Context(), n.boot, eniID(1))
					n.must(err)
					n.must(l.Save())
					l.Close()
				}
				content, err := os.ReadFile(path)
				n.must(err)
				n.must(faults[fault](path, content))
				spoilt, _ := os.ReadFile(path) // "" when it is missing
				n.undeclare("a")
				n.undeclare("b")
				if _, err := New(n.daemon.Options); (err != nil) != want.refuses {
					t.Fatalf("New: %v", err)
				}
				if !want.refuses {
					n.start()
					n.settle()
					n.settleAfter(time.Hour)
					n.fate(want)
				}
				now, err := os.ReadFile(path)
				if got := err == nil && string(now) == string(spoilt); got != want.stays {
					t.Errorf("%s is as it was: %t", path, got)
				}
				if name == "Checkpoint" && strings.HasPrefix(fault, "other version") {
					if kept, err := filepath.Glob(path + ".schema-*"); len(kept) != 1 || err != nil {
						t.Errorf("kept %q", kept)
					}
				}
			})
		}
	}
}

func (n *testNode) fate(want fate) {
	n.Helper()
	got := fate{stays: want.stays}
	for _, d := range n.inventory().Devices {
		if d.NodeENI == "a" {
			got.first = d.Phase
		} else {
			got.second = d.Phase
		}
	}
	for _, p := range n.inventory().Problems {
		if strings.HasSuffix(string(p.Reason), "Unreadable") || strings.HasSuffix(string(p.Reason), "OtherVersion") {
			got.reason = string(p.Reason)
		}
	}
	if got != want {
		n.Errorf("fate %+v, want %+v; problems %+v", got, want, n.inventory().Problems)
	}
}

func keys[V any](m map[string]V) (all []string) {
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// The daemon does not read the policy, but for doctor.
func TestKindsAreComplete(t *testing.T) {
	var all []string
	files, err := filepath.Glob("../../../pkg/*/*.go") // nodestate and leases
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	field := regexp.MustCompile(`(?ms)^type (\w+) struct \{\n(?:\t[^\n]*\n|\n)*?\tSchemaVersion +int `)
	for _, name := range files {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range field.FindAllSubmatch(source, -1) {
			if kind := string(m[1]); kind != "Policy" {
				all = append(all, kind)
			}
		}
	}
	slices.Sort(all)
	if diff := cmp.Diff(keys(kinds), all); diff != "" {
		t.Errorf("kinds of files (-rows +nodestate):\n%s", diff)
	}
}

// Every address of that ENI counts as leased; other ENIs are not affected.
func TestLeasesOfAnotherVersion(t *testing.T) {
	n := newNode(t, 1, 2)
	set := func(e int, addresses ...string) {
		eni := n.imds.enis[e]
		eni.Addresses = nil
		for _, a := range addresses {
			eni.Addresses = append(eni.Addresses, netip.MustParsePrefix(a))
		}
		n.imds.enis[e] = eni
	}
	set(1, "10.0.0.1/16", "10.0.0.11/16")
	set(2, "10.0.0.2/16", "10.0.0.12/16")
	n.declare("a", 1)
	n.declare("b", 2)
	n.settle()
	n.write(`{"schemaVersion":2}`, "leases", n.boot, eniID(1).String()+".json")
	n.must(os.Chmod(n.path("leases", n.boot, eniID(1).String()+".json"), 0o600))
	set(1, "10.0.0.1/16")
	set(2, "10.0.0.2/16")
	n.settleAfter(time.Hour)
	var got [][]netip.Prefix
	for _, d := range n.inventory().Devices {
		got = append(got, d.Addresses)
	}
	if len(got) != 2 || len(got[0]) != 2 || len(got[1]) != 1 {
		t.Errorf("addresses %v; want both of the first ENI, and one of the second", got)
	}
}

func TestOtherVersionIsNoOrphan(t *testing.T) {
	n := newNode(t, 1)
	swept := &sweeps{}
	n.daemon.Orphans = swept
	n.declare("a", 1)
	n.hold(1)
	path := n.path("records/c1-net1.json")
	content, err := os.ReadFile(path)
	n.must(err)
	n.sync()
	n.must(os.WriteFile(path, ofVersion(2, content), 0o600))
	n.sync()
	same(t, "records given to the sweeper, before and after", []int{1, 0}, swept.seen)
	if h := n.views[len(n.views)-1].Holders; len(h) != 1 || h[0].ContainerID != "c1" || h[0].IfName != "net1" {
		t.Errorf("holders %+v; want the record's", h)
	}
	locks := devicelock.Locker{BootID: n.boot, Attachments: n.records(), PCI: n.daemon.PCI}
	if _, err := locks.Lock(t.Context(), pci(1)); !errors.Is(err, devicelock.ErrNotOurs) {
		t.Errorf("lock: %v; want %v", err, devicelock.ErrNotOurs)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		t.Error("the record is gone")
	}
}

type sweeps struct{ seen []int }

func (s *sweeps) Sweep(_ context.Context, records []nodestate.Attachment) ([]nodestate.Problem, time.Duration) {
	s.seen = append(s.seen, len(records))
	return nil, 0
}
