package reconcile

import (
	"fmt"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// OtherNodeError is New's error when the daemon's memory belongs to a node of another
// name. Under this name every device in it would count as removed.
type OtherNodeError struct {
	// Was is the name in File, and Is this one.
	Was, Is, File string
}

// Error names both, and the ways out.
func (e *OtherNodeError) Error() string {
	return fmt.Sprintf("this machine was node %q (%s), and is to be node %q: NodeENIs list nothing of this machine under that name, so all its devices would drain. "+
		"Correct NODE_NAME or --node-name; if the node was renamed, start once with --renamed-from=%[1]s", e.Was, e.File, e.Is)
}

// checkName refuses a name under which all that is remembered would be removed. The
// inventory of an earlier boot is no memory.
func (r *Reconciler) checkName() error {
	was, file := r.checkpoint.NodeName, nodestate.CheckpointPath(r.StateDir)
	if was == "" && r.inventory.BootID == r.BootID {
		was, file = r.inventory.NodeName, r.InventoryPath
	}
	if was == "" || was == r.NodeName || was == r.RenamedFrom {
		return nil
	}
	if len(r.checkpoint.Devices) == 0 && len(r.checkpoint.OwnedResources) == 0 && len(r.inventory.Devices) == 0 {
		return nil
	}
	return &OtherNodeError{Was: was, Is: r.NodeName, File: file}
}

// instance is the id of this EC2 instance, "" while it is not known. It is the same for
// a whole boot.
func (r *Reconciler) instance() string {
	if r.Instance != nil {
		if id := r.Instance(); id != "" {
			return id
		}
	}
	if r.checkpoint.BootID == r.BootID {
		return r.checkpoint.Instance
	}
	return ""
}

// forgetOthers empties a checkpoint that came here from another instance, with a
// snapshot of its disk. Its devices are no devices of this one, so they are not removed
// either. The entries of the device plugin's config that it owns came with it and stay
// ours.
func (r *Reconciler) forgetOthers() {
	id, was := r.instance(), r.checkpoint.Instance
	if id == "" || was == "" || id == was {
		return
	}
	r.Log.WithFields(logrus.Fields{"checkpoint": was, "instance": id}).Warn("the checkpoint is of another instance; its devices are forgotten, its entries of the device plugin config stay ours")
	c := &r.checkpoint // the rest is about the device plugin's config, which came with it
	c.NodeName, c.Instance, c.BootID, c.Devices = r.NodeName, id, "", nil
	c.ConfirmedHash, c.DevicePlugin = "", nodestate.DevicePluginMemory{}
	r.plugin.Resume(r.checkpoint)
	r.checkpointFile = fileMark{} // so that it is written
}

// sign writes down whose checkpoint it is.
func (r *Reconciler) sign(c *nodestate.Checkpoint) {
	id := r.instance()
	c.NodeName, c.BootID, c.Instance = r.NodeName, r.BootID, id
}
