package nstest

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/test/sysfstree"
)

// LoopbackUp sets lo up in the calling thread's netns.
func LoopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

func touch(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o644)
}

// ENI is a stand-in for an attached ENI: a veth whose one end is the node's
// link and whose other end hangs on the bridge "vpc" of a netns of its own.
type ENI struct {
	PCI    string // recorded in the sysfs tree; "" for a link without PCI function
	Name   string // of the node's end
	MAC    string
	MTU    int    // 0: the kernel's default
	Driver string // "": ena
	NoLink bool   // only the PCI function, as with a userspace driver
	VF     string // the PF's PCI address when the function is a VF
	Vendor string // "": 0x1d0f
	Device string // "": 0xec20
}

// Node is a node made of namespaces: its host netns is the calling process's.
type Node struct {
	Dir   string // everything lives here
	Sysfs string // root of its sysfs tree, in the shape of recorded ones
	VPC   string // path of the netns of the peers
}

// NewNode makes a node without ENIs in dir. Prepare has been called.
func NewNode(dir string) (*Node, error) {
	const vpc = "/run/netns/vpc"
	if err := NewNetns(vpc); err != nil {
		return nil, err
	}
	return NewNodeIn(dir, vpc)
}

// NewNodeIn is NewNode with a netns of the caller's for the peers.
func NewNodeIn(dir, vpc string) (*Node, error) {
	n := &Node{Dir: dir, Sysfs: filepath.Join(dir, "sys"), VPC: vpc}
	for _, d := range []string{"bus/pci/devices", "bus/pci/drivers", "class/net", "devices/pci0000:00", "module"} {
		if err := os.MkdirAll(filepath.Join(n.Sysfs, d), 0o755); err != nil {
			return nil, err
		}
	}
	return n, n.InVPC(func() error {
		la := netlink.NewLinkAttrs()
		la.Name = "vpc"
		br := &netlink.Bridge{LinkAttrs: la}
		if err := netlink.LinkAdd(br); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		return netlink.LinkSetUp(br)
	})
}

// InVPC runs f on a thread in the netns of the peers.
func (n *Node) InVPC(f func() error) error { return In(n.VPC, f) }

// In runs f on a thread in the netns at path.
func In(path string, f func() error) error {
	return ns.WithNetNSPath(path, func(ns.NetNS) error { return f() })
}

// AddPeerAddress gives the bridge of the VPC an address, for pods to ping.
func (n *Node) AddPeerAddress(cidr string) error {
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	return n.InVPC(func() error {
		br, err := netlink.LinkByName("vpc")
		if err != nil {
			return err
		}
		addr.Flags = 2 // IFA_F_NODAD; without meaning for IPv4
		return netlink.AddrAdd(br, addr)
	})
}

// Attach plugs an ENI in: PCI function, link and wire.
func (n *Node) Attach(e ENI) error {
	if e.PCI != "" {
		if err := n.record(e); err != nil {
			return err
		}
	}
	if e.NoLink {
		return nil
	}
	return n.addVeth(e)
}

func (n *Node) addVeth(e ENI) error {
	mac, err := net.ParseMAC(e.MAC)
	if err != nil {
		return err
	}
	la := netlink.NewLinkAttrs()
	la.Name, la.HardwareAddr, la.MTU = e.Name, mac, e.MTU
	peer := "p-" + e.Name
	vpc, err := ns.GetNS(n.VPC)
	if err != nil {
		return err
	}
	defer vpc.Close()
	veth := &netlink.Veth{LinkAttrs: la, PeerName: peer, PeerNamespace: netlink.NsFd(vpc.Fd())}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth %s: %w", e.Name, err)
	}
	return n.InVPC(func() error {
		p, err := netlink.LinkByName(peer)
		if err != nil {
			return err
		}
		br, err := netlink.LinkByName("vpc")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(p, br); err != nil {
			return err
		}
		if e.MTU != 0 {
			if err := netlink.LinkSetMTU(p, e.MTU); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(p)
	})
}

// Detach pulls an ENI out, wherever its link is: the PCI function leaves the
// sysfs tree, and deleting the peer deletes the link.
func (n *Node) Detach(e ENI) error {
	if err := sysfstree.Unplug(n.Sysfs, e.PCI); err != nil {
		return err
	}
	if e.NoLink {
		return nil
	}
	return n.unplug(e)
}

// record plugs the PCI function into the sysfs tree.
func (n *Node) record(e ENI) error {
	f := sysfstree.Function{
		Address: e.PCI, Vendor: e.Vendor, Device: e.Device, Driver: cmp.Or(e.Driver, "ena"), PhysFn: e.VF,
	}
	if !e.NoLink {
		f.Interfaces = []sysfstree.Interface{{Name: e.Name, MAC: e.MAC, MTU: cmp.Or(e.MTU, 1500)}}
	}
	return sysfstree.Plug(n.Sysfs, f)
}

// Bind binds the ENI's PCI function to another driver, as driverctl does. A userspace driver takes the link away.
func (n *Node) Bind(e ENI, driver string) error {
	if err := sysfstree.Bind(n.Sysfs, e.PCI, driver); err != nil {
		return err
	}
	return n.unplug(e)
}

// unplug deletes the ENI's link, wherever it is, by deleting its peer.
func (n *Node) unplug(e ENI) error {
	return n.InVPC(func() error {
		p, err := netlink.LinkByName("p-" + e.Name)
		if err != nil {
			return err
		}
		return netlink.LinkDel(p)
	})
}
