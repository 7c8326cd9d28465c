// Package offer decides which devices the kubelet is offered: the pure part of --offer=deviceplugin.
package offer

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// Device is one device of a resource that the kubelet is offered.
type Device struct {
	Resource device.ResourceName
	// ID is the PCI address, as the SR-IOV device plugin has it: so the kubelet's checkpoint stays valid when the owner
	// of a resource changes.
	ID          device.PCIAddress
	Driver      string // the driver by the inventory; "" for a device that no row has
	NUMANode    int    // -1 when the firmware does not say
	NetworkCard int    // -1 when not known, as DeviceIndex
	DeviceIndex int
	// Unfit says why no new pod may get the device: a clause for people, of stable values. "" for a healthy device.
	Unfit string
}

// Healthy says whether a pod may get the device.
func (d Device) Healthy() bool { return d.Unfit == "" }

// Input is everything that Desired reads. It is not changed.
type Input struct {
	Rows []nodestate.Device // the inventory's
	// Functions are the machine's PCI functions. A row's device that is not among them, or has another driver, is unfit.
	Functions map[device.PCIAddress]sysfs.PCIFunction
	// Names are the resources that the daemon serves. A name stays for as long as a pod holds one of its devices.
	Names []device.ResourceName
	// Kubelet has the kubelet's allocations. Unknown: all of Names stay, and nothing is added. Nil: there is no kubelet
	// to ask, so nobody holds a device.
	Kubelet *inventory.Fact[inventory.Kubelet]
	// NoPods says that Kubelet is unknown because the kubelet lists no pod: it may have none, so that devices are added,
	// and it may not know its pods yet, so that nothing is taken away.
	NoPods bool
	Before []Device // the devices listed until now
	// Given are devices that a container was given a moment ago, and its resource: the kubelet may not list it as a holder
	// yet.
	Given map[device.PCIAddress]device.ResourceName
	// Recorded are the devices that attachment records hold. Another pod's device is not added.
	Recorded map[device.PCIAddress]bool
	// Twice says whether the device plugin's config offers the resource or the device, too. Such a device is not added.
	// Nil: it offers none.
	Twice func(name device.ResourceName, pci device.PCIAddress) bool
}

// Offer is the result of Desired.
type Offer struct {
	Names   []device.ResourceName // the resources to serve, sorted, perhaps without a device
	Devices []Device              // sorted by resource, network card, device index and address
	// Withheld are healthy devices that are not added, each with the reason in Unfit, in the order of Devices.
	Withheld []Device
	// Asks says that the result may be another one once the kubelet's allocations are known.
	Asks bool
	// Later says that a later answer of the kubelet may change the result, as when a pod ends: no event reports that.
	Later bool
}

// Desired returns the resources and devices to offer.
//
// A row with a resource name and a PCI address is a device. It is listed once it is healthy, and then for as long as
// it has a row or a holder. A device that a pod holds under one of Names and that has no row is listed as unfit.
func Desired(in Input) Offer {
	d := desired{Input: in, listed: map[device.PCIAddress]bool{}, before: map[device.PCIAddress]Device{}}
	for _, b := range in.Before {
		d.before[b.ID] = b
	}
	d.addHeldAsOther()
	for i := range in.Rows {
		if row := &in.Rows[i]; row.ResourceName != "" && row.PCIAddress != "" && !d.listed[row.PCIAddress] {
			d.addRow(d.device(row))
			// A pod may have got it before its resource was ours.
			d.out.Asks = d.out.Asks || d.unasked() && row.Phase == nodestate.PhaseDraining && !d.listed[row.PCIAddress]
		}
	}
	d.addRowless()
	for _, dev := range d.out.Devices {
		d.out.Names = append(d.out.Names, dev.Resource)
	}
	for _, name := range in.Names {
		if slices.Contains(d.out.Names, name) {
			continue
		}
		d.out.Asks = d.out.Asks || d.unasked()
		// A pod may have a device as this resource that is listed as another.
		if d.unasked() || d.Kubelet != nil && len(d.Kubelet.Value.Held[name]) > 0 {
			d.out.Names = append(d.out.Names, name)
		}
	}
	slices.Sort(d.out.Names)
	d.out.Names = slices.Compact(d.out.Names)
	slices.SortFunc(d.out.Devices, compare)
	slices.SortFunc(d.out.Withheld, compare)
	return d.out
}

type desired struct {
	Input
	out    Offer
	listed map[device.PCIAddress]bool
	before map[device.PCIAddress]Device
}

// unasked says that there is a kubelet, and its allocations are unknown.
func (d *desired) unasked() bool { return d.Kubelet != nil && !d.Kubelet.Known }

