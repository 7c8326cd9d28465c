package orphan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

type lab struct {
	*testing.T
	node   *nstest.Node
	bin    string // folder of plugins
	boot   string
	logged lockedBuffer
	woken  chan struct{}
	s      *Sweeper

	mu  sync.Mutex
	now time.Time
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

var enis = map[string]nstest.ENI{
	"a": {PCI: "0000:00:06.0", Name: "eth1", MAC: "02:00:00:00:00:01"},
	"b": {PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:02"},
}

// newLab makes /run a mount in a peer group, as on a node.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{T: t, woken: make(chan struct{}, 100), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	l.must(unix.Mount("", "/run", "", unix.MS_SHARED, ""))
	n, err := nstest.NewNode(t.TempDir())
	l.must(err)
	l.node, l.bin = n, filepath.Join(n.Dir, "bin")
	l.boot, err = nodestate.BootID()
	l.must(err)
	l.must(os.Mkdir(l.bin, 0o755))
	inv := nodestate.Inventory{NodeName: "node", BootID: l.boot}
	for _, name := range []string{"a", "b"} {
		e := enis[name]
		l.must(n.Attach(e))
		inv.Devices = append(inv.Devices, nodestate.Device{
			ENIID: device.ENIID("eni-0000000000000000" + name), NodeENI: name, MAC: device.MAC(e.MAC), PCIAddress: device.PCIAddress(e.PCI),
			InterfaceName: e.Name, Driver: "ena", DeviceIndex: 1, SubnetCIDR: netip.MustParsePrefix("10.0.2.0/24"), Phase: nodestate.PhaseReady,
		})
	}
	l.must(nodestate.WriteInventory(l.file("inventory.json"), inv))
	l.install("multi-eni", "multi-eni")
	l.install("cni/host-local", "host-local")
	l.s = l.sweeper()
	return l
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *lab) file(name string) string { return filepath.Join(l.node.Dir, name) }

func (l *lab) records() nodestate.AttachmentDir { return nodestate.AttachmentDir(l.file("records")) }

func (l *lab) install(binary, name string) {
	l.Helper()
	from, err := nstest.Binary(binary)
	l.must(err)
	data, err := os.ReadFile(from)
	l.must(err)
	l.plugin(name, string(data))
}

func (l *lab) plugin(name, content string) {
	l.Helper()
	path := filepath.Join(l.bin, name)
	l.must(os.WriteFile(path+".new", []byte(content), 0o755))
	l.must(os.Rename(path+".new", path))
}

func (l *lab) sweeper() *Sweeper {
	log := logrus.New()
	log.SetOutput(&l.logged)
	log.SetFormatter(&logrus.TextFormatter{DisableColors: true, DisableTimestamp: true})
	return New(Options{
		Attachments: l.records(), BootID: l.boot, BinDir: l.bin, MountInfo: "/proc/thread-self/mountinfo",
		Now: l.clock, Log: log, Wake: func() { l.woken <- struct{}{} },
	})
}

func (l *lab) clock() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *lab) advance(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = l.now.Add(d)
}

func (l *lab) netns(name string) string {
	l.Helper()
	path := "/run/netns/" + name
	l.must(nstest.NewNetns(path))
	return path
}

func (l *lab) conf(nodeENI string) []byte {
	l.Helper()
	data, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "name": "dataplane", "type": "multi-eni", "select": map[string]any{"nodeENI": nodeENI},
		"dataDir": string(l.records()), "inventory": l.file("inventory.json"), "sysfs": l.node.Sysfs, "logFile": l.file("log"),
		"ipam": map[string]any{"type": "host-local", "dataDir": l.file("ipam"), "subnet": "10.0.2.0/24"},
	})
	l.must(err)
	return data
}

