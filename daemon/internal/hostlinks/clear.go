package hostlinks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/devicelock"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const (
	// clearWait bounds the wait for a device's lock to clear its link: a busy device must not delay the other links.
	clearWait    = 20 * time.Millisecond
	retryBusy    = 250 * time.Millisecond // the pause after a plugin had such a lock
	refusedAgain = time.Minute            // the pause before accept_ra is tried again after a failure
)

type refusal struct {
	err error
	at  time.Time
}

// Sweep clears the last Step's links, if their NodeENIs are still declared, of default routes, learned routes and some
// addresses. The host's network manager and router advertisements add them at any time, so each Sync sweeps before it
// asks slow sources.
func (l *Links) Sweep(ctx context.Context, src *inventory.Sources) {
	l.now, l.cleared, l.busy = src.Now, map[linkKey][]problem.Finding{}, false
	declared := make(map[string]bool, len(src.NodeENIs))
	for i := range src.NodeENIs {
		declared[src.NodeENIs[i].Name] = src.NodeENIs[i].DeletionTimestamp == nil
	}
	var known []inventory.IdleLink
	for _, t := range l.targets {
		if alive, read := declared[t.Device.NodeENI]; alive || !read && !src.Complete {
			known = append(known, t)
		}
	}
	l.clearAll(ctx, known) //nolint:errcheck,gosec // Step tries again, and reports it
}

// clearRest clears the targets left by Sweep, and returns the findings of all.
func (l *Links) clearRest(ctx context.Context) (found []problem.Finding) {
	var left []inventory.IdleLink
	for _, t := range l.targets {
		if _, done := l.cleared[keyOf(t.Link)]; !done {
			left = append(left, t)
		}
	}
	if err := l.clearAll(ctx, left); err != nil {
		found = append(found, problem.New(reason.RoutesUnreadable,
			"the host's routes and addresses cannot be read, so nothing foreign is removed from links; read the daemon's log", err))
	}
	for _, t := range l.targets {
		found = append(found, l.cleared[keyOf(t.Link)]...)
	}
	return found
}

// clearAll clears links after one dump of the host's routes and addresses. It returns the error of that dump.
func (l *Links) clearAll(ctx context.Context, targets []inventory.IdleLink) error {
	if len(targets) == 0 {
		return nil
	}
	clutter, err := l.Host.Clutter()
	if err != nil {
		return err
	}
	// Links with chosen routes come last: once the announced routes are gone, a chosen one stays if it is the only way
	// out.
	chosen := func(t inventory.IdleLink) int {
		if slices.ContainsFunc(clutter.Defaults.Of(t.Link.Index), func(d routing.DefaultRoute) bool { return d.Protocol != unix.RTPROT_RA }) {
			return 1
		}
		return 0
	}
	targets = slices.SortedStableFunc(slices.Values(targets), func(a, b inventory.IdleLink) int { return chosen(a) - chosen(b) })
	for _, t := range targets {
		l.cleared[keyOf(t.Link)] = l.clearOne(ctx, t, &clutter)
	}
	return nil
}

type chores struct {
	routes, routers bool
	addresses       []routing.HostAddress
}

func (c *chores) any() bool { return c.routes || c.routers || len(c.addresses) > 0 }

// clearOne clears one link. It takes the device's lock only if there is something to clear.
func (l *Links) clearOne(ctx context.Context, t inventory.IdleLink, c *routing.Clutter) (found []problem.Finding) {
	var todo chores
	var only, shared bool
	todo.routes, only, shared = c.Routes(t.Link.Index)
	todo.routers = l.acceptsRouters(t)
	todo.addresses = l.unwanted(t, c)
	placed := slices.DeleteFunc(c.Of(t.Link.Index), routing.HostAddress.ByRA) // including addresses that are removed now
	if only {                                                                 // with the last address the kernel would drop that way out
		todo.addresses, placed = nil, c.Of(t.Link.Index)
	}
	if todo.any() {
		cleared, err := l.clear(ctx, t, &todo)
		switch {
		case err == nil:
			only, shared = cleared.Only, cleared.Shared
		case errors.Is(err, nodestate.ErrBusy):
			l.busy = true
		case errors.Is(err, devicelock.ErrNotOurs), errors.Is(err, link.ErrNotFound):
			return nil
		default:
			found = append(found, problem.About(t.Device, reason.LinkNotConfigured,
				"foreign routes or addresses on link %s cannot be removed; the daemon tries again, and its log has the error", t.Link.Name).With(err))
		}
	}
	l.addresses.note(t, placed, l.imposed.protocols(t.Device.ENIID), l.now)
	if only {
		found = append(found, onlyDefaultRoute(t.Device, t.Link))
	}
	if shared {
		found = append(found, sharedDefaultRoute(t.Device, t.Link))
	}
	return found
}

