package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// findConflicts reads the config for entries that offer a resource or a device of ours.
func (o *offering) findConflicts(devices []nodestate.Device, config *pluginConfig, src inventory.Sources) {
	o.conflicts, o.unsure = config.file.Conflicts(pcidp.Request{
		Entries: pcidp.Desired(devices), Owned: o.files.Checkpoint.OwnedResources, Node: config.node(src),
	})
}

// twice says whether a device must not be added, because the device plugin may offer it.
func (o *offering) twice(name device.ResourceName, pci device.PCIAddress) bool {
	return o.unsure != nil || slices.ContainsFunc(o.conflicts, func(c pcidp.Conflict) bool {
		return c.Resource == name && (c.Device == "" || c.Device == pci)
	})
}

func (o *offering) reportConflicts() {
	if !o.serves() && !o.refused {
		o.conflicts, o.unsure = nil, nil
	}
	then := "the daemon does not add what is new of it"
	if o.refused {
		then = "the SR-IOV device plugin goes on offering this node's devices"
	}
	for _, c := range o.conflicts {
		what := fmt.Sprintf("has the name of resource %s", c.Resource)
		if c.Device != "" {
			what = fmt.Sprintf("also matches %s of resource %s", c.Device, c.Resource)
		}
		o.problems = append(o.problems, problem.On(cmp.Or(c.Device.String(), c.Resource.String()), reason.OfferedTwice,
			"entry %s of the device plugin config %s, so %s; delete the entry, or narrow its selectors", c.Entry, what, then))
	}
}

func (o *offering) reportFaults() {
	for _, r := range o.server.State().Resources {
		if r.InfoFault != nil {
			o.problems = append(o.problems, problem.On(r.Name.String(), reason.DeviceInfoUnwritable,
				"device-info files of %s cannot be written, so no pod gets its devices; mount the host's folder writable, or correct --device-info-dir", r.Name).
				With(r.InfoFault))
		}
		var other interface{ NotTaken() bool }
		switch {
		case r.Fault == nil:
		case errors.As(r.Fault, &other):
			o.problems = append(o.problems, problem.On(r.Name.String(), reason.OfferNotTaken, "%v", r.Fault))
		default:
			o.problems = append(o.problems, problem.On(r.Name.String(), reason.NotRegistered,
				"resource %s is not registered with the kubelet, so no pod gets its devices: %v", r.Name, r.Fault))
		}
	}
}
