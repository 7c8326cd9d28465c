package addresses

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// lockWait bounds the wait for a lock that a plugin may have.
const lockWait = 200 * time.Millisecond

// tend does for one ENI what is due: it ends what is retiring, or has EC2 assign
// more, or retires what is left over. Only an ENI of which pods have asked for an
// address in this boot, and that has the tag of its NodeENI, is touched. It says whether
// EC2 was asked for anything.
func (m *Manager) tend(ctx context.Context, d *nodestate.Device) (done bool) {
	l, err := m.Leases.Read(m.BootID, d.ENIID)
	if err != nil { // what it holds is not known; the reconciler says so
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
	if !ok || !agree(d, truth, &l) { // what we have changed is not in the inventory yet
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

// touchable returns EC2's state of an ENI. It is not ok while EC2 does not know the ENI,
// a failed call waits, or the outcome of the last call is not known.
func (m *Manager) touchable(eni device.ENIID) (truth vpc.Attached, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	truth, ok = m.truth[eni]
	return truth, ok && m.ready(eni, m.Now()) && !m.doubtful(eni)
}

// agree says whether the inventory has what EC2 says, but for what EC2 has no longer
// and pods have leased, which stays in the inventory until they end.
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

// assign asks for more, and for half of it next time when that is too much. It says
// whether it has asked.
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
		m.lost(eni)
	case vpc.EC2Refused: // our picture of the ENI is wrong
		m.soon(lookSoon)
	case vpc.EC2NotSent, vpc.EC2Throttled, vpc.EC2Forbidden, vpc.EC2Unauthenticated, vpc.EC2Limit, vpc.EC2SubnetFull:
	}
}

// change notes what we have changed. Hold mu.
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

// retire takes spans out of the pool, unless somebody has them: another look,
// under the locks without which nobody gets an address of the ENI.
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
	if err != nil || len(l.Retiring) > 0 { // what retires already is still to be given back, or to be forgotten by others
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

// recorded are the addresses that pods which share a device have by their records,
// whichever plugin gave them. It is not ok while a pod has the device to itself, or
// a record does not say: that may hold any address.
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

// giveBack has EC2 unassign what is retiring, and ends that for what is nowhere
// any more. It says whether it has asked.
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
	agreed := m.listed[d.ENIID] == m.told(d.ENIID)
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

// stay ends the retirement of these. What fails is done by a later step.
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

// untagged says of an ENI that pods want addresses of, why it gets none.
func (m *Manager) untagged(d *nodestate.Device, eni vpc.Attached) {
	m.mu.Lock()
	defer m.mu.Unlock()
	why := fmt.Sprintf("it has no tag %s", vpc.NodeENITag)
	if eni.NodeENI != "" {
		why = fmt.Sprintf("its tag %s is %q", vpc.NodeENITag, eni.NodeENI)
	}
	m.describe = true // somebody may mend it
	t := m.troubleOf(d.ENIID)
	t.retry.Failed()
	m.set(t, nodestate.Problem{Reason: reason.ENINotTagged, NodeENI: d.NodeENI, Device: d.ENIID.String(), Message: fmt.Sprintf(
		"addresses of this ENI are neither assigned nor given back: %s; tag it %s=%s", why, vpc.NodeENITag, d.NodeENI)}, lastRetry)
}

// ready says whether a failed call may be repeated. Hold mu.
func (m *Manager) ready(s subject, now time.Time) bool {
	t := m.trouble[s]
	return t == nil || !now.Before(t.until)
}

// forget ends a trouble that is over.
func (m *Manager) forget(eni device.ENIID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.trouble[eni]; t != nil && t.absent.IsZero() {
		delete(m.trouble, eni)
		if t.problem.Reason != "" {
			m.Wake()
		}
	}
}

func kindOf(err error) vpc.EC2Kind {
	var e *vpc.EC2Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return vpc.EC2Unknown
}

// failed notes a failure and when to try again. A Problem is made of it at once
// where a person must act, else with the second one. Hold mu.
func (m *Manager) failed(s subject, err error, what string) {
	t := m.troubleOf(s)
	again, wait := t.retry.Failing(), t.retry.Failed()
	p := nodestate.Problem{Device: s.String()}
	advice := adviceOf(err)
	switch kindOf(err) {
	case vpc.EC2Forbidden:
		p.Reason, wait = reason.EC2Forbidden, lastRetry
	case vpc.EC2Limit:
		p.Reason, advice, wait = reason.ENIAddressLimit, "the instance type allows no more for an ENI; use --manage-addresses=prefixes, or fewer pods", lastRetry
	case vpc.EC2SubnetFull:
		p.Reason, advice, wait = reason.SubnetFull, "the subnet has no more, or no whole prefix; add a reservation, or use another subnet", lastRetry
	case vpc.EC2Unauthenticated:
		if again {
			p.Reason = reason.EC2Unauthenticated
		}
	case vpc.EC2Throttled, vpc.EC2Unknown, vpc.EC2NotSent, vpc.EC2Refused:
		if again {
			p.Reason, advice = reason.EC2Failing, advice+"; tried again every 5 minutes at least"
		}
	}
	p.Message = fmt.Sprintf("%s: %v; %s", what, err, advice)
	m.set(t, p, wait+m.Jitter(wait/4))
	m.Log.WithError(err).WithField("eniID", s).Debug("EC2 call failed")
}

// troubleOf returns the trouble of a subject, a new one where there is none. Hold mu.
func (m *Manager) troubleOf(s subject) *trouble {
	if t := m.trouble[s]; t != nil {
		return t
	}
	return m.newTrouble(s)
}

func (m *Manager) newTrouble(s subject) *trouble {
	t := &trouble{retry: backoff.Backoff{First: firstRetry, Cap: lastRetry}}
	m.trouble[s] = t
	return t
}

// set notes the Problem of a trouble, wakes where it is new, and waits. Hold mu.
func (m *Manager) set(t *trouble, p nodestate.Problem, wait time.Duration) {
	news := t.problem.Reason != p.Reason
	if !news {
		p = t.problem // request ids differ: what was said stays said
	}
	t.problem, t.until = p, m.Now().Add(wait)
	if news {
		m.Wake()
	}
}
