package driver

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

var update = flag.Bool("update", false, "write the golden files anew")

// scene is a question to Check. Its zero value, with its function added, is a machine without obstacles.
type scene struct {
	name   string
	driver string // "" is vfio-pci
	fn     func(*sysfs.PCIFunction)
	others []sysfs.PCIFunction
	wanted device.PCIAddress // also wanted with a userspace driver
	facts  func(*Facts)
	policy Policy
	reason string // "" for no obstacle
}

func scenes() []scene {
	noIOMMU := func(fn *sysfs.PCIFunction) { fn.IOMMUGroup = -1 }
	on := func(driver string) func(*sysfs.PCIFunction) {
		return func(fn *sysfs.PCIFunction) { fn.Driver = driver }
	}
	unloaded := func(f *Facts) { f.Loaded = nil; f.NoIOMMU = NoIOMMUAbsent }
	loadable := func(f *Facts) { unloaded(f); f.Loadable = map[string]bool{vfioPCI: true, "igb_uio": true} }
	other := func(n int, group int, class uint32, driver string) sysfs.PCIFunction {
		return sysfs.PCIFunction{Address: device.PCIAddress(fmt.Sprintf("0000:00:%02x.0", n)), Class: class, Driver: driver, IOMMUGroup: group}
	}
	const ethernet, bridge = 0x020000, 0x060400
	allow := Policy{AllowUnsafeNoIOMMU: true}
	return []scene{
		{name: "all is well"},
		{name: "no driver at present", fn: on("")},
		{name: "bound already", fn: on(vfioPCI), facts: unloaded},
		{name: "bound to another one", fn: on("uio_pci_generic")},
		{name: "kernel driver", driver: "ena", reason: "InvalidDPDKDriver"},
		{name: "EFA", fn: func(fn *sysfs.PCIFunction) { fn.Vendor, fn.Device = 0x1d0f, 0xefa2 }, reason: "NotBindable"},
		{name: "disk", fn: func(fn *sysfs.PCIFunction) { fn.Class = 0x010802 }, reason: "NotBindable"},
		{name: "PF with VFs", fn: func(fn *sysfs.PCIFunction) { fn.VirtFns = []device.PCIAddress{"0000:00:10.0"} }, reason: "PFInUse"},

		{name: "not loaded, nor there", facts: unloaded, reason: "DriverNotLoaded"},
		{name: "not loaded, but there", facts: loadable, reason: "DriverNotLoaded"},
		{name: "not loaded, there, and may be", facts: loadable, policy: Policy{LoadModules: true}},
		{name: "not loaded, may be, but not there", facts: unloaded, policy: Policy{LoadModules: true}, reason: "DriverNotLoaded"},
		{name: "not loaded, out of tree", driver: "igb_uio", reason: "DriverNotLoaded"},
		{name: "loaded out of tree", driver: "igb_uio", facts: func(f *Facts) { f.Loaded["igb_uio"] = true }},

		{name: "no IOMMU", fn: noIOMMU, policy: Policy{LoadModules: true}, reason: "NoIOMMU"},
		{name: "no IOMMU, switch on by others", fn: noIOMMU, facts: func(f *Facts) { f.NoIOMMU = NoIOMMUOn }, reason: "NoIOMMU"},
		{name: "no IOMMU, allowed", fn: noIOMMU, policy: allow},
		{name: "no IOMMU, allowed, no such mode", fn: noIOMMU, facts: func(f *Facts) { f.NoIOMMU = NoIOMMUAbsent }, policy: allow, reason: "NoIOMMU"},
		{name: "no IOMMU, allowed, vfio to be loaded", fn: noIOMMU, facts: loadable, policy: Policy{LoadModules: true, AllowUnsafeNoIOMMU: true}},
		{name: "no IOMMU, uio", driver: "uio_pci_generic", fn: noIOMMU},

		{name: "others in other groups", others: []sysfs.PCIFunction{other(7, 8, ethernet, "ena"), other(8, -1, ethernet, "ena")}},
		{name: "harmless group", others: []sysfs.PCIFunction{
			other(1, 7, bridge, "pcieport"), other(7, 7, ethernet, ""), other(8, 7, ethernet, vfioPCI), other(9, 7, ethernet, "pci-stub"),
		}},
		{name: "shared group", others: []sysfs.PCIFunction{other(9, 7, 0x010802, "nvme"), other(7, 7, ethernet, "ena"), other(8, 7, ethernet, "")},
			reason: "IOMMUGroupShared"},
		{name: "shared with uio", others: []sysfs.PCIFunction{other(7, 7, ethernet, "uio_pci_generic")}, reason: "IOMMUGroupShared"},
		{name: "shared, for uio", driver: "uio_pci_generic", others: []sysfs.PCIFunction{other(7, 7, ethernet, "ena")}},
		{name: "shared with another wanted", others: []sysfs.PCIFunction{other(7, 7, ethernet, "ena")}, wanted: "0000:00:07.0"},
		{name: "shared with another wanted, and one that is not", others: []sysfs.PCIFunction{other(7, 7, ethernet, "ena"), other(8, 7, ethernet, "ena")},
			wanted: "0000:00:07.0", reason: "IOMMUGroupShared"},
	}
}

// check asks twice: the answer must not depend on a map's order.
func (s scene) check(t *testing.T) *Obstacle {
	fn := sysfs.PCIFunction{Address: nic, Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena", IOMMUGroup: 7}
	if s.fn != nil {
		s.fn(&fn)
	}
	all := map[device.PCIAddress]sysfs.PCIFunction{nic: fn}
	for _, o := range s.others {
		all[o.Address] = o
	}
	f := Facts{Loaded: map[string]bool{vfioPCI: true, "uio_pci_generic": true}, NoIOMMU: NoIOMMUOff}
	if s.facts != nil {
		s.facts(&f)
	}
	driver := s.driver
	if driver == "" {
		driver = vfioPCI
	}
	ask := func() *Obstacle {
		return Check(fn, driver, all, func(a device.PCIAddress) bool { return a == s.wanted }, f, s.policy)
	}
	first := ask()
	for range 8 {
		if diff := cmp.Diff(first, ask()); diff != "" {
			t.Errorf("another answer:\n%s", diff)
		}
	}
	return first
}

// The messages are kept here, for people to read them in one place.
func TestCheck(t *testing.T) {
	var messages strings.Builder
	for _, s := range scenes() {
		t.Run(s.name, func(t *testing.T) {
			got := s.check(t)
			if got == nil {
				got = &Obstacle{}
			} else {
				fmt.Fprintf(&messages, "%s\n  %s: %s\n", s.name, got.Reason, got.Message)
			}
			if string(got.Reason) != s.reason {
				t.Errorf("obstacle %+v, want %q", got, s.reason)
			}
		})
	}
	const golden = "testdata/obstacles.txt"
	if *update {
		must(t, os.MkdirAll(filepath.Dir(golden), 0o755))
		must(t, os.WriteFile(golden, []byte(messages.String()), 0o644))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	same(t, "messages", string(want), messages.String())
}

func same(t testing.TB, what string, want, got any, opts ...cmp.Option) {
	t.Helper()
	if diff := cmp.Diff(want, got, opts...); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}
