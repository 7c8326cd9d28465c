package addresses

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// lockWait bounds the wait for a lock that a plugin may have.
const lockWait = 200 * time.Millisecond

// adjust brings an ENI's pools between the marks: it ends a retirement, has EC2 assign more, or retires surplus. It touches only ENIs with
// their NodeENI's tag whose addresses pods asked for in this boot. Done: it asked EC2 for something.
func (m *Manager) adjust(ctx context.Context, d *nodestate.Device) (done bool) {
	l, err := m.Leases.Read(m.BootID, d.ENIID)
	if err != nil { // the reconciler reports it
		return done
	}
	if d.Phase != nodestate.PhaseReady || (sysfs.PCIFunction{Driver: d.Driver}).UserspaceDriver() || len(l.Asked)+len(l.Retiring) == 0 {
		m.forget(d.ENIID)
		return done
	}
	truth, ok := m.touchable(d.ENIID)
	if !ok {
		return done
	}
	if truth.NodeENI != d.NodeENI {
		m.untagged(d, truth)
		return done
	}
	if len(l.Retiring) > 0 {
		done = m.giveBack(ctx, d, l.Retiring)
		truth, ok = m.touchable(d.ENIID)
	}
	if !ok || !agree(d, truth, &l) { // the inventory lacks our last change
		return done
	}
	now, err := m.Uptime()
	if err != nil {
		return done
	}
	orders := plan(d, &l, now, m.Marks, m.Prefixes)
	for _, o := range orders {
		if o.assign > 0 {
			done = m.assign(ctx, d, o) || done
		} else if retiring, ok := m.retire(ctx, d, o.retire); ok {
			done = m.giveBack(ctx, d, retiring) || done
		}
	}
	if len(orders) == 0 {
		m.forget(d.ENIID)
	}
	return done
}

// touchable returns EC2's state of an ENI. It is not ok if EC2 does not know the ENI, a failed call waits, or the last outcome is unknown.
func (m *Manager) touchable(eni device.ENIID) (truth vpc.Attached, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	truth, ok = m.truth[eni]
	return truth, ok && m.ready(eni, m.Now()) && !m.doubtful(eni)
}

// agree says whether the inventory has EC2's addresses. Leased ones that EC2 lacks do not count: they stay until their pods end.
func agree(d *nodestate.Device, t vpc.Attached, l *leases.Leases) bool {
	leased := func(p netip.Prefix) bool {
		return slices.ContainsFunc(l.Leases, func(lease leases.Lease) bool { return p.Contains(lease.Address) })
	}
	addresses := slices.DeleteFunc(addressesOf(d.Addresses), func(a netip.Addr) bool {
		return !slices.Contains(t.Addresses, a) && leased(netip.PrefixFrom(a, a.BitLen()))
	})
	prefixes := slices.DeleteFunc(slices.Clone(d.Prefixes), func(p netip.Prefix) bool { return !slices.Contains(t.Prefixes, p) && leased(p) })
	return text("", addresses, prefixes) == text("", t.Addresses, t.Prefixes)
}

// assign asks for more, and for half next time if that is too much. It says whether it has asked.
func (m *Manager) assign(ctx context.Context, d *nodestate.Device, o order) bool {
	m.mu.Lock()
	if m.doubtful(d.ENIID) { // the other family's call has failed
		m.mu.Unlock()
		return false
	}
	n := o.assign
	if t := m.trouble[d.ENIID]; t != nil && t.most > 0 {
		n = min(n, t.most)
	}
	m.mu.Unlock()
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	got, err := m.EC2.Assign(call, d.ENIID, o.family, o.prefixes, n)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.failed(d.ENIID, err, "EC2 gives this ENI no more addresses for pods")
		m.check(d.ENIID, err)
		if t := m.trouble[d.ENIID]; kindOf(err) == vpc.EC2Limit && n > 1 {
			t.most, t.until, t.problem = n/2, m.Now(), nodestate.Problem{}
		}
		return true
	}
	delete(m.trouble, d.ENIID)
	had := all(m.truth[d.ENIID])
	got = slices.DeleteFunc(got, func(p netip.Prefix) bool { return slices.Contains(had, p) }) // the answer may list all
	m.change(d.ENIID, false, got)
	m.Log.WithField("eniID", d.ENIID).WithField("addresses", got).Info("EC2 has assigned addresses for pods")
	return true
}

// check has EC2 asked again after an error that may hide an effect. Hold mu.
func (m *Manager) check(eni device.ENIID, err error) {
	switch kindOf(err) {
	case vpc.EC2Unknown:
		m.doubt(eni)
	case vpc.EC2Refused: // our picture of the ENI is wrong
		m.soon(lookSoon)
	case vpc.EC2NotSent, vpc.EC2Throttled, vpc.EC2Forbidden, vpc.EC2Unauthenticated, vpc.EC2Limit, vpc.EC2SubnetFull:
	}
}

// change notes our own change. Hold mu.
func (m *Manager) change(eni device.ENIID, gone bool, what []netip.Prefix) {
	t, now := m.truth[eni], m.Now()
	for _, p := range what {
		c := change{what: p, gone: gone, at: now}
		c.apply(&t)
		m.changes[eni] = append(slices.DeleteFunc(m.changes[eni], func(o change) bool { return o.what == p }), c)
	}
	v4First(&t)
	m.truth[eni], m.changed[eni] = t, now
	m.Wake()
}
