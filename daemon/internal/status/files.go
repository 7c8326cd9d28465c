package status

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Get asks the daemon that writes the inventory, and reads the files if it does not answer.
func Get(ctx context.Context, inventory string, attachments nodestate.AttachmentDir, leaseDir leases.Dir) (Status, error) {
	live, err := Ask(ctx, Socket(inventory))
	// The daemon may see the folder at another path, and the file may be a copy.
	if err == nil && filepath.Base(live.Live.InventoryPath) == filepath.Base(inventory) {
		return live, nil
	}
	return Read(inventory, attachments, leaseDir) // the Status says that it is from files
}

// Read reads the files of the daemon and of the plugin. It fails only without the inventory.
func Read(path string, attachments nodestate.AttachmentDir, leaseDir leases.Dir) (Status, error) {
	inv, err := nodestate.ReadInventory(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Status{}, fmt.Errorf("no inventory at %q: multi-enid has not run since the node started, or writes elsewhere (--inventory)", path)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return Status{}, fmt.Errorf("read inventory: %w; only root may read it: sudo multi-enid status", err)
	case errors.Is(err, nodestate.ErrCorrupt), errors.Is(err, nodestate.ErrOtherVersion):
		return Status{}, fmt.Errorf("read inventory: %w; multi-enid writes it anew within a minute if it is running and of this version", err)
	case err != nil:
		return Status{}, fmt.Errorf("read inventory: %w", err)
	}
	boot, err := nodestate.BootID()
	if err != nil {
		return Status{}, err
	}
	s := Status{Inventory: inv, EarlierBoot: inv.BootID != boot, Holders: []view.Holder{}, Unreadable: []string{}}
	all, bad, err := attachments.List()
	if err != nil {
		s.Unreadable = append(s.Unreadable, err.Error())
	}
	for _, u := range bad {
		text := u.Error()
		if errors.Is(u, nodestate.ErrOtherVersion) {
			text += "; " + u.Remedy()
		}
		s.Unreadable = append(s.Unreadable, text)
		if u.PCIAddress != "" && !u.Ended(boot) {
			s.Holders = append(s.Holders, view.Holder{PCIAddress: u.PCIAddress, ContainerID: u.ID.ContainerID, IfName: u.ID.IfName})
		}
	}
	for i := range all {
		if a := &all[i]; a.Holds(boot) {
			s.Holders = append(s.Holders, view.HolderOf(a))
		}
	}
	s.SetPools(leaseDir)
	return s, nil
}
