package giveback

import (
	"context"
	"errors"
	"io/fs"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/delegation"
)

// delDelegate runs the delegate's DEL, and reports whether that succeeded. If the record
// is released already and another attachment may have the device, it does not run an
// exclusive delegate, which would reset the device.
func (r *Releaser) delDelegate(ctx context.Context, rec *nodestate.Record, i delegation.Invocation, lock DeviceLock) (done bool, err error) {
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
	if i.Netns, err = r.netnsForDelegate(rec.Attachment); err != nil {
		return false, err
	}
	err = r.Devices.Steps.Do("del-delegate", func() error { return r.Plugins.Run(ctx, "DEL", rec.Delegate, i) })
	if err != nil && r.nothingLeft(rec.Attachment, i) {
		r.Devices.Log.WithError(err).Warn("the delegate's DEL failed, but there is nothing left for it to do")
		return false, nil
	}
	return err == nil, err
}

// nothingLeft reports whether the failed DEL of a delegate has nothing to do but to release
// addresses. A sharing delegate is done when the interface is gone: the kernel removes it
// with its device, and vlan's DEL fails without the device. An exclusive delegate is done
// when the PCI function is gone, or if it is host-device, which only moves the link. Others,
// such as sriov, have also changed settings.
func (r *Releaser) nothingLeft(a nodestate.Attachment, i delegation.Invocation) bool {
	if _, err := r.Plugins.Find(a.Delegate.Type, i); err != nil {
		return false
	}
	if a.Mode == nodestate.ModeShared {
		return !r.Devices.MayBeInPod(a)
	}
	_, err := r.Devices.Sys.PCI(a.Device.PCIAddress)
	return a.Delegate.Type == "host-device" || errors.Is(err, fs.ErrNotExist)
}

// netnsForDelegate returns a path of the netns for a delegate's DEL, or "". DEL removes the
// interface CNI_IFNAME, so an interface that the pod has renamed gets its name back. If
// another interface has the name, or the netns has no path left, an interface on a shared
// device is deleted here. Any other interface returns to the host later.
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
