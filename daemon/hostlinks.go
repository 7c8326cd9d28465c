package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/doctor"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/hostnet"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// hostLinks reads the devices' own links of this netns, with the addresses and routes that
// others have put on them.
func hostLinks(sys sysfs.FS, conf link.IPv6Conf) ([]doctor.HostLink, error) {
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
	var found []doctor.HostLink
	for _, l := range all {
		if !ownLink(l) {
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

// ownLink says whether the link is a device's own. A VLAN or OpenShift's bridge lies on
// such a link and shares its MAC.
func ownLink(l link.Link) bool { return l.MAC != "" && (l.Kind == "" || l.Kind == "veth") }

func hostLink(l link.Link, sys sysfs.FS, conf link.IPv6Conf) (h doctor.HostLink, err error) {
	h.Link = hostnet.Link{Name: l.Name, AltNames: l.AltNames, MAC: l.MAC.String(), Driver: hostnet.ENIDriver}
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
func put(c link.Clutter, index int) (addresses, routes []string) {
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
			routes = append(routes, fmt.Sprintf("other routes of the main table (proto %s): %d", link.ProtocolName(protocol), n))
		}
	}
	return addresses, routes
}
