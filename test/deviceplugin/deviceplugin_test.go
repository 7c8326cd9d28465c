package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel/verdicts"
	"github.com/multi-eni/multi-eni-cni/test/sysfstree"
)

const noRoutes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"

// node is a machine with two ENIs on ena, one of them the primary, and one on vfio-pci.
type node struct{ Options }

func newNode(t *testing.T, config string) *node {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "sys")
	n := &node{Options{
		Config: filepath.Join(dir, "config.json"), Sysfs: sysfs.NewFS(root), Routes: filepath.Join(dir, "route"), Registry: socketDir(t),
		DevicePlugins: filepath.Join(dir, "device-plugins"), Check: time.Minute, DeviceInfo: filepath.Join(dir, "devinfo"), Log: quiet(),
	}}
	write(t, n.Config, config)
	write(t, n.Routes, noRoutes+"ens5\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\nens6\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n")
	must(t, os.MkdirAll(root, 0o755))
	must(t, os.MkdirAll(n.DeviceInfo, 0o755))
	function(t, root, "0000:00:05.0", "ena", "ens5")
	function(t, root, "0000:00:06.0", "ena", "ens6")
	function(t, root, "0000:00:07.0", "vfio-pci", "")
	return n
}

func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

func function(t *testing.T, root, addr, driver, ifname string) {
	t.Helper()
	f := sysfstree.Function{Address: addr, Driver: driver}
	if ifname != "" {
		f.Interfaces = []sysfstree.Interface{{Name: ifname, MAC: "02:00:00:00:00:01", MTU: 1500}}
	}
	must(t, sysfstree.Plug(root, f))
}

func write(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o600))
}

func (n *node) start(t *testing.T) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, n.Options) }()
	return func() error {
		cancel()
		return <-done
	}
}

const twoPools = `{"resourceList":[
	{"resourceName":"kernel","selectors":{"drivers":["ena"]}},
	{"resourceName":"dpdk","resourcePrefix":"x.example","selectors":[{"pciAddresses":["0000:00:07.0"]}]},
	{"resourceName":"gone","selectors":{"pciAddresses":["0000:00:1f.0"]}}]}`

