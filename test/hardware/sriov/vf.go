package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
)

// pciDevices is the folder of PCI functions (Documentation/ABI/testing/sysfs-bus-pci).
const pciDevices = "/sys/bus/pci/devices"

type vf struct {
	address string
	pf      netlink.Link
	index   int
}

type vfState struct {
	Name     string `json:"name"`
	MAC      string `json:"mac"`
	AdminMAC string `json:"adminMAC"`
	VLAN     int    `json:"vlan"`
	Spoofchk bool   `json:"spoofchk"`
	Trust    bool   `json:"trust"`
}

type admin struct {
	mac             net.HardwareAddr
	vlan            *int
	spoofchk, trust *bool
}

func (n netconf) wanted() admin {
	a := admin{vlan: n.VLAN, spoofchk: onOff(n.Spoofchk), trust: onOff(n.Trust)}
	if a.vlan == nil {
		a.vlan = new(int)
	}
	a.mac, _ = net.ParseMAC(n.MAC)
	return a
}

func onOff(s string) *bool {
	if s == "" {
		return nil
	}
	on := s == "on"
	return &on
}

func (s vfState) admin(n netconf) admin {
	a := admin{vlan: &s.VLAN}
	if n.Spoofchk != "" {
		a.spoofchk = &s.Spoofchk
	}
	if n.Trust != "" {
		a.trust = &s.Trust
	}
	if n.MAC != "" {
		a.mac, _ = net.ParseMAC(s.AdminMAC)
	}
	return a
}

// findVF finds the VF's PF and its index: the PF's virtfn<index> leads to the VF.
func findVF(address string) (vf, error) {
	pf, err := os.Readlink(filepath.Join(pciDevices, address, "physfn"))
	if err != nil {
		return vf{}, fmt.Errorf("%s is not a VF: %w", address, err)
	}
	pf = filepath.Base(pf)
	links, err := filepath.Glob(filepath.Join(pciDevices, pf, "virtfn*"))
	if err != nil {
		return vf{}, err
	}
	for _, l := range links {
		to, err := os.Readlink(l)
		if err != nil || filepath.Base(to) != address {
			continue
		}
		index, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(l), "virtfn"))
		if err != nil {
			return vf{}, err
		}
		name, err := interfaceOf(pf)
		if err != nil {
			return vf{}, err
		}
		link, err := netlink.LinkByName(name)
		return vf{address: address, pf: link, index: index}, err
	}
	return vf{}, fmt.Errorf("%s is not among the VFs of %s", address, pf)
}

func interfaceOf(address string) (string, error) {
	names, err := filepath.Glob(filepath.Join(pciDevices, address, "net", "*"))
	if err != nil || len(names) != 1 {
		return "", errors.Join(err, fmt.Errorf("%s has %d interfaces here, want 1", address, len(names)))
	}
	return filepath.Base(names[0]), nil
}

func (v vf) state() (vfState, error) {
	name, err := interfaceOf(v.address)
	if err != nil {
		return vfState{}, err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return vfState{}, err
	}
	all := v.pf.Attrs().Vfs
	i := slices.IndexFunc(all, func(i netlink.VfInfo) bool { return i.ID == v.index })
	if i < 0 {
		return vfState{}, fmt.Errorf("%s does not tell of its VF %d", v.pf.Attrs().Name, v.index)
	}
	return vfState{
		Name: name, MAC: link.Attrs().HardwareAddr.String(), AdminMAC: all[i].Mac.String(),
		VLAN: all[i].Vlan, Spoofchk: all[i].Spoofchk, Trust: all[i].Trust != 0,
	}, nil
}

// set applies settings through the PF. The driver may refuse any of them.
func (v vf) set(a admin) error {
	if a.vlan != nil {
		if err := netlink.LinkSetVfVlan(v.pf, v.index, *a.vlan); err != nil {
			return fmt.Errorf("set VLAN %d of VF %d: %w", *a.vlan, v.index, err)
		}
	}
	if a.mac != nil {
		if err := netlink.LinkSetVfHardwareAddr(v.pf, v.index, a.mac); err != nil {
			return fmt.Errorf("set MAC %s of VF %d: %w", a.mac, v.index, err)
		}
	}
	if a.spoofchk != nil {
		if err := netlink.LinkSetVfSpoofchk(v.pf, v.index, *a.spoofchk); err != nil {
			return fmt.Errorf("set spoofchk of VF %d: %w", v.index, err)
		}
	}
	if a.trust != nil {
		if err := netlink.LinkSetVfTrust(v.pf, v.index, *a.trust); err != nil {
			return fmt.Errorf("set trust of VF %d: %w", v.index, err)
		}
	}
	return nil
}

func (v vf) give(to ns.NetNS, ifname, name, mac string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetDown(link); err != nil {
		return fmt.Errorf("take %s down: %w", name, err)
	}
	if mac != "" {
		if err := setMAC(link, mac); err != nil {
			return err
		}
	}
	temporary := fmt.Sprintf("temp_%d", link.Attrs().Index)
	if err := netlink.LinkSetName(link, temporary); err != nil {
		return fmt.Errorf("rename %s to %s: %w", name, temporary, err)
	}
	if err := netlink.LinkSetNsFd(link, int(to.Fd())); err != nil {
		return errors.Join(fmt.Errorf("move %s: %w", name, err), netlink.LinkSetName(link, name))
	}
	return to.Do(func(ns.NetNS) error {
		link, err := netlink.LinkByName(temporary)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetName(link, ifname); err != nil {
			return fmt.Errorf("rename %s to %s: %w", temporary, ifname, err)
		}
		return netlink.LinkSetUp(link)
	})
}

func setMAC(link netlink.Link, mac string) error {
	addr, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetHardwareAddr(link, addr); err != nil {
		return fmt.Errorf("set MAC %s of %s: %w", mac, link.Attrs().Name, err)
	}
	return nil
}

func (v vf) takeBack(from ns.NetNS, ifname string, was vfState, n netconf) error {
	host, err := ns.GetCurrentNS()
	if err != nil {
		return err
	}
	defer host.Close()
	return from.Do(func(ns.NetNS) error {
		link, err := netlink.LinkByName(ifname)
		if err != nil {
			return fmt.Errorf("find %s in the container: %w", ifname, err)
		}
		if err := netlink.LinkSetDown(link); err != nil {
			return fmt.Errorf("take %s down: %w", ifname, err)
		}
		if err := netlink.LinkSetName(link, was.Name); err != nil {
			return fmt.Errorf("rename %s to %s: %w", ifname, was.Name, err)
		}
		if n.MAC != "" {
			if err := setMAC(link, was.MAC); err != nil {
				return err
			}
		}
		return netlink.LinkSetNsFd(link, int(host.Fd()))
	})
}