func (l *lab) add(container, netns, nodeENI string) {
	l.Helper()
	cmd := exec.CommandContext(l.Context(), filepath.Join(l.bin, "multi-eni"))
	cmd.Env = []string{
		"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + container, "CNI_NETNS=" + netns, "CNI_IFNAME=net1", "CNI_PATH=" + l.bin,
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=" + container,
	}
	cmd.Stdin = bytes.NewReader(l.conf(nodeENI))
	if out, err := cmd.CombinedOutput(); err != nil {
		l.Fatalf("ADD of %s: %v\n%s", container, err, out)
	}
}

// orphan makes an attachment whose netns ends without DEL, before the eyes of a running sweeper.
func (l *lab) orphan(container, nodeENI string) {
	l.Helper()
	path := l.netns(container)
	l.add(container, path, nodeENI)
	l.quiet()
	l.must(nstest.DeleteNetns(path))
	l.advance(lookEvery)
}

// record writes an orphan's record without any effect behind it.
func (l *lab) record(container string, edit func(*nodestate.Attachment)) nodestate.Attachment {
	l.Helper()
	a := nodestate.Attachment{
		AttachmentID: nodestate.AttachmentID{ContainerID: container, IfName: "net1"}, Network: "dataplane", CreatedAt: l.clock(), BootID: l.boot,
		Netns: nodestate.Netns{Path: "/run/netns/" + container, Cookie: 1 << 60, Inode: 1}, Mode: nodestate.ModeDPDK, Pod: "shop/" + container,
		Device: nodestate.AttachedDevice{PCIAddress: "0000:00:06.0"}, Config: l.conf("a"), Args: "K8S_POD_NAME=" + container, Path: "/nowhere",
	}
	if edit != nil {
		edit(&a)
	}
	r, err := l.records().Begin(a)
	l.must(err)
	r.State = nodestate.StateComplete
	l.must(r.Save())
	r.Close()
	return r.Attachment
}

// pod records a pod with a live netns, which it returns.
func (l *lab) pod(container string) nodestate.Netns {
	l.Helper()
	ns, err := link.OpenNetns(l.netns(container))
	l.must(err)
	defer ns.Close()
	l.record(container, func(a *nodestate.Attachment) { a.Netns = ns.Netns })
	return ns.Netns
}

func (l *lab) sweep() ([]nodestate.Problem, time.Duration) {
	l.Helper()
	all, bad, err := l.records().List()
	l.must(err)
	if len(bad) > 0 {
		l.Fatal(bad)
	}
	return l.s.Sweep(l.Context(), all)
}

func (l *lab) quiet() {
	l.Helper()
	if found, again := l.sweep(); len(found) > 0 || again != 0 {
		l.Errorf("sweep found %+v, wants to look again in %s; want nothing", found, again)
	}
	l.idle()
}

func (l *lab) idle() {
	l.Helper()
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.s.busy != 0 {
		l.Errorf("%d DELs run; want none", l.s.busy)
	}
}

func (l *lab) wait() {
	l.Helper()
	select {
	case <-l.woken:
	case <-time.After(30 * time.Second):
		l.Fatalf("no DEL has ended\n%s", l.logged.String())
	}
}

// wantLog expects n log lines with all of the words.
func (l *lab) wantLog(n int, words ...string) {
	l.Helper()
	got := 0
	for line := range strings.Lines(l.logged.String()) {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			got++
		}
	}
	if got != n {
		l.Errorf("%d log lines with %q; want %d\n%s", got, words, n, l.logged.String())
	}
}

func (l *lab) leases() int {
	n := 0
	_ = filepath.WalkDir(l.file("ipam"), func(path string, d fs.DirEntry, err error) error {
		if _, bad := netip.ParseAddr(filepath.Base(path)); err == nil && bad == nil {
			n++
		}
		return nil
	})
	return n
}

func (l *lab) recorded() string {
	l.Helper()
	all, bad, err := l.records().List()
	l.must(err)
	var names []string
	for _, a := range all {
		names = append(names, a.ContainerID)
	}
	if len(bad) > 0 {
		l.Error(bad)
	}
	return fmt.Sprint(names)
}
