package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/manifest"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
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

// fakeMetadata is IMDS. It fails on request and counts how often it was asked.
type fakeMetadata struct {
	enis  map[int]vpc.ENI
	err   error
	asked int
	// hold, when it is not nil, keeps the answer back until it is closed.
	hold chan struct{}
}

func (m *fakeMetadata) ENIs(ctx context.Context) ([]vpc.ENI, error) {
	m.asked++
	if m.hold != nil {
		select {
		case <-m.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if m.err != nil {
		return nil, m.err
	}
	var all []vpc.ENI
	for _, n := range slices.Sorted(maps.Keys(m.enis)) {
		all = append(all, m.enis[n])
	}
	return all, nil
}

// fakeHost is the host's netns. It fails the test when a link is changed that
// nobody has declared, or that is not there.
type fakeHost struct {
	t      testing.TB
	mu     sync.Mutex
	links  map[int]link.Link // by ENI; the index is that plus 10
	ours   map[int]bool
	routes map[int]bool // default routes, by ENI
	shared bool         // they are next hops of one route
	// addresses are the addresses of the links in the host.
	addresses []routing.HostAddress
	dumps     int // of the routes
	changes   []string
	err       error // of Links
	fail      map[string]error
	foreign   map[int]string // by index
	// ethtool are the links' device settings, by ENI, and ethtoolRead how often they
	// were read.
	ethtool     map[int]nodestate.Settings
	ethtoolRead int
	sources     [][]routing.Source // as they were asked for
	taking      func()             // is called once, as EnsureSources begins
	linksRead   func()             // is called once, when Links has ended
}

func (h *fakeHost) EnsureSources(want []routing.Source) (bool, error) {
	h.sources = append(h.sources, want)
	if h.taking != nil {
		h.taking()
		h.taking = nil
	}
	for _, s := range want {
		if _, ok := h.links[s.Index-10]; !ok {
			return false, link.ErrNotFound
		}
	}
	return false, h.fail["sources"]
}

func (h *fakeHost) Links() ([]link.Link, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return nil, h.err
	}
	var all []link.Link
	for _, n := range slices.Sorted(maps.Keys(h.links)) {
		all = append(all, h.links[n])
	}
	if read := h.linksRead; read != nil {
		h.linksRead = nil
		read()
	}
	return all, nil
}

func (h *fakeHost) change(verb string, index int, f func(n int, l *link.Link)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := index - 10
	l, ok := h.links[n]
	if !ok {
		return link.ErrNotFound
	}
	if !h.ours[n] {
		h.t.Errorf("%s of %s, which is not ours", verb, l.Name)
	}
	h.changes = append(h.changes, verb+" "+l.Name)
	if err := h.fail[verb]; err != nil {
		return err
	}
	f(n, &l)
	h.links[n] = l
	return nil
}

func (h *fakeHost) SetUp(index int) error {
	return h.change("up", index, func(_ int, l *link.Link) { l.Up = true })
}

func (h *fakeHost) SetDown(index int) error {
	return h.change("down", index, func(_ int, l *link.Link) { l.Up = false })
}

func (h *fakeHost) SetMTU(index, mtu int) error {
	return h.change("mtu", index, func(_ int, l *link.Link) { l.MTU = mtu })
}

func (h *fakeHost) Clutter() (routing.Clutter, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dumps++
	return h.clutter(), h.fail["routes"]
}

func (h *fakeHost) clutter() routing.Clutter {
	c := routing.Clutter{Addresses: h.addresses}
	for n, has := range h.routes {
		if has {
			c.Defaults = append(c.Defaults, routing.DefaultRoute{Index: n + 10, Family: syscall.AF_INET, Beside: h.shared})
		}
	}
	return c
}

func (h *fakeHost) ClearRoutes(index int) (routing.Cleared, error) {
	h.mu.Lock()
	c := h.clutter()
	h.mu.Unlock()
	var done routing.Cleared
	var clearable bool
	if clearable, done.Only, done.Shared = c.Routes(index); !clearable {
		return done, nil
	}
	done.Protocols = []string{"dhcp"}
	return done, h.change("unroute", index, func(n int, _ *link.Link) { delete(h.routes, n) })
}

func (h *fakeHost) ClearAddress(index int, p netip.Prefix) error {
	return h.change("unaddress "+p.String(), index, func(int, *link.Link) {
		h.addresses = slices.DeleteFunc(h.addresses, func(a routing.HostAddress) bool { return a.Index == index && a.Prefix == p })
	})
}

func (h *fakeHost) GiveBack(_ link.Functions, l link.Link, d nodestate.AttachedDevice) error {
	want := d.Link
	return h.change("restore", l.Index, func(_ int, l *link.Link) {
		l.Name, l.MTU, l.MAC, l.Up = want.Name, want.MTU, want.MAC, want.Up
	})
}

func (h *fakeHost) Ethtool(name string) (nodestate.Settings, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n, l := range h.links {
		if l.Name == name {
			h.ethtoolRead++
			settings := nodestate.Settings{} // never nil, as link.Ethtool's
			maps.Copy(settings, h.ethtool[n])
			return settings, h.fail["ethtool"]
		}
	}
	return nil, link.ErrNotFound
}

func (h *fakeHost) ForeignUse() (map[int]string, error) {
	return h.foreign, h.fail["foreign"]
}

// fakePlugin is the device plugin of the node. It notes what it was told, and
// how often it was looked for.
type fakePlugin struct {
	mu     sync.Mutex
	wanted []string
	last   pluginrestart.Wanted
	served string // hash of the config that it was last restarted for
	looks  int
	// prefixes are the -resource-prefix of its pods.
	prefixes []string
	// err is Restart's answer, and Find's where it is ErrNoDevicePlugin; lookErr is Find's.
	err, lookErr error
	// hold, when it is not nil, keeps Restart waiting until it is closed.
	hold chan struct{}
	// restarted, when it is not nil, is told of each restart.
	restarted func(pluginrestart.Wanted)
}

func (f *fakePlugin) report() pluginrestart.PluginReport {
	return pluginrestart.PluginReport{Pods: []string{"kube-system/dp-1"}, Prefixes: f.prefixes}
}

func (f *fakePlugin) Find(context.Context) (pluginrestart.PluginReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	if errors.Is(f.err, pluginrestart.ErrNoDevicePlugin) {
		return pluginrestart.PluginReport{}, f.err
	}
	if f.lookErr != nil {
		return pluginrestart.PluginReport{}, f.lookErr
	}
	return f.report(), nil
}

func (f *fakePlugin) Restart(ctx context.Context, w pluginrestart.Wanted) (pluginrestart.PluginReport, error) {
	f.mu.Lock()
	f.wanted, f.last = append(f.wanted, w.Hash), w
	hold, err := f.hold, f.err
	f.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			r := f.report()
			r.Deleted = r.Pods
			return r, ctx.Err()
		}
	}
	if errors.Is(err, pluginrestart.ErrNoDevicePlugin) {
		return pluginrestart.PluginReport{}, err
	}
	if f.restarted != nil {
		f.restarted(w)
	}
	r := f.report()
	if f.served != w.Hash {
		r.Deleted = r.Pods
	}
	if err == nil {
		f.served = w.Hash
	}
	return r, err
}

