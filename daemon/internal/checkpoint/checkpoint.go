// Package checkpoint keeps the daemon's files: the checkpoint, its memory across restarts, and the inventory, which the
// plugin reads.
package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Options say where the files are, and whose. All are needed unless they say otherwise.
type Options struct {
	NodeName    string
	RenamedFrom string // an earlier name of the node; "" for none
	BootID      string
	// Instance returns the id of this EC2 instance, "" while it is not known. Nil: never.
	Instance                func() string
	InventoryPath, StateDir string
	// ConfigPath is the device plugin's config. Its entries help if the checkpoint is lost.
	ConfigPath string
	Now        func() time.Time // the wall clock
	Log        logrus.FieldLogger
}

// Files are the checkpoint and the inventory, as last read or written. Only the methods change them, not concurrently.
type Files struct {
	Options
	Checkpoint nodestate.Checkpoint
	Inventory  nodestate.Inventory

	otherVersion *nodestate.VersionError // the checkpoint of another version, which is still in place; nil without one
	// checkpointFile and inventoryFile are the files as last written or read. Others may remove or replace them.
	checkpointFile, inventoryFile fileMark
}

// Open continues with the files of the last daemon. This boot's inventory replaces a missing or corrupt checkpoint. An
// unreadable inventory counts as none. The error is *OtherNodeError if the files are of a node of another name.
func Open(o Options) (*Files, error) {
	path := nodestate.CheckpointPath(o.StateDir)
	f := &Files{Options: o, checkpointFile: markOf(path), inventoryFile: markOf(o.InventoryPath)}
	var err error
	if f.Inventory, err = nodestate.ReadInventory(o.InventoryPath); err != nil {
		f.Inventory = nodestate.Inventory{} // it is written anew
	}
	if err := f.load(path); err != nil {
		return nil, err
	}
	f.ForgetOtherInstance()
	if err := f.checkName(); err != nil {
		return nil, err
	}
	return f, nil
}

// Save changes the checkpoint, in the file first. It writes only if something changes or the file is not the known one.
func (f *Files) Save(change func(*nodestate.Checkpoint)) error {
	next := f.Checkpoint
	change(&next)
	path := nodestate.CheckpointPath(f.StateDir)
	if f.otherVersion == nil && f.checkpointFile.same(path) && f.Checkpoint.Same(next) {
		return nil
	}
	if err := f.keepOther(); err != nil {
		return err
	}
	if err := nodestate.WriteCheckpoint(path, next); err != nil {
		return err
	}
	f.Checkpoint, f.checkpointFile = next, markOf(path)
	return nil
}

// WriteInventory replaces the inventory, unless the known file says the same.
func (f *Files) WriteInventory(devices []nodestate.Device, problems []nodestate.Problem) error {
	next := nodestate.Inventory{
		SchemaVersion: nodestate.SchemaVersion, NodeName: f.NodeName, BootID: f.BootID, UpdatedAt: f.Now().UTC().Round(0), Problems: problems, Devices: devices,
	}
	if f.inventoryFile.same(f.InventoryPath) && f.Inventory.Same(next) {
		return nil
	}
	if err := nodestate.WriteInventory(f.InventoryPath, next); err != nil {
		return err
	}
	f.Inventory, f.inventoryFile = next, markOf(f.InventoryPath)
	return nil
}

// fileMark identifies the content of a file; the zero value is a missing file's.
type fileMark struct{ info os.FileInfo }

func markOf(path string) fileMark {
	info, err := os.Lstat(path)
	if err != nil {
		return fileMark{}
	}
	return fileMark{info}
}

// same says that the file at path has not changed; false if it is missing.
func (m fileMark) same(path string) bool {
	now := markOf(path)
	return m.info != nil && now.info != nil && os.SameFile(m.info, now.info) &&
		m.info.Size() == now.info.Size() && m.info.Mode() == now.info.Mode() && m.info.ModTime().Equal(now.info.ModTime())
}

// load reads the checkpoint, after the inventory. Another version's checkpoint counts as far as it is understood, and
// is kept before the first write.
func (f *Files) load(path string) (err error) {
	f.Checkpoint, err = nodestate.ReadCheckpoint(path)
	switch {
	case err == nil:
	case errors.As(err, &f.otherVersion):
		f.Log.WithError(err).WithField("devices", len(f.Checkpoint.Devices)).
			Warn("the checkpoint is of another version; the parts that this version understands count, and the file is kept")
		if len(f.Checkpoint.Devices) == 0 {
			f.recover(err)
		}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, nodestate.ErrCorrupt):
		f.recover(err)
	default:
		return fmt.Errorf("read checkpoint: %w", err)
	}
	f.Checkpoint.LastGoodConfig = compact(f.Checkpoint.LastGoodConfig)
	return nil
}

// keepOther keeps a checkpoint of another version before it is replaced.
func (f *Files) keepOther() error {
	if f.otherVersion == nil {
		return nil
	}
	if err := nodestate.KeepOther(f.otherVersion); err != nil && !errors.Is(err, fs.ErrNotExist) { // somebody removed it
		return err
	}
	f.otherVersion = nil
	return nil
}

// Problems reports each kept checkpoint of another version, until somebody removes it.
func (f *Files) Problems() (found []problem.Finding) {
	for _, kept := range nodestate.KeptOther(nodestate.CheckpointPath(f.StateDir)) {
		found = append(found, problem.On(kept, reason.CheckpointOtherVersion,
			"another version of multi-enid wrote the daemon's memory, which is kept as %s; this version uses only the parts that it understands; "+
				"install that version again, or remove the file", kept))
	}
	return found
}

// MaxConfig bounds the config in the checkpoint, in octets: devices need room. A ConfigMap has no more either.
const MaxConfig = 1 << 20

// Config returns a config in the form of Checkpoint.LastGoodConfig; null if it is too large.
func Config(content []byte) json.RawMessage {
	if short := compact(content); len(short) <= MaxConfig {
		return short
	}
	return nil
}

// compact returns a config as it is read back from the checkpoint: without white space, and with <, > and & escaped, as
// encoding/json writes them.
func compact(config json.RawMessage) json.RawMessage {
	var b, escaped bytes.Buffer
	if json.Compact(&b, config) != nil {
		return nil
	}
	json.HTMLEscape(&escaped, b.Bytes())
	return escaped.Bytes()
}

// Unwritable is the finding for an error of Save or WriteInventory.
func Unwritable(err error) problem.Finding {
	if errors.Is(err, nodestate.ErrTooLarge) {
		return problem.New(reason.StateTooLarge,
			"the daemon's own files would be larger than their readers accept, so it changes nothing; delete NodeENIs that this node does not need", err)
	}
	return problem.New(reason.StateUnwritable,
		"the daemon's own files cannot be written, so it changes nothing; read its log, and make room on the disk or correct the permissions", err)
}
