package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// machine is a node of namespaces with the daemon running on it.
type machine struct {
	*testing.T
	node   *nstest.Node
	imds   *fakeimds.Running
	stderr lockedBuffer
	stop   context.CancelFunc
	ended  chan int
}

func eniOf(n int) nstest.ENI {
	return nstest.ENI{PCI: fmt.Sprintf("0000:00:%02x.0", n+5), Name: fmt.Sprintf("eth%d", n), MAC: fmt.Sprintf("02:00:00:00:00:%02x", n)}
}

func imdsOf(n int) fakeimds.ENI {
	return fakeimds.ENI{
		ID: fmt.Sprintf("eni-%017x", n), MAC: eniOf(n).MAC, Primary: n == 0, DeviceIndex: n,
		SubnetID: fmt.Sprintf("subnet-%017x", n), SubnetIPv4CIDR: fmt.Sprintf("10.0.%d.0/24", n), IPv4s: []string{fmt.Sprintf("10.0.%d.15", n)},
	}
}

func newMachine(t *testing.T, enis ...int) *machine {
	t.Helper()
	node, err := nstest.NewNode(t.TempDir())
	must(t, err)
	m := &machine{T: t, node: node}
	state := fakeimds.State{InstanceID: "i-0a1b2c3d4e5f60718"}
	for _, n := range append([]int{0}, enis...) {
		must(m, node.Attach(eniOf(n)))
		state.ENIs = append(state.ENIs, imdsOf(n))
	}
	m.imds = fakeimds.Start(t, fakeimds.Config{State: state})
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", m.imds.URL)
	must(m, os.Mkdir(m.path("nodeenis"), 0o755))
	return m
}

func (m *machine) path(name string) string { return filepath.Join(m.node.Dir, name) }

func (m *machine) args() []string {
	return []string{
		"run", "--node-name=node-a", "--nodeeni-source=dir:" + m.path("nodeenis"), "--pcidp-config=" + m.path("pcidp/config.json"),
		"--inventory=" + m.path("run/inventory.json"), "--state-dir=" + m.path("state"), "--attachments-dir=" + m.path("records"),
		"--lease-dir=" + m.path("leases"), "--sysfs=" + m.node.Sysfs,
	}
}

func (m *machine) start(more ...string) {
	ctx, cancel := context.WithCancel(m.Context())
	m.stop, m.ended = cancel, make(chan int, 1)
	p := program{stdout: &m.stderr, stderr: &m.stderr, getenv: func(string) string { return "" }}
	go func() { m.ended <- p.main(ctx, append(m.args(), more...)) }()
}

func (m *machine) end() {
	m.Helper()
	m.stop()
	select {
	case code := <-m.ended:
		if code != 0 {
			m.Errorf("exit code %d\n%s", code, m.stderr.String())
		}
	case <-time.After(10 * time.Second):
		m.Fatal("the daemon does not end")
	}
}

func (m *machine) declare(name string, n int, more ...string) {
	m.Helper()
	y := fmt.Sprintf("apiVersion: networking.k8s.aws/v1alpha1\nkind: NodeENI\nmetadata: {name: %s}\nspec:\n  nodeSelector: {}\n  subnetID: %s\n  "+
		"deviceIndex: %d\n", name, imdsOf(n).SubnetID, n)
	for _, line := range more {
		y += "  " + line + "\n"
	}
	must(m, os.WriteFile(m.path("nodeenis/"+name+".yaml"), []byte(y), 0o644))
}

// until waits until the inventory has these rows, each as "NodeENI phase", and returns the time that it took.
func (m *machine) until(want ...string) time.Duration {
	m.Helper()
	begin := time.Now()
	for {
		inv, err := nodestate.ReadInventory(m.path("run/inventory.json"))
		var got []string
		for _, d := range inv.Devices {
			got = append(got, d.NodeENI+" "+string(d.Phase))
		}
		if err == nil && slices.Equal(got, want) {
			return time.Since(begin)
		}
		if time.Since(begin) > 30*time.Second {
			m.Fatalf("inventory has %q (%v), want %q\n%s", got, err, want, m.stderr.String())
		}
		<-time.After(5 * time.Millisecond)
	}
}

// pools waits for the device plugin to be given the wanted addresses.
func (m *machine) pools(resource string, want ...device.PCIAddress) {
	m.Helper()
	var v dpmodel.Verdict
	for range 1000 {
		config, err := os.ReadFile(m.path("pcidp/config.json"))
		if err == nil {
			v = dpmodel.Judge(config, m.devices())
			if v.Runs() && slices.Equal(v.Resources[resource], want) {
				return
			}
		}
		<-time.After(5 * time.Millisecond)
	}
	m.Fatalf("device plugin: %+v, want %v", v, want)
}

