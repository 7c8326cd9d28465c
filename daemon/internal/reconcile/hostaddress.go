package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// addressFaded is how long a link must be without addresses in the host until its problem
// is over. A link that comes back from a pod is without some until the network manager has
// seen it: the problem would begin and end with each pod.
const addressFaded = time.Minute

// addressed are the ENIs whose links have addresses in the host. It is kept while a pod
// has the link, and where it is not known.
type addressed map[device.ENIID]hostAddresses

type hostAddresses struct {
	device nodestate.Device
	name   string
	// what are the addresses, each with who has put it there.
	what []string
	seen time.Time
}

// note notes the addresses of a link, and who else puts things on it.
func (a *addressed) note(t inventory.IdleLink, found []link.HostAddress, imposers []string, now time.Time) {
	if len(found) == 0 {
		if now.Sub((*a)[t.Device.ENIID].seen) >= addressFaded {
			delete(*a, t.Device.ENIID)
		}
		return
	}
	h := hostAddresses{device: t.Device, name: t.Link.Name, seen: now}
	for _, f := range found {
		h.what = append(h.what, f.Prefix.String()+" ("+origin(f, imposers)+")")
	}
	slices.Sort(h.what)
	if *a == nil {
		*a = addressed{}
	}
	(*a)[t.Device.ENIID] = h
}

// origin says who has put an address on a link, as far as the kernel shows it: by the
// routes that prefer it as source. Those of the main table are gone by now, so that
// imposers says who had put them there.
func origin(a link.HostAddress, imposers []string) string {
	var who, tables []string
	for _, p := range a.Routes {
		if name := link.ProtocolName(p); name != "kernel" && !slices.Contains(imposers, name) {
			who = append(who, name)
		}
	}
	for _, t := range a.Tables {
		if t != unix.RT_TABLE_MAIN {
			tables = append(tables, fmt.Sprint(t))
		}
	}
	who = append(who, imposers...)
	slices.Sort(who)
	var parts []string
	switch {
	case len(who) > 0:
		parts = append(parts, "with routes of protocol "+strings.Join(who, ", "))
	case a.Dynamic:
		parts = append(parts, "for a limited time, as DHCP clients do")
	default:
		parts = append(parts, "for ever, by hand or by a network manager")
	}
	if len(tables) > 0 {
		parts = append(parts, "table "+strings.Join(tables, ", "))
	}
	return "put there " + strings.Join(parts, ", ")
}

// lasting are the findings that stand until somebody changes the host. No retry helps.
func (r *Reconciler) lasting(src inventory.Sources, devices []nodestate.Device) []finding {
	found := r.routersRefused()
	declared := make(map[device.ENIID]bool, len(devices))
	for _, d := range devices {
		declared[d.ENIID] = d.Phase != nodestate.PhaseDraining
	}
	r.log.forget(declared, r.steady())
	for eni, h := range r.clearing.addressed {
		if !declared[eni] {
			delete(r.clearing.addressed, eni)
			continue
		}
		advice := "keep the host's network manager off ENIs"
		if r.Advice != nil {
			advice = r.Advice(primaryLink(src))
		}
		found = append(found, about(h.device, "HostAddress", "the host has an address on %s: %s; pods that share the ENI may not be reached from the host; %s", h.name, strings.Join(h.what, ", "), advice))
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
