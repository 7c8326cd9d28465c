package nodeeni

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// slotEntry is one readable entry of the controller's list; immutable.
type slotEntry struct {
	inventory.Entry
	instance string
	wire     v1alpha1.AttachmentEntry
}

// unreadEntry is an entry that cannot be understood. Of its fields only those are set that can, or could in an earlier version.
type unreadEntry struct {
	slot, nodeENI string
	eni           device.ENIID
	fault         string
}

func (u *unreadEntry) problem() nodestate.Problem {
	return nodestate.Problem{
		Reason: reason.EntryUnreadable, NodeENI: u.nodeENI, Device: u.eni.String(),
		Message: fmt.Sprintf("the controller's entry for slot %q cannot be read (%s); its device stays as it is; run controller and daemon of one version",
			u.slot, u.fault),
	}
}

// readEntry reads one entry; before is the last readable version of each slot.
func readEntry(raw []byte, before map[string]*slotEntry) (*slotEntry, *unreadEntry) {
	var wire v1alpha1.AttachmentEntry
	err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &wire)
	if err == nil {
		var e *slotEntry
		if e, err = newSlotEntry(wire); err == nil {
			return e, nil
		}
	}
	var part struct {
		Slot, ENIID json.RawMessage
		NodeENI     struct{ Name json.RawMessage }
	}
	_ = json.Unmarshal(raw, &part) // another shape tells nothing
	text := func(raw json.RawMessage) (s string) {
		_ = json.Unmarshal(raw, &s) // no text is ""
		return s
	}
	u := &unreadEntry{slot: text(part.Slot), nodeENI: text(part.NodeENI.Name), fault: err.Error()}
	u.eni, _ = device.ParseENIID(text(part.ENIID))
	if b := before[u.slot]; b != nil && u.slot != "" {
		u.nodeENI, u.eni = cmp.Or(u.nodeENI, b.NodeENI), cmp.Or(u.eni, b.ENI.ID)
	}
	return nil, u
}

// newSlotEntry reads the values of an entry. The error names the field.
func newSlotEntry(a v1alpha1.AttachmentEntry) (*slotEntry, error) {
	var errs []error
	fault := func(field, value string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %q: %w", field, value, err))
		}
	}
	e := &slotEntry{wire: a, instance: a.InstanceID, Entry: inventory.Entry{
		Slot: a.Slot, NodeENI: a.NodeENI.Name, Released: a.Wanted == v1alpha1.WantedReleased, Release: a.Release,
		Phase: a.Phase, Reason: a.Reason, Message: a.Message,
	}}
	e.ENI.DeviceIndex, e.ENI.NetworkCard = a.DeviceIndex, a.NetworkCard
	var err error
	if a.Slot == "" || a.NodeENI.Name == "" {
		fault("slot", a.Slot, errNoName)
	}
	if !e.Released && a.Wanted != v1alpha1.WantedAttached {
		fault("wanted", a.Wanted, errWanted)
	}
	if a.ENIID != "" {
		e.ENI.ID, err = device.ParseENIID(a.ENIID)
		fault("eniID", a.ENIID, err)
	}
	if a.MAC != "" {
		e.ENI.MAC, err = device.ParseMAC(a.MAC)
		fault("mac", a.MAC, err)
	}
	e.ENI.SubnetID, _ = device.ParseSubnetID(a.SubnetID) // it only describes the row
	if a.SubnetCIDR != "" {
		e.ENI.SubnetCIDR, err = netip.ParsePrefix(a.SubnetCIDR)
		fault("subnetCIDR", a.SubnetCIDR, err)
	}
	for _, text := range a.Addresses {
		ip, err := netip.ParseAddr(text)
		fault("addresses", text, err)
		e.ENI.Addresses = append(e.ENI.Addresses, netip.PrefixFrom(ip, length(ip, e.ENI.SubnetCIDR)))
	}
	for _, text := range a.Prefixes {
		p, err := netip.ParsePrefix(text)
		fault("prefixes", text, err)
		e.ENI.Prefixes = append(e.ENI.Prefixes, p)
	}
	return e, errors.Join(errs...)
}

var (
	errNoName = errors.New("want a slot and the name of its NodeENI")
	errWanted = errors.New("want Attached or Released")
)

// subnetIPv6 is the usual length of a subnet's IPv6 range in EC2. The metadata correct another one later.
const subnetIPv6 = 64

func length(ip netip.Addr, subnet netip.Prefix) int {
	switch {
	case subnet.Contains(ip):
		return subnet.Bits()
	case ip.Is6():
		return subnetIPv6
	}
	return ip.BitLen()
}

// objectsOf returns the NodeENIs that the entries copy, sorted by name. Of several versions the newest counts.
func objectsOf(entries []*slotEntry) []v1alpha1.NodeENI {
	newest := map[string]*v1alpha1.AttachmentEntry{}
	for _, e := range entries {
		if n := newest[e.NodeENI]; !e.Released && (n == nil || n.NodeENI.Generation < e.wire.NodeENI.Generation) {
			newest[e.NodeENI] = &e.wire
		}
	}
	all := make([]v1alpha1.NodeENI, 0, len(newest))
	for _, name := range slices.Sorted(maps.Keys(newest)) {
		a := newest[name]
		o := v1alpha1.NodeENI{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(a.NodeENI.UID), Generation: a.NodeENI.Generation}}
		o.Spec = v1alpha1.NodeENISpec{
			MTU: a.MTU, EnableDPDK: a.EnableDPDK, DPDKDriver: a.DPDKDriver, DPDKPCIAddress: a.DPDKPCIAddress, DPDKResourceName: a.ResourceName,
		}
		if a.AllowedNamespaces != nil {
			o.Annotations = map[string]string{v1alpha1.AnnotationAllowedNamespaces: *a.AllowedNamespaces}
		}
		all = append(all, o)
	}
	return all
}
