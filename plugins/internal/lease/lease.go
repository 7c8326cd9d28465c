// Package lease decides which address of an ENI a pod that shares it gets. It changes leases in
// memory only; pkg/leases stores them.
package lease

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// DefaultCoolDown is how long a released address stays unused. Neighbours keep an ARP
// entry that long without asking again, and peers keep their connections.
const DefaultCoolDown = 30 * time.Second

// DefaultScarceCoolDown is the default while no other address is free: a pod that cannot start is
// worse than a stray packet. ARP entries are right earlier, since ipvlan pods have the ENI's
// MAC, and others announce theirs.
const DefaultScarceCoolDown = 5 * time.Second

// Request is the request of one pod.
type Request struct {
	// Holder is the lease to write. Take ignores its Address, State and FreeAt.
	Holder leases.Lease
	// Families lists the IP families for one address each. Empty is IPv4, or IPv6 from an ENI
	// without IPv4 for pods.
	Families []string
	// Addresses are the ones to lease, instead of Families, if there are any.
	Addresses []netip.Addr
}

// Take leases addresses to a pod. An attachment that asks again gets the same ones, and a
// restarted pod those of its interface that still cool down. Now is the time since boot. If no
// address is left, Take ends the leases of holders whose netns is gone; these addresses then
// cool down. With an error, only these leases and Asked have changed. Errors: *ExhaustedError,
// *HeldError, *RetiringError, *ForeignError.
func Take(l *leases.Leases, d *nodestate.Device, r Request, now time.Duration, gone func(nodestate.Netns) bool) ([]netip.Prefix, error) {
	if len(r.Addresses) > 0 {
		return takeThese(l, d, r, now)
	}
	pools := leases.Pools(d)
	families := r.Families
	if len(families) == 0 {
		families = []string{usual(d, pools)}
	}
	has, had := held(l, r.Holder.AttachmentID), left(l, &r.Holder)
	var out []netip.Prefix
	for _, pool := range pools {
		if !slices.Contains(families, pool.Family) {
			continue
		}
		if !slices.Contains(l.Asked, pool.Family) {
			l.Asked = append(l.Asked, pool.Family)
		}
		p, ok := first(pool, has)
		if !ok {
			p, ok = first(pool, had)
		}
		if !ok {
			p, ok = free(l, pool, now)
		}
		if !ok && reclaim(l, now, gone) {
			p, ok = free(l, pool, now)
		}
		if !ok {
			p, ok = coolest(l, pool, now)
		}
		if !ok {
			count, next := l.Count(pool, now)
			return nil, &ExhaustedError{ENI: d.ENIID, Family: pool.Family, PoolCount: count, Next: next}
		}
		out = append(out, p)
	}
	for _, p := range out {
		put(l, r.Holder, p.Addr())
		l.Last = append(slices.DeleteFunc(l.Last, func(a netip.Addr) bool { return leases.FamilyOf(a) == leases.FamilyOf(p.Addr()) }), p.Addr())
	}
	return out, nil
}

// usual returns the family of a pod that names none.
func usual(d *nodestate.Device, pools []leases.Pool) string {
	for _, p := range pools {
		if p.Size() > 0 {
			return p.Family
		}
	}
	if len(d.Addresses) > 0 {
		return leases.FamilyOf(d.Addresses[0].Addr()) // IPv4 comes first
	}
	return leases.IPv4
}

