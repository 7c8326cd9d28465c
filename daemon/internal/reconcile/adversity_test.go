package reconcile

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// Editing truncates the config, which neither ends the problems nor begins them anew.
func TestProblemsStandWhileConfigIsEdited(t *testing.T) {
	n := newNode(t, 1)
	n.declare("a", 1, "dpdkResourceName: intel.com/fast")
	n.write(`{"resourceList":[{"resourceName":"all","selectors":{"vendors":["1d0f"],"pciAddresses":["`+pci(1).String()+`"]}}]}`, "pcidp/config.json")
	n.settle()
	n.expect([]string{"a eth1 ready"}, []string{"ForeignSelectorMatches"}, pools{"intel.com/fast": {pci(1)}})
	whole, err := os.ReadFile(n.path("pcidp/config.json"))
	n.must(err)
	n.logged()

	n.write(string(whole[:len(whole)/2]), "pcidp/config.json")
	if out := n.daemon.Sync(t.Context()); out.After == 0 {
		t.Error("a config in the middle of an edit is not looked at again")
	}
	same(t, "problems while it is edited", []string{"ForeignSelectorMatches"}, n.reasons())
	n.write(string(whole), "pcidp/config.json")
	n.settle()
	if got := n.logged(); len(got) > 0 {
		t.Errorf("logged %q, want nothing: the config is as it was", got)
	}
}

// The next Sync restores files that others remove or change, without a log line, and then leaves them alone.
func TestLostFilesAreWrittenAgain(t *testing.T) {
	lose := map[string]func(path string) error{
		"removed":   os.Remove,
		"truncated": func(path string) error { return os.Truncate(path, 0) },
		"mode":      func(path string) error { return os.Chmod(path, 0o666) },
	}
	for how, change := range lose {
		for _, file := range []string{"run/inventory.json", "state/checkpoint.json"} {
			t.Run(file+" "+how, func(t *testing.T) {
				n := settledNode(t, "dpdkResourceName: intel.com/fast")
				want, err := os.ReadFile(n.path(file))
				n.must(err)
				n.must(change(n.path(file)))
				n.sync()
				got, err := nodestate.ReadTrusted(n.path(file))
				n.must(err)
				if file == "state/checkpoint.json" && !slices.Equal(want, got) {
					t.Errorf("holds %s, want %s", got, want)
				}
				n.expect([]string{"a eth1 ready"}, nil, pools{"intel.com/fast": {pci(1)}})
				before := n.files()
				n.sync()
				if diff := cmp.Diff(before, n.files()); diff != "" {
					t.Errorf("written again without need:\n%s", diff)
				}
			})
		}
	}
}

func (n *testNode) unwritable() (writable func()) {
	n.Helper()
	n.mkdir("state/.checkpoint.json.tmp") // where the next content is prepared
	return func() { n.must(os.Remove(n.path("state/.checkpoint.json.tmp"))) }
}

// The daemon knows which config is served even if it cannot save that.
func TestNoRestartForAnUnwritableCheckpoint(t *testing.T) {
	n := newNode(t, 1)
	n.declare("a", 1, "dpdkResourceName: intel.com/fast")
	n.sync()
	writable := n.unwritable()
	for range 10 {
		n.syncAfter(time.Minute)
	}
	n.restarted(1, "restarted %d times, want once")
	n.expect([]string{"a eth1 ready"}, []string{"StateUnwritable"}, pools{"intel.com/fast": {pci(1)}})
	writable()
	n.settle()
	n.start()
	n.settleAfter(time.Hour)
	n.restarted(1, "restarted %d times, want none for a new daemon")
	n.expect([]string{"a eth1 ready"}, nil, pools{"intel.com/fast": {pci(1)}})
}

func TestUnwritableCheckpointShows(t *testing.T) {
	n := newNode(t, 1, 2)
	n.declare("a", 1, "dpdkResourceName: intel.com/fast")
	n.write(`{"resourceList":[{"resourceName":"all","selectors":{"vendors":["1d0f"],"pciAddresses":["`+pci(1).String()+`"]}}]}`, "pcidp/config.json")
	n.settle()
	n.logged()
	writable := n.unwritable()
	n.declare("b", 2)
	n.undeclare("a")
	for range 5 {
		n.sync()
		n.now = n.now.Add(time.Minute)
	}
	n.expect([]string{"a eth1 ready"}, []string{"StateUnwritable", "ForeignSelectorMatches"}, pools{"intel.com/fast": {pci(1)}})
	warned := 0
	for _, m := range n.logged() {
		switch m {
		case "problem found":
			warned++
		case "problem is over":
			t.Error("a problem is over that nobody has looked at again")
		}
	}
	if warned != 1 {
		t.Errorf("%d problems were logged, want one", warned)
	}
	writable()
	n.settle()
	n.expect([]string{"b eth2 ready"}, nil, pools{"intel.com/all": {pci(1)}})
}

