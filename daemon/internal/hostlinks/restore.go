package hostlinks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Tidier removes remains of an interrupted change of driver. It says whether it has taken over the lock; then the link
// comes later.
type Tidier interface {
	Tidy(rec nodestate.Restore, src *inventory.Sources, lock *os.File) bool
}

// Restore gives links the settings from before ADD, if they left a dying netns after DEL. It says whether it has
// changed any.
func (l *Links) Restore(ctx context.Context, src *inventory.Sources, tidier Tidier) (changed bool, found []problem.Finding) {
	waiting, err := l.Attachments.Restores()
	if err != nil || !src.Links.Known || !src.Attachments.Known {
		return false, nil // reported where the records are listed
	}
	for _, pci := range waiting {
		if src.InHand(pci) || src.ChangingDriver[pci] {
			continue // it has no link, or is about to lose it
		}
		restored, err := l.restoreOne(ctx, pci, src, tidier)
		changed = changed || restored
		if err != nil {
			found = append(found, unrestored(pci, err))
		}
	}
	return changed, found
}

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

// restoreOne handles one restore record, and says whether it has changed a link. The record stays until all is
// restored.
func (l *Links) restoreOne(ctx context.Context, pci device.PCIAddress, src *inventory.Sources, tidier Tidier) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	lock, err := l.Locks.Lock(ctx, pci)
	if err != nil {
		return false, nil // the record is a plugin's or a pod's
	}
	handedOn := false
	defer func() {
		if !handedOn {
			lock.Close() //nolint:errcheck,gosec // nothing was written
		}
	}()
	rec, err := l.Attachments.LoadRestore(pci)
	if err != nil && !errors.Is(err, nodestate.ErrCorrupt) {
		return false, nil // it is gone, or was reported when the restore records were read
	}
	entry := l.Log.WithField("pciAddress", pci)
	fn, plugged := src.Functions.Value[pci]
	if err != nil || rec.BootID != l.BootID || rec.Device.Link == nil || src.Functions.Known && !plugged || rec.Device.Replaced(fn.Instance) {
		if err == nil {
			err = errors.New("device or boot is gone")
		}
		return false, l.drop(entry.WithError(err), "restore record dropped", pci)
	}
	if rec.Driver != "" {
		if handedOn = tidier.Tidy(rec, src, lock); handedOn {
			return false, nil
		}
	}
	links, err := l.Host.Links()
	if err != nil {
		return false, nil // reported when this Sync reads the links
	}
	now, ok := ownLink(links, rec.Device, fn.Interfaces)
	if !ok {
		return false, nil // its arrival is a link event
	}
	if d := rec.Device; !d.VF && d.MAC != "" && !now.HasMAC(d.MAC) {
		return false, l.drop(entry.WithField("mac", now.MAC), "restore record dropped: another device is there", pci)
	}
	if err := l.Host.GiveBack(l.PCI, now, rec.Device); err != nil {
		return true, err
	}
	if rec.Driver != "" { // the link is usable, and Tidy is tried again
		return true, nil
	}
	return true, l.drop(entry.WithField("interface", rec.Device.Link.Name), "link restored", pci)
}

func (l *Links) drop(entry *logrus.Entry, why string, pci device.PCIAddress) error {
	if err := l.Attachments.RemoveRestore(pci); err != nil {
		return err
	}
	entry.Info(why)
	return nil
}

// ownLink finds the device's link in the host by its PCI function, or, if that is unknown, by MAC.
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
