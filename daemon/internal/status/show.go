package status

import (
	"cmp"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/show"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Node returns the status as it is printed for people.
func (s Status) Node() show.Node {
	n := show.Node{Name: s.Inventory.NodeName, Changed: s.Inventory.UpdatedAt, Source: "From the files: multi-enid does not answer."}
	if s.EarlierBoot {
		n.Outdated = "This inventory is of an earlier boot: nothing in it holds until multi-enid has run again."
	}
	for i := range s.Inventory.Devices {
		n.Devices = append(n.Devices, showDevice(&s.Inventory.Devices[i]))
	}
	for _, h := range s.Holders {
		n.Pods = append(n.Pods, showHolder(h))
	}
	for _, p := range s.Pools {
		n.Pools = append(n.Pools, show.Pool{ENIID: p.ENIID.String(), Family: p.Family, Free: p.Free(), Leased: p.Leased, Cooling: p.Cooling, Retiring: p.Retiring})
	}
	for _, p := range s.Inventory.Problems {
		n.Problems = append(n.Problems, show.Problem{Reason: string(p.Reason), NodeENI: p.NodeENI, Device: p.Device, Message: p.Message})
	}
	for _, u := range s.Unreadable {
		if !strings.Contains(u, "; ") { // it says no remedy itself
			u += "; its device is not known; remove the file if its container is gone"
		}
		n.Problems = append(n.Problems, show.Problem{Reason: string(reason.RecordUnreadable), Message: u})
	}
	s.showLive(&n)
	return n
}

func showDevice(d *nodestate.Device) show.Device {
	return show.Device{
		ENIID: d.ENIID.String(), NodeENI: d.NodeENI, MAC: d.MAC.String(), PCIAddress: d.PCIAddress.String(), Link: d.InterfaceName, Driver: d.Driver,
		SubnetID: d.SubnetID.String(), Resource: d.ResourceName.String(), Phase: string(d.Phase), Index: d.DeviceIndex, Card: d.NetworkCard,
		Addresses: prefixes(d.Addresses), Prefixes: prefixes(d.Prefixes), MTU: d.MTU,
	}
}

func prefixes(all []netip.Prefix) (texts []string) {
	for _, p := range all {
		texts = append(texts, p.String())
	}
	return texts
}

// showHolder names the pod, or the container if the runtime has named no pod.
func showHolder(h view.Holder) show.Pod {
	p := show.Pod{
		PCIAddress: h.PCIAddress.String(), Name: cmp.Or(h.Pod, h.ContainerID), UID: h.PodUID, ContainerID: h.ContainerID, Link: h.IfName, Mode: string(h.Mode),
		State: show.Attached,
	}
	for _, a := range h.Addresses {
		p.Addresses = append(p.Addresses, a.String())
	}
	switch {
	case h.Container != "":
		p.State = show.Allocated
	case h.State == nodestate.StateIntent:
		p.State = show.Changing
	case h.State == "":
		p.State = show.Unknown
	}
	return p
}

// showLive adds the facts that only the running daemon knows.
func (s Status) showLive(n *show.Node) {
	l := s.Live
	if l == nil {
		return
	}
	n.Source = "From multi-enid " + l.Version + ", running since " + l.StartedAt.UTC().Format(time.RFC3339) + "."
	current := "current"
	if !l.Config.Current {
		current = "not current"
	}
	plugin := strings.Join(append([]string{string(l.DevicePlugin.State)}, l.DevicePlugin.Pods...), ", ")
	if !l.DevicePlugin.LastRestart.IsZero() {
		plugin += ", restarted " + l.DevicePlugin.LastRestart.UTC().Format(time.RFC3339)
	}
	if l.DevicePlugin.Message != "" {
		plugin += ": " + l.DevicePlugin.Message
	}
	n.Facts = []show.Fact{
		{Name: "Config", Text: l.Config.Path + ", " + current + ", hash " + cmp.Or(l.Config.Hash, "not known")},
		{Name: "Device plugin", Text: plugin},
	}
	n.Offered = offered(l.Offer)
	if o := l.Offer; o.State != "" {
		n.Facts = append(n.Facts, show.OfferFact(string(o.Mode), string(o.Wanted), string(o.State), o.Message, len(o.Served())))
	}
	if l.ByController {
		n.Facts = append(n.Facts, show.Fact{Name: "Attachments", Text: "from the controller, slots: " + strconv.Itoa(len(l.Slots))})
	}
	for _, slot := range l.Slots {
		n.Slots = append(n.Slots, show.Slot{
			Slot: slot.Slot, NodeENI: slot.NodeENI, ENIID: slot.ENIID.String(), Wanted: slot.Wanted, Phase: slot.Phase, Reason: slot.Reason, Message: slot.Message,
			Released: slot.Released,
		})
	}
	api := "not used"
	switch {
	case l.API == nil:
	case l.API.Reachable:
		api = "followed"
	case l.API.Reason == "":
		api = "not answered yet"
	default:
		api = "cannot be followed (" + l.API.Reason + "); its last answer still holds"
	}
	n.Facts = append(n.Facts, show.Fact{Name: "API server", Text: api})
}

func offered(o view.OfferView) (all []show.Offered) {
	for _, r := range o.Served() {
		all = append(all, show.Offered{Resource: r.Name.String(), Registered: r.Registered, Healthy: r.Healthy, Unhealthy: r.Unhealthy})
	}
	return all
}
