// Package giveback takes an attachment's device, addresses and files back: it reverses an
// ADD from its record.
package giveback

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

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

// Release reverses every effect that the record's ADD had or may have had, and then
// removes the record. It is idempotent, goes on after errors, and joins them; a missing
// thing is not an error. If only the DEL of a plugin or a lease has failed, the device is
// free, and the record remains as released for the next DEL.
func (r *Releaser) Release(ctx context.Context, rec *nodestate.Record, lock DeviceLock) error {
	d, i := r.Devices, r.Plugins.Recorded(rec.Attachment)
	if (rec.Delegate != nil || rec.IPAM != nil) && !d.Alive(rec.Attachment) {
		i.Netns = "" // the path may lead to another netns by now
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

// freeIPAM runs an IPAM plugin's DEL; wait waits for its end. The DEL of a plugin that may
// need the interface, such as dhcp, ends before the device leaves the pod.
func (r *Releaser) freeIPAM(ctx context.Context, d *nodestate.Delegation, i delegation.Invocation) (wait func() error) {
	del := func() error { return r.Plugins.Run(ctx, "DEL", d, i) }
	if netconf.AddressesAlone(d.Type) {
		return r.Devices.Steps.Start("del-ipam", del)
	}
	err := r.Devices.Steps.Do("del-ipam", del)
	return func() error { return err }
}
