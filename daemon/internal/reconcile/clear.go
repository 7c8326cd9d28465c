package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

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
	// clearTimeout bounds the wait for one device's claim lock when its link is cleared:
	// a plugin at work on the device must not keep other links waiting.
	clearTimeout = 20 * time.Millisecond
	// refusedAgain is the pause before accept_ra is tried again after a failure.
	refusedAgain = time.Minute
)

// clearing removes default routes, learned routes and some addresses from declared links
// that no pod owns alone. The host's network manager and router advertisements put them
// there again at any time, so each Sync clears the links at its beginning, before it asks a
// slow source.
type clearing struct {
	// targets are the links that Join last found, idle and shared ones.
	targets []inventory.IdleLink
	// done are the links that this Sync has cleared, with its findings.
	done map[linkKey][]problem.Finding
	// busy: a plugin was at work on a device, so that its link was not cleared.
	busy bool
	// refused are the last failures to read or write accept_ra of ENIs' links, until it is 0
	// or the ENI is no longer declared.
	refused map[device.ENIID]refusal
	// addressed are the addresses that ENIs' links have in the host.
	addressed addressed
}

// refusal is a failure, and when it happened.
type refusal struct {
	err error
	at  time.Time
}

func keyOfLink(l link.Link) linkKey { return linkKey{l.Index, l.MAC, l.Parent} }

// attend makes the result's idle and shared links the targets and the links of interest.
func (r *Reconciler) attend(res inventory.Result) {
	r.clearing.targets = slices.Concat(res.Idle, res.Shared)
	r.clearing.addressed.unseen(r.clearing.targets)
	if r.Interest == nil {
		return
	}
	links := make([]link.Link, 0, len(r.clearing.targets))
	for _, t := range r.clearing.targets {
		links = append(links, t.Link)
	}
	r.Interest.Set(links)
}

// sweep clears the links that the Sync before knew, as far as their NodeENIs are still
// declared.
func (r *Reconciler) sweep(ctx context.Context, src *inventory.Sources) {
	r.clearing.done, r.clearing.busy = map[linkKey][]problem.Finding{}, false
	declared := make(map[string]bool, len(src.NodeENIs))
	for i := range src.NodeENIs {
		declared[src.NodeENIs[i].Name] = src.NodeENIs[i].DeletionTimestamp == nil
	}
	var known []inventory.IdleLink
	for _, t := range r.clearing.targets {
		if alive, read := declared[t.Device.NodeENI]; alive || !read && !src.Complete {
			known = append(known, t)
		}
	}
	r.clearAll(ctx, known) //nolint:errcheck,gosec // they are tried again by this Sync, which reports it
}

// clearLinks clears the links that sweep has left out, and returns the findings of all.
func (r *Reconciler) clearLinks(ctx context.Context, out *Outcome) (found []problem.Finding) {
	var left []inventory.IdleLink
	for _, t := range r.clearing.targets {
		if _, done := r.clearing.done[keyOfLink(t.Link)]; !done {
			left = append(left, t)
		}
	}
	if err := r.clearAll(ctx, left); err != nil {
		found = append(found, problem.New(reason.RoutesUnreadable, "the host's routes and addresses cannot be read, so nothing foreign is removed from links; read the daemon's log", err))
	}
	for _, t := range r.clearing.targets {
		found = append(found, r.clearing.done[keyOfLink(t.Link)]...)
	}
	if r.clearing.busy {
		out.sooner(retryFirst)
	}
	return found
}

// clearAll clears links after one dump of the host's routes and addresses. It returns the
// error of that dump.
func (r *Reconciler) clearAll(ctx context.Context, targets []inventory.IdleLink) error {
	if len(targets) == 0 {
		return nil
	}
	clutter, err := r.Host.Clutter()
	if err != nil {
		return err
	}
	// Routes that somebody has chosen come last: one of them is kept where they are the
	// only way out once the announced ones are gone.
	chosen := func(t inventory.IdleLink) int {
		if slices.ContainsFunc(clutter.Defaults.Of(t.Link.Index), func(d routing.DefaultRoute) bool { return d.Protocol != unix.RTPROT_RA }) {
			return 1
		}
		return 0
	}
	targets = slices.SortedStableFunc(slices.Values(targets), func(a, b inventory.IdleLink) int { return chosen(a) - chosen(b) })
	for _, t := range targets {
		r.clearing.done[keyOfLink(t.Link)] = r.clearOne(ctx, t, &clutter)
	}
	return nil
}