func TestServesWhatTheConfigSaid(t *testing.T) {
	n := newNode(t, twoPools)
	k := startKubelet(t, n.Registry, "")
	defer k.stop()
	stop := n.start(t)

	// The primary ENI is in no pool, and the empty pool has no server.
	want := map[string][]string{"intel.com/kernel": {"0000:00:06.0"}, "x.example/dpdk": {"0000:00:07.0"}}
	eventually(t, "registration", func() bool { return cmp.Equal(k.allocatable(), want) })
	if got := len(k.sockets()); got != 2 {
		t.Errorf("%d sockets, want 2", got)
	}

	// Later changes have no effect.
	write(t, n.Config, `{"resourceList":[]}`)
	must(t, os.RemoveAll(filepath.Join(n.Sysfs.Root(), "bus/pci/devices/0000:00:06.0")))
	envs, err := k.allocate(filepath.Join(n.Registry, "intel.com_kernel.sock"), "0000:00:06.0")
	must(t, err)
	wantEnvs := map[string]string{
		"PCIDEVICE_INTEL_COM_KERNEL":      "0000:00:06.0",
		"PCIDEVICE_INTEL_COM_KERNEL_INFO": `{"0000:00:06.0":{"generic":{"deviceID":"0000:00:06.0"}}}`,
	}
	if diff := cmp.Diff(wantEnvs, envs); diff != "" {
		t.Errorf("variables (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, k.allocatable()); diff != "" {
		t.Errorf("allocatable has changed (-want +got):\n%s", diff)
	}

	if err := stop(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	eventually(t, "removal of the sockets", func() bool { return len(k.sockets()) == 0 })
	if left, _ := os.ReadDir(n.Registry); len(left) > 0 {
		t.Errorf("left in the registry: %v", left)
	}
}

func TestFoundByAKubeletThatStartsLater(t *testing.T) {
	n := newNode(t, twoPools)
	stop := n.start(t)
	defer stop() //nolint:errcheck // the other test looks at it
	for range 2 {
		eventually(t, "sockets", func() bool { there, _ := os.ReadDir(n.Registry); return len(there) == 2 })
		k := startKubelet(t, n.Registry, "")
		eventually(t, "registration", func() bool { return len(k.allocatable()) == 2 })
		k.stop()
	}
}

func TestReplacesTheSocketOfAKilledOne(t *testing.T) {
	n := newNode(t, twoPools)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(n.Registry, "intel.com_kernel.sock"), Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	l.Close()
	k := startKubelet(t, n.Registry, "")
	defer k.stop()
	stop := n.start(t)
	defer stop() //nolint:errcheck // the other test looks at it
	eventually(t, "registration", func() bool { return len(k.allocatable()) == 2 })
}

func TestStopsServingWhatTheKubeletRefuses(t *testing.T) {
	n := newNode(t, twoPools)
	k := startKubelet(t, n.Registry, "not now")
	defer k.stop()
	stop := n.start(t)
	eventually(t, "refusal", func() bool { k.mu.Lock(); defer k.mu.Unlock(); return len(k.refused) == 2 })
	for _, socket := range k.refused {
		eventually(t, "end of "+socket, func() bool {
			conn, err := net.Dial("unix", socket)
			if err == nil {
				conn.Close()
			}
			return err != nil
		})
	}
	if err := stop(); err != nil {
		t.Errorf("it ended with %v, want it to stay up", err)
	}
}

func TestAllocatesOnlyWhatItCanHandOver(t *testing.T) {
	n := newNode(t, `{"resourceList":[
		{"resourceName":"tap","selectors":{"pciAddresses":["0000:00:09.0"],"needVhostNet":true}},
		{"resourceName":"kernel","selectors":{"drivers":["ena"]}},
		{"resourceName":"dpdk","selectors":{"pciAddresses":["0000:00:07.0"]}},
		{"resourceName":"uio","selectors":{"pciAddresses":["0000:00:08.0"]}}]}`)
	function(t, n.Sysfs.Root(), "0000:00:08.0", "igb_uio", "")
	function(t, n.Sysfs.Root(), "0000:00:09.0", "ena", "ens9")
	k := startKubelet(t, n.Registry, "")
	defer k.stop()
	stop := n.start(t)
	defer stop() //nolint:errcheck // the other test looks at it
	eventually(t, "registration", func() bool { return len(k.allocatable()) == 4 })
	for socket, tt := range map[string]struct {
		id   string
		want codes.Code
	}{
		"intel.com_kernel.sock": {"0000:00:07.0", codes.InvalidArgument},
		"intel.com_dpdk.sock":   {"0000:00:07.0", codes.FailedPrecondition},
		"intel.com_uio.sock":    {"0000:00:08.0", codes.FailedPrecondition},
		"intel.com_tap.sock":    {"0000:00:09.0", codes.Unimplemented},
	} {
		if _, err := k.allocate(filepath.Join(n.Registry, socket), tt.id); status.Code(err) != tt.want {
			t.Errorf("%s: %s: %v, want %v", socket, tt.id, err, tt.want)
		}
	}
}

func TestEndsOnWhatThePluginEndsOn(t *testing.T) {
	tests := map[string]struct {
		config string
		want   error
	}{
		"empty list":      {`{"resourceList":[]}`, ErrNoConfig},
		"no list":         {`{}`, ErrNoConfig},
		"unreadable":      {`{"resourceList":[`, ErrRefused},
		"same name twice": {`{"resourceList":[{"resourceName":"a","selectors":{}},{"resourceName":"a","selectors":{}}]}`, ErrRefused},
		"invalid name":    {`{"resourceList":[{"resourceName":"a.b","selectors":{}}]}`, ErrRefused},
		"no selectors":    {`{"resourceList":[{"resourceName":"a"}]}`, ErrCrashed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, tt.config)
			if err := Run(t.Context(), n.Options); !errors.Is(err, tt.want) {
				t.Errorf("ended with %v, want %v", err, tt.want)
			}
			if left, _ := os.ReadDir(n.Registry); len(left) > 0 {
				t.Errorf("left in the registry: %v", left)
			}
		})
	}
}

