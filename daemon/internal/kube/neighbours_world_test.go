package kube_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
)

// slot is a place for an ENI: its device index and PCI address. Slot 0 has the primary ENI.
type slot struct {
	index    int
	plugged  bool
	instance uint64
	// generation tells successive ENIs in this place apart.
	generation int
	// vpc: the VPC CNI has attached it for its own pods. Its rules show that as soon as there are any.
	vpc, marked bool
	up          bool
	// rec is the attachment of the pod that uses it.
	rec *nodestate.Record
}

func (s *slot) id() device.ENIID {
	return device.ENIID(fmt.Sprintf("eni-%017x", s.generation<<8|s.index))
}

func (s *slot) mac() device.MAC {
	return device.MAC(fmt.Sprintf("02:00:00:00:%02x:%02x", s.generation, s.index))
}

type declaredENI struct {
	there    bool
	since    time.Time
	resource string
}

// neighbourhood is a node with everything that runs on it, and the API server. Change it only within do.
type neighbourhood struct {
	t   *testing.T
	rnd *rand.Rand
	dir string
	// lock holds a token while nobody works. A mutex would stop synctest's clock while somebody waits.
	lock  chan struct{}
	imds  atomic.Pointer[[]vpc.ENI]
	story []string
	fault string
	began time.Time

	// guarded: NodeENIs name subnet and index, and the VPC CNI attaches ENIs too. deaf: no inotify instance is left.
	guarded, deaf bool
	declared      [5]declaredENI
	slots         [5]slot
	instances     uint64
	kernel        neighbourKernel
	plugin        devicePluginModel

	// backup is people's copy of the config, theirs the content they wrote last.
	backup, theirs []byte
	last           []byte // content after the last look at it
	contentSince   time.Time
	// changeTimes maps the kernel's change times of files to this neighbourhood's clock.
	changeTimes map[syscall.Timespec]time.Time

	// down: the API server does not answer. refused: it accepts no Event.
	down, refused bool
	terminating   [3]bool
	requests      int
	events        []string
	// version is the API server's; stateDeleted is the version of the ENINodeState's last deletion.
	version, stateDeleted int
	// cut is closed when the watches end.
	cut   chan struct{}
	state *v1alpha1.ENINodeState

	// daemon
	away        bool
	wake        chan struct{}
	halt        func()
	running     sync.WaitGroup
	daemonSince time.Time
	// served is when the daemon last said that the config is served.
	served time.Time
}

func newNeighbourhood(t *testing.T, seed uint64, dir string) *neighbourhood {
	w := &neighbourhood{t: t, rnd: newRand(seed), dir: dir, lock: make(chan struct{}, 1), began: time.Now(), instances: 100, version: 1, cut: make(chan struct{}),
		changeTimes: map[syscall.Timespec]time.Time{}}
	w.lock <- struct{}{}
	w.guarded, w.deaf = w.rnd.IntN(3) == 0, w.rnd.IntN(4) == 0
	w.kernel.w, w.plugin.w = w, w
	for e := range w.slots {
		w.instances++
		w.slots[e] = slot{index: e, plugged: e < 3, instance: w.instances}
	}
	w.slots[0].up = true
	for _, d := range []string{"pcidp", "records", "state"} {
		w.must(os.MkdirAll(w.path(d), 0o755))
	}
	w.tellIMDS()
	return w
}

func (w *neighbourhood) start() {
	w.do(func() {
		w.note("guarded: %t, without inotify: %t", w.guarded, w.deaf)
		w.plugin.install()
		w.launch()
	})
}

func (w *neighbourhood) stop() {
	w.do(func() {
		if !w.away {
			w.halt()
		}
		w.plugin.uninstall()
	})
}

func (w *neighbourhood) path(elem ...string) string {
	return filepath.Join(w.dir, filepath.Join(elem...))
}

func (w *neighbourhood) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *neighbourhood) do(f func()) {
	<-w.lock
	defer func() { w.tellIMDS(); w.lock <- struct{}{} }()
	f()
}

// unlocked lets others work while f waits for them.
func (w *neighbourhood) unlocked(f func()) {
	w.tellIMDS()
	w.lock <- struct{}{}
	defer func() { <-w.lock }()
	f()
}

// tellIMDS makes the metadata list the plugged ENIs. The daemon asks beside its Sync, and does not wait for the answer once told to stop.
func (w *neighbourhood) tellIMDS() {
	var all []vpc.ENI
	for e := range w.slots {
		if s := &w.slots[e]; s.plugged {
			all = append(all, vpc.ENI{
				ID: s.id(), MAC: s.mac(), DeviceIndex: e, Primary: e == 0, SubnetID: "subnet-00000000",
				SubnetCIDR: netip.MustParsePrefix("10.0.0.0/16"), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/16")},
			})
		}
	}
	w.imds.Store(&all)
}