func (m *machine) devices() []dpmodel.Device {
	tree := sysfs.NewFS(m.node.Sysfs)
	addrs, err := tree.PCIAddresses()
	must(m, err)
	var all []dpmodel.Device
	for _, a := range addrs {
		f, err := tree.PCI(a)
		must(m, err)
		all = append(all, dpmodel.Device{Address: a, Vendor: f.Vendor, Device: f.Device, Class: f.Class, Driver: f.Driver, VFID: -1})
	}
	return all
}

func (m *machine) link(name string) link.Link {
	m.Helper()
	h, err := link.Open()
	must(m, err)
	defer h.Close()
	l, err := h.ByName(name)
	must(m, err)
	return l
}

func TestDaemon(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMachine(t, 1, 2)
	m.start()
	m.until()

	m.declare("a", 1, "mtu: 1400")
	m.declare("b", 2, "dpdkResourceName: intel.com/fast")
	m.until("a ready", "b ready")
	m.pools("intel.com/fast", device.PCIAddress(eniOf(2).PCI))
	if l := m.link("eth1"); !l.Up || l.MTU != 1400 {
		t.Errorf("link of a: %+v, want up with MTU 1400", l)
	}
	if l := m.link("eth0"); l.Up {
		t.Error("the primary ENI's link was touched")
	}

	m.declare("c", 3)
	m.until("a ready", "b ready", "c pending")
	slow := imdsOf(3)
	slow.AppearsAfter, slow.IndexAfter = fakeimds.Duration(100*time.Millisecond), fakeimds.Duration(300*time.Millisecond)
	m.imds.Attach(slow)
	must(m, m.node.Attach(eniOf(3)))
	m.until("a ready", "b ready", "c ready")

	must(m, os.Remove(m.path("nodeenis/b.yaml")))
	m.pools("intel.com/fast")
	m.until("a ready", "c ready")

	if code, _, stderr := call(t.Context(), nil, m.args()...); code != cli.Failure || !strings.Contains(stderr, m.path("state")) ||
		!strings.Contains(stderr, "another multi-enid") {
		t.Errorf("a second daemon ended with %d: %s", code, stderr)
	}
	m.end()
	if log := m.stderr.String(); strings.Count(log, "would restart device plugin") == 0 || strings.Contains(log, "level=error") {
		t.Errorf("log:\n%s", log)
	}

	must(m, os.Remove(m.path("nodeenis/a.yaml")))
	m.start()
	m.until("c ready")
	m.end()
}

// TestHotPlug: a new link makes its row ready long before the next full Sync, a minute
// later. The bound is a hundred times the usual time: a busy machine must pass.
func TestHotPlug(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMachine(t)
	m.declare("a", 1)
	m.start()
	m.until("a pending")
	m.imds.Attach(imdsOf(1))
	must(m, m.node.Attach(eniOf(1)))
	if took := m.until("a ready"); took > 10*time.Second {
		t.Errorf("ready %v after the link\n%s", took, m.stderr.String())
	}
	m.end()
}

// TestRenamedNodeIsRefused runs the built program: under another name it leaves the
// devices alone and ends. Its last line is an error with the remedy.
func TestRenamedNodeIsRefused(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	binary := filepath.Join(t.TempDir(), "multi-enid")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make builds it: its packages are compiled already
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	m := newMachine(t, 1)
	m.declare("a", 1, "dpdkResourceName: intel.com/fast")
	m.start()
	m.until("a ready")
	m.pools("intel.com/fast", device.PCIAddress(eniOf(1).PCI))
	m.end()

	config, err := os.ReadFile(m.path("pcidp/config.json"))
	must(m, err)
	var stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append(m.args(), "--node-name=node-b")...)
	cmd.Stderr = &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != cli.Failure {
		t.Fatalf("ended with %v\n%s", err, &stderr)
	}
	lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
	for _, part := range []string{`"node-a"`, `"node-b"`, "NODE_NAME", "--renamed-from=node-a"} {
		if !strings.Contains(lines[len(lines)-1], part) {
			t.Errorf("the last line lacks %q:\n%s", part, &stderr)
		}
	}
	if after, err := os.ReadFile(m.path("pcidp/config.json")); err != nil || !bytes.Equal(config, after) {
		t.Errorf("the config is %s (%v)", after, err)
	}
	m.start("--node-name=node-b", "--renamed-from=node-a")
	m.until("a ready")
	m.end()
}
