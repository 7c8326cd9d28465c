package view

import (
	"encoding/json"
	"net/netip"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// HolderOf describes the attachment of a device.
func HolderOf(a *nodestate.Attachment) Holder {
	return Holder{
		PCIAddress: a.Device.PCIAddress, Pod: a.Pod, PodUID: a.PodUID,
		ContainerID: a.ContainerID, IfName: a.IfName, Mode: a.Mode, State: a.State, Addresses: addressesOf(a),
	}
}

// addressesOf returns the pod's addresses: from the result, or the leases while there is no result.
func addressesOf(a *nodestate.Attachment) []netip.Addr {
	var result struct {
		Interfaces []struct{ Name, Sandbox string }
		IPs        []struct {
			Address   netip.Prefix
			Interface *int
		}
		// Of a cniVersion before 0.3.0.
		IP4, IP6 *struct{ IP netip.Prefix }
	}
	if a.Result == nil || json.Unmarshal(a.Result, &result) != nil {
		return a.LeasedAddresses
	}
	var all []netip.Addr
	for _, ip := range result.IPs {
		// A plugin before this one in the chain has other interfaces.
		if n := ip.Interface; n == nil || *n >= 0 && *n < len(result.Interfaces) && result.Interfaces[*n].Name == a.IfName {
			all = append(all, ip.Address.Addr())
		}
	}
	for _, ip := range []*struct{ IP netip.Prefix }{result.IP4, result.IP6} {
		if ip != nil {
			all = append(all, ip.IP.Addr())
		}
	}
	return all
}
