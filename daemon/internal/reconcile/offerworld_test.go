package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
	"github.com/multi-eni/multi-eni-cni/test/kubeletmodel"
)

const offerSlots = 4

// offerWorld is a node in simulated time: the daemon's loop and its device plugin are real, and the kubelet is the model.
type offerWorld struct {
	*testing.T
	rng     *rand.Rand
	seed    uint64
	dir     string
	begun   time.Time
	telling sync.Mutex
	story   []string
	logged  int

	host *fakeHost
	imds *fakeMetadata
	node *kubeletmodel.Node

	sockets kubeletmodel.Sockets
	version kubeletmodel.Version
	daemon  *offerDaemon
	sriov   sriovPlugin

	mu         sync.Mutex
	declared   [offerSlots + 1]string // the resource; "" for no NodeENI
	wish       Wish
	k          *kubeletmodel.Kubelet
	alive      bool // the kubelet runs
	identity   int
	started    time.Time // the kubelet was
	unreadable bool      // podresources is
	lists      int       // how many changes of lists the kubelet has seen
	guard      map[string]int
	gapBegun   map[string]time.Time
	view       view.View
}

func newOfferWorld(t *testing.T, dir string, seed uint64) *offerWorld {
	w := &offerWorld{
		T: t, seed: seed, dir: dir, rng: rand.New(rand.NewPCG(seed, 2)), begun: time.Now(), node: kubeletmodel.NewNode(), //nolint:gosec // to be repeated
		imds: &fakeMetadata{enis: map[int]vpc.ENI{}}, gapBegun: map[string]time.Time{},
		host: &fakeHost{t: t, links: map[int]link.Link{}, ours: map[int]bool{}, routes: map[int]bool{0: true}, fail: map[string]error{}},
		wish: Wish{Mode: nodestate.OfferDevicePlugin, Known: true},
	}
	w.sriov.w, w.sriov.restarts = w, make(chan struct{}, 1)
	w.version = []kubeletmodel.Version{kubeletmodel.V136, kubeletmodel.V136, kubeletmodel.V137}[seed%3]
	for e := range offerSlots + 1 {
		w.imds.enis[e] = vpc.ENI{ID: eniID(e), MAC: mac(e), DeviceIndex: e, SubnetID: subnet(e), Primary: e == 0}
		w.host.links[e] = link.Link{Index: e + 10, Name: ifname(e), MAC: mac(e), MTU: 1500, Parent: pci(e), Up: true}
		w.host.ours[e] = true
	}
	w.node.AddPod(kubeletmodel.Pod{UID: "daemon"})
	return w
}

func (w *offerWorld) tell(format string, args ...any) {
	w.telling.Lock()
	defer w.telling.Unlock()
	w.story = append(w.story, fmt.Sprintf("%9.3fs ", time.Since(w.begun).Seconds())+fmt.Sprintf(format, args...))
}

// Levels implements logrus.Hook.
func (w *offerWorld) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (w *offerWorld) Fire(e *logrus.Entry) error {
	w.tell("  %s %v", e.Message, e.Data)
	w.telling.Lock()
	defer w.telling.Unlock()
	w.logged++
	return nil
}

func (w *offerWorld) path(elem ...string) string {
	return filepath.Join(w.dir, filepath.Join(elem...))
}

func (w *offerWorld) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// List implements NodeENIs.
func (w *offerWorld) List() (inventory.Snapshot, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := inventory.Snapshot{Complete: true}
	for e, resource := range w.declared {
		if resource != "" {
			o := v1alpha1.NodeENI{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("eni", e)}}
			o.Spec.SubnetID, o.Spec.DeviceIndex, o.Spec.DPDKResourceName = subnet(e).String(), e, resource
			s.Objects = append(s.Objects, o)
		}
	}
	return s, nil
}

// PCIAddresses implements PCI.
func (w *offerWorld) PCIAddresses() ([]device.PCIAddress, error) {
	var all []device.PCIAddress
	for e := range offerSlots + 1 {
		all = append(all, pci(e))
	}
	return all, nil
}

// PCI implements PCI.
func (w *offerWorld) PCI(addr device.PCIAddress) (sysfs.PCIFunction, error) {
	for e := range offerSlots + 1 {
		if pci(e) == addr {
			return sysfs.PCIFunction{
				Address: addr, Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena", IOMMUGroup: -1, NUMANode: 0, Instance: uint64(e) + 1, //nolint:gosec // small
			}, nil
		}
	}
	return sysfs.PCIFunction{}, fs.ErrNotExist
}

// VFIOGroup implements deviceplugin.Devices.
func (w *offerWorld) VFIOGroup(device.PCIAddress) (string, bool, error) {
	return "", false, fs.ErrNotExist
}

// UIODevice implements deviceplugin.Devices.
func (w *offerWorld) UIODevice(device.PCIAddress) (string, error) { return "", fs.ErrNotExist }

