package addresses

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

type change struct {
	what netip.Prefix
	gone bool
	at   time.Time
}

// unsure is a call with an unknown outcome.
type unsure struct {
	at time.Time
	// had are the ENI's addresses and prefixes before the call.
	had []netip.Prefix
}

func all(a vpc.Attached) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(a.Addresses)+len(a.Prefixes))
	for _, ip := range a.Addresses {
		out = append(out, netip.PrefixFrom(ip, ip.BitLen()))
	}
	return append(out, a.Prefixes...)
}

// apply makes the change in EC2's answer, and says whether the answer lacked it.
func (c change) apply(a *vpc.Attached) bool {
	there := has(a.Addresses, a.Prefixes, c.what)
	if there != c.gone {
		return false
	}
	a.Addresses, a.Prefixes = slices.Clone(a.Addresses), slices.Clone(a.Prefixes)
	switch {
	case c.gone:
		a.Addresses = slices.DeleteFunc(a.Addresses, func(ip netip.Addr) bool { return c.what == netip.PrefixFrom(ip, ip.BitLen()) })
		a.Prefixes = slices.DeleteFunc(a.Prefixes, func(p netip.Prefix) bool { return c.what == p })
	case c.what.IsSingleIP():
		a.Addresses = append(a.Addresses, c.what.Addr())
	default:
		a.Prefixes = append(a.Prefixes, c.what)
	}
	return true
}

// soon has EC2 asked again after d, however recent the last question. Hold mu.
func (m *Manager) soon(d time.Duration) {
	m.describe = true
	if at := m.Now().Add(d); at.Before(m.describeAt) {
		m.describeAt = at
	}
}

// describeDue says whether EC2 is to be asked now. Hold mu.
func (m *Manager) describeDue() bool {
	now := m.Now()
	return m.describe && !now.Before(m.describeAt) && m.ready("", now)
}

// describeENIs asks EC2 about all ENIs, and says whether it has.
func (m *Manager) describeENIs(ctx context.Context) bool {
	m.mu.Lock()
	if !m.describeDue() {
		m.mu.Unlock()
		return false
	}
	began, listed := m.Now(), m.listed
	m.describe, m.describeAt = false, began.Add(describeApart+m.Jitter(describeJitter))
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	found, err := m.EC2.Describe(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil { // the next is due when the back-off says so
		m.describe, m.describeAt = true, began
		m.failed("", err, "the ENIs cannot be looked up in EC2, so no address is assigned or returned")
		return true
	}
	delete(m.trouble, "")
	m.learn(found, began)
	m.agree(listed)
	m.missing()
	return true
}

// learn takes EC2's answer to the question asked at began. Hold mu.
func (m *Manager) learn(found []vpc.Attached, began time.Time) {
	truth := make(map[device.ENIID]vpc.Attached, len(found))
	for _, a := range found {
		m.settle(a, began)
		a.Addresses, a.Prefixes = inOrder(a.Addresses, m.truth[a.ID].Addresses), inOrder(a.Prefixes, m.truth[a.ID].Prefixes)
		m.changes[a.ID] = slices.DeleteFunc(m.changes[a.ID], func(c change) bool { return m.Now().Sub(c.at) >= consistent })
		for _, c := range m.changes[a.ID] {
			if c.apply(&a) {
				m.describe = true // it does not show our last change yet
			}
		}
		v4First(&a)
		truth[a.ID] = a
	}
	different := m.truth == nil || !maps.EqualFunc(m.truth, truth, func(a, b vpc.Attached) bool {
		return a.NodeENI == b.NodeENI && textOf(a) == textOf(b)
	})
	if m.truth = truth; different {
		m.Wake()
	}
}

// inOrder keeps the items' order, new ones last: EC2's lists have none, and a family's first address is the ENI's own.
func inOrder[T comparable](now, before []T) []T {
	out := slices.DeleteFunc(slices.Clone(before), func(x T) bool { return !slices.Contains(now, x) })
	for _, x := range now {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

// settle ends the doubt about a call once an answer shows its effect, or is late enough to show it for certain. Hold mu.
func (m *Manager) settle(a vpc.Attached, began time.Time) {
	u, doubt := m.unsure[a.ID]
	if !doubt {
		return
	}
	news := slices.ContainsFunc(all(a), func(p netip.Prefix) bool { return !slices.Contains(u.had, p) })
	if waited := began.Sub(u.at); news || waited >= consistent || waited < 0 {
		delete(m.unsure, a.ID)
		return
	}
	m.soon(max(began.Sub(u.at), lookSoon))
}

// agree notes the metadata's state at the time of the question. Hold mu.
func (m *Manager) agree(listed map[device.ENIID]string) {
	asked, agreed := map[device.ENIID]string{}, map[device.ENIID]string{}
	for _, id := range m.known(listed) {
		asked[id] = listed[id]
		if before, ok := m.asked[id]; ok && before == listed[id] || m.described(id) == listed[id] {
			agreed[id] = listed[id]
		}
	}
	m.asked, m.agreed = asked, agreed
}

// missing looks for ready ENIs that EC2 does not know, and has it asked again. A Problem needs an answer too late for a lag. Hold mu.
func (m *Manager) missing() {
	now := m.Now()
	for i := range m.devices {
		d := &m.devices[i]
		if !m.unknown(d) {
			continue
		}
		t := m.trouble[d.ENIID]
		if t == nil || t.absent.IsZero() || t.absent.After(now) {
			t = m.newTrouble(d.ENIID)
			t.absent = now
		}
		p := nodestate.Problem{}
		if now.Sub(t.absent) >= consistent {
			p = nodestate.Problem{Reason: reason.ENIUnknownToEC2, NodeENI: d.NodeENI, Device: d.ENIID.String(),
				Message: "EC2 does not list this ENI among the ENIs of the instance, so none of its addresses " +
					"is assigned or returned; check AWS_REGION, AWS_ENDPOINT_URL_EC2 and the account of the role"}
		}
		m.set(t, p, t.retry.Failed())
		m.soon(t.until.Sub(now))
	}
	for s, t := range m.trouble {
		if _, known := m.truth[s]; known && !t.absent.IsZero() {
			delete(m.trouble, s)
			m.Wake()
		}
	}
}

// unknown: EC2 has been asked, and does not know the device. Hold mu.
func (m *Manager) unknown(d *nodestate.Device) bool {
	_, known := m.truth[d.ENIID]
	return m.truth != nil && !known && d.ENIID != "" && d.Phase == nodestate.PhaseReady
}

// v4First sorts the families, and keeps each one's order.
func v4First(a *vpc.Attached) {
	byFamily := func(x, y netip.Addr) int { return x.BitLen() - y.BitLen() }
	slices.SortStableFunc(a.Addresses, byFamily)
	slices.SortStableFunc(a.Prefixes, func(x, y netip.Prefix) int { return byFamily(x.Addr(), y.Addr()) })
}

// doubtful: a call about the ENI must wait for the last one's outcome. Hold mu.
func (m *Manager) doubtful(eni device.ENIID) bool {
	_, doubt := m.unsure[eni]
	return doubt
}

// doubt notes a call with an unknown outcome. Hold mu.
func (m *Manager) doubt(eni device.ENIID) {
	m.unsure[eni] = unsure{at: m.Now(), had: all(m.truth[eni])}
	m.soon(lookSoon)
}

// adviceOf is an error's remedy, for a Problem.
func adviceOf(err error) string {
	var e *vpc.EC2Error
	if errors.As(err, &e) {
		return e.Remedy()
	}
	return "see the daemon's log"
}
