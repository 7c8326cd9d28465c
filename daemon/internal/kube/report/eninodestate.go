package report

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// statusOf returns a View's ENINodeState. It keeps from the status before when a condition last changed, and the last restart
// of the device plugin if this daemon has made none.
func statusOf(v view.View, before v1alpha1.ENINodeStateStatus) v1alpha1.ENINodeStateStatus {
	out := v1alpha1.ENINodeStateStatus{ProblemCount: len(v.Inventory.Problems), DevicePlugin: pluginState(v, before.DevicePlugin), Offer: offerState(v.Offer)}
	if v.Config.Path != "" {
		out.Config = &v1alpha1.ConfigState{Path: v.Config.Path, Hash: v.Config.Hash, Current: v.Config.Current}
	}
	octets := 0
	for _, d := range v.Declared {
		if octets += len(d.Name) + len(d.UID) + 40; octets > maxObserved {
			break
		}
		out.NodeENIs = append(out.NodeENIs, v1alpha1.ObservedNodeENI{Name: d.Name, UID: d.UID, ObservedGeneration: d.Generation})
	}
	for _, p := range v.Inventory.Problems {
		out.Problems = append(out.Problems, v1alpha1.ProblemState{Reason: string(p.Reason), NodeENI: p.NodeENI, Device: p.Device, Message: p.Message})
	}
	held := holdersOf(v)
	ready := 0
	for i := range v.Inventory.Devices {
		d := &v.Inventory.Devices[i]
		if d.Phase == nodestate.PhaseReady {
			ready++
		}
		out.Devices = append(out.Devices, deviceState(d, held[d.PCIAddress]))
	}
	out.DevicesReady = fmt.Sprintf("%d/%d", ready, len(out.Devices))
	for _, c := range []metav1.Condition{devicesReady(v.Inventory.Devices), configCurrent(v.Config), pluginServing(v)} {
		c.LastTransitionTime = since(c, before.Conditions, v.At)
		out.Conditions = append(out.Conditions, c)
	}
	return out
}

// releasedENIs are in the order of the controller's list, whose slots are unique.
func releasedENIs(v view.View) (all []v1alpha1.ReleasedENI) {
	for _, r := range v.Released {
		all = append(all, v1alpha1.ReleasedENI{Slot: r.Slot, ENIID: r.ENIID.String(), Release: r.Release})
	}
	return all
}

// maxObserved bounds the status' list of NodeENIs, in octets: etcd takes 1.5 MiB for an object (--max-request-bytes),
// and each entry has another in managedFields.
const maxObserved = 128 << 10

// since is when a condition got its status.
func since(c metav1.Condition, before []metav1.Condition, now time.Time) metav1.Time {
	for _, b := range before {
		if b.Type == c.Type && b.Status == c.Status {
			return b.LastTransitionTime
		}
	}
	return metav1.NewTime(now.UTC().Truncate(time.Second)) // as the API has it
}

// holdersOf returns the pods of each device, sorted. A pod with both a record and an allocation appears once.
func holdersOf(v view.View) map[device.PCIAddress][]string {
	held := map[device.PCIAddress][]string{}
	for _, h := range v.Holders {
		if h.Pod != "" && h.PCIAddress != "" && !slices.Contains(held[h.PCIAddress], h.Pod) {
			held[h.PCIAddress] = append(held[h.PCIAddress], h.Pod)
		}
	}
	for _, pods := range held {
		slices.Sort(pods)
	}
	return held
}

func deviceState(d *nodestate.Device, holders []string) v1alpha1.DeviceState {
	s := v1alpha1.DeviceState{
		ENIID: d.ENIID.String(), NodeENI: d.NodeENI, Phase: string(d.Phase), MAC: d.MAC.String(), PCIAddress: d.PCIAddress.String(),
		InterfaceName: d.InterfaceName, Driver: d.Driver, DeviceIndex: d.DeviceIndex, NetworkCard: d.NetworkCard,
		SubnetID: d.SubnetID.String(), Addresses: texts(d.Addresses), Prefixes: texts(d.Prefixes), MTU: d.MTU,
		ResourceName: d.ResourceName.String(), Holders: holders,
	}
	if d.SubnetCIDR.IsValid() {
		s.SubnetCIDR = d.SubnetCIDR.String()
	}
	return s
}

func texts(prefixes []netip.Prefix) []string {
	var out []string
	for _, p := range prefixes {
		out = append(out, p.String())
	}
	return out
}

