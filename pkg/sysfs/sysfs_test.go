package sysfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/test/sysfstree"
)

// unpack makes a tree in a temporary folder: a recorded one, or one of testdata,
// with parts that no machine of the tests has.
func unpack(t *testing.T, name string) (root string) {
	t.Helper()
	if name, ok := strings.CutPrefix(name, "recorded/"); ok {
		return sysfstree.Unpack(t, name)
	}
	data, err := os.ReadFile(filepath.Join("testdata", name+".tree"))
	if err != nil {
		t.Fatal(err)
	}
	root = t.TempDir()
	grow(t, root, string(data))
	return root
}

// grow adds lines of a tree below root.
func grow(t *testing.T, root, lines string) {
	t.Helper()
	if err := sysfstree.Grow(root, lines); err != nil {
		t.Fatal(err)
	}
}

func TestPCIAddresses(t *testing.T) {
	for name, want := range map[string][]device.PCIAddress{
		"ec2":                {"0000:00:05.0", "0000:00:06.0", "0000:00:07.0", "0000:00:08.0", "0000:00:09.0", "0000:00:1f.0"},
		"buses":              {"0000:01:00.0", "0000:01:10.0", "0000:01:10.2", "0000:02:00.0"},
		"recorded/vfs":       {"0000:00:01.0", "0000:00:05.0", "0000:00:0a.0", "0000:00:1f.2", "0000:01:00.0", "0000:09:00.0", "0000:09:10.0", "0000:09:10.2"},
		"recorded/unplugged": {"0000:00:05.0", "0000:00:0a.0", "0000:00:1f.2", "0000:09:00.0", "0000:09:10.0", "0000:09:10.2"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := NewFS(unpack(t, name)).PCIAddresses()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("PCIAddresses (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPCI(t *testing.T) {
	tests := map[string][]PCIFunction{
		"ec2": {
			{Address: "0000:00:05.0", Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena", Interfaces: []string{"ens5"}, IOMMUGroup: -1, NUMANode: 0},
			{Address: "0000:00:06.0", Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena", Interfaces: []string{"ens6"}, IOMMUGroup: -1, NUMANode: -1},
			{Address: "0000:00:07.0", Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "vfio-pci", IOMMUGroup: 12, NUMANode: -1},
			{Address: "0000:00:08.0", Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena", IOMMUGroup: -1, NUMANode: -1},
			{Address: "0000:00:09.0", Vendor: 0x1d0f, Device: 0xefa1, Class: 0x020000, IOMMUGroup: -1, NUMANode: -1},
			{Address: "0000:00:1f.0", Vendor: 0x1d0f, Device: 0x8061, Class: 0x010802, Driver: "nvme", IOMMUGroup: -1, NUMANode: -1},
		},
		"buses": {
			{Address: "0000:01:00.0", Vendor: 0x8086, Device: 0x10c9, Class: 0x020000, Driver: "igb", Interfaces: []string{"eth1"},
				VirtFns: []device.PCIAddress{"0000:01:10.2", "0000:01:10.0"}, IOMMUGroup: -1, NUMANode: -1},
			{Address: "0000:01:10.0", Vendor: 0x8086, Device: 0x10ca, Class: 0x020000, PhysFn: "0000:01:00.0", IOMMUGroup: -1, NUMANode: -1},
			{Address: "0000:02:00.0", Vendor: 0x1af4, Device: 0x1041, Class: 0x020000, Driver: "virtio-pci", Interfaces: []string{"eth2"}, IOMMUGroup: -1, NUMANode: -1},
		},
		"recorded/kernel": {
			{Address: "0000:00:01.0", Vendor: 0x1b36, Device: 0x000c, Class: 0x060400, Driver: "pcieport", IOMMUGroup: 1, NUMANode: -1},
			{Address: "0000:00:1f.2", Vendor: 0x8086, Device: 0x2922, Class: 0x010601, IOMMUGroup: 11, NUMANode: -1},
			{Address: "0000:01:00.0", Vendor: 0x8086, Device: 0x10d3, Class: 0x020000, Driver: "e1000e", Interfaces: []string{"eth1"}, IOMMUGroup: 12, NUMANode: -1},
			{Address: "0000:09:00.0", Vendor: 0x8086, Device: 0x10c9, Class: 0x020000, Driver: "igb", Interfaces: []string{"eth2"}, IOMMUGroup: 13, NUMANode: -1},
		},
		"recorded/vfs": {
			{Address: "0000:09:00.0", Vendor: 0x8086, Device: 0x10c9, Class: 0x020000, Driver: "igb", Interfaces: []string{"eth2"},
				VirtFns: []device.PCIAddress{"0000:09:10.0", "0000:09:10.2"}, IOMMUGroup: 13, NUMANode: -1},
			{
				Address: "0000:09:10.2", Vendor: 0x8086, Device: 0x10ca, Class: 0x020000, Driver: "igbvf", PhysFn: "0000:09:00.0",
				Interfaces: []string{"eth4"}, IOMMUGroup: 15, NUMANode: -1,
			},
		},
		"recorded/vfio": {
			{Address: "0000:01:00.0", Vendor: 0x8086, Device: 0x10d3, Class: 0x020000, Driver: "vfio-pci", IOMMUGroup: 12, NUMANode: -1},
			{Address: "0000:09:10.2", Vendor: 0x8086, Device: 0x10ca, Class: 0x020000, Driver: "vfio-pci", PhysFn: "0000:09:00.0", IOMMUGroup: 15, NUMANode: -1},
		},
		"recorded/pod": {
			{Address: "0000:01:00.0", Vendor: 0x8086, Device: 0x10d3, Class: 0x020000, Driver: "e1000e", IOMMUGroup: 12, NUMANode: -1},
			{Address: "0000:09:10.2", Vendor: 0x8086, Device: 0x10ca, Class: 0x020000, Driver: "igbvf", PhysFn: "0000:09:00.0", IOMMUGroup: 15, NUMANode: -1},
		},
		"recorded/noiommu": {
			{Address: "0000:01:00.0", Vendor: 0x8086, Device: 0x10d3, Class: 0x020000, Driver: "e1000e", Interfaces: []string{"eth1"}, IOMMUGroup: -1, NUMANode: -1},
		},
	}
	for name, functions := range tests {
		f := NewFS(unpack(t, name))
		for _, want := range functions {
			t.Run(name+"/"+want.Address.String(), func(t *testing.T) {
				got, err := f.PCI(want.Address)
				if err != nil {
					t.Fatal(err)
				}
				if got.Instance == 0 {
					t.Error("Instance is 0")
				}
				got.Instance = 0
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("PCI (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// An attribute that is broken or missing makes the function's state unknown;
// only a function missing from a readable list is gone.
func TestPCIGoneOrUnknown(t *testing.T) {
	const dir = "bus/pci/devices/0000:09:00.0"
	tests := map[string]struct {
		harm func(t *testing.T, root string)
		gone bool
		want string
	}{
		"removed": {remove(dir), true, "0000:09:00.0"},
		"dangling link of a removed function": {func(t *testing.T, root string) {
			remove(dir)(t, root)
			grow(t, root, dir+" -> ../../../devices/none")
		}, true, "0000:09:00.0"},
		"no list of functions":    {remove("bus/pci/devices"), false, "bus/pci/devices"},
		"no sysfs":                {remove(""), false, "bus/pci/devices"},
		"list is a file":          {replace("bus/pci/devices", "x"), false, "not a directory"},
		"function is a file":      {replace(dir, "x"), false, "not a directory"},
		"no vendor":               {remove(dir + "/vendor"), false, "vendor"},
		"vendor without 0x":       {replace(dir+"/vendor", "8086\n"), false, `parse vendor: value "8086"`},
		"vendor too large":        {replace(dir+"/vendor", "0x18086\n"), false, "parse vendor"},
		"device empty":            {replace(dir+"/device", ""), false, "parse device"},
		"class too large":         {replace(dir+"/class", "0x1020000\n"), false, "parse class"},
		"class is a folder":       {replaceDir(dir + "/class"), false, "is a directory"},
		"driver is a file":        {replace(dir+"/driver", "igb"), false, "driver"},
		"physfn is no function":   {link(dir+"/physfn", "../elsewhere"), false, "parse physfn"},
		"virtfn without a number": {link(dir+"/virtfnX", "../0000:09:10.0"), false, "parse virtfnX"},
		"virtfn is no function":   {link(dir+"/virtfn2", "../elsewhere"), false, "parse virtfn2"},
		"virtfn is a file":        {replace(dir+"/virtfn2", ""), false, "virtfn2"},
		"iommu_group no number":   {link(dir+"/iommu_group", "../x"), false, "parse iommu_group"},
		"numa_node no number":     {replace(dir+"/numa_node", "x\n"), false, "parse numa_node"},
		"numa_node below -1":      {replace(dir+"/numa_node", "-2\n"), false, "parse numa_node"},
		"numa_node is a folder":   {replaceDir(dir + "/numa_node"), false, "numa_node"},
		"net is a file":           {replace(dir+"/net", ""), false, "net"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			root := unpack(t, "recorded/vfs")
			tt.harm(t, root)
			_, err := NewFS(root).PCI("0000:09:00.0")
			if err == nil || errors.Is(err, fs.ErrNotExist) != tt.gone || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("PCI: %v; want gone=%t and %q in it", err, tt.gone, tt.want)
			}
		})
	}
}

func remove(path string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		if err := os.RemoveAll(filepath.Join(root, path)); err != nil {
			t.Fatal(err)
		}
	}
}

func replace(path, content string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		remove(path)(t, root)
		if err := os.WriteFile(filepath.Join(root, path), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func replaceDir(path string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		remove(path)(t, root)
		grow(t, root, path+"/")
	}
}

func link(path, target string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		remove(path)(t, root)
		grow(t, root, path+" -> "+target)
	}
}

func TestPCIAddressesUnknown(t *testing.T) {
	_, err := NewFS(t.TempDir()).PCIAddresses()
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("PCIAddresses without a list: %v; want an error that is not ErrNotExist", err)
	}
}

func TestPCIAddressesSkipsOthers(t *testing.T) {
	root := unpack(t, "recorded/vfs")
	grow(t, root, "bus/pci/devices/.keep = ")
	got, err := NewFS(root).PCIAddresses()
	if err != nil || len(got) != 8 {
		t.Errorf("PCIAddresses = %v, %v; want the eight functions", got, err)
	}
}

// A zero or unparsed address must not reach the file system: joined to the
// path, it would name the folder of all functions, or one outside it.
func TestBadKeys(t *testing.T) {
	f := NewFS(unpack(t, "recorded/vfs"))
	for _, addr := range []device.PCIAddress{"", "..", "../devices/0000:09:00.0", "09:00.0"} {
		if _, err := f.PCI(addr); !errors.Is(err, device.ErrInvalid) {
			t.Errorf("PCI(%q): %v; want ErrInvalid", addr, err)
		}
	}
	for _, name := range []string{"", "..", "../net/eth1"} {
		if _, err := f.NetPCI(name); !errors.Is(err, device.ErrInvalid) {
			t.Errorf("NetPCI(%q): %v; want ErrInvalid", name, err)
		}
	}
}

func TestNetPCI(t *testing.T) {
	type result struct {
		addr device.PCIAddress
		gone bool
		ok   bool
	}
	tests := map[string]struct {
		tree, ifname string
		harm         func(*testing.T, string)
		want         result
	}{
		"ena":                  {"ec2", "ens6", nil, result{addr: "0000:00:06.0", ok: true}},
		"virtual":              {"ec2", "lo", nil, result{ok: true}},
		"not in this netns":    {"ec2", "ens8", nil, result{gone: true}},
		"plain folder":         {"buses", "eth1", nil, result{addr: "0000:01:00.0", ok: true}},
		"virtio":               {"buses", "eth2", nil, result{addr: "0000:02:00.0", ok: true}},
		"usb":                  {"buses", "usb0", nil, result{ok: true}},
		"e1000e":               {"recorded/vfs", "eth1", nil, result{addr: "0000:01:00.0", ok: true}},
		"VF":                   {"recorded/vfs", "eth4", nil, result{addr: "0000:09:10.2", ok: true}},
		"in a pod":             {"recorded/pod", "eth1", nil, result{gone: true}},
		"on vfio-pci":          {"recorded/vfio", "eth1", nil, result{gone: true}},
		"no list":              {"ec2", "ens6", remove("class/net"), result{}},
		"device removed":       {"ec2", "ens6", remove("devices/pci0000:00/0000:00:06.0"), result{gone: true}},
		"device link dangling": {"buses", "eth1", remove("bus/pci/devices/0000:01:00.0"), result{}},
		"list is a file":       {"buses", "eth1", replace("class/net", ""), result{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			root := unpack(t, tt.tree)
			if tt.harm != nil {
				tt.harm(t, root)
			}
			addr, err := NewFS(root).NetPCI(tt.ifname)
			got := result{addr, errors.Is(err, fs.ErrNotExist), err == nil}
			if got != tt.want {
				t.Errorf("NetPCI(%q) = %q, %v; want %+v", tt.ifname, addr, err, tt.want)
			}
		})
	}
}

func TestKinds(t *testing.T) {
	tests := map[string]struct {
		f              PCIFunction
		efa, userspace bool
	}{
		"ena":         {PCIFunction{Vendor: 0x1d0f, Device: 0xec20, Driver: "ena"}, false, false},
		"efa by id":   {PCIFunction{Vendor: 0x1d0f, Device: 0xefa3}, true, false},
		"efa driver":  {PCIFunction{Vendor: 0x1d0f, Device: 0xefa4, Driver: "efa"}, true, false},
		"other efa2":  {PCIFunction{Vendor: 0x8086, Device: 0xefa2}, false, false},
		"below range": {PCIFunction{Vendor: 0x1d0f, Device: 0xef9f}, false, false},
		"vfio":        {PCIFunction{Driver: "vfio-pci"}, false, true},
		"uio":         {PCIFunction{Driver: "uio_pci_generic"}, false, true},
		"igb_uio":     {PCIFunction{Driver: "igb_uio"}, false, true},
		"unbound":     {PCIFunction{}, false, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if efa, userspace := tt.f.IsEFA(), tt.f.UserspaceDriver(); efa != tt.efa || userspace != tt.userspace {
				t.Errorf("IsEFA = %t, UserspaceDriver = %t; want %t, %t", efa, userspace, tt.efa, tt.userspace)
			}
		})
	}
}

func TestRoot(t *testing.T) {
	if got := (FS{}).Root(); got != "/sys" {
		t.Errorf("zero FS reads %q; want /sys", got)
	}
	if got := NewFS("/x").Root(); got != "/x" {
		t.Errorf("Root = %q; want /x", got)
	}
}

// driver_override is read by itself: the kernel shows it under the device's lock.
func TestDriverOverride(t *testing.T) {
	root := unpack(t, "ec2")
	f := NewFS(root)
	for addr, want := range map[device.PCIAddress]string{"0000:00:07.0": "vfio-pci", "0000:00:06.0": ""} {
		if got, err := f.DriverOverride(addr); got != want || err != nil {
			t.Errorf("DriverOverride(%s) = %q, %v; want %q", addr, got, err, want)
		}
	}
	if got, err := f.DriverOverride("0000:00:16.0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("function that is not there: %q, %v", got, err)
	}
	const file = "bus/pci/devices/0000:00:07.0/driver_override"
	replaceDir(file)(t, root)
	if got, err := f.DriverOverride("0000:00:07.0"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("override that is a folder: %q, %v", got, err)
	}
	if got, err := f.PCI("0000:00:07.0"); err != nil || got.Driver != "vfio-pci" {
		t.Errorf("PCI reads driver_override: %+v, %v", got, err)
	}
	if got, err := f.DriverOverride("../0000:00:07.0"); err == nil {
		t.Errorf("no address: %q", got)
	}
}

// A function that takes another's place is another instance.
func TestPCIInstance(t *testing.T) {
	root := unpack(t, "ec2")
	instance := func() uint64 {
		t.Helper()
		p, err := NewFS(root).PCI("0000:00:06.0")
		if err != nil {
			t.Fatal(err)
		}
		return p.Instance
	}
	first := instance()
	if again := instance(); again != first {
		t.Errorf("the same function is instance %d, then %d", first, again)
	}
	dir := filepath.Join(root, "bus/pci/devices/0000:00:06.0")
	folder, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(folder, folder+".old"); err != nil { // kept, so that its number is not given again
		t.Fatal(err)
	}
	if err := os.CopyFS(folder, os.DirFS(folder+".old")); err != nil {
		t.Fatal(err)
	}
	if got := instance(); got == first {
		t.Errorf("another function is instance %d too", got)
	}
}