// fakeKubelet is the kubelet's podresources API.
type fakeKubelet struct {
	devices inventory.Kubelet
	err     error
	asked   int
}

func (k *fakeKubelet) Devices(context.Context) (inventory.Kubelet, error) {
	k.asked++
	return k.devices, k.err
}

// testNode is a node of files and fakes. Its primary ENI has the default route.
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
	macs     map[int]device.MAC // of those that have taken another's place
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

// start is the daemon's start: what it knows is in the files.
func (n *testNode) start() {
	n.Helper()
	n.must(n.startWith(func(*Options) {}))
}

// startWith is start with other options. It returns New's error.
func (n *testNode) startWith(edit func(*Options)) error {
	n.Helper()
	o := Options{
		NodeName: "node-a", BootID: n.boot, InventoryPath: n.path("run/inventory.json"), StateDir: n.path("state"),
		Attachments: n.records(), Leases: leases.Dir(n.path("leases")), NodeENIs: manifest.New(n.path("nodeenis")), Metadata: n.imds, PCI: sysfs.NewFS(n.path("sys")),
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

// attach plugs an ENI in and lets IMDS know.
func (n *testNode) attach(e int) {
	n.plug(e, "ena")
	n.imds.enis[e] = vpc.ENI{
		ID: eniID(e), MAC: mac(e), DeviceIndex: e, SubnetID: subnet(e), Primary: e == 0,
		SubnetCIDR: netip.MustParsePrefix("10.0.0.0/16"), Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(e >> 8), byte(e)}), 16)},
	}
}

// plug records the PCI function and adds its link.
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

// mac is that of the ENI which is plugged in as the e-th.
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