// chores are the things to clear on one link.
type chores struct {
	routes, routers bool
	addresses       []routing.HostAddress
}

func (c *chores) any() bool { return c.routes || c.routers || len(c.addresses) > 0 }

// clearOne clears one link. It takes the claim lock only where there is something to do.
func (r *Reconciler) clearOne(ctx context.Context, t inventory.IdleLink, c *routing.Clutter) (found []problem.Finding) {
	var todo chores
	var only, shared bool
	todo.routes, only, shared = c.Routes(t.Link.Index)
	todo.routers = r.takesRouters(t)
	todo.addresses = r.unwanted(t, c)
	placed := slices.DeleteFunc(c.Of(t.Link.Index), routing.HostAddress.ByRA) // also addresses that are removed now
	if only {                                                                 // with the last address the kernel would drop that way out
		todo.addresses, placed = nil, c.Of(t.Link.Index)
	}
	if todo.any() {
		cleared, err := r.clear(ctx, t, &todo)
		switch {
		case err == nil:
			only, shared = cleared.Only, cleared.Shared
		case errors.Is(err, nodestate.ErrBusy):
			r.clearing.busy = true
		case errors.Is(err, errNotOurs), errors.Is(err, link.ErrNotFound):
			return nil
		default:
			f := problem.About(t.Device, reason.LinkNotConfigured, "foreign routes or addresses on link %s cannot be removed; the daemon tries again, and its log has the error", t.Link.Name)
			f.Err = err
			found = append(found, f)
		}
	}
	r.clearing.addressed.note(t, placed, r.log.imposers(t.Device.ENIID), r.steady())
	if only {
		found = append(found, onlyDefaultRoute(t.Device, t.Link))
	}
	if shared {
		found = append(found, sharedDefaultRoute(t.Device, t.Link))
	}
	return found
}

// clear does the chores under the device's claim lock, unless a pod owns the device alone.
// They harm no pod that shares it.
func (r *Reconciler) clear(ctx context.Context, t inventory.IdleLink, todo *chores) (done routing.Cleared, err error) {
	ctx, cancel := context.WithTimeout(ctx, clearTimeout)
	defer cancel()
	lock, err := r.claimUnless(ctx, t.Device.PCIAddress, nodestate.Mode.Exclusive)
	if err != nil {
		return done, err
	}
	defer lock.Close() //nolint:errcheck // nothing was written
	now, err := r.sameLink(t.Link)
	if err != nil {
		return done, err
	}
	if todo.routers {
		r.refuseRouters(t)
	}
	done, err = r.Host.ClearRoutes(now.Index)
	for _, who := range done.Protocols {
		r.log.imposed(t, who, "others put routes on a link of ours; they are removed", r.steady())
	}
	errs := []error{err}
	if done.Only { // it may be so only now
		todo.addresses = nil
	}
	for _, a := range todo.addresses {
		err := r.Host.ClearAddress(now.Index, a.Prefix)
		if errs = append(errs, err); err == nil {
			r.log.imposed(t, "address "+a.Prefix.String(), "others put an address on a link of ours; it is removed", r.steady())
		}
	}
	return done, errors.Join(errs...)
}

// unwanted returns the addresses to remove from a link: addresses that the kernel has made
// from router advertisements, and a /32 or /128 that a pod leases, since the host would
// answer in the pod's place.
func (r *Reconciler) unwanted(t inventory.IdleLink, c *routing.Clutter) (remove []routing.HostAddress) {
	var taken *leases.Leases
	for _, a := range c.Of(t.Link.Index) {
		single := a.Prefix.IsSingleIP() && ofENI(t.Device, a)
		if single && taken == nil {
			l, err := r.Leases.Read(r.BootID, t.Device.ENIID)
			if err != nil {
				l = leases.Leases{} // reported where the leases are read for this Sync
			}
			taken = &l
		}
		if a.ByRA() || single && leased(taken, a) {
			remove = append(remove, a)
		}
	}
	return remove
}

