// Package addresses has EC2 assign addresses to this instance's shared ENIs before pods run out, and unassign spare ones. It also corrects
// the metadata, which lag, by EC2's answers.
//
// An address goes back in steps; a crash may follow each. Under the device's lock and the ENI's lease lock it becomes retiring, so that no pod
// gets it. EC2 unassigns it. Once the inventory lacks it, it stops retiring. After a crash the leases list the retiring addresses, and EC2
// those left to unassign.
package addresses

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const (
	// Two Describe calls are describeApart apart, plus up to describeJitter at random: all nodes of a cluster share one bucket of calls.
	describeApart  = 60 * time.Second
	describeJitter = 15 * time.Second
	// consistent is the time after which Describe certainly shows our changes.
	consistent = 30 * time.Second
	firstRetry = 5 * time.Second
	lastRetry  = 5 * time.Minute
	// describeTimeout bounds a call that only looks, callTimeout one that changes an ENI, whose answer is worth a wait. Both include all retries.
	describeTimeout = 15 * time.Second
	callTimeout     = 30 * time.Second
	// lookSoon is the wait before the first look at the effect of a failed call.
	lookSoon = 2 * time.Second
)

// EC2 is awsnode.EC2. Errors are *vpc.EC2Error.
type EC2 interface {
	Describe(ctx context.Context) ([]vpc.Attached, error)
	Assign(ctx context.Context, eni device.ENIID, family vpc.Family, prefixes bool, n int) ([]netip.Prefix, error)
	Unassign(ctx context.Context, eni device.ENIID, family vpc.Family, what []netip.Prefix) error
}

// Options configure a Manager; all are needed.
type Options struct {
	EC2         EC2
	Leases      leases.Dir
	Attachments nodestate.AttachmentDir
	BootID      string
	// Prefixes: ask for prefixes instead of single addresses.
	Prefixes bool
	Marks    Marks
	Wake     func()
	Now      func() time.Time
	Uptime   func() (time.Duration, error)
	// Jitter returns a time between 0 and its argument.
	Jitter func(time.Duration) time.Duration
	Log    logrus.FieldLogger
}

// Manager keeps the pools of this instance's ENIs between the marks. Its methods are safe for concurrent use.
type Manager struct {
	Options
	wake chan struct{}
	jobs *jobs

	mu      sync.Mutex
	devices []nodestate.Device
	// listed has the metadata's last answer as text, by ENI.
	listed map[device.ENIID]string
	// truth is EC2's last answer, with our own changes since; nil before the first one.
	truth map[device.ENIID]vpc.Attached
	// asked is the metadata's answer when EC2 was asked last, "" for an unlisted ENI. agreed has the parts that EC2 confirmed, or contradicted
	// twice, the second time too late for a lag.
	asked, agreed map[device.ENIID]string
	// changed is our last change of an ENI, changes those that Describe may not show yet, unsure the calls with an unknown outcome.
	changed map[device.ENIID]time.Time
	changes map[device.ENIID][]change
	unsure  map[device.ENIID]unsure
	// describeAt is when EC2 may be asked again, describe whether it should be.
	describeAt time.Time
	describe   bool
	trouble    map[subject]*trouble
}

// subject is the ENI of a failure, or "" for Describe.
type subject = device.ENIID

type trouble struct {
	problem nodestate.Problem
	retry   backoff.Backoff
	until   time.Time
	// most is how many may be asked for after EC2Limit; 0 is unknown.
	most int
	// absent is since when EC2 does not know the ENI; zero for another trouble.
	absent time.Time
}

// New returns a Manager that has not asked anything yet.
func New(o Options) *Manager {
	return &Manager{
		Options: o, wake: make(chan struct{}, 1), jobs: newJobs(), describe: true,
		listed: map[device.ENIID]string{}, changed: map[device.ENIID]time.Time{}, trouble: map[subject]*trouble{},
		changes: map[device.ENIID][]change{}, unsure: map[device.ENIID]unsure{},
	}
}

// Observe takes the inventory's devices. It does not block.
func (m *Manager) Observe(devices []nodestate.Device) {
	m.mu.Lock()
	m.devices = devices
	for i := range devices {
		if m.unknown(&devices[i]) && m.trouble[devices[i].ENIID] == nil {
			m.soon(lookSoon)
		}
	}
	m.mu.Unlock()
	m.again()
}

func (m *Manager) again() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Problems are for a person, sorted.
func (m *Manager) Problems() (out []nodestate.Problem) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range slices.Sorted(maps.Keys(m.trouble)) {
		if t := m.trouble[s]; t.problem.Reason != "" {
			out = append(out, t.problem)
		}
	}
	return out
}

