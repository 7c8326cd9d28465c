package hold

import (
	"errors"
	"io/fs"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/selection"
)

// Fit tells which devices a netconf can use, without changing anything. All fields are needed.
type Fit struct {
	Config *netconf.Config
	Host   *link.Handle
	Sys    sysfs.FS
}

// Check returns an error if a device, held or not, fits no pod of the netconf.
func (f *Fit) Check(cand selection.Candidate) error {
	fn, err := f.function(cand.PCI)
	if err != nil {
		return err
	}
	if l, err := f.Host.FindDevice(f.Sys, fn, attached(cand, fn)); err == nil { // else a pod may have it
		if _, err := f.routed(cand, l); err != nil {
			return err
		}
	}
	if fn.UserspaceDriver() {
		return f.checkUserspace(cand.PCI, fn)
	}
	return f.checkDelegate(cand.PCI, fn)
}

// function returns a device's PCI function if a pod can get it.
func (f *Fit) function(pci device.PCIAddress) (fn sysfs.PCIFunction, err error) {
	fn, err = f.Sys.PCI(pci)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = refusal.New(refusal.OtherDevice, "device %s is gone: there is no such PCI function; attach the ENI again, or select another device", pci)
	case err != nil:
	case fn.IsEFA():
		err = refusal.New(refusal.Unsupported, "device %s is an Elastic Fabric Adapter, which CNI cannot give to a pod; select an ENI", pci)
	case len(fn.VirtFns) > 0 && !f.Config.Shares():
		err = refusal.New(refusal.Unsupported,
			"device %s is a physical function, and its %d virtual functions would stop working; select one of these, or write 0 to its sriov_numvfs first",
			pci, len(fn.VirtFns))
	}
	return fn, err
}

func (f *Fit) checkUserspace(pci device.PCIAddress, fn sysfs.PCIFunction) error {
	d := f.Config.Delegate
	if d != nil && (d.Shared || d.NeedsLink()) {
		return refusal.New(refusal.Unsupported, "delegate %s needs a kernel interface, but device %s is bound to %s; "+
			"leave the delegate out, or select a kernel device", d.Type, pci, fn.Driver)
	}
	return f.checkDelegate(pci, fn)
}

func (f *Fit) checkDelegate(pci device.PCIAddress, fn sysfs.PCIFunction) error {
	d := f.Config.Delegate
	switch {
	case d == nil:
		return nil
	case d.Type == kindMacvlan && fn.Driver == "ena" && !d.Passthru():
		return refusal.New(refusal.Unsupported, "delegate macvlan gives each pod its own MAC address, and the VPC drops its packets on device %s (driver ena); "+
			`use ipvlan, or "mode":"passthru"`, pci)
	case d.Type == "sriov" && fn.PhysFn == "":
		return refusal.New(refusal.Unsupported, "delegate sriov needs a virtual function, and device %s has no physfn; use host-device or no delegate", pci)
	}
	return nil
}

// routed refuses a link whose default routes of the host's main table the node needs, and reports
// whether it has any: a move takes them along, and clearRoutes removes them for sharing pods.
//
// The node needs the only route of a family, and one with other next hops: the kernel deletes
// such an IPv4 route as a whole when one of its links leaves (fib_sync_down_dev, see
// docs/adr/0028-host-routes-of-declared-enis.md). It needs every route of a device outside the
// inventory, which may be the primary ENI.
func (f *Fit) routed(cand selection.Candidate, l link.Link) (routed bool, err error) {
	all, err := f.Host.DefaultRoutes()
	if err != nil {
		return false, err
	}
	own := all.Of(l.Index)
	if len(own) == 0 {
		return false, nil
	}
	if cand.Row == nil {
		return true, refusal.New(refusal.Unsupported, "device %s (%s) carries the host's %s in the main table, and no NodeENI declares it, "+
			"so it may be the primary ENI; declare it by a NodeENI, or remove that route", cand.PCI, l.Name, own[0])
	}
	if only, yes := all.Only(l.Index); yes {
		return true, refusal.New(refusal.Unsupported, "device %s (%s) carries the host's only %s in the main table, and the node would lose it; "+
			"add one through another link, or remove the route", cand.PCI, l.Name, only)
	}
	if all.SharedBy(l.Index) {
		return true, refusal.New(refusal.Unsupported, "device %s (%s) is one of several next hops of the host's %s in the main table, "+
			"and removing it would remove the others; remove that next hop from the route", cand.PCI, l.Name, own[0])
	}
	return true, nil
}

// checkMAC refuses a requested MAC that the pod would not get, or could not receive with.
func (f *Fit) checkMAC(d *Device) error {
	own := d.Link.MAC
	if d.Link.Index == 0 && d.Row != nil {
		own = d.Row.MAC
	}
	want, by := f.Config.MAC, f.Config.Delegate
	switch {
	case want == "" || want == own:
		return nil
	case by == nil || d.Function.Driver == "ena":
		return refusal.New(refusal.Unsupported, "MAC %s was requested, but device %s has %s, and the VPC delivers to no other; remove the request", want,
			d.Function.Address, own)
	case !by.TakesMAC():
		return refusal.New(refusal.Unsupported, "MAC %s was requested, but delegate %s keeps the MAC of the device, %s; remove the request", want, by.Type, own)
	}
	return nil
}

// clearRoutes removes the main table's default routes through a shared link, which the node's own
// packets would take. Hold the device lock exclusively.
func (h *Holder) clearRoutes(cand selection.Candidate, l link.Link) error {
	err := h.Steps.Do("routes", func() error {
		n, err := h.Fit.Host.RemoveDefaultRoutes(l.Index)
		if n > 0 {
			h.Log.WithField("interface", l.Name).WithField("routes", n).Info("default routes removed from the host's main table")
		}
		return err
	})
	if err != nil { // the daemon repeats it
		return refusal.New(refusal.TryAgain, "device %s (%s) has a default route in the host's main table that cannot be removed now; "+
			"each ADD and the daemon try again: %w", cand.PCI, l.Name, err)
	}
	return nil
}
