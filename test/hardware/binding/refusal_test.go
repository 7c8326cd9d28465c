package binding

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// Functions of one IOMMU group go to vfio-pci together, or not at all.
func TestSharedGroup(t *testing.T) {
	guest.Clean(t)
	twin0, twin1 := prepare(t, macTwin0, "ens-t0", true), prepare(t, macTwin1, "ens-t1", true)
	eni0, eni1 := newENI(macTwin0, 1), newENI(macTwin1, 2)
	start(t, nil, eni0, eni1)
	guest.WriteNodeENI(t, "twin0", dpdk(eni0, "vfio-pci"))
	problem(t, "IOMMUGroupShared", twin0.pci, twin1.pci+" (e1000e)", "group "+group(t, twin0.pci))
	twin0.untouched(t)
	twin1.untouched(t)

	guest.WriteNodeENI(t, "twin1", dpdk(eni1, "vfio-pci"))
	twin0.bound(t, eni0, "vfio-pci")
	twin1.bound(t, eni1, "vfio-pci")
	noProblem(t, "IOMMUGroupShared")
	wantUsable(t, twin0.pci)
	wantUsable(t, twin1.pci)

	// One of them returns to the kernel only when no program has the group.
	h := guest.HoldVFIO(t, twin0.pci)
	guest.RemoveNodeENI(t, "twin1")
	problem(t, "DeviceOpen", twin1.pci, "/dev/vfio/"+group(t, twin0.pci))
	if got := guest.Driver(twin1.pci); got != "vfio-pci" {
		t.Errorf("twin1 has driver %q while a program has its group open", got)
	}
	h.Release()
	twin1.restored(t)
	guest.RemoveNodeENI(t, "twin0")
	twin0.restored(t)
	twin0.withdrawn(t, eni0)
	twin1.withdrawn(t, eni1)
}

// The node's uplink and a device in a pod stay with the kernel until freed. Primary and undeclared devices are never touched.
func TestRefusals(t *testing.T) {
	guest.Clean(t)
	primary, undeclared := prepare(t, macPrimary, "ens-p", true), prepare(t, macB, "ens-b", false)
	routed, held := prepare(t, macA, "ens-a", true), prepare(t, macC, "ens-c", true)
	peer := newPeer(t, "10.0.3.1/24")
	route(t, routed.before.Name, "10.0.1.2/24", "10.0.1.1", 100)
	start(t, nil, eniA(), eniB(), eniC())
	guest.WriteNodeENI(t, "held", kernel(eniC()))
	guest.AwaitPhase(t, eniC().ID, nodestate.PhaseReady, soon)
	pod := newPod(t, "pod", `"select":{"nodeENI":"held"}`, "10.0.3.10/24")
	guest.MustAdd(t, pod)

	eni := newENI(macPrimary, 0)
	guest.WriteNodeENI(t, "primary", dpdk(eni, "vfio-pci"), guest.Attached(eni))
	guest.WriteNodeENI(t, "routed", dpdk(eniA(), "vfio-pci"))
	guest.WriteNodeENI(t, "held", dpdk(eniC(), "vfio-pci"))
	problem(t, "PrimaryENI", "never touches")
	problem(t, "OnlyDefaultRoute", routed.before.Name)
	problem(t, "DriverNotBound", held.pci, "a pod has it")
	routed.untouched(t)
	guest.Talk(t, pod.Netns, peer, "10.0.3.10:7000")
	if got := guest.Driver(held.pci); got != "e1000e" || guest.Advertised(t, held.pci) {
		t.Errorf("the pod's device has driver %q, advertised %v", got, guest.Advertised(t, held.pci))
	}

	guest.MustDel(t, pod)
	route(t, primary.before.Name, "10.0.0.2/24", "10.0.0.1", 200)
	routed.bound(t, eniA(), "vfio-pci")
	held.bound(t, eniC(), "vfio-pci")
	noProblem(t, "OnlyDefaultRoute")
	noProblem(t, "DriverNotBound")
	for _, name := range []string{"primary", "routed", "held"} {
		guest.RemoveNodeENI(t, name)
	}
	routed.restored(t)
	held.restored(t)
	routed.withdrawn(t, eniA())
	held.withdrawn(t, eniC())
	primary.untouched(t)
	undeclared.untouched(t)
}

// route gives a link an address, and a default route of the main table.
func route(t *testing.T, name, address, gateway string, metric int) {
	t.Helper()
	l, ok := guest.ByName(name)
	if !ok {
		t.Fatalf("no link %s", name)
	}
	addr, err := netlink.ParseAddr(address)
	guest.Must(t, err)
	try(t, netlink.AddrAdd(l, addr))
	try(t, netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(gateway), Priority: metric}))
	t.Cleanup(func() {
		if l, ok := guest.ByName(name); ok {
			netlink.AddrDel(l, addr) //nolint:errcheck // the route goes with it; a change of drivers has taken both
		}
	})
}

