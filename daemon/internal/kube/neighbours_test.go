package kube_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

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

var (
	neighboursFlag = flag.Int("neighbours", defaultNeighbours, "how many sequences with neighbours to generate")
	seedFlag       = flag.Uint64("seed", 0, "seed of the first generated sequence; 0 stands for one by the clock")
)

// statesPath is the resource of ENINodeStates.
const statesPath = "/apis/networking.k8s.aws/v1alpha1/eninodestates"

// TestNeighbours: whatever the other programs and people of a node do, and in
// whichever order, the daemon never says that the device plugin serves a config
// that it has not read, deletes no device plugin that has read the config,
// drains no device that is declared, takes no ENI that shows another owner, and
// once all is well, everything is as declared, without another request.
//
// Each sequence has a clock of its own (synctest), by which the daemon's loop,
// the device plugin, the kubelet and the API server run.
func TestNeighbours(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("%d sequences, of which the first has -seed=%d", *neighboursFlag, seed)
	client.RedirectLog(fakekube.Quiet())
	handlers := utilruntime.ErrorHandlers
	utilruntime.ErrorHandlers = nil // they share one back-off, and each sequence has a clock of its own
	t.Cleanup(func() { utilruntime.ErrorHandlers = handlers })
	root := t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "multi-eni"); err == nil { // the daemon syncs its files to the disk
		t.Cleanup(func() { os.RemoveAll(shm) }) //nolint:errcheck // it is a test's
		root = shm
	}
	var done atomic.Int64
	for w := range runtime.GOMAXPROCS(0) {
		t.Run(fmt.Sprint("worker ", w), func(t *testing.T) {
			t.Parallel()
			for i := done.Add(1) - 1; i < int64(*neighboursFlag) && !t.Failed(); i = done.Add(1) - 1 {
				dir := filepath.Join(root, fmt.Sprint(i))
				synctest.Test(t, func(t *testing.T) { runNeighbours(t, seed+uint64(i), dir) })
				os.RemoveAll(dir) //nolint:errcheck,gosec // the root is removed in the end
			}
		})
	}
}

func runNeighbours(t *testing.T, seed uint64, dir string) {
	w := newNeighbourhood(t, seed, dir)
	w.start()
	for left := 5 + int(seed%15); left > 0 && !w.failed(); left-- {
		var calm time.Duration
		w.do(func() {
			w.note("%s", w.happen())
			calm = []time.Duration{0, 100 * time.Millisecond, time.Second, 5 * time.Second, 20 * time.Second, 100 * time.Second}[w.rnd.IntN(6)]
		})
		time.Sleep(calm)
	}
	if !w.failed() {
		w.heal()
	}
	w.stop()
	if w.failed() {
		t.Errorf("go test ./daemon/internal/kube -run TestNeighbours -neighbours=1 -seed=%d\n%s\nafter:\n\t%s\nconfig: %s", seed, w.fault, strings.Join(w.story, "\n\t"), w.content())
	}
}

// happen lets one thing happen, and describes it.
func (w *neighbourhood) happen() string {
	e := 1 + w.rnd.IntN(len(w.slots)-1)
	switch n := w.rnd.IntN(40); {
	case n < 6:
		return w.declare(e)
	case n < 8:
		w.declared[e] = declaredENI{}
		w.woken()
		return fmt.Sprintf("undeclare %d", e)
	case n < 13:
		return w.rewire(e)
	case n < 17:
		return w.pod(e)
	case n < 26:
		return w.people()
	case n < 31:
		return w.plugin.happen(w.rnd)
	case n < 34:
		if w.down = !w.down; w.down {
			w.cutWatches()
		}
		return fmt.Sprintf("API server down: %t", w.down)
	case n < 36:
		return w.namespace()
	default:
		return w.restart()
	}
}

// declare makes a NodeENI, or changes its resource.
func (w *neighbourhood) declare(e int) string {
	d := &w.declared[e]
	if !d.there {
		d.there, d.since = true, time.Now()
	}
	d.resource = []string{"", "intel.com/a", "intel.com/b-1", "example.org/a"}[w.rnd.IntN(4)]
	w.woken()
	return fmt.Sprintf("declare %d as %q", e, d.resource)
}

// rewire attaches or detaches an ENI, or changes an attached one.
func (w *neighbourhood) rewire(e int) string {
	s := &w.slots[e]
	switch {
	case !s.plugged:
		s.plugged, s.vpc, s.marked, s.up = true, w.guarded && w.rnd.IntN(2) == 0, false, false
		s.generation++
		w.instances++
		s.instance = w.instances
		if s.vpc {
			return fmt.Sprintf("the VPC CNI attaches %d", e)
		}
		return fmt.Sprintf("attach %d", e)
	case s.vpc && w.rnd.IntN(3) > 0:
		s.marked = !s.marked
		return fmt.Sprintf("the VPC CNI's rules of %d: %t", e, s.marked)
	case s.rec != nil:
		return "nothing"
	case w.rnd.IntN(2) == 0 && !s.vpc:
		w.instances++
		s.instance, s.up = w.instances, false
		return fmt.Sprintf("re-attach %d at the same address", e)
	}
	s.plugged = false
	return fmt.Sprintf("detach %d", e)
}