// heldAs returns the resource under which a pod holds a device; "" for none. If pods hold it under several, it is another
// one than own, the first by name.
func (d *desired) heldAs(pci device.PCIAddress, own device.ResourceName) (held device.ResourceName) {
	if held = d.Given[pci]; held != "" && held != own || d.Kubelet == nil {
		return held
	}
	for _, name := range slices.Sorted(maps.Keys(d.Kubelet.Value.Held)) {
		if slices.Contains(d.Kubelet.Value.Held[name], pci) {
			if held = name; name != own {
				return name
			}
		}
	}
	return held
}

// offeredAs returns the first other resource than own under which the kubelet may give a device to a pod; "" for none.
func (d *desired) offeredAs(pci device.PCIAddress, own device.ResourceName) device.ResourceName {
	if d.Kubelet == nil {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(d.Kubelet.Value.Allocatable)) {
		if name != own && slices.Contains(d.Kubelet.Value.Allocatable[name], pci) {
			return name
		}
	}
	return ""
}

func (d *desired) list(dev Device) {
	d.listed[dev.ID] = true
	d.out.Devices = append(d.out.Devices, dev)
}

// addHeldAsOther lists devices that a pod holds under a resource of ours that is no longer their row's.
func (d *desired) addHeldAsOther() {
	for i := range d.Rows {
		row := &d.Rows[i]
		held := d.heldAs(row.PCIAddress, row.ResourceName)
		if was := d.before[row.PCIAddress]; d.unasked() || held == "" && was.Healthy() {
			held = was.Resource // the kubelet may be giving it to a pod at this moment, so it is unfit first
		}
		if row.PCIAddress == "" || held == "" || held == row.ResourceName || d.listed[row.PCIAddress] || !slices.Contains(d.Names, held) {
			continue
		}
		d.out.Asks, d.out.Later = d.out.Asks || d.unasked(), true
		dev := d.device(row)
		if own := dev; own.Healthy() && own.Resource != "" {
			own.Unfit = fmt.Sprintf("a pod may have it as %s", held)
			d.out.Withheld = append(d.out.Withheld, own) // so that the next daemon does not offer it at its start
		}
		dev.Resource, dev.Unfit = held, fmt.Sprintf("its resource is %q now, and a pod may have it as %s", row.ResourceName, held)
		d.list(dev)
	}
}

func (d *desired) addRow(dev Device) {
	was, listed := d.before[dev.ID]
	listed = listed && was.Resource == dev.Resource
	held := d.heldAs(dev.ID, dev.Resource)
	twice := d.Twice != nil && d.Twice(dev.Resource, dev.ID)
	switch {
	case !dev.Healthy():
		if listed || held == dev.Resource {
			d.list(dev)
		}
		return
	case held != "" && held != dev.Resource:
		d.out.Later = true
		dev.Unfit = fmt.Sprintf("a pod has it as %s", held)
	case listed && was.Healthy(), held == dev.Resource && slices.Contains(d.Names, held):
		d.list(dev)
		return
	case d.unasked() && !d.NoPods:
		dev.Unfit, d.out.Asks = "the kubelet cannot be asked who has it", true
	case d.Recorded[dev.ID] && held == "":
		d.out.Later = true
		dev.Unfit = "a pod has it without the kubelet's knowledge"
	case twice:
		dev.Unfit = "the device plugin's config offers it, too"
	case d.offeredAs(dev.ID, dev.Resource) != "":
		d.out.Later = true
		dev.Unfit = fmt.Sprintf("the kubelet has it as %s", d.offeredAs(dev.ID, dev.Resource))
	default:
		d.list(dev)
		return
	}
	d.out.Withheld = append(d.out.Withheld, dev)
	// The SR-IOV device plugin may list it: the kubelet must not find it in no list of a resource that is served.
	if listed || slices.Contains(d.Names, dev.Resource) && !twice && d.offeredAs(dev.ID, dev.Resource) == "" {
		d.list(dev)
	}
}

// addRowless lists devices without a row that a pod holds, or may hold, or that the kubelet still offers.
func (d *desired) addRowless() {
	for _, name := range d.Names {
		var held []device.PCIAddress
		if d.Kubelet != nil { // another plugin's devices, too: the kubelet may be giving one to a pod at this moment
			held = slices.Concat(d.Kubelet.Value.Held[name], d.Kubelet.Value.Allocatable[name])
		}
		for pci, given := range d.Given {
			if given == name {
				held = append(held, pci)
			}
		}
		for _, pci := range held {
			if !d.listed[pci] {
				d.list(d.rowless(name, pci))
			}
		}
	}
	for _, b := range d.Before {
		if d.unasked() && !d.listed[b.ID] {
			d.out.Asks = true
			d.list(d.rowless(b.Resource, b.ID))
		}
	}
}

