package binding

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

const macVF = "02:00:00:00:02:01"

func prepareVF(t *testing.T, name string) (nic, fakeimds.ENI) {
	t.Helper()
	pf, vfs := guest.VFs(t, 2)
	l, ok := guest.ByName(guest.Netdev(pf))
	if !ok {
		t.Fatal("the PF has no link")
	}
	mac, err := net.ParseMAC(macVF)
	guest.Must(t, err)
	try(t, netlink.LinkSetVfHardwareAddr(l, 0, mac), netlink.LinkSetUp(l))
	t.Cleanup(func() { try(t, netlink.LinkSetDown(l)) })
	guest.Bind(t, vfs[0], "igbvf") // which takes the address, from a PF that is up
	pci, was := guest.WaitNIC(t, macVF)
	return dress(t, pci, was, name, true), newENI(macVF, 4)
}

func TestSwitches(t *testing.T) {
	guest.Clean(t)
	a := prepare(t, macA, "ens-a", false)
	vf, eniVF := prepareVF(t, "ens-vf")
	guest.LoadModule(t, "uio_pci_generic")
	start(t, nil, eniA(), eniVF)
	wa, wv := watch(t, eniA().ID, a.pci, "vfio-pci"), watch(t, eniVF.ID, vf.pci, "vfio-pci")
	for _, driver := range []string{"vfio-pci", "", "vfio-pci", "uio_pci_generic", "vfio-pci"} {
		for _, e := range []fakeimds.ENI{eniA(), eniVF} {
			spec := dpdk(e, driver)
			if driver == "" {
				spec = sriov(e)
			}
			guest.WriteNodeENI(t, e.ID, spec)
		}
		if driver == "" {
			a.becomes(t, a.before.up())
			vf.becomes(t, vf.before)
			guest.AwaitPhase(t, eniA().ID, nodestate.PhaseReady, soon)
			guest.AwaitPhase(t, eniVF.ID, nodestate.PhaseReady, soon)
			continue
		}
		a.bound(t, eniA(), driver)
		vf.bound(t, eniVF, driver)
	}
	wantUsable(t, a.pci)
	wantUsable(t, vf.pci)
	guest.RemoveNodeENI(t, eniA().ID)
	guest.RemoveNodeENI(t, eniVF.ID)
	a.becomes(t, a.before.up()) // as case 2 had left it
	vf.restored(t)
	a.withdrawn(t, eniA())
	vf.withdrawn(t, eniVF)
	wa.finish()
	wv.finish()
	guest.UnloadModule(t, "uio_pci_generic")
}

// A program that opens the device after the daemon's check makes the kernel wait, for that device only.
func TestUnbindHangs(t *testing.T) {
	guest.Clean(t)
	a, b, c := prepare(t, macA, "ens-a", true), prepare(t, macB, "ens-b", false), prepare(t, macC, "ens-c", true)
	n := start(t, nil, eniA(), eniB(), eniC())
	guest.WriteNodeENI(t, "a", dpdk(eniA(), "vfio-pci"))
	a.bound(t, eniA(), "vfio-pci")
	h := guest.HoldVFIO(t, a.pci)
	uncover := cover(t, "/dev/vfio/"+group(t, a.pci), "/dev/null") // where the daemon looks, it finds it free
	guest.RemoveNodeENI(t, "a")
	child(t, inVFIO)
	uncover()

	guest.WriteNodeENI(t, "c", dpdk(eniC(), "vfio-pci"))
	c.bound(t, eniC(), "vfio-pci")
	n.Kill()
	n.Restart()
	guest.WriteNodeENI(t, "b", kernel(eniB()))
	guest.AwaitPhase(t, eniB().ID, nodestate.PhaseReady, soon)
	guest.RemoveNodeENI(t, "c")
	c.restored(t)
	problem(t, "DriverStuck", a.pci, "end that program")
	if got := guest.Row(t, eniA().ID).Phase; got != nodestate.PhaseDraining {
		t.Errorf("phase %q, want draining", got)
	}
	h.Release()
	a.restored(t)
	a.withdrawn(t, eniA())
	noProblem(t, "DriverStuck")
	guest.RemoveNodeENI(t, "b")
	b.withdrawn(t, eniB())
}