// instance is that of the function of ENI e.
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
	y := fmt.Sprintf("apiVersion: networking.k8s.aws/v1alpha1\nkind: NodeENI\nmetadata: {name: %s}\nspec:\n  nodeSelector: {}\n  subnetID: %s\n  deviceIndex: %d\n", name, subnet(e), e)
	for _, line := range more {
		y += "  " + line + "\n"
	}
	n.write(y, "nodeenis", name+".yaml")
	n.host.ours[e] = true
}

func (n *testNode) undeclare(name string) { n.must(os.Remove(n.path("nodeenis", name+".yaml"))) }

// hold moves the link into a pod, as the plugin does.
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

// sync runs one Sync, and another as soon as the device plugin or a driver has
// answered, as the loop would, and judges the config that they left.
func (n *testNode) sync() Outcome {
	n.Helper()
	out := n.daemon.Sync(n.Context())
	for n.answered() {
		out = n.daemon.Sync(n.Context())
	}
	n.judge()
	return out
}

// answered waits for what is under way in the background and ends by itself,
// and says whether there was anything.
func (n *testNode) answered() bool {
	waited := false
	if done := n.daemon.plugin.Done(); done != nil && n.restarts.answers() {
		waited = true
		<-done
	}
	for pci, job := range n.daemon.driving.jobs {
		if n.drivers.hangs(pci) {
			continue
		}
		waited = true
		for len(job.done) == 0 {
			runtime.Gosched()
		}
	}
	return waited
}

// answers says whether calls end by themselves.
func (f *fakePlugin) answers() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hold == nil
}

// settle syncs as the loop would until nothing is on its way any more, for at
// most a minute of the node's time, and returns how long it took.
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
	dpmodel.Judged(n, n.machine, func() []string { return n.daemon.checkpoint.PluginPrefixes })(content)
	v := dpmodel.Judge(content, n.machine())
	return v.Resources
}

// prefixes are the ones that the daemon knows of, and renders for by and by.
func (n *testNode) prefixes() []string { return n.daemon.plugin.Prefixes() }

// machine is the node as the device plugin sees it. Of a function that was seen
// before only the driver is read again: the others are the same for all.
func (n *testNode) machine() []dpmodel.Device {
	n.Helper()
	tree := sysfs.NewFS(n.path("sys"))
	addrs, err := tree.PCIAddresses()
	n.must(err)
	var all []dpmodel.Device
	for _, a := range addrs {
		d, seen := n.seen[a]
		if seen {
			d.Driver = n.driver(a)
		} else {
			f, err := tree.PCI(a)
			n.must(err)
			d = dpmodel.Device{Address: a, Vendor: f.Vendor, Device: f.Device, Class: f.Class, Driver: f.Driver, VFID: -1, DefaultRoute: a == pci(0)}
			n.seen[a] = d
		}
		all = append(all, d)
	}
	return all
}

// driver is "" for a function that has none, or that is not there.
func (n *testNode) driver(a device.PCIAddress) string {
	to, err := os.Readlink(n.path("sys/bus/pci/devices", a.String(), "driver"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.Fatal(err)
	}
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}

func (n *testNode) inventory() nodestate.Inventory {
	n.Helper()
	inv, err := nodestate.ReadInventory(n.path("run/inventory.json"))
	n.must(err)
	return inv
}

// rows are "NodeENI interface phase" of the inventory's devices.
func (n *testNode) rows() []string {
	n.Helper()
	var all []string
	for _, d := range n.inventory().Devices {
		all = append(all, fmt.Sprintf("%s %s %s", d.NodeENI, d.InterfaceName, d.Phase))
	}
	return all
}

func (n *testNode) reasons() []string {
	n.Helper()
	var all []string
	for _, p := range n.inventory().Problems {
		all = append(all, string(p.Reason))
	}
	return all
}

// logged returns the messages since the last call.
func (n *testNode) logged() []string {
	var all []string
	for _, e := range n.logs.AllEntries() {
		all = append(all, e.Message)
	}
	n.logs.Reset()
	return all
}

// files returns what distinguishes each written file from the one before it.
func (n *testNode) files() map[string]string {
	n.Helper()
	all := map[string]string{}
	for _, dir := range []string{"run", "state", "pcidp", "records"} {
		err := filepath.WalkDir(n.path(dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			st, ok := info.Sys().(*syscall.Stat_t)
			if !ok {
				return errors.New("no inode numbers here")
			}
			all[path] = fmt.Sprintf("%v, inode %d", info.ModTime(), st.Ino)
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			n.Fatal(err)
		}
	}
	return all
}
