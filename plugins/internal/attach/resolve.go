package attach

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

// candidate is a device that the netconf may mean. Row is nil for a deviceID
// that no inventory knows.
type candidate struct {
	pci device.PCIAddress
	row *nodestate.Device
}

// candidates returns the usable devices that the netconf selects, sorted by PCI
// address, or why there is none.
func (c *call) candidates() ([]candidate, error) {
	sel := c.cfg.Select
	if sel.ResourceName != "" && c.cfg.DeviceID == "" && !c.anyPod {
		return nil, refusal.New(refusal.NotAllocated, "select.resourceName is %s, but the runtime passed no deviceID: nothing was allocated; "+
			"request the resource in the pod's limits, and give the network attachment definition the annotation k8s.v1.cni.cncf.io/resourceName", sel.ResourceName)
	}
	inv, err := c.inventory()
	if err != nil {
		if sel.Empty() && c.policy == nil { // deviceID alone needs no inventory
			return []candidate{{pci: c.cfg.DeviceID}}, nil
		}
		return nil, err
	}
	if sel.Empty() {
		return c.allocated(inv)
	}
	var matching []nodestate.Device
	for _, d := range inv.Devices {
		if sel.Matches(d) {
			matching = append(matching, d)
		}
	}
	if len(matching) == 0 {
		return nil, refusal.New(refusal.NoDevice, "no device of this node matches select %s; this node has %s", sel, describeRows(inv.Devices))
	}
	return c.usable(matching)
}

// allocated finds the runtime's device in the inventory.
func (c *call) allocated(inv nodestate.Inventory) ([]candidate, error) {
	var matching []nodestate.Device
	for _, d := range inv.Devices {
		if d.PCIAddress == c.cfg.DeviceID {
			matching = append(matching, d)
		}
	}
	if len(matching) > 0 {
		return c.usable(matching)
	}
	if c.policy != nil {
		return nil, &netconf.PolicyError{Rule: "deviceID", Value: c.cfg.DeviceID.String(),
			Advice: "the device is not in the node's inventory; create a NodeENI that declares it"}
	}
	return []candidate{{pci: c.cfg.DeviceID}}, nil
}

// usable drops the rows that may not be used and says why when none is left.
func (c *call) usable(rows []nodestate.Device) ([]candidate, error) {
	var out []candidate
	var refused []error
	for _, d := range rows {
		err := c.refuseRow(d)
		if err != nil {
			refused = append(refused, err)
			continue
		}
		out = append(out, candidate{pci: d.PCIAddress, row: &d})
	}
	if len(out) == 0 {
		return nil, refusal.Worst(refused)
	}
	slices.SortFunc(out, func(a, b candidate) int { return strings.Compare(string(a.pci), string(b.pci)) })
	if c.shares() && len(out) > 1 {
		return nil, refusal.New(refusal.Invalid, "select %s: several devices match, but pods can share only one: %s; add select.subnetID or select.eniID",
			c.cfg.Select, describeRows(rows))
	}
	return out, nil
}

func (c *call) refuseRow(d nodestate.Device) error {
	named := c.cfg.DeviceID != "" && d.PCIAddress == c.cfg.DeviceID
	switch {
	case c.cfg.DeviceID != "" && !named:
		return refusal.New(refusal.NoDevice, "the runtime allocated %s, but select %s matches %s; "+
			"make the network attachment definition's resourceName and select name the same device", c.cfg.DeviceID, c.cfg.Select, describe(d))
	case d.Phase == nodestate.PhaseDraining && !named:
		return refusal.New(refusal.NoDevice, "%s is draining: %s", describe(d), cmp.Or(d.Cause, "no new pod can get it"))
	case d.Phase == nodestate.PhasePending:
		return refusal.New(refusal.TryAgain, "%s is declared but not ready yet; multi-enid status says why", describe(d))
	case d.ResourceName != "" && !named && !c.anyPod:
		return refusal.New(refusal.NotAllocated,
			"%s belongs to resource %s, which the kubelet allocates, but the runtime passed no deviceID; request the resource in the pod's limits, "+
				"and give the network attachment definition the annotation k8s.v1.cni.cncf.io/resourceName: %[2]s", describe(d), d.ResourceName)
	}
	if c.anyPod {
		return nil
	}
	return c.policy.CheckNamespace(d, c.env["K8S_POD_NAMESPACE"])
}

// describe names a device for messages; a row that is pending may lack its ENI.
func describe(d nodestate.Device) string {
	name := "a device whose ENI is not known yet"
	if d.ENIID != "" {
		name = "device " + d.ENIID.String()
	}
	var parts []string
	for _, part := range []string{cmp.Or(d.PCIAddress.String(), "no PCI address yet"), label("NodeENI ", d.NodeENI), d.SubnetID.String(), string(d.Phase)} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return fmt.Sprintf("%s (%s)", name, strings.Join(parts, ", "))
}

func label(what, value string) string {
	if value == "" {
		return ""
	}
	return what + value
}

func describeRows(rows []nodestate.Device) string {
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

// inventory reads the inventory of this boot; its absence means "try again".
func (c *call) inventory() (nodestate.Inventory, error) {
	inv, err := nodestate.ReadInventory(c.paths.Inventory)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return inv, refusal.New(refusal.TryAgain, "no inventory at %s; is multi-enid running on this node?", c.paths.Inventory)
	case err != nil:
		return inv, &refusal.Error{Code: refusal.TryAgain, Msg: "the inventory cannot be used", Err: err}
	case inv.BootID != c.bootID:
		return inv, refusal.New(refusal.TryAgain, "the inventory at %s is from an earlier boot; see that multi-enid runs on this node and writes a new one", c.paths.Inventory)
	}
	return inv, nil
}
