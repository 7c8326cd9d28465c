package deviceplugin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
)

// Discover lists the PCI functions of a sysfs tree as the device plugin sees them. routes is a file in the format
// of /proc/net/route: an interface with a default route keeps its function out of every pool.
//
// Recorded trees lack RDMA, vDPA, DDP profiles, partition keys and ACPI indexes. Every interface counts as Ethernet.
func Discover(tree sysfs.FS, routes string) ([]dpmodel.Device, error) {
	used, err := defaultRoutes(routes)
	if err != nil {
		return nil, err
	}
	addrs, err := tree.PCIAddresses()
	if err != nil {
		return nil, err
	}
	functions := map[device.PCIAddress]sysfs.PCIFunction{}
	for _, a := range addrs {
		f, err := tree.PCI(a)
		if errors.Is(err, fs.ErrNotExist) {
			continue // unplugged since the list was read
		}
		if err != nil {
			return nil, err
		}
		functions[a] = f
	}
	var out []dpmodel.Device
	for _, a := range addrs {
		if f, ok := functions[a]; ok {
			out = append(out, see(f, functions[f.PhysFn], used))
		}
	}
	return out, nil
}

// see describes f; pf is its PF, the zero value if f is no VF.
func see(f, pf sysfs.PCIFunction, used map[string]bool) dpmodel.Device {
	d := dpmodel.Device{
		Address: f.Address, Vendor: f.Vendor, Device: f.Device, Class: f.Class, Driver: f.Driver,
		PFAddress: f.PhysFn, VFID: slices.Index(pf.VirtFns, f.Address), VFs: len(f.VirtFns),
		DefaultRoute: slices.ContainsFunc(f.Interfaces, func(name string) bool { return used[name] }),
	}
	if len(f.Interfaces) > 0 {
		d.LinkType = "ether"
	}
	if len(pf.Interfaces) > 0 {
		d.PFName = pf.Interfaces[0]
	}
	return d
}

// defaultRoutes returns the interfaces with an IPv4 default route. fib_route_seq_show (net/ipv4/fib_trie.c) has the columns.
func defaultRoutes(path string) (map[string]bool, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read routes: %w", err)
	}
	out := map[string]bool{}
	for n, line := range strings.Split(strings.TrimRight(string(b), "\n"), "\n") {
		if n == 0 {
			continue // headings
		}
		f := strings.Fields(line)
		if len(f) < 8 {
			return nil, fmt.Errorf("read routes: %s:%d: %q has %d columns, want 8 or more", path, n+1, line, len(f))
		}
		if destination, mask := f[1], f[7]; destination == "00000000" && mask == "00000000" {
			out[f[0]] = true
		}
	}
	return out, nil
}
