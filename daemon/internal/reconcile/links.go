package reconcile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// claimTimeout bounds the wait for a device's claim lock. A plugin that has it
// is at work on the device; what we wanted is then done by a later Sync.
const claimTimeout = 200 * time.Millisecond

// errNotOurs: a pod has the device, or its link is not there any more.
var errNotOurs = errors.New("the device is not ours to change now")

// configureLinks brings the links up that no pod holds: MTU, then up. It says whether
// anything was changed.
func (r *Reconciler) configureLinks(ctx context.Context, idle []inventory.IdleLink) (changed bool, found []problem.Finding) {
	for _, l := range idle {
		if l.Settled() {
			continue
		}
		changed = true
		err := r.configure(ctx, l)
		switch {
		case err == nil, errors.Is(err, errNotOurs), errors.Is(err, link.ErrNotFound), errors.Is(err, nodestate.ErrBusy):
		default:
			f := problem.About(l.Device, reason.LinkNotConfigured, "link %s cannot be set up with MTU %d; read the daemon's log, and correct spec.mtu or the link", l.Link.Name, l.Device.MTU)
			f.Err = err
			found = append(found, f)
		}
	}
	return changed, found
}

// configure changes one link under its device's claim lock, after another look
// at the records and at the link: a pod may have got it meanwhile.
func (r *Reconciler) configure(ctx context.Context, l inventory.IdleLink) error {
	unlock, err := r.claim(ctx, l.Device.PCIAddress)
	if err != nil {
		return err
	}
	defer unlock()
	now, err := r.sameLink(l.Link)
	if err != nil {
		return err
	}
	if l.Device.MTU != 0 && now.MTU != l.Device.MTU {
		if err := r.Host.SetMTU(now.Index, l.Device.MTU); err != nil {
			return err
		}
	}
	if !now.Up {
		r.refuseRouters(l) // before the link asks for some
		if err := r.Host.SetUp(now.Index); err != nil {
			return err
		}
		r.Log.WithFields(logrus.Fields{"eniID": l.Device.ENIID, "interface": now.Name, "mtu": l.Device.MTU}).Info("link brought up")
	}
	return nil
}

// sameLink looks at a link once more; errNotOurs where another one has its index, or none.
func (r *Reconciler) sameLink(l link.Link) (link.Link, error) {
	links, err := r.Host.Links()
	if err != nil {
		return link.Link{}, err
	}
	i := slices.IndexFunc(links, func(k link.Link) bool { return k.Index == l.Index && k.MAC == l.MAC && k.Name == l.Name })
	if i < 0 {
		return link.Link{}, errNotOurs
	}
	return links[i], nil
}

// claim takes a device's claim lock, unless a pod of this boot has the device.
func (r *Reconciler) claim(ctx context.Context, pci device.PCIAddress) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	f, err := r.claimFile(ctx, pci)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil //nolint:errcheck,gosec // nothing was written
}

// claimFile is claim for one who hands the lock on, and waits until ctx ends.
func (r *Reconciler) claimFile(ctx context.Context, pci device.PCIAddress) (*os.File, error) {
	return r.claimUnless(ctx, pci, func(nodestate.Mode) bool { return true })
}

// claimUnless is claimFile, unless a pod of this boot has the device in such a mode.
func (r *Reconciler) claimUnless(ctx context.Context, pci device.PCIAddress, such func(nodestate.Mode) bool) (*os.File, error) {
	lock, err := r.Attachments.DeviceLockFile(ctx, pci)
	if err != nil {
		return nil, err
	}
	var instance uint64
	if fn, err := r.PCI.PCI(pci); err == nil {
		instance = fn.Instance
	}
	all, unread, err := r.Attachments.List()
	held := unread.MayHold(r.BootID, pci) != nil || slices.ContainsFunc(all, func(a nodestate.Attachment) bool {
		return a.Holds(r.BootID) && such(a.Mode) && a.Device.PCIAddress == pci && !a.Device.Replaced(instance)
	})
	if err == nil && held {
		err = errNotOurs
	}
	if err != nil {
		lock.Close() //nolint:errcheck,gosec // nothing was written
		return nil, err
	}
	return lock, nil
}

// restoreLinks gives links that came back from a dying netns after DEL had
// ended what they had before ADD. It says whether anything was changed.
func (r *Reconciler) restoreLinks(ctx context.Context, src *inventory.Sources) (changed bool, found []problem.Finding) {
	waiting, err := r.Attachments.Restores()
	if err != nil || !src.Links.Known || !src.Attachments.Known {
		return false, nil // the records' folder is reported where it is listed
	}
	for _, pci := range waiting {
		if src.InHand(pci) || src.ChangingDriver[pci] {
			continue // it has no link, or is about to lose it
		}
		restored, err := r.restore(ctx, pci, src)
		changed = changed || restored
		if err != nil {
			found = append(found, unrestored(pci, err))
		}
	}
	return changed, found
}

