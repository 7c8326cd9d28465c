package reconcile

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/driver"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

type clockStory struct {
	least, most time.Duration
	options     func(*Options)
	begin       func(n *testNode, settle func(time.Duration))
	come        func(n *testNode) bool
}

func hasReason(reason string) func(*testNode) bool {
	return func(n *testNode) bool { return slices.Contains(n.reasons(), reason) }
}

func hasRow(row string) func(*testNode) bool {
	return func(n *testNode) bool { return slices.Contains(n.rows(), row) }
}

func failingBind(n *testNode) {
	n.drivers.fail = map[device.PCIAddress]error{pci(1): errors.New("busy")}
}

const clockSlack = retryLatest + time.Second

var clockStories = map[string]clockStory{
	"a bind that has failed is tried again": {
		most: driver.BackoffMost + clockSlack,
		begin: func(n *testNode, settle func(time.Duration)) {
			failingBind(n)
			n.declareDPDK("a", 1)
			settle(5 * time.Minute)
			n.drivers.fail = nil
		},
		come: hasRow("a  ready"),
	},
	"metadata that could not be read are asked again": {
		most: metadataBackOff + clockSlack,
		begin: func(n *testNode, settle func(time.Duration)) {
			n.imds.err = errors.New("connection refused")
			n.declare("a", 1)
			settle(5 * time.Minute)
			n.imds.err = nil
		},
		come: hasRow("a eth1 ready"),
	},
	"new metadata are seen": {
		most: metadataFresh + clockSlack,
		begin: func(n *testNode, settle func(time.Duration)) {
			n.declare("a", 1)
			settle(time.Minute)
			n.attach(2)
			n.declare("b", 2)
		},
		come: hasRow("b eth2 ready"),
	},
	"a lost attachment has its grace": {
		least: time.Minute - time.Second, most: time.Minute + clockSlack, // inventory.missingGrace
		begin: func(n *testNode, settle func(time.Duration)) {
			attached := "status: {attachments: [{nodeID: %s, eniID: " + eniID(1).String() + "}]}\n"
			n.declare("a", 1)
			n.write(clockManifest+fmt.Sprintf(attached, "node-a"), "nodeenis", "a.yaml")
			settle(time.Minute)
			n.hold(1).Close() // so that it stays to be seen
			n.write(clockManifest+fmt.Sprintf(attached, "node-b"), "nodeenis", "a.yaml")
		},
		come: hasRow("a eth1 draining"),
	},
	"a device lock that somebody keeps is reported": {
		least: driver.StuckAfter - time.Second, most: driver.StuckAfter + clockSlack,
		begin: func(n *testNode, settle func(time.Duration)) {
			unlock, err := n.records().LockDevice(context.Background(), pci(1))
			n.must(err)
			n.Cleanup(unlock)
			n.declareDPDK("a", 1)
		},
		come: hasReason("DriverStuck"),
	},
	"a bind that hangs is reported": {
		least: driver.StuckAfter - time.Second, most: driver.StuckAfter + clockSlack,
		begin: func(n *testNode, settle func(time.Duration)) {
			hang := make(chan struct{})
			failingBind(n)
			n.Cleanup(func() {
				done := n.daemon.drivers.Jobs()[pci(1)]
				close(hang)
				if done != nil {
					<-done // before its folders are removed
				}
			})
			n.drivers.hang = map[device.PCIAddress]chan struct{}{pci(1): hang}
			n.declareDPDK("a", 1)
		},
		come: hasReason("DriverStuck"),
	},
	"an ENI that may be somebody else's": {
		least: 30*time.Second - time.Second, most: 30*time.Second + clockSlack, // inventory.quietTime
		options: func(o *Options) { o.NodeENIs = guarded{o.NodeENIs} },
		begin:   func(n *testNode, settle func(time.Duration)) { n.declare("a", 1) },
		come:    hasRow("a eth1 ready"),
	},
	"settings of an idle device are read again": {
		most: time.Minute + resyncEvery + clockSlack,
		begin: func(n *testNode, settle func(time.Duration)) {
			n.declare("a", 1)
			settle(time.Minute)
			n.host.ethtool = map[int]nodestate.Settings{1: {"rings": "512"}}
		},
		come: func(n *testNode) bool { return n.inventory().Devices[0].Ethtool["rings"] == "512" },
	},
}

