package trees

import (
	"net"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
	"github.com/multi-eni/multi-eni-cni/test/hardware/machine"
)

const (
	macENI = "02:00:00:00:01:00"
	macPF  = "02:00:00:00:02:00"
	macVF0 = "02:00:00:00:02:10"
	macVF1 = "02:00:00:00:02:11"
)

func TestMain(m *testing.M) {
	machine.Main(m, machine.Spec{NICs: []machine.NIC{
		{ID: "primary", MAC: "02:00:00:00:00:01", Address: "05.0"},
		{ID: "eni", MAC: macENI, Slot: "slot0"},
		{ID: "pf", Model: machine.IGB, MAC: macPF},
	}})
}

func TestTrees(t *testing.T) {
	eni, _ := guest.WaitNIC(t, macENI)
	_, pf := guest.WaitNIC(t, macPF)
	Check(t, "kernel")

	guest.SetUp(t, pf) // a VF asks it for its address
	_, vfs := guest.VFs(t, 2)
	// The PF sets the address of the first, a node's operator the second's.
	parent, ok := guest.ByName(pf)
	if !ok {
		t.Fatalf("no link %s", pf)
	}
	guest.Must(t, netlink.LinkSetVfHardwareAddr(parent, 0, parse(t, macVF0)))
	guest.Bind(t, vfs[0], "igbvf")
	l, ok := guest.ByName(guest.Netdev(vfs[1]))
	if !ok {
		t.Fatalf("no link of %s", vfs[1])
	}
	guest.Must(t, netlink.LinkSetHardwareAddr(l, parse(t, macVF1)))
	Check(t, "vfs")

	guest.Bind(t, eni, "vfio-pci")
	guest.Bind(t, vfs[1], "vfio-pci")
	Check(t, "vfio")

	guest.Bind(t, eni, "e1000e")
	guest.Bind(t, vfs[1], "igbvf")
	pod, err := ns.GetNS(guest.NewNetns(t, "pod"))
	guest.Must(t, err)
	defer pod.Close()
	for _, pci := range []string{eni, vfs[1]} {
		l, ok := guest.ByName(guest.Netdev(pci))
		if !ok {
			t.Fatalf("no link of %s", pci)
		}
		guest.Must(t, netlink.LinkSetNsFd(l, int(pod.Fd())))
	}
	Check(t, "pod")

	guest.Detach(t, "eni")
	Check(t, "unplugged")
}

func parse(t *testing.T, mac string) net.HardwareAddr {
	t.Helper()
	a, err := net.ParseMAC(mac)
	guest.Must(t, err)
	return a
}