func (d *desired) rowless(name device.ResourceName, pci device.PCIAddress) Device {
	was := d.before[pci]
	dev := Device{Resource: name, ID: pci, NUMANode: -1, NetworkCard: -1, DeviceIndex: -1, Unfit: "no NodeENI declares it"}
	if was.Resource == name {
		dev.Driver, dev.NUMANode, dev.NetworkCard, dev.DeviceIndex = was.Driver, was.NUMANode, was.NetworkCard, was.DeviceIndex
	}
	return dev
}

// device returns a row's device, unfit if the row or sysfs says so.
func (d *desired) device(row *nodestate.Device) Device {
	dev := Device{
		Resource: row.ResourceName, ID: row.PCIAddress, Driver: row.Driver, NUMANode: -1, NetworkCard: row.NetworkCard, DeviceIndex: row.DeviceIndex,
	}
	fn, there := d.Functions[row.PCIAddress]
	if there {
		dev.NUMANode = fn.NUMANode
	}
	switch {
	case row.Phase == nodestate.PhaseDraining:
		dev.Unfit = cmp.Or(row.Cause, "it is draining")
	case row.Phase != nodestate.PhaseReady:
		dev.Unfit = "it is not ready"
	case !there:
		dev.Unfit = "its PCI function is gone"
	case fn.Driver != row.Driver || fn.Driver == "":
		dev.Unfit = fmt.Sprintf("its driver is %q, not %q", fn.Driver, row.Driver)
	}
	return dev
}

// Offered returns the devices that the rows of this boot's inventory stand for when the daemon has just started: each
// row that was ready, or drains, and was not withheld, of one of the served names.
func Offered(rows []nodestate.Device, names []device.ResourceName, withheld []device.PCIAddress) []Device {
	var all []Device
	for i := range rows {
		row := &rows[i]
		if row.Phase != nodestate.PhasePending && row.PCIAddress != "" && slices.Contains(names, row.ResourceName) && !slices.Contains(withheld, row.PCIAddress) {
			all = append(all, Device{
				Resource: row.ResourceName, ID: row.PCIAddress, Driver: row.Driver, NUMANode: -1, NetworkCard: row.NetworkCard, DeviceIndex: row.DeviceIndex,
			})
		}
	}
	return all
}

// compare orders devices by resource, then as a pod should get them.
func compare(a, b Device) int { return cmp.Or(cmp.Compare(a.Resource, b.Resource), prefer(a, b)) }

// prefer orders by network card, then device index, then address; unknown numbers come last.
func prefer(a, b Device) int {
	last := func(n int) uint { return uint(n) } //nolint:gosec // -1 becomes the largest
	return cmp.Or(cmp.Compare(last(a.NetworkCard), last(b.NetworkCard)), cmp.Compare(last(a.DeviceIndex), last(b.DeviceIndex)), cmp.Compare(a.ID, b.ID))
}

// Preferred chooses size of the available devices: first those that must be included, then by network card and device
// index. Devices that are not among the known ones come last.
func Preferred(known []Device, available, must []string, size int) []string {
	place := make(map[string]Device, len(known))
	for _, d := range known {
		place[d.ID.String()] = d
	}
	rest := slices.DeleteFunc(slices.Clone(available), func(id string) bool { return slices.Contains(must, id) })
	slices.SortFunc(rest, func(a, b string) int {
		da, knowsA := place[a]
		db, knowsB := place[b]
		switch {
		case knowsA && knowsB:
			return prefer(da, db)
		case knowsA:
			return -1
		case knowsB:
			return 1
		}
		return cmp.Compare(a, b)
	})
	chosen := slices.Concat(slices.Sorted(slices.Values(must)), slices.Compact(rest))
	return chosen[:max(0, min(size, len(chosen)))]
}

// State is the state of the servers of the daemon's resources.
type State struct {
	Resources []Resource // by name
	// Given are the devices that a container was given a moment ago, with their resources.
	Given map[device.PCIAddress]device.ResourceName
	// Sent says that each listening kubelet has been sent the devices of the last Set.
	Sent bool
	// Kubelet identifies the kubelet that listens at the registration socket; "" for none.
	Kubelet string
	// Registrations counts the accepted registrations since the start.
	Registrations int
}

// Registered says whether the kubelet listens to each resource.
func (s State) Registered() bool {
	return !slices.ContainsFunc(s.Resources, func(r Resource) bool { return !r.Registered })
}

// Detached says whether the kubelet would not notice the end of a resource's server.
func (s State) Detached() bool {
	return slices.ContainsFunc(s.Resources, func(r Resource) bool { return r.Detached })
}

// Resource is the state of one resource's server.
type Resource struct {
	Name               device.ResourceName
	Registered         bool // a kubelet listens to the list of devices
	Lingering          bool // the kubelet is not asked to listen again once it stops
	Detached           bool // the kubelet would not notice the end of the server
	Healthy, Unhealthy int
	Fault              error // why the kubelet has not accepted the resource; nil for none
	InfoFault          error // why device-info files could not be written; nil for none
}
