package kube_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
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

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

var (
	neighboursFlag = flag.Int("neighbours", defaultNeighbours, "how many sequences with neighbours to generate")
	seedFlag       = flag.Uint64("seed", 0, "seed of the first generated sequence; 0 stands for one by the clock")
)

const statesPath = "/apis/networking.k8s.aws/v1alpha1/eninodestates"

// TestNeighbours lets other programs and people of a node act in any order. The daemon must never say that the device plugin serves a config
// that it has not read, delete a device plugin that has read the config, drain a declared device, or take an ENI that shows another owner.
// Once all is well, everything is as declared without another request.
//
// Each sequence has its own clock (synctest) for the daemon's loop, the device plugin, the kubelet and the API server.
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
		t.Errorf("go test ./daemon/internal/kube -run TestNeighbours -neighbours=1 -seed=%d\n%s\nafter:\n\t%s\nconfig: %s", seed, w.fault,
			strings.Join(w.story, "\n\t"), w.content())
	}
}

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

func (w *neighbourhood) declare(e int) string {
	d := &w.declared[e]
	if !d.there {
		d.there, d.since = true, time.Now()
	}
	d.resource = []string{"", "intel.com/a", "intel.com/b-1", "example.org/a"}[w.rnd.IntN(4)]
	w.woken()
	return fmt.Sprintf("declare %d as %q", e, d.resource)
}

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

// pod has a pod take the device, as the plugin does, or ends the pod.
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
		AttachmentID: nodestate.AttachmentID{ContainerID: fmt.Sprintf("c%d", e),
			IfName: "net1"}, BootID: "boot", Mode: nodestate.ModeExclusive, Pod: fmt.Sprintf("%s/p%d", podNamespace(e), e),
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

// withPeople adds or removes an entry of other hardware. The second entry has our resource's name if the device plugin's own prefix is ours too.
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

// restart ends the daemon. It may be away for a while, in which a later version may run.
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

// upgraded sometimes makes files look as if a later version wrote them before this one came back.
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
