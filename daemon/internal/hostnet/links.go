package hostnet

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// HostLink is a device's own link in the host, not a VLAN or bridge on top of it.
type HostLink struct {
	Link
	// Addresses and Routes are descriptions. Addresses lacks the link-local ones. Routes has
	// the main table's default routes and its other routes of protocol dhcp or ra.
	Addresses, Routes []string
	// AcceptRA and Forwarding are the kernel's IPv6 settings; "" without IPv6.
	AcceptRA, Forwarding string
}

// AcceptsRA says whether the kernel takes routes from router advertisements (ip-sysctl of the kernel).
func (l HostLink) AcceptsRA() bool {
	return l.AcceptRA == "2" || l.AcceptRA == "1" && l.Forwarding == "0"
}

// Clutter describes the host addresses and the routes of the link; "" for none. An ENI for pods should have none.
func (l HostLink) Clutter() string {
	var parts []string
	if len(l.Addresses) > 0 {
		parts = append(parts, "host address "+strings.Join(l.Addresses, ", "))
	}
	return strings.Join(append(parts, l.Routes...), ", ")
}

// HostLinks reads the links of devices in this network namespace, with the addresses and routes that others have put on them.
func HostLinks(sys sysfs.FS, conf link.IPv6Conf) ([]HostLink, error) {
	links, err := link.Open()
	if err != nil {
		return nil, err
	}
	defer links.Close()
	all, err := links.Links()
	if err != nil {
		return nil, err
	}
	clutter, err := links.Clutter()
	if err != nil {
		return nil, err
	}
	var found []HostLink
	for _, l := range all {
		if !OfDevice(l) {
			continue
		}
		h, err := hostLink(l, sys, conf)
		if err != nil {
			return nil, err
		}
		h.Addresses, h.Routes = put(clutter, l.Index)
		found = append(found, h)
	}
	return found, nil
}

// OfDevice says whether the link is a device's own. A VLAN or OpenShift's bridge on top of such a link shares its MAC.
func OfDevice(l link.Link) bool { return l.MAC != "" && (l.Kind == "" || l.Kind == "veth") }

func hostLink(l link.Link, sys sysfs.FS, conf link.IPv6Conf) (h HostLink, err error) {
	h.Link = Link{Name: l.Name, AltNames: l.AltNames, MAC: l.MAC.String(), Driver: ENIDriver}
	if pci, err := sys.NetPCI(l.Name); err == nil && pci != "" { // else assume an ENI's
		if fn, err := sys.PCI(pci); err == nil && fn.Driver != "" {
			h.Driver = fn.Driver
		}
	}
	if h.AcceptRA, err = conf.AcceptRA(l.Name); err != nil {
		return h, err
	}
	h.Forwarding, err = conf.Forwarding(l.Name)
	return h, err
}

// put describes the link's addresses, its default routes and its other learned routes.
func put(c routing.Clutter, index int) (addresses, routes []string) {
	for _, a := range c.Addresses {
		if a.Index == index {
			addresses = append(addresses, a.Prefix.String())
		}
	}
	other := map[int]int{} // routes by protocol, less default routes
	for _, r := range c.Defaults.Of(index) {
		routes = append(routes, r.String())
		other[r.Protocol]--
	}
	for _, r := range c.Learned {
		if r.Index == index {
			other[r.Protocol]++
		}
	}
	for _, protocol := range slices.Sorted(maps.Keys(other)) {
		if n := other[protocol]; n > 0 {
			routes = append(routes, fmt.Sprintf("other routes of the main table (proto %s): %d", routing.ProtocolName(protocol), n))
		}
	}
	return addresses, routes
}
