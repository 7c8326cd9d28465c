// Command sriov stands in for sriov-cni in the tests on real devices, which cannot have that plugin's module. On
// the kernel's PF and VF it acts like sriov-cni 2.9, for the keys that it knows:
//
//   - deviceID: the VF's PCI address. Its PF and its index come from sysfs.
//   - vlan (0 to 4094), mac, spoofchk and trust ("on" or "off"): set through the PF. The VF also takes the MAC.
//   - ipam: any address plugin, by way of the reference library.
//
// ADD records the PF's settings of the VF, takes the VF down, moves and renames it by way of a temporary name. It
// refuses a VF that an earlier ADD still has. DEL restores all of that, but leaves the link down. Without a record
// of an ADD it does nothing. When the netns is gone it does not touch the VF, which may be another pod's by then.
//
// It is stricter than sriov-cni: an unknown key, a bad value, a device that is no VF or has no kernel interface is
// an error, and so is any change that the PF's driver refuses. It has no VFs on userspace drivers, rates, trunks,
// QoS or link states.
package main

import (
	"os"
	"runtime"

	"github.com/containernetworking/cni/pkg/skel"
	cniversion "github.com/containernetworking/cni/pkg/version"
)

// The netns of a thread is the thread's own.
func init() { runtime.LockOSThread() }

func main() {
	store := store("/var/lib/cni/sriov")
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:   func(a *skel.CmdArgs) error { return store.add(a, os.Stdout) },
		Del:   store.del,
		Check: func(*skel.CmdArgs) error { return nil }, // as sriov-cni's
	}, cniversion.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0"), "CNI sriov plugin, a stand-in for tests")
}