// Correct returns the metadata's ENIs with EC2's addresses, prefixes and MACs, and with ENIs that the metadata do not list yet.
// It does not block, and leaves its argument as it is.
func (m *Manager) Correct(all []vpc.ENI) []vpc.ENI {
	all = slices.Clone(all)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listed = map[device.ENIID]string{}
	for i := range all {
		e := &all[i]
		if e.ID != "" && e.Unreadable == nil {
			m.listed[e.ID] = text(e.MAC, addressesOf(e.Addresses), e.Prefixes)
		} else if e.ID = cmp.Or(e.ID, m.idOf(e.MAC)); e.ID != "" {
			m.listed[e.ID] = m.described(e.ID) // it has no news
		}
		if t, known := m.truth[e.ID]; known {
			correct(e, t)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(m.truth)) {
		if _, listed := m.listed[id]; !listed {
			t := m.truth[id]
			all = append(all, vpc.ENI{ID: t.ID, MAC: t.MAC, DeviceIndex: t.DeviceIndex, NetworkCard: t.NetworkCard, SubnetID: t.SubnetID, Described: true,
				NodeENI: t.NodeENI})
		}
	}
	slices.SortFunc(all, func(a, b vpc.ENI) int { return strings.Compare(string(a.MAC), string(b.MAC)) })
	if m.truth != nil && slices.ContainsFunc(m.known(m.listed), m.disagree) {
		m.describe = true
		m.again()
	}
	return all
}

// idOf is the ENI with this MAC by EC2's word, or "". Hold mu.
func (m *Manager) idOf(mac device.MAC) device.ENIID {
	for id, t := range m.truth {
		if mac != "" && t.MAC == mac {
			return id
		}
	}
	return ""
}

// known are the ENIs that the metadata listed or EC2 knows. Hold mu.
func (m *Manager) known(listed map[device.ENIID]string) (all []device.ENIID) {
	all = slices.AppendSeq(slices.Collect(maps.Keys(listed)), maps.Keys(m.truth))
	slices.Sort(all)
	return slices.Compact(all)
}

// disagree: the metadata have news of an ENI that EC2 has not told. Hold mu.
func (m *Manager) disagree(eni device.ENIID) bool {
	agreed, ok := m.agreed[eni]
	said := m.listed[eni]
	return said != m.described(eni) && (!ok || said != agreed)
}

// described is EC2's answer about an ENI as text, "" if EC2 does not know it. Hold mu.
func (m *Manager) described(eni device.ENIID) string {
	t, ok := m.truth[eni]
	if !ok {
		return ""
	}
	return textOf(t)
}

func textOf(a vpc.Attached) string { return text(a.MAC, a.Addresses, a.Prefixes) }

func addressesOf(all []netip.Prefix) (out []netip.Addr) {
	for _, a := range all {
		out = append(out, a.Addr())
	}
	return out
}

// text does not depend on the order.
func text(mac device.MAC, addresses []netip.Addr, prefixes []netip.Prefix) string {
	addresses, prefixes = slices.Clone(addresses), slices.Clone(prefixes)
	slices.SortFunc(addresses, netip.Addr.Compare)
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return fmt.Sprint(mac, addresses, prefixes)
}

// correct gives a metadata ENI EC2's addresses. An address with an unknown subnet length waits for the metadata.
func correct(e *vpc.ENI, t vpc.Attached) {
	e.Described, e.NodeENI = true, t.NodeENI
	bits4, bits6 := 0, 64
	if s := e.SubnetCIDR; s.IsValid() && s.Addr().Is4() {
		bits4 = s.Bits()
	}
	for _, a := range e.Addresses {
		if a.Addr().Is4() {
			bits4 = a.Bits()
		} else {
			bits6 = a.Bits()
		}
	}
	ordered := vpc.Attached{Addresses: inOrder(t.Addresses, addressesOf(e.Addresses))}
	if i := slices.IndexFunc(ordered.Addresses, func(a netip.Addr) bool { return a == t.Addresses[0] }); i > 0 && t.Addresses[0].Is4() { // the primary one
		ordered.Addresses = slices.Insert(slices.Delete(ordered.Addresses, i, i+1), 0, t.Addresses[0])
	}
	v4First(&ordered)
	e.MAC, e.Addresses, e.Prefixes = t.MAC, nil, t.Prefixes
	for _, a := range ordered.Addresses {
		switch {
		case a.Is6():
			e.Addresses = append(e.Addresses, netip.PrefixFrom(a, bits6))
		case bits4 != 0:
			e.Addresses = append(e.Addresses, netip.PrefixFrom(a, bits4))
		}
	}
}

// Run works until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	defer m.jobs.all.Wait()
	for {
		var timer <-chan time.Time
		m.look(ctx)
		m.adjustAll(ctx)
		if wait := m.next(); wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-m.wake:
		case <-timer:
		}
	}
}

func (m *Manager) look(ctx context.Context) {
	m.mu.Lock()
	due := m.describeDue()
	m.mu.Unlock()
	if due {
		m.jobs.start(ctx, "", m.describeENIs, m.again)
	}
}

func (m *Manager) adjustAll(ctx context.Context) {
	m.mu.Lock()
	devices := m.devices
	m.mu.Unlock()
	for i := range devices {
		m.jobs.start(ctx, devices[i].ENIID, func(ctx context.Context) bool { return m.adjust(ctx, &devices[i]) }, m.again)
	}
}

// next is the wait until a failed call may be repeated, or EC2 asked again.
func (m *Manager) next() (wait time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.Now()
	sooner := func(at time.Time) {
		if d := max(at.Sub(now), time.Second); wait == 0 || d < wait {
			wait = d
		}
	}
	if m.describe {
		at := m.describeAt
		if t := m.trouble[""]; t != nil && t.until.After(at) {
			at = t.until
		}
		sooner(at)
	}
	for s, t := range m.trouble {
		if s != "" {
			sooner(t.until)
		}
	}
	return wait
}