func (w *offerWorld) machine() []dpmodel.Device {
	var all []dpmodel.Device
	for e := range offerSlots + 1 {
		f, _ := w.PCI(pci(e))
		all = append(all, dpmodel.Device{Address: f.Address, Vendor: f.Vendor, Device: f.Device, Class: f.Class, Driver: f.Driver, VFID: -1, DefaultRoute: e == 0})
	}
	return all
}

// kubelet returns the running kubelet; nil for none.
func (w *offerWorld) kubelet() *kubeletmodel.Kubelet {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.alive {
		return nil
	}
	return w.k
}

var errAway = errors.New("connection refused")

// Devices implements Kubelet, as podresources.Client does.
func (w *offerWorld) Devices(context.Context) (inventory.Kubelet, error) {
	k := w.kubelet()
	w.mu.Lock()
	unreadable, started := w.unreadable, w.started
	w.mu.Unlock()
	if k == nil || unreadable || k.Hangs() { // one that hangs is not waited for: the daemon's mutexes would stop the simulated time
		return inventory.Kubelet{}, errAway
	}
	out := inventory.Kubelet{
		Allocatable: map[device.ResourceName][]device.PCIAddress{}, Allocated: map[device.PCIAddress][]inventory.Container{},
		Held: map[device.ResourceName][]device.PCIAddress{}, Fresh: time.Since(started) < time.Minute,
	}
	for name, ids := range k.Allocatable() {
		for _, id := range ids {
			out.Allocatable[device.ResourceName(name)] = append(out.Allocatable[device.ResourceName(name)], device.PCIAddress(id))
		}
	}
	held, pods := k.List()
	if len(pods) == 0 {
		return inventory.Kubelet{}, errors.New("no pods")
	}
	for h, devices := range held {
		for name, ids := range devices {
			for _, id := range ids {
				c := inventory.Container{Namespace: "default", Pod: h.Pod, Container: h.Container}
				out.Allocated[device.PCIAddress(id)] = append(out.Allocated[device.PCIAddress(id)], c)
				out.Held[device.ResourceName(name)] = append(out.Held[device.ResourceName(name)], device.PCIAddress(id))
			}
		}
	}
	for _, ids := range out.Held {
		slices.Sort(ids)
	}
	return out, nil
}

// startKubelet starts a kubelet where none runs.
func (w *offerWorld) startKubelet() {
	for _, path := range w.sockets.Paths() {
		if filepath.Dir(path) == "." {
			w.sockets.Remove(path)
		}
	}
	rng := rand.New(rand.NewPCG(w.rng.Uint64(), 3)) //nolint:gosec // to be repeated
	var mu sync.Mutex
	k := kubeletmodel.Start(kubeletmodel.Options{
		Version: w.version, Dial: w.sockets.Dial, Node: w.node, Changed: w.listChanged,
		Pause: func(kubeletmodel.Point, string) {
			mu.Lock()
			d := time.Duration(rng.IntN(2_000_000)) * time.Duration(rng.IntN(2))
			mu.Unlock()
			time.Sleep(d)
		},
		Pick: func(available []string, n int) []string {
			mu.Lock()
			defer mu.Unlock()
			out := slices.Clone(available)
			rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
			return out[:n]
		},
	})
	k.ForgetSources()
	w.mu.Lock()
	w.k, w.alive, w.started = k, true, time.Now()
	w.identity++
	w.mu.Unlock()
	w.sriov.appear(k)
	learned := time.Duration(w.rng.IntN(2000)) * time.Millisecond
	go func() {
		time.Sleep(learned)
		k.LearnSources()
		for i := 0; w.kubelet() == k; i++ {
			k.ReconcileRegistry(context.Background())
			if i%10 == 0 {
				k.Capacity()
			}
			time.Sleep(time.Second)
		}
	}()
	if d := w.daemon; d != nil {
		d.look()
	}
}

func (w *offerWorld) killKubelet() {
	w.mu.Lock()
	k := w.k
	w.alive = false
	w.mu.Unlock()
	k.Kill()
}

// listChanged is called by the kubelet.
func (w *offerWorld) listChanged(resource string, healthy int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lists++
	w.tell("    the kubelet has %d healthy devices of %s", healthy, resource)
	if least, guarded := w.guard[resource]; guarded && healthy < least {
		w.Errorf("%s has %d healthy devices instead of %d, and nothing of it has changed", resource, healthy, least)
	}
}

func (w *offerWorld) end() {
	w.daemon.stop()
	w.sriov.stop()
	if w.kubelet() != nil {
		w.killKubelet()
	}
	for _, l := range slices.Collect(maps.Values(w.sriov.listeners)) {
		l.Close()
	}
	time.Sleep(5 * time.Second) // for goroutines that look each second
	_ = os.RemoveAll(w.dir)
}