func (w *neighbourhood) note(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf("%-10s ", time.Since(w.began).Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

// wrong notes the first fault.
func (w *neighbourhood) wrong(format string, args ...any) {
	if w.fault == "" {
		w.note("WRONG")
		w.fault = fmt.Sprintf(format, args...)
	}
}

func (w *neighbourhood) failed() (failed bool) {
	w.do(func() { failed = w.fault != "" })
	return failed || w.t.Failed()
}

// woken tells the daemon of an event from the API server or the kernel; touched tells it that a file has changed.
func (w *neighbourhood) woken() {
	if w.wake != nil {
		signal(w.wake)
	}
}

func (w *neighbourhood) touched() {
	if !w.deaf {
		w.woken()
	}
}

func (w *neighbourhood) edited(content []byte) {
	if json.Valid(content) { // else the daemon takes the last good config
		w.theirs = content
	}
	w.changed()
	w.touched()
}

// changed notes since when the config has its content.
func (w *neighbourhood) changed() {
	if now := w.content(); !bytes.Equal(now, w.last) {
		w.last, w.contentSince = now, time.Now()
	}
	w.configSeen(w.path("pcidp", "config.json"))
}

// configSeen is the file with this neighbourhood's change times: each is when changed first saw the kernel's time.
func (w *neighbourhood) configSeen(path string) nodestate.SeenConfig {
	inode, changed := w.changeTime(path)
	_, folder := w.changeTime(filepath.Dir(path))
	seen := nodestate.SeenConfig{Inode: inode, Changed: changed, Folder: folder, Since: changed}
	if folder.After(changed) {
		seen.Since = folder
	}
	return seen
}

func (w *neighbourhood) changeTime(path string) (inode uint64, changed time.Time) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, time.Time{}
	}
	w.must(err)
	st := info.Sys().(*syscall.Stat_t) //nolint:errcheck,forcetypeassert // this is Linux
	if _, seen := w.changeTimes[st.Ctim]; !seen {
		w.changeTimes[st.Ctim] = time.Now().UTC().Round(0)
	}
	return st.Ino, w.changeTimes[st.Ctim]
}

func (w *neighbourhood) looked() {
	before := w.last
	w.changed()
	if !bytes.Equal(before, w.last) {
		w.note("config is now %s", oneLine(w.last))
	}
}

func (w *neighbourhood) snapshot() inventory.Snapshot {
	snap := inventory.Snapshot{Complete: true, Lookup: inventory.LookupNone}
	if w.guarded {
		snap.Lookup = inventory.LookupGuarded
	}
	for e := range w.declared {
		d := w.declared[e]
		if !d.there {
			continue
		}
		o := v1alpha1.NodeENI{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", e), UID: types.UID(fmt.Sprint(e))}}
		o.Spec.SubnetID, o.Spec.DeviceIndex, o.Spec.DPDKResourceName = "subnet-00000000", e, d.resource
		if s := &w.slots[e]; s.plugged && !w.guarded {
			o.Status.Attachments = []v1alpha1.ENIAttachment{{NodeID: "node-a", ENIID: s.id().String(), DeviceIndex: e}}
		}
		snap.Objects = append(snap.Objects, o)
	}
	return snap
}

type neighbourKernel struct{ w *neighbourhood }

func (k *neighbourKernel) ENIs(context.Context) ([]vpc.ENI, error) {
	return slices.Clone(*k.w.imds.Load()), nil
}

func (k *neighbourKernel) PCIAddresses() ([]device.PCIAddress, error) {
	var all []device.PCIAddress
	for e := range k.w.slots {
		if k.w.slots[e].plugged {
			all = append(all, seqPCI(e))
		}
	}
	return all, nil
}

func (k *neighbourKernel) PCI(addr device.PCIAddress) (sysfs.PCIFunction, error) {
	for e := range k.w.slots {
		if s := &k.w.slots[e]; s.plugged && seqPCI(e) == addr {
			return sysfs.PCIFunction{Address: addr, Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena", IOMMUGroup: -1, NUMANode: -1,
				Instance: s.instance}, nil
		}
	}
	return sysfs.PCIFunction{}, os.ErrNotExist
}

func (k *neighbourKernel) Links() ([]link.Link, error) {
	var all []link.Link
	for e := range k.w.slots {
		if s := &k.w.slots[e]; s.plugged && s.rec == nil {
			all = append(all, link.Link{Index: 10 + e, Name: fmt.Sprintf("eth%d", e), MAC: s.mac(), MTU: 1500, Parent: seqPCI(e), Up: s.up})
		}
	}
	return all, nil
}

func (k *neighbourKernel) SetUp(index int) error {
	s := &k.w.slots[index-10]
	if s.vpc && s.marked {
		k.w.wrong("the link of %s is set up, which the VPC CNI uses", s.id())
	}
	s.up = true
	return nil
}

func (k *neighbourKernel) SetDown(int) error {
	return fmt.Errorf("no link is to be taken from the kernel")
}
func (k *neighbourKernel) SetMTU(int, int) error { return fmt.Errorf("no MTU was asked for") }
func (k *neighbourKernel) Clutter() (routing.Clutter, error) {
	return routing.Clutter{Defaults: routing.DefaultRoutes{{Index: 10, Family: syscall.AF_INET}}}, nil
}
func (k *neighbourKernel) ClearRoutes(int) (routing.Cleared, error) {
	return routing.Cleared{}, errors.New("there are none")
}
func (k *neighbourKernel) ClearAddress(int, netip.Prefix) error { return errors.New("there is none") }
func (k *neighbourKernel) GiveBack(link.Functions, link.Link, nodestate.AttachedDevice) error {
	return nil
}

func (k *neighbourKernel) Ethtool(string) (nodestate.Settings, error) {
	return nodestate.Settings{}, nil
}

func (k *neighbourKernel) ForeignUse() (map[int]string, error) {
	foreign := map[int]string{}
	for e := range k.w.slots {
		if s := &k.w.slots[e]; s.plugged && s.vpc && s.marked {
			foreign[10+e] = "table 3 has its routes"
		}
	}
	return foreign, nil
}

func (k *neighbourKernel) EnsureSources([]routing.Source) (bool, error) { return false, nil }

func (w *neighbourhood) devices() []dpmodel.Device {
	var all []dpmodel.Device
	for e := range w.slots {
		if w.slots[e].plugged {
			all = append(all, dpmodel.Device{Address: seqPCI(e), Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena", VFID: -1, DefaultRoute: e == 0})
		}
	}
	return all
}

func seqPCI(e int) device.PCIAddress { return device.PCIAddress(fmt.Sprintf("0000:00:%02x.0", e)) }
