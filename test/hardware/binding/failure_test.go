package binding

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// A bind that fails at any step leaves the device with its kernel driver, or with none if the kernel rejects the probe.
func TestBindFails(t *testing.T) {
	guest.Clean(t)
	a := prepare(t, macA, "ens-a", true)
	start(t, nil, eniA())
	override := guest.Devices + a.pci + "/driver_override"
	for _, c := range []struct {
		name     string
		obstruct func(t *testing.T) (uncover func())
	}{
		{"the override cannot be set", func(t *testing.T) func() { return cover(t, override, "/proc/version") }},
		{"the kernel driver does not let go", func(t *testing.T) func() { return refuse(t, unbindKernel) }},
		{"the kernel driver takes it again", func(t *testing.T) func() { return swallow(t, override, "(null)\n") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			uncover := c.obstruct(t)
			guest.WriteNodeENI(t, "a", dpdk(eniA(), "vfio-pci"))
			problem(t, "DriverNotBound", a.pci, "vfio-pci")
			guest.RemoveNodeENI(t, "a")
			a.withdrawn(t, eniA())
			uncover() // which hides the override
			a.restored(t)
		})
	}
	t.Run("no driver can be asked for", func(t *testing.T) {
		uncover := refuse(t, driversProbe)
		guest.WriteNodeENI(t, "a", dpdk(eniA(), "vfio-pci"))
		problem(t, "DriverNotBound", a.pci, "vfio-pci")
		uncover()
		a.bound(t, eniA(), "vfio-pci")
		noProblem(t, "DriverNotBound")
		guest.RemoveNodeENI(t, "a")
		a.restored(t)
		a.withdrawn(t, eniA())
	})
}

// The next child repairs a device whose child died between two writes. While a child hangs, only its device waits.
func TestChildDies(t *testing.T) {
	guest.Clean(t)
	a, b := prepare(t, macA, "ens-a", true), prepare(t, macB, "ens-b", false)
	n := start(t, nil, eniA(), eniB())
	for _, c := range []struct {
		name, bind, giveBack string
		daemon               bool
	}{
		{"before the daemon", unbindKernel, driversProbe, false},
		{"after the daemon", driversProbe, unbindVFIO, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			die := func(path string, change func()) {
				uncover := gate(t, path)
				change()
				pid := child(t, inGate)
				if c.daemon {
					n.Kill()
					n.Restart()
				}
				guest.WriteNodeENI(t, "b", kernel(eniB()))
				guest.AwaitPhase(t, eniB().ID, nodestate.PhaseReady, soon)
				guest.RemoveNodeENI(t, "b")
				b.withdrawn(t, eniB())
				try(t, unix.Kill(pid, unix.SIGKILL))
				uncover()
			}
			die(c.bind, func() { guest.WriteNodeENI(t, "a", dpdk(eniA(), "vfio-pci")) })
			a.bound(t, eniA(), "vfio-pci")
			wantUsable(t, a.pci)
			die(c.giveBack, func() { guest.RemoveNodeENI(t, "a") })
			a.restored(t)
			a.withdrawn(t, eniA())
		})
	}
}

// A device that is pulled out during a driver change is gone, and the next one in its place is another device.
func TestPulledOutWhileBound(t *testing.T) {
	guest.Clean(t)
	a := prepare(t, macA, "ens-a", true)
	start(t, nil, eniA())
	uncover := gate(t, driversProbe)
	guest.WriteNodeENI(t, "a", dpdk(eniA(), "vfio-pci"))
	pid := child(t, inGate)
	guest.Detach(t, "a")
	problem(t, "DeviceGone", a.pci)
	try(t, unix.Kill(pid, unix.SIGKILL))
	uncover()
	guest.Eventually(t, "no restore record of the device that is gone", soon, func() bool {
		_, left := recordsOf(t)
		return len(left) == 0
	})
	guest.Attach(t, "a", "slot0", macA)
	a.bound(t, eniA(), "vfio-pci")
	noProblem(t, "DeviceGone")
	guest.RemoveNodeENI(t, "a")
	guest.Eventually(t, "the new device is back with its kernel driver, and has all that it had", soon, func() bool {
		_, left := recordsOf(t)
		return guest.Netdev(a.pci) != "" && len(left) == 0
	})
	a.withdrawn(t, eniA())
}
