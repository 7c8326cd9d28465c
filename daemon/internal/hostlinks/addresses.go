package hostlinks

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// addressGone is how long a link must be without an address until the address counts as gone. Network managers restore
// addresses one by one after a pod, amazon-ec2-net-utils once a minute: the Problem would change with each pod.
const addressGone = 2 * time.Minute

// addresses are the ENIs whose links have addresses in the host. An ENI's entry stays while a pod has the link alone.
type addresses map[device.ENIID]*hostAddresses

type hostAddresses struct {
	device nodestate.Device
	name   string
	placed map[netip.Prefix]*placedAddress
}

// placedAddress collects all signs of an address's origin. The manager may add its routes later.
type placedAddress struct {
	protocols map[string]bool
	tables    map[int]bool
	dynamic   bool
	absent    time.Time // since when the link has been seen without the address; zero for present
}

// note records the addresses of a link. protocols are those of its routes that were removed from the main table.
func (a addresses) note(t inventory.IdleLink, found []routing.HostAddress, protocols []string, now time.Time) {
	h := a[t.Device.ENIID]
	if h == nil {
		h = &hostAddresses{placed: map[netip.Prefix]*placedAddress{}}
		a[t.Device.ENIID] = h
	}
	h.device, h.name = t.Device, t.Link.Name
	for prefix, p := range h.placed {
		switch here := slices.ContainsFunc(found, func(f routing.HostAddress) bool { return f.Prefix == prefix }); {
		case here:
			p.absent = time.Time{}
		case p.absent.IsZero():
			p.absent = now
		case now.Sub(p.absent) >= addressGone:
			delete(h.placed, prefix)
		}
	}
	for _, f := range found {
		p := h.placed[f.Prefix]
		if p == nil {
			p = &placedAddress{protocols: map[string]bool{}, tables: map[int]bool{}}
			h.placed[f.Prefix] = p
		}
		p.see(f, protocols)
	}
	if len(h.placed) == 0 {
		delete(a, t.Device.ENIID)
	}
}

func (p *placedAddress) see(f routing.HostAddress, protocols []string) {
	for _, name := range protocols {
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

// skip restarts the time without an address for all links except the given ones.
func (a addresses) skip(looked []inventory.IdleLink) {
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

// hostProblems forgets ENIs that are no longer declared, and returns the Problems.
func (l *Links) hostProblems(src inventory.Sources, devices []nodestate.Device) []problem.Finding {
	declared := make(map[device.ENIID]bool, len(devices))
	for _, d := range devices {
		declared[d.ENIID] = d.Phase != nodestate.PhaseDraining
	}
	l.imposed.expire(declared, l.now)
	maps.DeleteFunc(l.refused, func(eni device.ENIID, _ refusal) bool { return !declared[eni] })
	maps.DeleteFunc(l.addresses, func(eni device.ENIID, _ *hostAddresses) bool { return !declared[eni] })
	found := l.routersAccepted()
	for _, h := range l.addresses {
		advice := "keep the host's network manager off ENIs"
		if l.Advice != nil {
			advice = l.Advice(primaryLink(src))
		}
		found = append(found, problem.About(h.device, reason.HostAddress,
			"the host has an address on %s: %s; pods that share the ENI may not be reached from the host; %s", h.name, h, advice))
	}
	return found
}

// primaryLink is the name of the primary ENI's link, which never leaves the host; "" while it is not known.
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

// imposedFor is the time after which an imposition counts as over. It exceeds the renewal of a DHCP lease (half an hour
// in a VPC).
const imposedFor = 2 * time.Hour

const addressSubject = "address "

// imposition is a kind of route or an address that others put on an ENI's link.
type imposition struct {
	eni     device.ENIID
	subject string
}

// impositions logs begin and end of each imposition. Others repeat them with each lease renewal, router advertisement
// and return from a pod.
type impositions struct {
	out  logrus.FieldLogger
	last map[imposition]time.Time
}

func (m *impositions) note(t inventory.IdleLink, subject, message string, now time.Time) {
	key := imposition{t.Device.ENIID, subject}
	last, known := m.last[key]
	if m.last[key] = now; known && now.Sub(last) < imposedFor {
		return
	}
	m.out.WithFields(logrus.Fields{"eniID": t.Device.ENIID, "interface": t.Link.Name, "by": subject}).Info(message)
}

// protocols are the protocols of the routes that others put on the ENI's link, sorted.
func (m *impositions) protocols(eni device.ENIID) (names []string) {
	for key := range m.last {
		if key.eni == eni && !strings.HasPrefix(key.subject, addressSubject) {
			names = append(names, key.subject)
		}
	}
	return slices.Sorted(slices.Values(names))
}

// expire drops impositions that are over, with a log line, or on ENIs that are not declared.
func (m *impositions) expire(declared map[device.ENIID]bool, now time.Time) {
	maps.DeleteFunc(m.last, func(key imposition, last time.Time) bool {
		over := now.Sub(last) >= imposedFor
		if over {
			m.out.WithFields(logrus.Fields{"eniID": key.eni, "by": key.subject}).Info("others put nothing on this ENI's link any more")
		}
		return over || !declared[key.eni]
	})
}