const clockManifest = "apiVersion: networking.k8s.aws/v1alpha1\nkind: NodeENI\nmetadata: {name: a}\nspec: {nodeSelector: {}, subnetID: " +
	"subnet-00000000000000001, deviceIndex: 1}\n"

// Somebody sets the clock by hours at any moment, and the daemon may restart; each wait keeps its bounds.
func TestClockIsSet(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	for name, story := range clockStories {
		for i := range uint64(3) {
			t.Run(fmt.Sprintf("%s/seed=%d", name, seed+i), func(t *testing.T) { story.run(t, seed+i) })
		}
	}
}

func (s clockStory) run(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 23)) //nolint:gosec // to be repeated
	n := newNode(t, 1)
	up := time.Hour
	start := func() {
		n.must(n.startWith(func(o *Options) {
			o.Uptime = func() (time.Duration, error) { return up, nil }
			if s.options != nil {
				s.options(o)
			}
		}))
	}
	start()
	advance := func(d time.Duration) { up += d; n.now = n.now.Add(d) }
	// wait lets at most d pass and returns when the end came.
	wait := func(d time.Duration, end func() bool) (time.Duration, bool) {
		p, begun := pace{}, up
		for {
			if state := n.daemon.plugin.View().State; rng.IntN(4) == 0 && state != view.PluginRestarting && state != view.PluginPending &&
				state != view.PluginFailed && n.daemon.plugin.Done() == nil { // its times are time.Now's
				n.now = n.now.Add(time.Duration(rng.Int64N(int64(12*time.Hour))) - 6*time.Hour)
			}
			out := n.sync()
			took := up - begun
			if end() || took >= d {
				return took, took < d
			}
			advance(min(p.next(out), max(d-took, time.Millisecond)))
		}
	}
	s.begin(n, func(d time.Duration) { wait(d, func() bool { return false }) })
	if s.least > time.Minute/2 && rng.IntN(2) == 0 { // the checkpoint survives this
		wait(time.Second, func() bool { return false })
		start()
	}
	took, came := wait(2*s.most, func() bool { return s.come(n) })
	if !came || took > s.most || took < s.least-2*time.Second {
		t.Errorf("came after %v (%v), want %v to %v: %q, %q", took, came, s.least, s.most, n.rows(), n.reasons())
	}
}

func TestWallClockIsForPeople(t *testing.T) {
	allowed := map[string]string{
		"view.go: v.At, v.Inventory, v.Plugin = r.Now().UTC().Round(0), r.files.Inventory, r.plugin.View()": "the View's time is for people",
		"config.go: done, after := c.plugin.Step(ctx, c.now(), c.file.Path, " +
			"applied)": "files' and pods' times; its own differences are of time.Now's monotonic reading",
		"reconcile.go: r.plugin.AwaitDevices(r.Now(), before.BootID != r.BootID, before.Devices, res.Devices) // by the clock of its " +
			"Step": "the Restarter compares it by the same clock; set back, the wait is bounded, and set forth, it costs one restart",
		"reconcile.go: r.plugin.Distrust(r.Now())": "pods' times are wall-clock times",
		"../checkpoint/checkpoint.go: SchemaVersion: nodestate.SchemaVersion, NodeName: f.NodeName, BootID: f.BootID, UpdatedAt: f.Now().UTC().Round(0), " +
			"Problems: problems, Devices: devices,": "UpdatedAt is for people",
	}
	var files []string
	for _, folder := range []string{"", "../checkpoint/", "../driver/", "../hostlinks/"} {
		found, err := filepath.Glob(folder + "*.go")
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(source)) {
			key := file + ": " + strings.TrimSpace(line)
			if (strings.Contains(line, ".Now()") || strings.Contains(line, "c.now()")) && allowed[key] == "" || strings.Contains(line, "time.Now") {
				t.Errorf("%s: take the steady clock, or say here why not", key)
			}
		}
	}
}