func TestPrefix(t *testing.T) {
	n := newNode(t, twoPools)
	n.Args = []string{"--resource-prefix", "openshift.io"}
	k := startKubelet(t, n.Registry, "")
	defer k.stop()
	stop := n.start(t)
	defer stop() //nolint:errcheck // the other test looks at it
	want := map[string][]string{"openshift.io/kernel": {"0000:00:06.0"}, "x.example/dpdk": {"0000:00:07.0"}}
	eventually(t, "registration", func() bool { return cmp.Equal(k.allocatable(), want) })
}

func TestStatus(t *testing.T) {
	for _, c := range verdicts.All(t) {
		if c.Runs() || c.Case == "selectors {}" || c.Case == "selectors [{}]" { // these two end only where there is no kubelet
			continue
		}
		n := newNode(t, string(c.Content()))
		n.Args = c.Args
		if got := fmt.Sprintf("exits %d", Status(Run(t.Context(), n.Options))); got != c.Verdict {
			t.Errorf("%s: %s; want %s", c.Case, got, c.Verdict)
		}
	}
}

func TestEndsOnWhatItCannotRead(t *testing.T) {
	for name, spoil := range map[string]func(*node){
		"config":   func(n *node) { n.Config += ".gone" },
		"routes":   func(n *node) { n.Routes += ".gone" },
		"registry": func(n *node) { n.Registry += ".gone" },
		"sysfs":    func(n *node) { n.Sysfs = sysfs.NewFS(n.Sysfs.Root() + ".gone") },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, twoPools)
			spoil(n)
			if err := Run(t.Context(), n.Options); err == nil {
				t.Error("ended without an error")
			}
		})
	}
}

func TestDiscoverVFs(t *testing.T) {
	n := newNode(t, "")
	root := n.Sysfs.Root()
	function(t, root, "0000:01:00.0", "igb", "eth1")
	function(t, root, "0000:01:10.0", "igbvf", "")
	for at, to := range map[string]string{"0000:01:10.0/physfn": "../0000:01:00.0", "0000:01:00.0/virtfn0": "../0000:01:10.0"} {
		must(t, os.Symlink(to, filepath.Join(root, "bus/pci/devices", at)))
	}
	got, err := Discover(n.Sysfs, n.Routes)
	must(t, err)
	base := dpmodel.Device{Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, VFID: -1}
	with := func(change func(*dpmodel.Device)) dpmodel.Device { d := base; change(&d); return d }
	want := []dpmodel.Device{
		with(func(d *dpmodel.Device) {
			d.Address, d.Driver, d.LinkType, d.DefaultRoute = "0000:00:05.0", "ena", "ether", true
		}),
		with(func(d *dpmodel.Device) {
			d.Address, d.Driver, d.LinkType = "0000:00:06.0", "ena", "ether"
		}),
		with(func(d *dpmodel.Device) { d.Address, d.Driver = "0000:00:07.0", "vfio-pci" }),
		with(func(d *dpmodel.Device) {
			d.Address, d.Driver, d.LinkType, d.VFs = "0000:01:00.0", "igb", "ether", 1
		}),
		with(func(d *dpmodel.Device) {
			d.Address, d.Driver, d.PFName, d.PFAddress, d.VFID = "0000:01:10.0", "igbvf", "eth1", "0000:01:00.0", 0
		}),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
}

func TestDiscoverRefusesUnknownRoutes(t *testing.T) {
	n := newNode(t, "")
	write(t, n.Routes, noRoutes+"ens5 0 0\n")
	if _, err := Discover(n.Sysfs, n.Routes); err == nil {
		t.Error("routes of an unknown form are read")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
