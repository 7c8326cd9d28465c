package plane

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

const uplinkAddress = "192.0.2.1/24"

// UplinkAddresses are Options.Addresses in a netns with an Uplink.
func UplinkAddresses() []net.IP { return []net.IP{net.IPv4(192, 0, 2, 1)} }

func gateway() net.IP { return net.IPv4(192, 0, 2, 254) }

// Uplink gives an empty netns the default route that kube-apiserver needs. It leads nowhere.
func Uplink() error {
	la := netlink.NewLinkAttrs()
	la.Name = "uplink"
	uplink := &netlink.Veth{LinkAttrs: la, PeerName: "uplink-peer"}
	if err := netlink.LinkAdd(uplink); err != nil {
		return fmt.Errorf("add uplink: %w", err)
	}
	addr, err := netlink.ParseAddr(uplinkAddress)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(uplink, addr); err != nil {
		return fmt.Errorf("give uplink an address: %w", err)
	}
	for _, name := range []string{"uplink", "uplink-peer"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Gw: gateway()}); err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}
