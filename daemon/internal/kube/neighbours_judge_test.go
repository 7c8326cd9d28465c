package kube_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/checkpoint"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/pluginpods"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/report"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reconcile"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

// heal mends every fault and judges the outcome.
func (w *neighbourhood) heal() {
	w.do(func() {
		w.note("all is well")
		w.down, w.refused = false, false
		clear(w.terminating[:])
		w.plugin.heal()
		if w.away {
			w.restart()
		}
		for e := range w.slots {
			w.slots[e].marked = w.slots[e].vpc
			if s := &w.slots[e]; s.rec != nil && (w.rnd.IntN(2) == 0 || !w.wanted(e)) {
				w.pod(e)
			}
		}
	})
	time.Sleep(15 * time.Minute)
	w.do(func() {
		w.judgeEnd()
		w.requests = 0
		w.note("calm")
	})
	time.Sleep(10 * time.Minute)
	w.do(func() {
		if w.requests > 8 { // two looks for the device plugin in two namespaces each, and watches that are begun anew
			w.wrong("%d requests in 10 minutes without an event", w.requests)
		}
		w.judgeEnd()
	})
}

func (w *neighbourhood) judgeEnd() {
	want := map[string][]device.PCIAddress{}
	for e := range w.slots {
		if s := w.slots[e]; w.wanted(e) && w.declared[e].resource != "" && s.plugged {
			want[w.declared[e].resource] = append(want[w.declared[e].resource], seqPCI(e))
		}
	}
	got := w.plugin.judge(w.content()).Resources
	for name, addrs := range want {
		if !slices.Equal(addrs, got[name]) && !w.clashes(name) {
			w.wrong("in the end %s offers %v, want %v", name, got[name], addrs)
		}
	}
	for name, addrs := range got {
		for _, a := range addrs {
			if !slices.Contains(want[name], a) && !w.peopleOffer(name, a) {
				w.wrong("in the end %s of %s is not wanted", a, name)
			}
		}
	}
	if w.state == nil {
		w.wrong("in the end there is no ENINodeState")
	}
	if p := w.plugin.pod; p != nil && !sameJSON(p.read, w.content()) {
		w.wrong("in the end the device plugin has read\n%s", oneLine(p.read))
	}
	inv, err := nodestate.ReadInventory(w.path("inventory.json"))
	w.must(err)
	for e := 1; e < len(w.slots); e++ {
		i := slices.IndexFunc(inv.Devices, func(d nodestate.Device) bool { return d.PCIAddress == seqPCI(e) })
		phase := nodestate.Phase("no row")
		if i >= 0 {
			phase = inv.Devices[i].Phase
		}
		if wanted := w.wanted(e) && w.slots[e].plugged; wanted != (phase == nodestate.PhaseReady) {
			w.wrong("in the end %d is %s, wanted: %t, problems %q", e, phase, wanted, inv.Problems)
		}
	}
}

// wanted: the slot's ENI is declared and ours.
func (w *neighbourhood) wanted(e int) bool {
	return w.declared[e].there && !w.slots[e].vpc
}

// clashes: people have an entry of this name in the config, or had one when they last wrote it. The entry stays theirs.
func (w *neighbourhood) clashes(name string) bool {
	for _, content := range [][]byte{w.content(), w.theirs} {
		var config struct {
			ResourceList []struct{ ResourcePrefix, ResourceName string } `json:"resourceList"`
		}
		if json.Unmarshal(content, &config) != nil { // theirs may be anything
			continue
		}
		for _, e := range config.ResourceList {
			theirs := e.ResourcePrefix == "" || bytes.Equal(content, w.theirs)
			if theirs && cmp.Or(e.ResourcePrefix, w.plugin.prefix())+"/"+e.ResourceName == name {
				return true
			}
		}
	}
	return false
}

// peopleOffer: an entry of people's offers the device by this name. Entries count alone: of two with one name the daemon keeps the first.
func (w *neighbourhood) peopleOffer(name string, a device.PCIAddress) bool {
	var config struct {
		ResourceList []json.RawMessage `json:"resourceList"`
	}
	if json.Unmarshal(w.theirs, &config) != nil {
		return false
	}
	return slices.ContainsFunc(config.ResourceList, func(entry json.RawMessage) bool {
		alone := slices.Concat([]byte(`{"resourceList":[`), entry, []byte(`]}`))
		return slices.Contains(w.plugin.judge(alone).Resources[name], a)
	})
}

// observe judges a View right after the Sync that made it.
func (w *neighbourhood) observe(v view.View) {
	if v.Plugin.State == view.PluginServing && v.Config.Current {
		w.served = time.Now()
		if p := w.plugin.pod; p != nil && p.read != nil && !sameJSON(p.read, w.content()) {
			w.wrong("the device plugin is said to serve the config\n%s\nbut has read\n%s", oneLine(w.content()), oneLine(p.read))
		}
	}
	for i := range v.Inventory.Devices {
		d := &v.Inventory.Devices[i]
		e := slices.IndexFunc(w.slots[:], func(s slot) bool { return s.plugged && s.id() == d.ENIID })
		if e < 0 {
			continue
		}
		s := &w.slots[e]
		// A device that drained and is declared again is watched for 30 s, since the VPC CNI may have taken it meanwhile.
		doubtful := w.guarded && min(time.Since(w.declared[e].since), time.Since(w.daemonSince)) < 45*time.Second
		if d.Phase == nodestate.PhaseDraining && w.wanted(e) && !doubtful {
			w.wrong("%s (%s) drains though it is declared and plugged in, problems %q", d.ENIID, d.PCIAddress, v.Inventory.Problems)
		}
		if d.Phase == nodestate.PhaseReady && s.vpc && s.marked && s.rec == nil {
			w.wrong("%s is ready though the VPC CNI's rules are on it", d.PCIAddress)
		}
	}
}