func first(pool leases.Pool, of []netip.Addr) (netip.Prefix, bool) {
	for _, a := range of {
		if p, ok := pool.Find(a); ok {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func takeThese(l *leases.Leases, d *nodestate.Device, r Request, now time.Duration) ([]netip.Prefix, error) {
	pools := leases.Pools(d)
	var out []netip.Prefix
	for _, a := range r.Addresses {
		i := slices.IndexFunc(pools, func(p leases.Pool) bool { return p.Family == leases.FamilyOf(a) })
		p, ok := pools[i].Find(a)
		if !ok {
			return nil, &ForeignError{ENI: d.ENIID, Address: a, Pools: pools}
		}
		if err := Free(l, a, &r.Holder, now); err != nil {
			return nil, err
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	for _, p := range out {
		put(l, r.Holder, p.Addr())
	}
	return out, nil
}

// Free returns nil if a holder can get an address now, or has it. *HeldError, *RetiringError.
func Free(l *leases.Leases, a netip.Addr, holder *leases.Lease, now time.Duration) error {
	if i, found := l.Find(a); found && l.Leases[i].Holds(now) && !l.Leases[i].HeldBy(holder.AttachmentID) && !leftBy(&l.Leases[i], holder) {
		return &HeldError{Lease: l.Leases[i], Own: l.Leases[i].ContainerID == holder.ContainerID, Now: now}
	}
	if l.Retires(a) {
		return &RetiringError{Address: a}
	}
	return nil
}

// Give ends an attachment's leases, which then cool down. It reports whether there was any.
func Give(l *leases.Leases, id nodestate.AttachmentID, now time.Duration) bool {
	return giveAll(l, now, func(lease *leases.Lease) bool { return lease.AttachmentID == id })
}

// Drop is Give for addresses that the attachment never used: they are free at once.
func Drop(l *leases.Leases, id nodestate.AttachmentID) bool {
	n := len(l.Leases)
	l.Leases = slices.DeleteFunc(l.Leases, func(lease leases.Lease) bool { return lease.HeldBy(id) })
	return len(l.Leases) < n
}

// Collect is Give for every lease of a network that keep rejects.
func Collect(l *leases.Leases, network string, now time.Duration, keep func(*leases.Lease) bool) bool {
	return giveAll(l, now, func(lease *leases.Lease) bool { return lease.Network == network && !keep(lease) })
}

func giveAll(l *leases.Leases, now time.Duration, of func(*leases.Lease) bool) (given bool) {
	for i := range l.Leases {
		if lease := &l.Leases[i]; lease.State == leases.Held && of(lease) {
			lease.State, lease.FreeAt, given = leases.Cooling, now+lease.CoolDown, true
		}
	}
	forget(l, now)
	return given
}

// forget removes leases that hold nothing.
func forget(l *leases.Leases, now time.Duration) {
	l.Leases = slices.DeleteFunc(l.Leases, func(lease leases.Lease) bool { return !lease.Holds(now) })
}

func reclaim(l *leases.Leases, now time.Duration, gone func(nodestate.Netns) bool) bool {
	return giveAll(l, now, func(lease *leases.Lease) bool { return gone(lease.Netns) })
}

func held(l *leases.Leases, id nodestate.AttachmentID) (out []netip.Addr) {
	for _, lease := range l.Leases {
		if lease.HeldBy(id) {
			out = append(out, lease.Address)
		}
	}
	return out
}

// left returns the cooling addresses that the pod's interface had before a restart. Peers that
// still use them mean that pod.
func left(l *leases.Leases, holder *leases.Lease) (out []netip.Addr) {
	for i := range l.Leases {
		if leftBy(&l.Leases[i], holder) && !l.Retires(l.Leases[i].Address) {
			out = append(out, l.Leases[i].Address)
		}
	}
	return out
}

func leftBy(lease, holder *leases.Lease) bool {
	return lease.State == leases.Cooling && lease.Pod != "" && lease.Pod == holder.Pod && lease.IfName == holder.IfName
}

// coolest returns the address that has cooled longest, if it may be leased while no other is free.
func coolest(l *leases.Leases, pool leases.Pool, now time.Duration) (best netip.Prefix, found bool) {
	var at time.Duration
	for i := range l.Leases {
		lease := &l.Leases[i]
		p, ok := pool.Find(lease.Address)
		if !ok || lease.State != leases.Cooling || now < lease.ScarceAt() || l.Retires(lease.Address) {
			continue
		}
		if !found || lease.ScarceAt() < at {
			best, at, found = p, lease.ScarceAt(), true
		}
	}
	return best, found
}

func free(l *leases.Leases, pool leases.Pool, now time.Duration) (netip.Prefix, bool) {
	var last netip.Addr
	for _, a := range l.Last {
		if _, ok := pool.Find(a); ok {
			last = a
		}
	}
	for p := range pool.Behind(last) {
		if i, found := l.Find(p.Addr()); (!found || !l.Leases[i].Holds(now)) && !l.Retires(p.Addr()) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func put(l *leases.Leases, holder leases.Lease, a netip.Addr) {
	holder.Address, holder.State, holder.FreeAt = a, leases.Held, 0
	i, found := l.Find(a)
	if found {
		l.Leases[i] = holder
		return
	}
	l.Leases = slices.Insert(l.Leases, i, holder)
}

// ExhaustedError says that every address of the ENI for pods is taken.
type ExhaustedError struct {
	ENI    device.ENIID
	Family string
	leases.PoolCount
	// Next is the time until the first cooling address is free; 0 if none is cooling.
	Next time.Duration
}

func (e *ExhaustedError) Error() string {
	if e.Size == 0 {
		return fmt.Sprintf("ENI %s has no %s address for pods that share it, since the first one stays its own; "+
			"assign secondary addresses or a prefix to it", e.ENI, e.Family)
	}
	parts := []string{fmt.Sprintf("%d leased", e.Leased), fmt.Sprintf("%d cooling down", e.Cooling)}
	if e.Retiring > 0 {
		parts = append(parts, fmt.Sprintf("%d being returned", e.Retiring))
	}
	msg := fmt.Sprintf("all %d %s addresses that ENI %s has for pods are taken: %s", e.Size, e.Family, e.ENI, strings.Join(parts, ", "))
	if e.Next > 0 {
		return fmt.Sprintf("%s; the next is free in %s", msg, e.Next.Round(time.Second)+time.Second)
	}
	return msg + "; assign more secondary addresses or a prefix to it"
}

// HeldError says that another attachment has a requested address.
type HeldError struct {
	leases.Lease
	// Own: the holder is another interface of the same pod.
	Own bool
	Now time.Duration
}

func (e *HeldError) Error() string {
	switch e.State {
	case leases.Cooling:
		return fmt.Sprintf("address %s was released recently and is free again in %s", e.Address, (e.FreeAt-e.Now).Round(time.Second)+time.Second)
	case leases.Held:
	}
	who := fmt.Sprintf("container %s, interface %s", e.ContainerID, e.IfName)
	if e.Own {
		who = "this pod already, on interface " + e.IfName
	} else if e.Pod != "" {
		who = fmt.Sprintf("pod %s (%s)", e.Pod, who)
	}
	return fmt.Sprintf("address %s is held by %s", e.Address, who)
}

// RetiringError says that a requested address is about to leave the ENI.
type RetiringError struct{ Address netip.Addr }

func (e *RetiringError) Error() string {
	return fmt.Sprintf("address %s is being returned to its subnet; request another", e.Address)
}

// ForeignError says that a requested address is not one of the ENI's for pods.
type ForeignError struct {
	ENI     device.ENIID
	Address netip.Addr
	Pools   []leases.Pool
}

func (e *ForeignError) Error() string {
	var have []string
	for _, p := range e.Pools {
		have = append(have, fmt.Sprintf("%s (%s)", p, p.Family))
	}
	return fmt.Sprintf("address %s was requested, but ENI %s has only %s for pods that share it; request one of these, or assign it to the ENI",
		e.Address, e.ENI, strings.Join(have, " and "))
}
