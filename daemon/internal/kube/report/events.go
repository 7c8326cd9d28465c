package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

type event struct {
	about   corev1.ObjectReference
	kind    string
	reason  nodestate.Reason
	message string
}

// history has the states that Events were sent for. It begins with the ENINodeState, so an Event is repeated neither while its state lasts
// nor after a restart of the daemon.
type history struct {
	devices  map[string]deviceHistory
	problems map[nodestate.Problem]bool
	// waiting are problems whose Event is not due yet, and since when they last.
	waiting map[nodestate.Problem]time.Time
	// uids are NodeENIs' UIDs, kept until their last device has gone.
	uids map[string]string
	// plugin is the last reported end of a restart; "" for one without a fault.
	plugin view.RestartResult
}

type deviceHistory struct {
	eni, nodeENI, pci string
	phase             nodestate.Phase
	// cause is the row's; the ENINodeState lacks it.
	cause string
	// holders are the pods that were told that they cannot get the device again.
	holders map[string]bool
}

// name is the device's, with any known PCI address.
func (d *deviceHistory) name() string {
	if d.pci == "" {
		return d.eni
	}
	return d.eni + " (" + d.pci + ")"
}

// why is the cause in parentheses, or nothing.
func (d *deviceHistory) why() string {
	if d.cause == "" {
		return ""
	}
	return " (" + d.cause + ")"
}

// historyFrom returns the history that led to the ENINodeState.
func historyFrom(s v1alpha1.ENINodeStateStatus) history {
	t := history{devices: map[string]deviceHistory{}, problems: map[nodestate.Problem]bool{}, uids: map[string]string{}}
	for i := range s.Devices {
		d := &s.Devices[i]
		key := rowKey(d.ENIID, d.NodeENI, d.SubnetID, d.DeviceIndex)
		known := deviceHistory{eni: d.ENIID, nodeENI: d.NodeENI, pci: d.PCIAddress, phase: nodestate.Phase(d.Phase), holders: map[string]bool{}}
		if known.phase == nodestate.PhaseDraining {
			for _, h := range d.Holders {
				known.holders[h] = true
			}
		}
		t.devices[key] = known
	}
	for _, p := range s.Problems {
		t.problems[nodestate.Problem{Reason: nodestate.Reason(p.Reason), NodeENI: p.NodeENI, Device: p.Device, Message: p.Message}] = true
	}
	for _, n := range s.NodeENIs {
		t.uids[n.Name] = n.UID
	}
	if p := s.DevicePlugin; p != nil {
		switch view.PluginState(p.State) {
		case view.PluginNotFound:
			if s.Offer == nil || nodestate.OfferMode(s.Offer.Mode) != nodestate.OfferDevicePlugin {
				t.plugin = view.RestartNoneFound
			}
		case view.PluginFailed:
			t.plugin = view.RestartFailed
		default: // no restart has ended without success
		}
	}
	return t
}

// rowKey tells rows apart, even without a known ENI.
func rowKey(eni, nodeENI, subnet string, index int) string {
	if eni != "" {
		return eni
	}
	return fmt.Sprintf("%s/%s/%d", nodeENI, subnet, index)
}

// events returns the Events for v's news, and remembers them.
func (h *history) events(node client.NodeRef, v view.View) []event {
	for _, d := range v.Declared {
		h.uids[d.Name] = d.UID
	}
	events := h.deviceEvents(node, v)
	events = append(events, h.problemEvents(node, v.Inventory.Problems, v.At)...)
	if v.Did.Restart != nil {
		events = append(events, h.restartEvents(node, *v.Did.Restart, v.Offer.Mode)...)
	}
	events = append(events, offerEvents(node, v.Did.Offered)...)
	h.forgetUIDs(v)
	return events
}

func (h *history) deviceEvents(node client.NodeRef, v view.View) []event {
	var events []event
	now := make(map[string]deviceHistory, len(v.Inventory.Devices))
	for i := range v.Inventory.Devices {
		d := &v.Inventory.Devices[i]
		key := rowKey(d.ENIID.String(), d.NodeENI, d.SubnetID.String(), d.DeviceIndex)
		before := h.devices[key]
		row := deviceHistory{eni: d.ENIID.String(), nodeENI: d.NodeENI, pci: d.PCIAddress.String(), phase: d.Phase, cause: d.Cause, holders: map[string]bool{}}
		about := h.nodeENI(d.NodeENI)
		switch {
		case d.Phase == nodestate.PhaseReady && before.phase != nodestate.PhaseReady:
			events = append(events, event{about, corev1.EventTypeNormal, reason.DeviceReady,
				fmt.Sprintf("%s (%s) is ready for pods on node %s", row.eni, row.pci, node.Name)})
		case d.Phase == nodestate.PhaseDraining && before.phase != nodestate.PhaseDraining:
			events = append(events, event{about, corev1.EventTypeNormal, reason.DeviceRemoved,
				fmt.Sprintf("%s drains on node %s%s; no new pod gets it, and it is released when its last pod ends", row.name(), node.Name, row.why())})
		}
		if d.Phase == nodestate.PhaseDraining {
			events = append(events, row.holderEvents(before, v)...)
		}
		now[key] = row
	}
	for _, key := range slices.Sorted(maps.Keys(h.devices)) {
		before := h.devices[key]
		if _, there := now[key]; !there && before.eni != "" && before.phase != nodestate.PhasePending {
			events = append(events, event{h.nodeENI(before.nodeENI), corev1.EventTypeNormal, reason.DeviceReleased,
				fmt.Sprintf("%s was released by node %s", before.eni, node.Name)})
		}
	}
	h.devices = now
	return events
}