// unrestored tells which settings of a device's link an earlier pod, or the daemon's
// own change of its driver, has left otherwise than they were.
func unrestored(pci device.PCIAddress, err error) problem.Finding {
	p := nodestate.Problem{Device: pci.String()}
	var failed link.Unrestored
	switch {
	case errors.Is(err, link.ErrUnfit):
		p.Reason, p.Message = reason.LinkUnfit, fmt.Sprintf("no pod gets the device, because an earlier pod left something on its link that cannot be removed: "+
			"%v; detach it, or detach and attach the ENI", err)
	case errors.As(err, &failed):
		p.Reason, p.Message = reason.LinkNotRestored, fmt.Sprintf("pods get the device, but a setting that an earlier pod changed cannot be restored: "+
			"%v; set it by hand, or detach and attach the ENI", err)
	default:
		p.Reason, p.Message = reason.LinkNotRestored, "the restore record of the device cannot be removed; the daemon tries again, and its log has the error"
	}
	return problem.Finding{Err: err, Problem: p}
}

// restore deals with one restore record and says whether it changed a link. A
// record whose link could not be restored in full stays.
func (r *Reconciler) restore(ctx context.Context, pci device.PCIAddress, src *inventory.Sources) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	lock, err := r.claimFile(ctx, pci)
	if err != nil {
		return false, nil // a plugin is at work on the device, or a pod has it: the record is theirs
	}
	handedOn := false
	defer func() {
		if !handedOn {
			lock.Close() //nolint:errcheck,gosec // nothing was written
		}
	}()
	rec, err := r.Attachments.LoadRestore(pci)
	if err != nil && !errors.Is(err, nodestate.ErrCorrupt) {
		return false, nil // it is gone, or was reported when the restore records were read
	}
	entry := r.Log.WithField("pciAddress", pci)
	fn, plugged := src.Functions.Value[pci]
	if err != nil || rec.BootID != r.BootID || rec.Device.Link == nil || src.Functions.Known && !plugged || rec.Device.Replaced(fn.Instance) {
		if err == nil {
			err = errors.New("device or boot is gone")
		}
		return false, r.drop(entry.WithError(err), "restore record dropped", pci)
	}
	if rec.Driver != "" {
		if handedOn = r.tidy(rec, src, lock); handedOn {
			return false, nil // the link comes after that
		}
	}
	links, err := r.Host.Links()
	if err != nil {
		return false, nil // reported when the links are read for this Sync
	}
	l, ok := ownLink(links, rec.Device, fn.Interfaces)
	if !ok {
		return false, nil // still on its way; its arrival is a link event
	}
	if d := rec.Device; !d.VF && d.MAC != "" && !l.HasMAC(d.MAC) {
		return false, r.drop(entry.WithField("mac", l.MAC), "restore record dropped: another device is there", pci)
	}
	if err := r.Host.GiveBack(r.PCI, l, rec.Device); err != nil {
		return true, err
	}
	if rec.Driver != "" { // it is usable; what else is left of the change is tried again
		return true, nil
	}
	return true, r.drop(entry.WithField("interface", rec.Device.Link.Name), "link restored", pci)
}

// drop removes a restore record and logs why. One that cannot be removed is an
// error that stays, so nothing is logged then.
func (r *Reconciler) drop(entry *logrus.Entry, why string, pci device.PCIAddress) error {
	if err := r.Attachments.RemoveRestore(pci); err != nil {
		return err
	}
	entry.Info(why)
	return nil
}

// ownLink finds the device's link in the host: by its PCI function, else, where
// neither kernel nor sysfs names that, by MAC.
func ownLink(links []link.Link, d nodestate.AttachedDevice, names []string) (link.Link, bool) {
	at := slices.IndexFunc(links, func(l link.Link) bool {
		return l.Parent == d.PCIAddress || l.Parent == "" && slices.Contains(names, l.Name) && (d.VF || l.HasMAC(d.MAC))
	})
	if at < 0 && !d.VF && d.MAC != "" {
		at = slices.IndexFunc(links, func(l link.Link) bool { return l.HasMAC(d.MAC) && l.Parent == "" && l.Movable() })
	}
	if at < 0 {
		return link.Link{}, false
	}
	return links[at], true
}