// clear does the chores under the device's lock, unless a pod owns the device alone. They harm no pod that shares it.
func (l *Links) clear(ctx context.Context, t inventory.IdleLink, todo *chores) (done routing.Cleared, err error) {
	ctx, cancel := context.WithTimeout(ctx, clearWait)
	defer cancel()
	lock, err := l.Locks.LockUnless(ctx, t.Device.PCIAddress, nodestate.Mode.Exclusive)
	if err != nil {
		return done, err
	}
	defer lock.Close() //nolint:errcheck // nothing was written
	now, err := l.current(t.Link)
	if err != nil {
		return done, err
	}
	if todo.routers {
		l.refuseRouters(t)
	}
	done, err = l.Host.ClearRoutes(now.Index)
	for _, protocol := range done.Protocols {
		l.imposed.note(t, protocol, "others put routes on a link of ours; they are removed", l.now)
	}
	errs := []error{err}
	if done.Only { // it may be so only now
		todo.addresses = nil
	}
	for _, a := range todo.addresses {
		err := l.Host.ClearAddress(now.Index, a.Prefix)
		if errs = append(errs, err); err == nil {
			l.imposed.note(t, addressSubject+a.Prefix.String(), "others put an address on a link of ours; it is removed", l.now)
		}
	}
	return done, errors.Join(errs...)
}

// unwanted returns the addresses to remove: those from router advertisements, and a /32 or /128 that a pod leases, for
// which the host would answer.
func (l *Links) unwanted(t inventory.IdleLink, c *routing.Clutter) (remove []routing.HostAddress) {
	var taken *leases.Leases
	for _, a := range c.Of(t.Link.Index) {
		single := a.Prefix.IsSingleIP() && ofENI(t.Device, a)
		if single && taken == nil {
			read, err := l.Leases.Read(l.BootID, t.Device.ENIID)
			if err != nil {
				read = leases.Leases{} // reported where this Sync reads the leases
			}
			taken = &read
		}
		if a.ByRA() || single && leased(taken, a) {
			remove = append(remove, a)
		}
	}
	return remove
}

func ofENI(d nodestate.Device, a routing.HostAddress) bool {
	for _, own := range d.Addresses {
		if own.Addr() == a.Prefix.Addr() {
			return true
		}
	}
	for _, p := range d.Prefixes {
		if p.Contains(a.Prefix.Addr()) {
			return true
		}
	}
	return false
}

func leased(l *leases.Leases, a routing.HostAddress) bool {
	return slices.ContainsFunc(l.Leases, func(l leases.Lease) bool { return l.State == leases.Held && l.Address == a.Prefix.Addr() })
}

// acceptsRouters says whether the link accepts router advertisements, and it is time to try to end that.
func (l *Links) acceptsRouters(t inventory.IdleLink) bool {
	last := l.refused[t.Device.ENIID]
	if l.IPv6 == "" || last.err != nil && l.now.Sub(last.at).Abs() < refusedAgain {
		return false
	}
	value, err := l.IPv6.AcceptRA(t.Link.Name)
	accepts := err == nil && value != "" && value != "0"
	if !accepts {
		l.noteRefusal(t.Device.ENIID, err)
	}
	return accepts
}

// noteRefusal notes the result of reading or writing accept_ra; nil if it is 0 or missing.
func (l *Links) noteRefusal(eni device.ENIID, err error) {
	if err == nil {
		delete(l.refused, eni)
		return
	}
	l.refused[eni] = refusal{err, l.now}
}

// refuseRouters makes the link ignore router advertisements. The kernel forgets that whenever the link changes its
// netns. If it fails, routes and addresses are removed after they have come.
func (l *Links) refuseRouters(t inventory.IdleLink) {
	if l.IPv6 != "" {
		l.noteRefusal(t.Device.ENIID, l.IPv6.SetAcceptRA(t.Link.Name, "0"))
	}
}

func (l *Links) routersAccepted() []problem.Finding {
	if len(l.refused) == 0 {
		return nil
	}
	var errs []error
	for _, eni := range slices.Sorted(maps.Keys(l.refused)) {
		errs = append(errs, l.refused[eni].err)
	}
	return []problem.Finding{problem.New(reason.RouterAdvertisementsAccepted, fmt.Sprintf(
		"idle ENIs accept IPv6 router advertisements, because accept_ra in %s/<link> cannot be read or written; their routes are removed each time they arrive, "+
			"which a pod may notice; mount the host's /proc/sys/net writable into the daemon's container, as the manifests do (--sysctls)", l.IPv6),
		errors.Join(errs...))}
}

// onlyDefaultRoute reports the only default route of a family, which stays on a link.
func onlyDefaultRoute(d nodestate.Device, l link.Link) problem.Finding {
	return problem.About(d, reason.OnlyDefaultRoute, "the main table's only default route of IPv4 or IPv6 leads out of %s, so it was left; move the "+
		"route to another link, or remove the NodeENI", l.Name)
}

// sharedDefaultRoute reports a default route with several next hops, which stays as it is.
func sharedDefaultRoute(d nodestate.Device, l link.Link) problem.Finding {
	return problem.About(d, reason.SharedDefaultRoute, "a default route of the main table has %s as one of several next hops, so it was left, and no pod "+
		"gets the device; take that next hop out of the route", l.Name)
}

// ClearForDriver removes the routes of a link whose device is about to leave the kernel, and returns the link. Findings
// name default routes that must stay. The error is devicelock.ErrNotOurs if the link is gone or another one.
func (l *Links) ClearForDriver(d nodestate.Device, was link.Link) (now link.Link, found []problem.Finding, err error) {
	now, err = l.current(was)
	if err != nil {
		return now, nil, err
	}
	cleared, err := l.Host.ClearRoutes(now.Index)
	switch {
	case err != nil:
	case cleared.Only:
		found = append(found, onlyDefaultRoute(d, now))
	case cleared.Shared:
		found = append(found, sharedDefaultRoute(d, now))
	}
	return now, found, err
}
