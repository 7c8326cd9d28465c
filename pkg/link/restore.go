package link

import (
	"errors"
	"io/fs"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// RestorePending gives a link in the host netns back what a DEL could not,
// when a restore record waits for its PCI address, and ends the record
// (nodestate.AttachmentDir.Returned). It says whether the link was changed. A record of another boot or of another
// device at that address is removed without effect; one of whose names is
// still taken stays for later. Hold the device's claim lock.
func (h *Handle) RestorePending(dir nodestate.AttachmentDir, pci device.PCIAddress, l Link) (bool, error) {
	r, err := dir.LoadRestore(pci)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, nodestate.ErrCorrupt):
		return false, dir.RemoveRestore(pci)
	case err != nil:
		return false, err
	}
	boot, err := nodestate.BootID()
	if err != nil {
		return false, err
	}
	d := r.Device
	if r.BootID != boot || d.Link == nil || !d.VF && d.MAC != "" && !l.HasMAC(d.MAC) {
		return false, dir.RemoveRestore(pci)
	}
	err = h.Restore(l, *d.Link)
	if errors.Is(err, ErrNameTaken) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return true, dir.Returned(pci)
}