// deleted judges a deletion of the device plugin's pod. The daemon must not delete a pod that, as far as it can know, has read the config.
// It can know when it ran and saw the config served some time after the pod's start, even if somebody touches the file later.
func (w *neighbourhood) deleted(p *sriovdpPod) {
	stable := p.started.Add(-2 * time.Second)
	if p.read != nil && p.runs && sameJSON(p.read, w.content()) && w.contentSince.Before(stable) && w.daemonSince.Before(stable) &&
		w.served.After(p.started.Add(12*time.Second)) {
		w.wrong("the device plugin is restarted though it has read the config: it started at %s, the config is from %s", p.started.Sub(w.began),
			w.contentSince.Sub(w.began))
	}
}

func oneLine(config []byte) string {
	var b bytes.Buffer
	if json.Compact(&b, config) != nil {
		return string(config)
	}
	return b.String()
}

func sameJSON(a, b []byte) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	canonicalA, errA := json.Marshal(x)
	canonicalB, errB := json.Marshal(y)
	return errA == nil && errB == nil && bytes.Equal(canonicalA, canonicalB)
}

func (w *neighbourhood) content() []byte {
	content, err := os.ReadFile(w.path("pcidp", "config.json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.must(err)
	}
	return content
}

func (w *neighbourhood) launch() {
	ctx, cancel := context.WithCancel(context.Background())
	api := w.client()
	plugin, err := pluginpods.New(api, pluginpods.Options{
		Namespaces: []string{"kube-system", "default"}, Config: w.path("pcidp", "config.json"), Kubelet: w.plugin.kubelet, Now: time.Now, Log: fakekube.Quiet(),
	})
	w.must(err)
	reporter := report.New(api, report.Options{Node: func() (client.NodeRef, bool) { return client.NodeRef{Name: "node-a", UID: "u-1"}, true }, Now: time.Now,
		Log: fakekube.Quiet()})
	wake := make(chan struct{}, 1)
	options := reconcile.Options{
		NodeName: "node-a", BootID: "boot", InventoryPath: w.path("inventory.json"), StateDir: w.path("state"),
		Attachments: nodestate.AttachmentDir(w.path("records")), Leases: leases.Dir(w.path("leases")),
		NodeENIs: neighbourENIs{w}, Metadata: &w.kernel, PCI: &w.kernel, Host: &w.kernel, DevicePlugin: plugin,
		Config: &pcidp.File{Path: w.path("pcidp", "config.json"), Now: time.Now, Written: w.written}, ConfigSeen: w.configSeen,
		Wake: func() { signal(wake) }, Now: time.Now, Log: fakekube.Quiet(),
		Observe: func(v view.View) { w.observe(v); reporter.Observe(v) },
	}
	w.rename(options)
	r, err := reconcile.New(options)
	w.must(err)
	sync := func(ctx context.Context) (out reconcile.Outcome) {
		w.do(func() {
			out = r.Sync(ctx)
			w.looked()
		})
		return out
	}
	w.wake, w.daemonSince = wake, time.Now()
	w.halt = func() {
		cancel()
		late := time.AfterFunc(time.Minute, func() {
			stacks := make([]byte, 1<<20)
			w.wrong("the daemon does not end\n%s", stacks[:runtime.Stack(stacks, true)])
		})
		w.unlocked(w.running.Wait)
		late.Stop()
	}
	w.running.Go(func() { reconcile.Run(ctx, sync, wake) })
	w.running.Go(func() { reporter.Run(ctx) })
}

// written judges a config of the daemon's: it uses one of the prefixes that the device plugin here may have. The daemon need not know which.
func (w *neighbourhood) written(content []byte) {
	for _, prefix := range []string{"intel.com", "example.org"} {
		if dpmodel.Judge(content, w.devices(), "-resource-prefix="+prefix).Runs() {
			return
		}
	}
	w.wrong("the device plugin would not run with the new config\n%s", oneLine(content))
}

// rename sometimes starts the daemon under another node's name. It must refuse if it has something to lose.
func (w *neighbourhood) rename(o reconcile.Options) {
	if w.rnd.IntN(4) > 0 {
		return
	}
	memory, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(w.path("state")))
	if err != nil || len(memory.Devices) == 0 {
		return
	}
	o.NodeName = "node-b"
	var other *checkpoint.OtherNodeError
	if _, err := reconcile.New(o); !errors.As(err, &other) {
		w.wrong("the daemon starts under the name of another node: %v", err)
	}
	w.note("the daemon does not start as node-b")
}

type neighbourENIs struct{ w *neighbourhood }

func (n neighbourENIs) List() (inventory.Snapshot, error) { return n.w.snapshot(), nil }

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 3)) } //nolint:gosec // to be repeated

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
