package attach

import (
	"encoding/json"
	"fmt"
	"net/netip"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/lease"
)

// recordedLeases are the leases of an ENI that attachments have by their records.
func (c *call) recordedLeases(dir string, eni device.ENIID) (all []nodestate.Lease, err error) {
	records, bad, err := c.dir.List()
	if err == nil {
		err = c.dir.OfOthers(bad, c.id)
	}
	if err != nil {
		return nil, fmt.Errorf("rebuild the leases of ENI %s: %w", eni, err)
	}
	for _, a := range records {
		if a.Leases != dir || a.Device.ENIID != eni || !a.Holds(c.bootID) {
			continue
		}
		addresses, err := leased(a)
		if err != nil {
			return nil, fmt.Errorf("rebuild the leases of ENI %s: record of %s: %w", eni, a.AttachmentID, err)
		}
		for _, addr := range addresses {
			all = append(all, nodestate.Lease{
				Address: addr, State: nodestate.LeaseHeld, AttachmentID: a.AttachmentID, Network: a.Network, Pod: a.Pod, Netns: a.Netns, CoolDown: lease.DefaultCoolDown,
			})
		}
	}
	return all, nil
}

// leased are the addresses that an attachment has leased. Earlier versions have
// written them into the result only.
func leased(a nodestate.Attachment) ([]netip.Addr, error) {
	if a.LeasedAddresses != nil || a.Result == nil {
		return a.LeasedAddresses, nil
	}
	var result types100.Result
	if err := json.Unmarshal(a.Result, &result); err != nil {
		return nil, fmt.Errorf("recorded result: %w", err)
	}
	prefixes, err := cniresult.Addresses(&result)
	var out []netip.Addr
	for _, p := range prefixes {
		out = append(out, p.Addr())
	}
	return out, err
}

// readLeases are an ENI's leases as they were a moment ago.
func (c *call) readLeases(dir string, eni device.ENIID) (nodestate.Leases, error) {
	l, err := nodestate.LeaseDir(dir).Read(c.bootID, eni)
	if nodestate.Unreadable(err) {
		err = c.withLeases(dir, eni, func(rebuilt *nodestate.LockedLeases) error { l = rebuilt.Leases; return nil })
	}
	return l, err
}