func pluginState(v view.View, before *v1alpha1.DevicePluginState) *v1alpha1.DevicePluginState {
	s := &v1alpha1.DevicePluginState{
		State: string(v.Plugin.State), Pods: v.Plugin.Pods, ServedHash: v.Plugin.ServedHash, Message: v.Plugin.Message,
	}
	if before != nil {
		s.LastRestart, s.LastResult = before.LastRestart, before.LastResult
	}
	if !v.Plugin.LastRestart.IsZero() {
		s.LastRestart = metav1.NewTime(v.Plugin.LastRestart.UTC().Truncate(time.Second))
	}
	if v.Did.Restart != nil {
		s.LastResult = string(v.Did.Restart.Result)
	}
	return s
}

// offerState is nil while nothing is known of the offer.
func offerState(o view.OfferView) *v1alpha1.OfferState {
	if o.Mode == "" && o.Wanted == "" && o.State == "" {
		return nil
	}
	s := &v1alpha1.OfferState{Mode: string(o.Mode), Wanted: string(o.Wanted), State: string(o.State), Message: o.Message}
	for _, r := range o.Served() {
		s.Resources = append(s.Resources, v1alpha1.OfferedResource{Name: r.Name.String(), Registered: r.Registered, Healthy: r.Healthy, Unhealthy: r.Unhealthy})
	}
	return s
}

func devicesReady(devices []nodestate.Device) metav1.Condition {
	var pending, draining []string
	for _, d := range devices {
		switch d.Phase {
		case nodestate.PhaseReady:
		case nodestate.PhaseDraining:
			draining = append(draining, nameOf(d))
		default:
			pending = append(pending, nameOf(d))
		}
	}
	c := metav1.Condition{Type: v1alpha1.ConditionDevicesReady, Status: metav1.ConditionFalse}
	switch {
	case len(pending) > 0:
		c.Reason, c.Message = v1alpha1.ReasonDevicesPending, "not ready for pods yet: "+some(pending)
	case len(draining) > 0:
		c.Reason, c.Message = v1alpha1.ReasonDevicesDraining, "removed, and in use until their pods end: "+some(draining)
	case len(devices) == 0:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonNoDevices, "no NodeENI declares an ENI of this node"
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonAllReady, fmt.Sprintf("%d ready for pods", len(devices))
	}
	return c
}

// nameOf names a device by its ENI, or by its NodeENI if that is unknown.
func nameOf(d nodestate.Device) string {
	if d.ENIID != "" {
		return d.ENIID.String()
	}
	return d.NodeENI
}

// some keeps a message readable; the status has all devices.
func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

func configCurrent(config view.ConfigView) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionConfigCurrent}
	if config.Current {
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonConfigWritten, "the config lists the devices that are ready"
		return c
	}
	c.Status, c.Reason, c.Message = metav1.ConditionFalse, v1alpha1.ReasonConfigOutdated, "the config could not be written; see the problems of this node"
	return c
}

func pluginServing(v view.View) metav1.Condition {
	if v.Offer.Own() {
		return offerServing(v.Offer)
	}
	c := metav1.Condition{
		Type: v1alpha1.ConditionDevicePluginServing, Status: metav1.ConditionFalse, Reason: string(v.Plugin.State), Message: v.Plugin.Message,
	}
	switch v.Plugin.State {
	case view.PluginServing:
		c.Status, c.Message = metav1.ConditionTrue, "the kubelet offers the devices of the config"
	case view.PluginUnknown, view.PluginUnmanaged, "":
		c.Status = metav1.ConditionUnknown
		c.Reason = string(cmp.Or(v.Plugin.State, view.PluginUnknown))
	default: // False, with the state as its reason
	}
	return c
}

func offerServing(o view.OfferView) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionDevicePluginServing, Status: metav1.ConditionFalse, Reason: string(o.State), Message: o.Message}
	switch o.State {
	case view.OfferOffered:
		c.Status, c.Message = metav1.ConditionTrue, "multi-enid itself offers the devices to the kubelet"
	case view.OfferUnknown:
		c.Status = metav1.ConditionUnknown
	default: // False, with the state as its reason
	}
	return c
}

// sameState: the statuses are equal for a reader, for whom an empty list and none are the same.
func sameState(a, b v1alpha1.ENINodeStateStatus) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
