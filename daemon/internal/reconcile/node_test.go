package reconcile

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/manifest"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
	"github.com/multi-eni/multi-eni-cni/test/sysfstree"
)

// The names of the n-th ENI; 0 is the primary.
func eniID(n int) device.ENIID { return device.ENIID(fmt.Sprintf("eni-%017x", n)) }
func mac(n int) device.MAC     { return device.MAC(fmt.Sprintf("02:00:00:00:%02x:%02x", n>>8, n&255)) }
func pci(n int) device.PCIAddress {
	return device.PCIAddress(fmt.Sprintf("%04x:%02x:00.0", n>>8, n&255))
}
func subnet(n int) device.SubnetID { return device.SubnetID(fmt.Sprintf("subnet-%017x", n)) }
func ifname(n int) string          { return fmt.Sprintf("eth%d", n) }

type testNode struct {
	testing.TB
	dir      string
	boot     string
	now      time.Time
	imds     *fakeMetadata
	host     *fakeHost
	restarts *fakePlugin
	drivers  *fakeDrivers
	unlock   func()
	kubelet  *fakeKubelet       // nil: there is none
	macs     map[int]device.MAC // of ENIs that have taken another's place
	seen     map[device.PCIAddress]dpmodel.Device
	views    []view.View
	logs     *logtest.Hook
	log      *logrus.Logger
	daemon   *Reconciler
}

func newNode(t testing.TB, enis ...int) *testNode {
	t.Helper()
	log, logs := logtest.NewNullLogger()
	n := &testNode{
		TB: t, dir: t.TempDir(), seen: map[device.PCIAddress]dpmodel.Device{}, boot: "boot-1", now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		imds: &fakeMetadata{enis: map[int]vpc.ENI{}}, restarts: &fakePlugin{}, logs: logs, log: log,
		host: &fakeHost{t: t, links: map[int]link.Link{}, ours: map[int]bool{}, routes: map[int]bool{0: true}, fail: map[string]error{}},
	}
	n.drivers = &fakeDrivers{n: n}
	n.mkdir("sys/bus/pci/devices")
	n.mkdir("nodeenis")
	for _, e := range append([]int{0}, enis...) {
		n.attach(e)
	}
	n.start()
	return n
}

func (n *testNode) path(elem ...string) string { return filepath.Join(n.dir, filepath.Join(elem...)) }

func (n *testNode) must(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

func (n *testNode) mkdir(elem ...string) { n.must(os.MkdirAll(n.path(elem...), 0o755)) }

func (n *testNode) write(content string, elem ...string) {
	n.must(os.MkdirAll(filepath.Dir(n.path(elem...)), 0o755))
	n.must(os.WriteFile(n.path(elem...), []byte(content), 0o644))
}

func (n *testNode) start() {
	n.Helper()
	n.must(n.startWith(func(*Options) {}))
}

// startWith returns New's error.
func (n *testNode) startWith(edit func(*Options)) error {
	n.Helper()
	o := Options{
		NodeName: "node-a", BootID: n.boot, InventoryPath: n.path("run/inventory.json"), StateDir: n.path("state"),
		Attachments: n.records(), Leases: leases.Dir(n.path("leases")), NodeENIs: manifest.New(n.path("nodeenis")), Metadata: n.imds,
		PCI:  sysfs.NewFS(n.path("sys")),
		Host: n.host, Drivers: n.drivers, DevicePlugin: n.restarts,
		Config: &pcidp.File{Path: n.path("pcidp/config.json"), Now: n.clock, Written: dpmodel.Judged(n, n.machine, n.prefixes)}, Now: n.clock, Log: n.log,
		Wake: func() {}, Observe: func(v view.View) { n.views = append(n.views, v) },
	}
	if n.kubelet != nil {
		o.Kubelet = n.kubelet
	}
	edit(&o)
	r, err := New(o)
	if err == nil {
		n.daemon = r
	}
	return err
}

func (n *testNode) clock() time.Time { return n.now }
func (n *testNode) records() nodestate.AttachmentDir {
	return nodestate.AttachmentDir(n.path("records"))
}

// attach plugs an ENI in and lets IMDS list it.
func (n *testNode) attach(e int) {
	n.plug(e, "ena")
	n.imds.enis[e] = vpc.ENI{
		ID: eniID(e), MAC: mac(e), DeviceIndex: e, SubnetID: subnet(e), Primary: e == 0,
		SubnetCIDR: netip.MustParsePrefix("10.0.0.0/16"), Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(e >> 8), byte(e)}), 16)},
	}
}

func (n *testNode) plug(e int, driver string) {
	n.must(sysfstree.Plug(n.path("sys"), sysfstree.Function{
		Address: pci(e).String(), Driver: driver, Interfaces: []sysfstree.Interface{{Name: ifname(e), MAC: mac(e).String(), MTU: 1500}},
	}))
	n.addLink(e, ifname(e))
}

