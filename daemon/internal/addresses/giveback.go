package addresses

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// retire takes unused spans out of the pool. It checks their use again under the locks that every lease of the ENI needs.
func (m *Manager) retire(ctx context.Context, d *nodestate.Device, spans []netip.Prefix) ([]netip.Prefix, bool) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	unlock, err := m.Attachments.LockDevice(ctx, d.PCIAddress)
	if err != nil {
		return nil, false
	}
	defer unlock()
	recorded, ok := m.recorded(d.PCIAddress)
	if !ok {
		return nil, false
	}
	l, err := m.Leases.Lock(ctx, m.BootID, d.ENIID)
	if err != nil {
		return nil, false
	}
	defer l.Close()
	now, err := m.Uptime()
	if err != nil || len(l.Retiring) > 0 { // an earlier retirement is not over
		return nil, false
	}
	l.Retiring = slices.DeleteFunc(slices.Clone(spans), func(p netip.Prefix) bool {
		return holds(&l.Leases, p, now) || slices.ContainsFunc(recorded, p.Contains)
	})
	slices.SortFunc(l.Retiring, netip.Prefix.Compare)
	if len(l.Retiring) == 0 || l.Save() != nil {
		return nil, false
	}
	return l.Retiring, true
}

// recorded are the addresses in the records of pods that share a device, whichever plugin gave them. It is not ok if a pod has the device
// to itself or a record does not say: that pod may hold any address.
func (m *Manager) recorded(pci device.PCIAddress) (all []netip.Addr, ok bool) {
	records, bad, err := m.Attachments.List()
	if err != nil || len(bad) > 0 {
		return nil, false
	}
	for _, a := range records {
		if a.Device.PCIAddress != pci || !a.Holds(m.BootID) {
			continue
		}
		var result struct {
			IPs []struct {
				Address netip.Prefix `json:"address"`
			} `json:"ips"`
		}
		if a.Mode.Exclusive() || json.Unmarshal(a.Result, &result) != nil { // an intent has no result
			return nil, false
		}
		for _, ip := range result.IPs {
			all = append(all, ip.Address.Addr())
		}
	}
	return all, true
}

// giveBack has EC2 unassign the retiring addresses, and ends the retirement once they are gone everywhere. Done: it asked EC2.
func (m *Manager) giveBack(ctx context.Context, d *nodestate.Device, retiring []netip.Prefix) (done bool) {
	for _, family := range []vpc.Family{vpc.IPv4, vpc.IPv6} {
		truth, ok := m.touchable(d.ENIID)
		left := slices.DeleteFunc(slices.Clone(retiring), func(p netip.Prefix) bool {
			return p.Addr().Is4() != (family == vpc.IPv4) || !has(truth.Addresses, truth.Prefixes, p)
		})
		if !ok {
			return done
		}
		if len(left) > 0 {
			if done = true; !m.unassign(ctx, d.ENIID, family, left) {
				return done
			}
		}
	}
	m.mu.Lock()
	agreed := m.listed[d.ENIID] == m.described(d.ENIID)
	settled := m.Now().Sub(m.changed[d.ENIID]) >= consistent
	m.mu.Unlock()
	inUse := func(p netip.Prefix) bool { return has(addressesOf(d.Addresses), d.Prefixes, p) }
	// The metadata must agree, and EC2 certainly do: after a restart they are believed.
	if agreed && settled && !slices.ContainsFunc(retiring, inUse) {
		m.stay(ctx, d.ENIID, func(netip.Prefix) bool { return true })
	}
	return done
}

func has(addresses []netip.Addr, prefixes []netip.Prefix, p netip.Prefix) bool {
	return p.IsSingleIP() && slices.Contains(addresses, p.Addr()) || slices.Contains(prefixes, p)
}

func (m *Manager) unassign(ctx context.Context, eni device.ENIID, family vpc.Family, what []netip.Prefix) bool {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := m.EC2.Unassign(call, eni, family, what)
	m.mu.Lock()
	if err == nil {
		delete(m.trouble, eni)
		m.change(eni, true, what)
		m.mu.Unlock()
		m.Log.WithField("eniID", eni).WithField("addresses", what).Info("EC2 has taken back addresses that no pod needs")
		return true
	}
	m.failed(eni, err, "EC2 takes back no address of this ENI")
	m.describe = true
	m.check(eni, err)
	m.mu.Unlock()
	if kindOf(err) == vpc.EC2Forbidden { // it was not done, and will not be
		m.stay(ctx, eni, func(p netip.Prefix) bool { return slices.Contains(what, p) })
	}
	return false
}

// stay ends the retirement of these. After a failure a later step does it.
func (m *Manager) stay(ctx context.Context, eni device.ENIID, these func(netip.Prefix) bool) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	l, err := m.Leases.Lock(ctx, m.BootID, eni)
	if err != nil {
		return
	}
	defer l.Close()
	l.Retiring = slices.DeleteFunc(l.Retiring, these)
	if err := l.Save(); err != nil {
		m.Log.WithError(err).WithField("eniID", eni).Debug("leases cannot be written")
	}
}