// A device that somebody else has bound is used if its driver is the wanted one, else a problem, and never taken away.
func TestBoundBySomebodyElse(t *testing.T) {
	guest.Clean(t)
	a := prepare(t, macA, "ens-a", true)
	n := start(t, nil, eniA())
	guest.WriteNodeENI(t, "a", sriov(eniA()))
	guest.AwaitPhase(t, eniA().ID, nodestate.PhaseReady, soon)
	wantConfig(t, pool(resourceSRIOV, "e1000e", a))
	guest.BindVFIO(t, a.pci)
	problem(t, "DriverMismatch", a.pci, "another program")
	wantConfig(t, placeholder())
	guest.WriteNodeENI(t, "a", dpdk(eniA(), "vfio-pci"))
	a.bound(t, eniA(), "vfio-pci")
	noProblem(t, "DriverMismatch")
	wantUsable(t, a.pci)
	guest.RemoveNodeENI(t, "a")
	a.withdrawn(t, eniA())

	// A daemon that has never seen the link goes by dpdkPCIAddress.
	n.Stop()
	forget(t)
	spec := dpdk(eniA(), "vfio-pci")
	spec.DPDKPCIAddress = a.pci
	guest.WriteNodeENI(t, "a", spec)
	n.Restart()
	a.bound(t, eniA(), "vfio-pci")
	guest.RemoveNodeENI(t, "a")
	a.withdrawn(t, eniA())
	if got := guest.Driver(a.pci); got != "vfio-pci" {
		t.Errorf("%s has driver %q, want what somebody has bound it to", a.pci, got)
	}
	// The prepared settings went with the link, and nothing keeps them.
	guest.Bind(t, a.pci, "e1000e")
	l, ok := guest.ByName(guest.Netdev(a.pci))
	if !ok {
		t.Fatal("no link")
	}
	try(t, netlink.LinkSetName(l, a.before.Name), netlink.LinkAddAltName(l, a.before.AltNames[0]))
}

// A driver that is not loaded is a problem with the command that loads it. The device is bound as soon as it is loaded.
func TestDriverNotLoaded(t *testing.T) {
	guest.Clean(t)
	const driver = "uio_pci_generic"
	a := prepare(t, macA, "ens-a", true)
	start(t, nil, eniA())
	guest.WriteNodeENI(t, "a", dpdk(eniA(), driver))
	problem(t, "DriverNotLoaded", a.pci, "modprobe "+driver, "--load-modules")
	a.untouched(t)
	guest.LoadModule(t, driver)
	a.bound(t, eniA(), driver)
	noProblem(t, "DriverNotLoaded")
	wantUIO(t, a.pci)
	guest.RemoveNodeENI(t, "a")
	a.restored(t)
	a.withdrawn(t, eniA())
	guest.UnloadModule(t, driver)
}

func wantUIO(t *testing.T, pci string) {
	t.Helper()
	nodes, err := filepath.Glob(guest.Devices + pci + "/uio/uio*")
	if err != nil || len(nodes) != 1 {
		t.Fatalf("uio devices of %s: %q, %v", pci, nodes, err)
	}
	f, err := os.OpenFile(filepath.Join("/dev", filepath.Base(nodes[0])), os.O_RDWR, 0)
	if err != nil {
		t.Errorf("open %s by UIO: %v", pci, err)
		return
	}
	f.Close()
}

// With --load-modules the daemon loads the module and its dependencies.
func TestLoadModules(t *testing.T) {
	guest.Clean(t)
	a := prepare(t, macA, "ens-a", true)
	vfio := []string{"vfio_pci", "vfio_pci_core", "vfio_virqfd", "vfio_iommu_type1", "vfio"}
	for _, m := range vfio {
		guest.UnloadModule(t, m)
	}
	start(t, []string{"--load-modules"}, eniA())
	for _, driver := range []string{"uio_pci_generic", "vfio-pci"} {
		guest.WriteNodeENI(t, "a", dpdk(eniA(), driver))
		a.bound(t, eniA(), driver)
		if driver == "vfio-pci" {
			wantUsable(t, a.pci)
		} else {
			wantUIO(t, a.pci)
		}
		guest.RemoveNodeENI(t, "a")
		a.restored(t)
		a.withdrawn(t, eniA())
	}
	guest.UnloadModule(t, "uio_pci_generic")
	if _, err := os.Stat("/sys/module/vfio_iommu_type1"); err != nil {
		t.Errorf("what drives the IOMMU for vfio-pci is not loaded: %v", err)
	}
}

// A uio device that a program has open is returned when the program ends (uio_unregister_device does not wait).
func TestUIOHeldOpen(t *testing.T) {
	guest.Clean(t)
	const driver = "uio_pci_generic"
	a := prepare(t, macA, "ens-a", true)
	guest.LoadModule(t, driver)
	start(t, nil, eniA())
	guest.WriteNodeENI(t, "a", dpdk(eniA(), driver))
	a.bound(t, eniA(), driver)
	nodes, err := filepath.Glob(guest.Devices + a.pci + "/uio/uio*")
	if err != nil || len(nodes) != 1 {
		t.Fatalf("uio devices of %s: %q, %v", a.pci, nodes, err)
	}
	f, err := os.OpenFile(filepath.Join("/dev", filepath.Base(nodes[0])), os.O_RDWR, 0)
	guest.Must(t, err)
	guest.RemoveNodeENI(t, "a")
	problem(t, "DeviceOpen", a.pci, "use count of "+driver)
	if got := guest.Driver(a.pci); got != driver {
		t.Errorf("bound to %q while a program has it", got)
	}
	f.Close()
	a.restored(t)
	a.withdrawn(t, eniA())
	guest.UnloadModule(t, driver)
}