func (n *testNode) addLink(e int, name string) {
	n.host.mu.Lock()
	defer n.host.mu.Unlock()
	n.host.links[e] = link.Link{Index: e + 10, Name: name, MAC: n.mac(e), MTU: 1500, Parent: pci(e), Up: e == 0}
}

func (n *testNode) mac(e int) device.MAC {
	if n.macs[e] != "" {
		return n.macs[e]
	}
	return mac(e)
}

func (n *testNode) bind(e int, driver string) {
	at := n.path("sys/bus/pci/devices", pci(e).String(), "driver")
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.Fatal(err)
	}
	n.must(os.Symlink("../../drivers/"+driver, at))
}

func (n *testNode) instance(e int) uint64 {
	fn, err := sysfs.NewFS(n.path("sys")).PCI(pci(e))
	n.must(err)
	return fn.Instance
}

func (n *testNode) unplug(e int) {
	n.must(sysfstree.Unplug(n.path("sys"), pci(e).String()))
	delete(n.host.links, e)
}

// declare writes the manifest of the e-th ENI; more are lines of its spec.
func (n *testNode) declare(name string, e int, more ...string) {
	y := fmt.Sprintf("apiVersion: networking.k8s.aws/v1alpha1\nkind: NodeENI\nmetadata: {name: %s}\nspec:\n  nodeSelector: {}\n  subnetID: %s\n  "+
		"deviceIndex: %d\n", name, subnet(e), e)
	for _, line := range more {
		y += "  " + line + "\n"
	}
	n.write(y, "nodeenis", name+".yaml")
	n.host.ours[e] = true
}

func (n *testNode) undeclare(name string) { n.must(os.Remove(n.path("nodeenis", name+".yaml"))) }

func (n *testNode) hold(e int) *nodestate.Record {
	rec, err := n.records().Begin(nodestate.Attachment{
		AttachmentID: nodestate.AttachmentID{ContainerID: fmt.Sprintf("c%d", e), IfName: "net1"}, BootID: n.boot,
		Mode: nodestate.ModeExclusive, Device: nodestate.AttachedDevice{PCIAddress: pci(e), MAC: mac(e), ENIID: eniID(e)},
	})
	n.must(err)
	rec.State = nodestate.StateComplete
	n.must(rec.Save())
	delete(n.host.links, e)
	return rec
}

// sync repeats Sync, as the loop would, while the device plugin or a driver answers, and judges the resulting config.
func (n *testNode) sync() Outcome {
	n.Helper()
	out := n.daemon.Sync(n.Context())
	for n.answered() {
		out = n.daemon.Sync(n.Context())
	}
	n.judge()
	return out
}

// answered waits for the background calls that end by themselves, and says whether there were any.
func (n *testNode) answered() bool {
	waited := false
	if done := n.daemon.plugin.Done(); done != nil && n.restarts.answers() {
		waited = true
		<-done
	}
	for pci, done := range n.daemon.drivers.Jobs() {
		if n.drivers.hangs(pci) {
			continue
		}
		waited = true
		<-done
	}
	return waited
}

func closed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// settle syncs as the loop would until nothing is under way, for at most a minute of the node's time, and returns how
// long it took.
func (n *testNode) settle() time.Duration {
	n.Helper()
	begin, p := n.now, pace{}
	for {
		out := n.sync()
		if !out.Unsettled && out.After == 0 || n.now.Sub(begin) > time.Minute {
			return n.now.Sub(begin)
		}
		n.now = n.now.Add(p.next(out))
	}
}

// judge reads the config as the device plugin would and returns its pools.
func (n *testNode) judge() map[string][]device.PCIAddress {
	n.Helper()
	content, err := os.ReadFile(n.path("pcidp/config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	n.must(err)
	dpmodel.Judged(n, n.machine, func() []string { return n.daemon.files.Checkpoint.PluginPrefixes })(content)
	v := dpmodel.Judge(content, n.machine())
	return v.Resources
}

func (n *testNode) prefixes() []string { return n.daemon.plugin.Prefixes() }

// settledNode is at rest with the NodeENI "a" of ENI 1; spec are lines of its spec.
func settledNode(t testing.TB, spec ...string) *testNode {
	t.Helper()
	n := newNode(t, 1)
	n.declare("a", 1, spec...)
	n.settle()
	return n
}

func (n *testNode) syncAfter(d time.Duration) {
	n.Helper()
	n.now = n.now.Add(d)
	n.sync()
}

func (n *testNode) settleAfter(d time.Duration) {
	n.Helper()
	n.now = n.now.Add(d)
	n.settle()
}

// restarted compares the number of calls of Restart; the format of the error gets that number.
func (n *testNode) restarted(want int, format string) {
	n.Helper()
	if got := len(n.restarts.wanted); got != want {
		n.Errorf(format, got)
	}
}
