package reconcile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// addressFaded is how long a link must be seen without an address before that counts as
// gone. A network manager gives a link its addresses one by one when it is back from a pod,
// and amazon-ec2-net-utils does so once a minute: the problem would change with each pod.
const addressFaded = 2 * time.Minute

// addressed are the ENIs whose links have addresses in the host. It stays as it is while a
// pod has the link alone.
type addressed map[device.ENIID]*hostAddresses

type hostAddresses struct {
	device nodestate.Device
	name   string
	placed map[netip.Prefix]*placedAddress
}

// placedAddress collects all signs of the origin of an address on a link. One look may come
// before the manager has made the routes that go with the address.
type placedAddress struct {
	protocols map[string]bool
	tables    map[int]bool
	dynamic   bool
	// absent is the time since which the link has been seen without it; zero if it has not.
	absent time.Time
}

// note records the addresses of a link. Their routes in the main table may be gone by now:
// imposers are the protocols of the routes that were removed from there.
func (a *addressed) note(t inventory.IdleLink, found []routing.HostAddress, imposers []string, now time.Time) {
	if *a == nil {
		*a = addressed{}
	}
	h := (*a)[t.Device.ENIID]
	if h == nil {
		h = &hostAddresses{placed: map[netip.Prefix]*placedAddress{}}
		(*a)[t.Device.ENIID] = h
	}
	h.device, h.name = t.Device, t.Link.Name
	for prefix, p := range h.placed {
		switch here := slices.ContainsFunc(found, func(f routing.HostAddress) bool { return f.Prefix == prefix }); {
		case here:
			p.absent = time.Time{}
		case p.absent.IsZero():
			p.absent = now
		case now.Sub(p.absent) >= addressFaded:
			delete(h.placed, prefix)
		}
	}
	for _, f := range found {
		p := h.placed[f.Prefix]
		if p == nil {
			p = &placedAddress{protocols: map[string]bool{}, tables: map[int]bool{}}
			h.placed[f.Prefix] = p
		}
		p.see(f, imposers)
	}
	if len(h.placed) == 0 {
		delete(*a, t.Device.ENIID)
	}
}

// see adds the signs of one look.
func (p *placedAddress) see(f routing.HostAddress, imposers []string) {
	for _, name := range imposers {
		p.protocols[name] = true
	}
	for _, protocol := range f.Routes {
		if name := routing.ProtocolName(protocol); name != "kernel" {
			p.protocols[name] = true
		}
	}
	for _, table := range f.Tables {
		if table != unix.RT_TABLE_MAIN {
			p.tables[table] = true
		}
	}
	p.dynamic = p.dynamic || f.Dynamic
}

// unseen starts to count anew how long links are without an address, for all links but the
// ones that this Sync looks at.
func (a addressed) unseen(looked []inventory.IdleLink) {
	for eni, h := range a {
		if slices.ContainsFunc(looked, func(t inventory.IdleLink) bool { return t.Device.ENIID == eni }) {
			continue
		}
		for _, p := range h.placed {
			p.absent = time.Time{}
		}
	}
}

// String lists the addresses, each with its origin.
func (h *hostAddresses) String() string {
	var all []string
	for prefix, p := range h.placed {
		all = append(all, fmt.Sprintf("%s (%s)", prefix, p))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func (p *placedAddress) String() string {
	s := "put there for ever, by hand or by a network manager"
	switch {
	case len(p.protocols) > 0:
		s = "put there with routes of protocol " + strings.Join(slices.Sorted(maps.Keys(p.protocols)), ", ")
	case p.dynamic:
		s = "put there for a limited time, as DHCP clients do"
	}
	for _, table := range slices.Sorted(maps.Keys(p.tables)) {
		s += fmt.Sprintf(", table %d", table)
	}
	return s
}

// lasting are the findings that stand until somebody changes the host. No retry helps.
func (r *Reconciler) lasting(src inventory.Sources, devices []nodestate.Device) []problem.Finding {
	declared := make(map[device.ENIID]bool, len(devices))
	for _, d := range devices {
		declared[d.ENIID] = d.Phase != nodestate.PhaseDraining
	}
	r.log.forget(declared, r.steady())
	maps.DeleteFunc(r.clearing.refused, func(eni device.ENIID, _ refusal) bool { return !declared[eni] })
	found := r.routersRefused()
	for eni, h := range r.clearing.addressed {
		if !declared[eni] {
			delete(r.clearing.addressed, eni)
			continue
		}
		advice := "keep the host's network manager off ENIs"
		if r.Advice != nil {
			advice = r.Advice(primaryLink(src))
		}
		found = append(found, problem.About(h.device, reason.HostAddress, "the host has an address on %s: %s; pods that share the ENI may not be reached from the host; %s", h.name, h, advice))
	}
	return found
}

// primaryLink is the name of the primary ENI's link, which never leaves the host; "" while
// it is not known.
func primaryLink(src inventory.Sources) string {
	for _, e := range src.ENIs.Value {
		for _, l := range src.Links.Value {
			if e.Primary && e.MAC != "" && l.HasMAC(e.MAC) && l.Kind == "" {
				return l.Name
			}
		}
	}
	return ""
}