// pod lets one take the device, as the plugin does, or end.
func (w *neighbourhood) pod(e int) string {
	s := &w.slots[e]
	if s.rec != nil {
		w.must(s.rec.Remove())
		s.rec = nil
		w.touched()
		return fmt.Sprintf("DEL %d", e)
	}
	inv, err := nodestate.ReadInventory(w.path("inventory.json"))
	i := slices.IndexFunc(inv.Devices, func(d nodestate.Device) bool { return d.PCIAddress == seqPCI(e) && d.Phase == nodestate.PhaseReady })
	if err != nil || i < 0 || !s.plugged {
		return "nothing"
	}
	rec, err := nodestate.AttachmentDir(w.path("records")).Begin(nodestate.Attachment{
		AttachmentID: nodestate.AttachmentID{ContainerID: fmt.Sprintf("c%d", e), IfName: "net1"}, BootID: "boot", Mode: nodestate.ModeExclusive, Pod: fmt.Sprintf("%s/p%d", podNamespace(e), e),
		Args:   fmt.Sprintf("K8S_POD_NAMESPACE=%s;K8S_POD_NAME=p%d", podNamespace(e), e),
		Device: nodestate.AttachedDevice{PCIAddress: seqPCI(e), MAC: s.mac(), ENIID: s.id(), Instance: s.instance},
	})
	w.must(err)
	rec.State = nodestate.StateComplete
	w.must(rec.Save())
	s.rec = rec
	w.touched()
	return fmt.Sprintf("ADD %d", e)
}

// people edit the config, and the times of the file.
func (w *neighbourhood) people() string {
	path := w.path("pcidp", "config.json")
	content := w.content()
	if content == nil {
		return "nothing"
	}
	old := time.Now().Add(-time.Duration(w.rnd.IntN(1000)) * time.Hour)
	switch w.rnd.IntN(7) {
	case 0:
		w.backup = content
		return "the config is copied away"
	case 1, 2: // mv, rsync -a: the file gets the time that the copy had
		if w.backup == nil {
			return "nothing"
		}
		w.must(os.WriteFile(path+".bak", w.backup, 0o644))
		w.must(os.Chtimes(path+".bak", old, old))
		w.must(os.Rename(path+".bak", path))
		w.edited(w.backup)
		return "the copy is moved back"
	case 3: // cp -p
		if w.backup == nil {
			return "nothing"
		}
		w.must(os.WriteFile(path, w.backup, 0o644))
		w.must(os.Chtimes(path, old, old))
		w.edited(w.backup)
		return "the copy is copied back with its times"
	case 4:
		w.must(os.Chtimes(path, old, old))
		w.changed()
		w.touched()
		return "the config is touched"
	case 5:
		w.must(os.WriteFile(path, content[:len(content)/2], 0o644))
		w.edited(content[:len(content)/2])
		return "half of the config is lost"
	default:
		edited := w.withPeople(content)
		if edited == nil {
			return "nothing"
		}
		w.must(os.WriteFile(path, edited, 0o644))
		w.edited(edited)
		return "people edit the config"
	}
}

// withPeople puts an entry of other hardware in, or takes it out. The second has
// the name of a resource of ours where the device plugin's own prefix is ours too.
func (w *neighbourhood) withPeople(content []byte) []byte {
	var config struct {
		ResourceList []map[string]any `json:"resourceList"`
	}
	if json.Unmarshal(content, &config) != nil {
		return nil
	}
	all, name := len(config.ResourceList), []string{"numa0-pf1", "numa0-pf1", "a"}[w.rnd.IntN(3)]
	config.ResourceList = slices.DeleteFunc(config.ResourceList, func(e map[string]any) bool { return e["resourceName"] == name && e["resourcePrefix"] == nil })
	if all == len(config.ResourceList) {
		config.ResourceList = append(config.ResourceList, map[string]any{
			"resourceName": name, "selectors": map[string]any{"vendors": []string{"8086"}},
		})
	}
	if len(config.ResourceList) == 0 {
		return nil
	}
	edited, err := json.Marshal(config)
	w.must(err)
	return edited
}

func (w *neighbourhood) namespace() string {
	n := w.rnd.IntN(4)
	switch n {
	case 3:
		if w.state != nil {
			w.version++
			w.state, w.stateDeleted = nil, w.version
			w.cutWatches()
		}
		return "the ENINodeState is deleted"
	case 0:
		w.refused = !w.refused
		return fmt.Sprintf("Events are forbidden: %t", w.refused)
	}
	w.terminating[n] = !w.terminating[n]
	return fmt.Sprintf("namespace ns%d terminates: %t", n, w.terminating[n])
}

