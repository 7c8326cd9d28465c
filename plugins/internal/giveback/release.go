// Package giveback reverses an ADD from its record: device, addresses and files.
package giveback

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containernetworking/cni/pkg/invoke"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/addressing"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/delegation"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
)

// Releaser releases attachments. All fields but Policy are needed.
type Releaser struct {
	Devices *Devices
	Plugins *delegation.Runner
	Leases  addressing.Leases
	Policy  *netconf.Policy
}

// Release reverses every effect that the record's ADD may have had, and removes the record. It
// is idempotent, goes on after errors, and joins them; missing things are no errors. If only a
// plugin's DEL or a lease has failed, the device is free, and the record remains, as released.
func (r *Releaser) Release(ctx context.Context, rec *nodestate.Record, lock DeviceLock) error {
	d, i := r.Devices, r.Plugins.Recorded(rec.Attachment)
	if (rec.Delegate != nil || rec.IPAM != nil) && !d.Alive(rec.Attachment) {
		i.NetNS = "" // the path may lead to another netns by now
	}
	var plugins, back error
	var done bool
	if rec.Delegate != nil {
		done, plugins = r.delDelegate(ctx, rec, i, lock)
	}
	shares := plugins != nil && rec.Mode == nodestate.ModeShared && d.MayBeInPod(rec.Attachment)
	byDelegate := done && netconf.ReleasesAddresses(rec.Delegate.Type)
	freed := func() error { return nil }
	if rec.IPAM != nil && !byDelegate {
		freed = r.freeIPAM(ctx, rec.IPAM, i)
	}
	if rec.State != nodestate.StateReleased && rec.Device.Link != nil && rec.Mode != nodestate.ModeShared {
		back = d.Steps.Do("return", func() error { return d.giveBack(ctx, rec.Attachment, lock) })
	}
	plugins = errors.Join(plugins, freed())
	if rec.Leases != "" && !shares && rec.BootID == d.BootID {
		leases, unused := r.Leases.In(rec.Leases), rec.Result == nil
		plugins = errors.Join(plugins, d.Steps.Do("del-lease", func() error { return leases.GiveBack(ctx, rec.Device.ENIID, rec.AttachmentID, unused) }))
	}
	if rec.DeviceInfoFile != "" && r.Policy.CheckDeviceInfoFile(rec.DeviceInfoFile, rec.AttachmentID) == nil {
		if err := os.Remove(rec.DeviceInfoFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			plugins = errors.Join(plugins, fmt.Errorf("remove device info: %w", err))
		}
	}
	switch {
	case back != nil || shares: // the device is not free, so the record keeps it from others
		return errors.Join(back, plugins)
	case plugins != nil:
		before := rec.State
		rec.State = nodestate.StateReleased
		if err := d.Steps.Do("released", rec.Save); err != nil {
			rec.State = before // as in the file, for the caller
			return errors.Join(plugins, err)
		}
		return plugins
	}
	return d.Steps.Do("forget", rec.Remove)
}

// freeIPAM runs an IPAM plugin's DEL; wait waits for its end. A plugin that may need the interface,
// such as dhcp, ends before freeIPAM does.
func (r *Releaser) freeIPAM(ctx context.Context, d *nodestate.Delegation, i invoke.Args) (wait func() error) {
	del := func() error { return r.Plugins.Run(ctx, "DEL", d, i) }
	if netconf.AddressesAlone(d.Type) {
		return r.Devices.Steps.Start("del-ipam", del)
	}
	err := r.Devices.Steps.Do("del-ipam", del)
	return func() error { return err }
}

// delDelegate runs the delegate's DEL, and reports whether that succeeded. It does not run an
// exclusive delegate, which would reset the device, once another attachment may have that.
func (r *Releaser) delDelegate(ctx context.Context, rec *nodestate.Record, i invoke.Args, lock DeviceLock) (done bool, err error) {
	if rec.State == nodestate.StateReleased && rec.Mode == nodestate.ModeDelegateExclusive {
		unlock, err := r.Devices.lock(ctx, rec.Device.PCIAddress, lock)
		if err != nil {
			return false, err
		}
		defer unlock()
		if passed, err := r.Devices.passedOn(rec.Attachment); err != nil || passed {
			return false, err
		}
	}
	if i.NetNS, err = r.netnsForDelegate(rec.Attachment); err != nil {
		return false, err
	}
	err = r.Devices.Steps.Do("del-delegate", func() error { return r.Plugins.Run(ctx, "DEL", rec.Delegate, i) })
	if err != nil && r.nothingLeft(rec.Attachment, i) {
		r.Devices.Log.WithError(err).Warn("the delegate's DEL failed, but there is nothing left for it to do")
		return false, nil
	}
	return err == nil, err
}

// nothingLeft reports whether a delegate's failed DEL can only have left addresses. A sharing
// delegate is done when the interface is gone: the kernel removes it with its device, without
// which vlan's DEL fails. An exclusive one is done when the PCI function is gone, or if it is
// host-device, which only moves the link; sriov, for one, also changes settings.
func (r *Releaser) nothingLeft(a nodestate.Attachment, i invoke.Args) bool {
	if _, err := r.Plugins.Find(a.Delegate.Type, i); err != nil {
		return false
	}
	if a.Mode == nodestate.ModeShared {
		return !r.Devices.MayBeInPod(a)
	}
	_, err := r.Devices.Sys.PCI(a.Device.PCIAddress)
	return a.Delegate.Type == "host-device" || errors.Is(err, fs.ErrNotExist)
}

// netnsForDelegate returns a path of the netns for a delegate's DEL, or "". DEL goes by CNI_IFNAME,
// so an interface that the pod has renamed gets its name back. If that name is taken, or the
// netns has no path left, an interface on a shared device is deleted here; any other returns to
// the host later.
func (r *Releaser) netnsForDelegate(a nodestate.Attachment) (path string, err error) {
	if a.Device.Link == nil { // a userspace device has no interface
		if r.Devices.Alive(a) {
			path = a.Netns.Path
		}
		return path, nil
	}
	err = r.Devices.InPod(a, func(ns *link.Netns, in *link.Handle, l link.Link) error {
		var renamed error
		if l.Name != a.IfName {
			renamed = in.Rename(l.Index, a.IfName)
		}
		target := r.Devices.Target
		switch pathless := target != nil && ns.Path == target.FDPath(); {
		case renamed != nil && !errors.Is(renamed, link.ErrNameTaken):
			return renamed
		case renamed == nil && !pathless:
			path = ns.Path
		case a.Mode == nodestate.ModeShared:
			return in.Delete(l.Index)
		}
		return nil
	})
	if errors.Is(err, link.ErrNotFound) {
		return "", nil
	}
	return path, err
}
