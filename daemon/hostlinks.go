package main

import (
	"github.com/multi-eni/multi-eni-cni/daemon/internal/doctor"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/hostnet"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// hostLinks reads the devices' own links of this netns, and what others have put on them.
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
	defaults, err := links.DefaultRoutes()
	if err != nil {
		return nil, err
	}
	var found []doctor.HostLink
	for _, l := range all {
		if !ownLink(l) {
			continue
		}
		h, err := hostLink(links, l, sys, conf)
		if err != nil {
			return nil, err
		}
		for _, r := range defaults.Of(l.Index) {
			h.Routes = append(h.Routes, r.String())
		}
		found = append(found, h)
	}
	return found, nil
}

// ownLink says whether the link is a device's own, not one that lies on it and shares its
// MAC, as a VLAN or the bridge of OpenShift does.
func ownLink(l link.Link) bool { return l.MAC != "" && (l.Kind == "" || l.Kind == "veth") }

func hostLink(links *link.Handle, l link.Link, sys sysfs.FS, conf link.IPv6Conf) (h doctor.HostLink, err error) {
	h.Link = hostnet.Link{Name: l.Name, AltNames: l.AltNames, MAC: l.MAC.String(), Driver: hostnet.ENIDriver}
	if pci, err := sys.NetPCI(l.Name); err == nil && pci != "" { // else it is taken for an ENI's
		if fn, err := sys.PCI(pci); err == nil && fn.Driver != "" {
			h.Driver = fn.Driver
		}
	}
	addresses, err := links.Addresses(l.Index)
	if err != nil {
		return h, err
	}
	for _, a := range addresses {
		if !a.Addr().IsLinkLocalUnicast() {
			h.Addresses = append(h.Addresses, a.String())
		}
	}
	if h.AcceptRA, err = conf.AcceptRA(l.Name); err != nil {
		return h, err
	}
	h.Forwarding, err = conf.Forwarding(l.Name)
	return h, err
}
