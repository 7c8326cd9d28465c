package checkpoint

import (
	"fmt"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// OtherNodeError says that the daemon's memory is of another node name, so every device in it would count as removed.
type OtherNodeError struct {
	Was, Is, File string // the name in File, and Is this node's
}

// Error names both, and the ways out.
func (e *OtherNodeError) Error() string {
	return fmt.Sprintf("this machine was node %q (%s), and is to be node %q: NodeENIs list nothing of this machine under that name, so all its devices "+
		"would drain. "+
		"Correct NODE_NAME or --node-name; if the node was renamed, start once with --renamed-from=%[1]s", e.Was, e.File, e.Is)
}

// checkName refuses a name under which all remembered devices would be removed. The inventory of an earlier boot does
// not count.
func (f *Files) checkName() error {
	was, file := f.Checkpoint.NodeName, nodestate.CheckpointPath(f.StateDir)
	if was == "" && f.Inventory.BootID == f.BootID {
		was, file = f.Inventory.NodeName, f.InventoryPath
	}
	if was == "" || was == f.NodeName || was == f.RenamedFrom {
		return nil
	}
	if len(f.Checkpoint.Devices) == 0 && len(f.Checkpoint.OwnedResources) == 0 && len(f.Inventory.Devices) == 0 {
		return nil
	}
	return &OtherNodeError{Was: was, Is: f.NodeName, File: file}
}

// instance is the id of this EC2 instance, "" while it is not known. It is the same for a whole boot.
func (f *Files) instance() string {
	if f.Instance != nil {
		if id := f.Instance(); id != "" {
			return id
		}
	}
	if f.Checkpoint.BootID == f.BootID {
		return f.Checkpoint.Instance
	}
	return ""
}

// ForgetOtherInstance empties a checkpoint that came with a snapshot of another instance's disk, and says whether it
// did. Its devices were never here, so nothing is removed. Its entries of the device plugin's config came along, and
// stay ours.
func (f *Files) ForgetOtherInstance() bool {
	id, was := f.instance(), f.Checkpoint.Instance
	if id == "" || was == "" || id == was {
		return false
	}
	f.Log.WithFields(logrus.Fields{"checkpoint": was, "instance": id}).Warn("the checkpoint is of another instance; its devices are forgotten, its " +
		"entries of the device plugin config stay ours")
	c := &f.Checkpoint
	c.NodeName, c.Instance, c.BootID, c.Devices = f.NodeName, id, "", nil
	c.ConfirmedHash, c.DevicePlugin = "", nodestate.DevicePluginMemory{}
	f.checkpointFile = fileMark{} // so that it is written
	return true
}

// Sign writes node, boot and instance into a checkpoint.
func (f *Files) Sign(c *nodestate.Checkpoint) {
	id := f.instance()
	c.NodeName, c.BootID, c.Instance = f.NodeName, f.BootID, id
}
