package reconcile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
)

// machine is the node as the device plugin sees it. Of a known function only the driver is read again.
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

// driver is "" for a function that is missing or has none.
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

func (n *testNode) logged() []string {
	var all []string
	for _, e := range n.logs.AllEntries() {
		all = append(all, e.Message)
	}
	n.logs.Reset()
	return all
}

// files returns modification time and inode of each written file.
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
