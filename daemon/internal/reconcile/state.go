package reconcile

import (
	"bytes"
	"encoding/json"
	"os"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// fileMark tells whether a file is still the one that it was taken of; nil when
// there was none.
type fileMark struct{ info os.FileInfo }

func markOf(path string) fileMark {
	info, err := os.Lstat(path)
	if err != nil {
		return fileMark{}
	}
	return fileMark{info}
}

// same is false where there is no file.
func (m fileMark) same(path string) bool {
	now := markOf(path)
	return m.info != nil && now.info != nil && os.SameFile(m.info, now.info) &&
		m.info.Size() == now.info.Size() && m.info.Mode() == now.info.Mode() && m.info.ModTime().Equal(now.info.ModTime())
}

// save changes the checkpoint, in the file first, unless the change is none and
// the file is the one that we know.
func (r *Reconciler) save(change func(*nodestate.Checkpoint)) error {
	next := r.checkpoint
	change(&next)
	path := nodestate.CheckpointPath(r.StateDir)
	if r.otherCheckpoint == nil && r.checkpointFile.same(path) && r.checkpoint.Same(next) {
		return nil
	}
	if err := r.keepOther(); err != nil {
		return err
	}
	if err := nodestate.WriteCheckpoint(path, next); err != nil {
		return err
	}
	r.checkpoint, r.checkpointFile = next, markOf(path)
	return nil
}

// writeInventory replaces the inventory unless it says the same already and is
// the file that we know.
func (r *Reconciler) writeInventory(devices []nodestate.Device, problems []nodestate.Problem) error {
	next := nodestate.Inventory{
		SchemaVersion: nodestate.SchemaVersion, NodeName: r.NodeName, BootID: r.BootID, UpdatedAt: r.Now().UTC().Round(0), Problems: problems, Devices: devices,
	}
	if r.inventoryFile.same(r.InventoryPath) && r.inventory.Same(next) {
		return nil
	}
	if err := nodestate.WriteInventory(r.InventoryPath, next); err != nil {
		return err
	}
	r.inventory, r.inventoryFile = next, markOf(r.InventoryPath)
	return nil
}

// compact gives a config the form in which it is read back from the checkpoint:
// without white space, and with <, > and & escaped, as encoding/json writes them.
// Its values are the same.
func compact(config json.RawMessage) json.RawMessage {
	var b, escaped bytes.Buffer
	if json.Compact(&b, config) != nil {
		return nil
	}
	json.HTMLEscape(&escaped, b.Bytes())
	return escaped.Bytes()
}