// ofENI says whether EC2 has given the address to the ENI.
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
	return slices.ContainsFunc(l.Leases, func(l leases.Lease) bool {
		return l.State == leases.Held && l.Address == a.Prefix.Addr()
	})
}

// takesRouters says whether the link accepts router advertisements, and the daemon should
// try to end that.
func (r *Reconciler) takesRouters(t inventory.IdleLink) bool {
	last := r.clearing.refused[t.Device.ENIID]
	if r.IPv6 == "" || last.err != nil && r.steady().Sub(last.at).Abs() < refusedAgain {
		return false
	}
	value, err := r.IPv6.AcceptRA(t.Link.Name)
	accepts := err == nil && value != "" && value != "0"
	if !accepts {
		r.clearing.refuse(t.Device.ENIID, err, r.steady())
	}
	return accepts
}

// refuse notes how it went with a link's accept_ra; no error means that it is 0, or that
// the link has none.
func (c *clearing) refuse(eni device.ENIID, err error, now time.Time) {
	if err == nil {
		delete(c.refused, eni)
		return
	}
	if c.refused == nil {
		c.refused = map[device.ENIID]refusal{}
	}
	c.refused[eni] = refusal{err, now}
}

// refuseRouters makes the link ignore router advertisements, so that it gets no default
// route and no address from them. The kernel forgets that each time the link changes its
// netns. If it fails, routes and addresses are removed when they have come.
func (r *Reconciler) refuseRouters(t inventory.IdleLink) {
	if r.IPv6 != "" {
		r.clearing.refuse(t.Device.ENIID, r.IPv6.SetAcceptRA(t.Link.Name, "0"), r.steady())
	}
}

// routersRefused reports that router advertisements cannot be switched off.
func (r *Reconciler) routersRefused() []problem.Finding {
	if len(r.clearing.refused) == 0 {
		return nil
	}
	var errs []error
	for _, eni := range slices.Sorted(maps.Keys(r.clearing.refused)) {
		errs = append(errs, r.clearing.refused[eni].err)
	}
	return []problem.Finding{problem.New(reason.RouterAdvertisementsAccepted, fmt.Sprintf(
		"idle ENIs accept IPv6 router advertisements, because accept_ra in %s/<link> cannot be read or written; their routes are removed each time they arrive, "+
			"which a pod may notice; mount the host's /proc/sys/net writable into the daemon's container, as the manifests do (--sysctls)", r.IPv6), errors.Join(errs...))}
}

// onlyDefaultRoute reports the only default route of a family, which stays on a link.
func onlyDefaultRoute(d nodestate.Device, l link.Link) problem.Finding {
	return problem.About(d, reason.OnlyDefaultRoute, "the main table's only default route of IPv4 or IPv6 leads out of %s, so it was left; move the route to another link, or remove the NodeENI", l.Name)
}

// sharedDefaultRoute reports a default route of several next hops, which stays as it is.
func sharedDefaultRoute(d nodestate.Device, l link.Link) problem.Finding {
	return problem.About(d, reason.SharedDefaultRoute, "a default route of the main table has %s as one of several next hops, so it was left, and no pod gets the device; take that next hop out of the route", l.Name)
}

// clearForDriver removes the routes of a link whose device is about to leave the kernel. A
// default route that must stay is a finding.
func (r *Reconciler) clearForDriver(d nodestate.Device, l link.Link) ([]problem.Finding, error) {
	cleared, err := r.Host.ClearRoutes(l.Index)
	switch {
	case err != nil:
		return nil, err
	case cleared.Only:
		return []problem.Finding{onlyDefaultRoute(d, l)}, nil
	case cleared.Shared:
		return []problem.Finding{sharedDefaultRoute(d, l)}, nil
	}
	return nil, nil
}