// restart ends the daemon; it may be away for a while, in which a later version may
// have run.
func (w *neighbourhood) restart() string {
	if w.away {
		what := "daemon starts" + w.upgraded()
		w.away = false
		w.launch()
		return what
	}
	w.halt()
	if w.rnd.IntN(2) == 0 {
		w.away = true
		return "daemon stops" + w.upgraded()
	}
	w.launch()
	return "daemon restarts"
}

// upgraded makes files look, now and then, as if a later version had written them
// before this one came back.
func (w *neighbourhood) upgraded() string {
	paths := []string{nodestate.CheckpointPath(w.path("state"))}
	for e := range w.slots {
		if rec := w.slots[e].rec; rec != nil {
			paths = append(paths, filepath.Join(w.path("records"), fmt.Sprintf("c%d-net1.json", e)))
		}
	}
	path := paths[w.rnd.IntN(len(paths))]
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || w.rnd.IntN(2) == 0 {
		return ""
	}
	w.must(err)
	later := bytes.Replace(data, []byte(`"schemaVersion": 1`), []byte(`"schemaVersion": 2`), 1)
	if bytes.Equal(data, later) && !bytes.Contains(data, []byte(`"schemaVersion": 2`)) {
		w.wrong("%s has no schemaVersion: %s", path, data)
	}
	w.must(os.WriteFile(path, later, 0o600))
	return ", " + filepath.Base(path) + " is of another version"
}

// heal ends everything that is out of order, and judges the outcome.
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

// judgeEnd: the config and the device plugin are as declared.
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

// wanted says whether a slot's ENI is declared and ours.
func (w *neighbourhood) wanted(e int) bool {
	return w.declared[e].there && !w.slots[e].vpc
}

// clashes says whether people have an entry of the name in the config, or had one
// when they last wrote it: it stays theirs.
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

// peopleOffer says whether people have put an entry there that offers the device by
// the name. Each counts alone: of two with one name the daemon keeps the first.
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

// observe judges a View as soon as a Sync has made it.
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
		// One that drained and is declared again is looked at for 30 s where the VPC CNI
		// may have taken it meanwhile.
		doubtful := w.guarded && min(time.Since(w.declared[e].since), time.Since(w.daemonSince)) < 45*time.Second
		if d.Phase == nodestate.PhaseDraining && w.wanted(e) && !doubtful {
			w.wrong("%s (%s) drains though it is declared and plugged in, problems %q", d.ENIID, d.PCIAddress, v.Inventory.Problems)
		}
		if d.Phase == nodestate.PhaseReady && s.vpc && s.marked && s.rec == nil {
			w.wrong("%s is ready though the VPC CNI's rules are on it", d.PCIAddress)
		}
	}
}

// deleted judges that the daemon deletes the device plugin's pod: not one that has
// read the config, as far as the daemon can know. It can where it ran and saw the
// config served some time after the pod's start, whoever touches the file then.
func (w *neighbourhood) deleted(p *sriovdpPod) {
	stable := p.started.Add(-2 * time.Second)
	if p.read != nil && p.runs && sameJSON(p.read, w.content()) && w.contentSince.Before(stable) && w.daemonSince.Before(stable) && w.served.After(p.started.Add(12*time.Second)) {
		w.wrong("the device plugin is restarted though it has read the config: it started at %s, the config is from %s", p.started.Sub(w.began), w.contentSince.Sub(w.began))
	}
}

// oneLine is for people.
func oneLine(config []byte) string {
	var b bytes.Buffer
	if json.Compact(&b, config) != nil {
		return string(config)
	}
	return b.String()
}

// sameJSON says whether both are valid and mean the same.
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

// launch starts the daemon.
func (w *neighbourhood) launch() {
	ctx, cancel := context.WithCancel(context.Background())
	api := w.client()
	plugin, err := pluginpods.New(api, pluginpods.Options{
		Namespaces: []string{"kube-system", "default"}, Config: w.path("pcidp", "config.json"), Kubelet: w.plugin.kubelet, Now: time.Now, Log: fakekube.Quiet(),
	})
	w.must(err)
	reporter := report.New(api, report.Options{Node: func() (client.NodeRef, bool) { return client.NodeRef{Name: "node-a", UID: "u-1"}, true }, Now: time.Now, Log: fakekube.Quiet()})
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

// written judges a config of the daemon's: it runs under one of the prefixes that
// the device plugin here may have. Which the daemon knows is its own affair.
func (w *neighbourhood) written(content []byte) {
	for _, prefix := range []string{"intel.com", "example.org"} {
		if dpmodel.Judge(content, w.devices(), "-resource-prefix="+prefix).Runs() {
			return
		}
	}
	w.wrong("the device plugin would not run with the new config\n%s", oneLine(content))
}

// rename starts the daemon under the name of another node, now and then: it must
// refuse where it has something to lose.
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

// List implements reconcile.NodeENIs.
func (n neighbourENIs) List() (inventory.Snapshot, error) { return n.w.snapshot(), nil }

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 3)) } //nolint:gosec // to be repeated

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