// forgetUIDs keeps the UIDs of NodeENIs that may be named again.
func (h *history) forgetUIDs(v view.View) {
	maps.DeleteFunc(h.uids, func(name, _ string) bool {
		return !slices.ContainsFunc(v.Declared, func(d view.Declared) bool { return d.Name == name }) &&
			!slices.ContainsFunc(v.Inventory.Devices, func(d nodestate.Device) bool { return d.NodeENI == name })
	})
}

// holderEvents are for the device's pods without an Event yet. The daemon's own offer serves a resource while a pod has
// it, and the SR-IOV device plugin does not: its endpoint ends in the kubelet after 5 minutes.
func (d *deviceHistory) holderEvents(before deviceHistory, v view.View) []event {
	uids, but := map[string]string{}, ""
	if v.Offer.Mode != nodestate.OfferDevicePlugin {
		but = ", but a container that restarts more than 5 minutes from now cannot get it again"
	}
	for _, h := range v.Holders {
		if h.PCIAddress.String() == d.pci && h.Pod != "" {
			uids[h.Pod] = max(uids[h.Pod], h.PodUID) // the one that is known
		}
	}
	var events []event
	for _, h := range v.Holders {
		uid, holds := uids[h.Pod]
		if !holds || h.PCIAddress.String() != d.pci || d.holders[h.Pod] {
			continue
		}
		d.holders[h.Pod] = true
		if before.holders[h.Pod] {
			continue
		}
		namespace, name, _ := strings.Cut(h.Pod, "/")
		events = append(events, event{
			corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: namespace, Name: name, UID: types.UID(uid)}, corev1.EventTypeWarning, reason.DeviceRemoved,
			fmt.Sprintf("%s of NodeENI %s drains%s. The pod keeps the device until it ends%s", d.name(), d.nodeENI, d.why(), but),
		})
	}
	return events
}

// problemEvents makes an Event of each problem that has lasted for its reason.Delay. A problem that an earlier daemon wrote counts as reported:
// losing an Event to a restart within the delay is better than repeating it at each start.
func (h *history) problemEvents(node client.NodeRef, problems []nodestate.Problem, at time.Time) []event {
	var events []event
	now, waiting := make(map[nodestate.Problem]bool, len(problems)), map[nodestate.Problem]time.Time{}
	for _, p := range problems {
		if now[p] {
			continue
		}
		if !h.problems[p] {
			if since := h.since(p, at); at.Sub(since) < reason.Delay(p.Reason) {
				waiting[p] = since
				continue
			}
			about, message := nodeObject(node), p.Message
			if p.NodeENI != "" {
				about, message = h.nodeENI(p.NodeENI), fmt.Sprintf("node %s: %s", node.Name, p.Message)
			}
			events = append(events, event{about, corev1.EventTypeWarning, p.Reason, message})
		}
		now[p] = true
	}
	h.problems, h.waiting = now, waiting
	return events
}

// since is when a problem was first seen; a clock that was set back begins anew.
func (h *history) since(p nodestate.Problem, at time.Time) time.Time {
	if since, ok := h.waiting[p]; ok && !since.After(at) {
		return since
	}
	return at
}

// restartEvents tells of the end of a restart. That no device plugin is there is no news where the daemon offers the devices.
func (h *history) restartEvents(node client.NodeRef, done view.RestartDone, mode nodestate.OfferMode) []event {
	before := h.plugin
	h.plugin = ""
	if done.Result == view.RestartNoneFound && mode == nodestate.OfferDevicePlugin {
		return nil
	}
	if done.Result != view.RestartVerified {
		h.plugin = done.Result
		if before == done.Result {
			return nil
		}
	}
	n := event{about: nodeObject(node), kind: corev1.EventTypeWarning}
	switch {
	case done.Result == view.RestartNoneFound:
		n.reason, n.message = reason.DevicePluginNotFound, "this node has no SR-IOV device plugin pod, so no device is offered to pods; deploy one, or name its "+
			"namespace and labels with --dp-namespaces and --dp-selectors"
	case done.Result == view.RestartFailed:
		n.reason, n.message = reason.DevicePluginRestartFailed, fmt.Sprintf("the SR-IOV device plugin does not serve its new config; the daemon tries again: %v",
			done.Err)
	case len(done.Deleted) == 0:
		return nil // it had read the config already
	default:
		n.kind = corev1.EventTypeNormal
		n.reason, n.message = reason.DevicePluginRestarted, "the SR-IOV device plugin was restarted and serves its new config; deleted "+some(done.Deleted)
	}
	return []event{n}
}

// offerEvents tells that the node's devices are offered in another mode now; "" for no change.
func offerEvents(node client.NodeRef, mode nodestate.OfferMode) []event {
	e := event{about: nodeObject(node), kind: corev1.EventTypeNormal}
	switch mode {
	case nodestate.OfferDevicePlugin:
		e.reason, e.message = reason.OfferTakenOver, "multi-enid offers the devices of this node to the kubelet now, and the SR-IOV device plugin does not"
	case nodestate.OfferPCIDP:
		e.reason, e.message = reason.OfferHandedBack, "the SR-IOV device plugin offers the devices of this node again"
	default:
		return nil
	}
	return []event{e}
}

func (h *history) nodeENI(name string) corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: v1alpha1.GroupName + "/" + v1alpha1.Version, Kind: "NodeENI", Name: name, UID: types.UID(h.uids[name]),
	}
}

func nodeObject(node client.NodeRef) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
}