// A route with several next hops, one of them by the link, is not ours to remove.
func TestSharedDefaultRoute(t *testing.T) {
	n := newNode(t, 1)
	n.declare("a", 1)
	n.host.routes[1], n.host.shared = true, true
	n.sync()
	n.expect([]string{"a eth1 ready"}, []string{"SharedDefaultRoute"}, nil)
	n.host.routes[1] = false
	n.sync()
	n.expect([]string{"a eth1 ready"}, nil, nil)
}

func TestRoutesAreReadOncePerSync(t *testing.T) {
	n := newNode(t, 1, 2, 3)
	for e, name := range []string{1: "a", 2: "b", 3: "c"} {
		if name != "" {
			n.declare(name, e)
		}
	}
	n.settle()
	n.host.dumps = 0
	n.sync()
	if n.host.dumps != 1 {
		t.Errorf("%d dumps of the routes, want one", n.host.dumps)
	}
	n.host.fail["routes"] = unix.ENOBUFS
	n.sync()
	n.expect([]string{"a eth1 ready", "b eth2 ready", "c eth3 ready"}, []string{"RoutesUnreadable"}, nil)
}

// A device that is pending for days makes no event a reason to ask IMDS.
func TestBusyNodeDoesNotFloodMetadata(t *testing.T) {
	n := newNode(t)
	n.declare("a", 1) // attached by nobody
	n.settle()
	n.imds.asked = 0
	const seconds = 10
	for range seconds * int(time.Second/syncApart) {
		n.sync()
		n.now = n.now.Add(syncApart)
	}
	if most := seconds * int(time.Second/metadataApart); n.imds.asked > most || n.imds.asked == 0 {
		t.Errorf("asked %d times in %d seconds of events, want 1 to %d", n.imds.asked, seconds, most)
	}
}

func TestDrainingAsksMetadataSeldom(t *testing.T) {
	n := settledNode(t)
	n.hold(1)
	n.undeclare("a")
	n.settle()
	n.expect([]string{"a eth1 draining"}, nil, nil)
	n.imds.asked = 0
	for range int(time.Minute / time.Second) {
		n.sync()
		n.now = n.now.Add(time.Second)
	}
	if most := int(time.Minute/metadataFresh) + 1; n.imds.asked > most {
		t.Errorf("asked %d times in a minute, want at most %d", n.imds.asked, most)
	}
}

func TestRestoreRecordThatStays(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	n := settledNode(t)
	rec := n.hold(1)
	rec.Device.Link = &nodestate.LinkState{Name: "eth1", MAC: mac(1), MTU: 1500, Up: true}
	n.must(n.records().SaveRestore(nodestate.Restore{BootID: rec.BootID, Device: rec.Device}))
	n.must(rec.Remove())
	n.addLink(1, "eth1")
	n.logged()

	folder := n.path("records/restore")
	n.must(unix.Mount(folder, folder, "", unix.MS_BIND, ""))
	n.must(unix.Mount("", folder, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	for range 5 {
		n.sync()
		n.now = n.now.Add(time.Minute)
	}
	n.expect([]string{"a eth1 ready"}, []string{"LinkNotRestored"}, nil)
	n.must(unix.Unmount(folder, unix.MNT_DETACH))
	n.settle()
	n.expect([]string{"a eth1 ready"}, nil, nil)
	same(t, "log", []string{"problem found", "link restored", "problem is over"}, n.logged())
}

func TestRestartOfTheDaemonChangesNothing(t *testing.T) {
	n := newNode(t, 1, 2)
	n.declare("a", 1, "dpdkResourceName: intel.com/fast", "mtu: 9001")
	n.declare("b", 2)
	n.write(`{"resourceList":[{"resourceName":"other","additionalInfo":{"*":{"note":"<a> & b"}},"selectors":{"drivers":["i40e"]}}]}`, "pcidp/config.json")
	n.settle()
	n.hold(2)
	n.settle()
	before, changes, restarts := n.files(), len(n.host.changes), len(n.restarts.wanted)
	n.logged()
	for range 2 {
		n.start()
		n.settleAfter(time.Hour)
	}
	if diff := cmp.Diff(before, n.files()); diff != "" {
		t.Errorf("files (-before +after):\n%s", diff)
	}
	if got := n.logged(); len(got) > 0 || len(n.host.changes) != changes || len(n.restarts.wanted) != restarts {
		t.Errorf("logged %q, changed %q, restarted %d times; want nothing", got, n.host.changes[changes:], len(n.restarts.wanted)-restarts)
	}
}
