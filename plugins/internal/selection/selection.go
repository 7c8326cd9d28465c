// Package selection finds the devices of the node that a netconf may mean.
package selection

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// Candidate is a device that the netconf may mean.
type Candidate struct {
	PCI device.PCIAddress
	Row *nodestate.Device // nil if the inventory does not list the device
}

// Selector selects devices for one call. All fields but Policy and Namespace are needed.
type Selector struct {
	Config *netconf.Config
	Policy *netconf.Policy
	// Inventory is a path, and Namespace the pod's, "" if unknown.
	Inventory, BootID, Namespace string
	// AnyPod ignores the kubelet's allocation and the pod's namespace: for STATUS.
	AnyPod bool
}

// Candidates returns the usable devices that the netconf selects, at least one, by PCI address.
func (s *Selector) Candidates() ([]Candidate, error) {
	sel := s.Config.Select
	if sel.ResourceName != "" && s.Config.DeviceID == "" && !s.AnyPod {
		return nil, refusal.New(refusal.NotAllocated, "select.resourceName is %s, but the runtime passed no deviceID: nothing was allocated; "+
			"request the resource in the pod's limits, and give the network attachment definition the annotation k8s.v1.cni.cncf.io/resourceName", sel.ResourceName)
	}
	inv, err := ReadInventory(s.Inventory, s.BootID)
	if err != nil {
		if sel.Empty() && s.Policy == nil { // deviceID alone needs no inventory
			return []Candidate{{PCI: s.Config.DeviceID}}, nil
		}
		return nil, err
	}
	if sel.Empty() {
		return s.allocated(inv)
	}
	var matching []nodestate.Device
	for _, d := range inv.Devices {
		if sel.Matches(d) {
			matching = append(matching, d)
		}
	}
	if len(matching) == 0 {
		return nil, refusal.New(refusal.NoDevice, "no device of this node matches select %s; this node has %s", sel, DescribeRows(inv.Devices))
	}
	return s.usable(matching)
}

func (s *Selector) allocated(inv nodestate.Inventory) ([]Candidate, error) {
	var matching []nodestate.Device
	for _, d := range inv.Devices {
		if d.PCIAddress == s.Config.DeviceID {
			matching = append(matching, d)
		}
	}
	if len(matching) > 0 {
		return s.usable(matching)
	}
	if s.Policy != nil {
		return nil, &netconf.PolicyError{Rule: "deviceID", Value: s.Config.DeviceID.String(),
			Advice: "the device is not in the node's inventory; create a NodeENI that declares it"}
	}
	return []Candidate{{PCI: s.Config.DeviceID}}, nil
}

// usable drops the rows that may not be used. If none is left, the error tells why.
func (s *Selector) usable(rows []nodestate.Device) ([]Candidate, error) {
	var out []Candidate
	var refused []error
	for _, d := range rows {
		err := s.refuseRow(d)
		if err != nil {
			refused = append(refused, err)
			continue
		}
		out = append(out, Candidate{PCI: d.PCIAddress, Row: &d})
	}
	if len(out) == 0 {
		return nil, refusal.Worst(refused)
	}
	slices.SortFunc(out, func(a, b Candidate) int { return strings.Compare(string(a.PCI), string(b.PCI)) })
	if s.Config.Shares() && len(out) > 1 {
		return nil, refusal.New(refusal.Invalid, "select %s: several devices match, but pods can share only one: %s; add select.subnetID or select.eniID",
			s.Config.Select, DescribeRows(rows))
	}
	return out, nil
}

func (s *Selector) refuseRow(d nodestate.Device) error {
	named := s.Config.DeviceID != "" && d.PCIAddress == s.Config.DeviceID
	switch {
	case s.Config.DeviceID != "" && !named:
		return refusal.New(refusal.NoDevice, "the runtime allocated %s, but select %s matches %s; "+
			"make the network attachment definition's resourceName and select name the same device", s.Config.DeviceID, s.Config.Select, describe(d))
	case d.Phase == nodestate.PhaseDraining && !named:
		return refusal.New(refusal.NoDevice, "%s is draining: %s", describe(d), cmp.Or(d.Cause, "no new pod can get it"))
	case d.Phase == nodestate.PhasePending:
		return refusal.New(refusal.TryAgain, "%s is declared but not ready yet; multi-enid status says why", describe(d))
	case d.ResourceName != "" && !named && !s.AnyPod:
		return refusal.New(refusal.NotAllocated,
			"%s belongs to resource %s, which the kubelet allocates, but the runtime passed no deviceID; request the resource in the pod's limits, "+
				"and give the network attachment definition the annotation k8s.v1.cni.cncf.io/resourceName: %[2]s", describe(d), d.ResourceName)
	}
	if s.AnyPod {
		return nil
	}
	return s.Policy.CheckNamespace(d, s.Namespace)
}

// describe names a device for messages. A pending row may lack its ENI and PCI address.
func describe(d nodestate.Device) string {
	name := "a device whose ENI is not known yet"
	if d.ENIID != "" {
		name = "device " + d.ENIID.String()
	}
	var parts []string
	for _, part := range []string{cmp.Or(d.PCIAddress.String(), "no PCI address yet"), "NodeENI " + d.NodeENI, d.SubnetID.String(), string(d.Phase)} {
		if part != "" && part != "NodeENI " {
			parts = append(parts, part)
		}
	}
	return fmt.Sprintf("%s (%s)", name, strings.Join(parts, ", "))
}

// DescribeRows names devices for messages.
func DescribeRows(rows []nodestate.Device) string {
	if len(rows) == 0 {
		return "no devices at all"
	}
	const most = 8
	var parts []string
	for _, d := range rows[:min(most, len(rows))] {
		parts = append(parts, describe(d))
	}
	if n := len(rows) - most; n > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(parts, ", ")
}

// ReadInventory reads the inventory of this boot. Without one, the error has the code TryAgain.
func ReadInventory(path, bootID string) (nodestate.Inventory, error) {
	inv, err := nodestate.ReadInventory(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return inv, refusal.New(refusal.TryAgain, "no inventory at %s; is multi-enid running on this node?", path)
	case err != nil:
		return inv, refusal.New(refusal.TryAgain, "the inventory cannot be used: %w", err)
	case inv.BootID != bootID:
		return inv, refusal.New(refusal.TryAgain, "the inventory at %s is from an earlier boot; see that multi-enid runs on this node and writes a new one", path)
	}
	return inv, nil
}
