package reconcile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// loadCheckpoint reads the checkpoint of the last daemon. A checkpoint of another
// version counts as far as this version understands it, and the file is kept before
// the first write. A corrupt one counts as none. Then the inventory, which must have
// been read before, stands in for it.
func (r *Reconciler) loadCheckpoint(path string) (err error) {
	r.checkpoint, err = nodestate.ReadCheckpoint(path)
	switch {
	case err == nil:
	case errors.As(err, &r.otherCheckpoint):
		r.Log.WithError(err).WithField("devices", len(r.checkpoint.Devices)).
			Warn("the checkpoint is of another version; the parts that this version understands count, and the file is kept")
		if len(r.checkpoint.Devices) == 0 {
			r.remember(err)
		}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, nodestate.ErrCorrupt):
		r.remember(err)
	default:
		return fmt.Errorf("read checkpoint: %w", err)
	}
	r.checkpoint.LastGoodConfig = compact(r.checkpoint.LastGoodConfig)
	return nil
}

// keepOther keeps a checkpoint of another version before it is replaced.
func (r *Reconciler) keepOther() error {
	if r.otherCheckpoint == nil {
		return nil
	}
	if err := nodestate.KeepOther(r.otherCheckpoint); err != nil && !errors.Is(err, fs.ErrNotExist) { // somebody has removed it
		return err
	}
	r.otherCheckpoint = nil
	return nil
}

// keptCheckpoints reports each file that keepOther has kept, until somebody removes it.
func (r *Reconciler) keptCheckpoints() (found []problem.Finding) {
	for _, kept := range nodestate.KeptOther(nodestate.CheckpointPath(r.StateDir)) {
		found = append(found, problem.Finding{Problem: nodestate.Problem{Reason: reason.CheckpointOtherVersion, Device: kept, Message: fmt.Sprintf(
			"another version of multi-enid wrote the daemon's memory, which is kept as %s; this version uses only the parts that it understands; "+
				"install that version again, or remove the file", kept)}})
	}
	return found
}

// maxRemembered bounds the config in the checkpoint, in octets: it has to leave room for
// the devices. A ConfigMap has no more either.
const maxRemembered = 1 << 20

// remembered returns a config as the checkpoint keeps it; null if it is too large.
func remembered(content []byte) json.RawMessage {
	if short := compact(content); len(short) <= maxRemembered {
		return short
	}
	return nil
}

// notRemembered tells of a config that the checkpoint does not keep.
func (r *Reconciler) notRemembered(content []byte) []problem.Finding {
	if len(content) == 0 || remembered(content) != nil {
		return nil
	}
	return []problem.Finding{{Problem: nodestate.Problem{Reason: reason.ConfigTooLarge, Device: r.Config.Path, Message: fmt.Sprintf(
		"device plugin config %q has more than %d octets, so the daemon keeps no last good copy of your entries; shorten it",
		r.Config.Path, maxRemembered)}}}
}

// unwritable tells that the daemon's own files cannot be written.
func unwritable(err error) problem.Finding {
	if errors.Is(err, nodestate.ErrTooLarge) {
		return problem.Finding{Problem: nodestate.Problem{
			Reason:  reason.StateTooLarge,
			Message: "the daemon's own files would be larger than their readers accept, so it changes nothing; delete NodeENIs that this node does not need",
		}, Err: err}
	}
	return problem.Finding{Problem: nodestate.Problem{
		Reason:  reason.StateUnwritable,
		Message: "the daemon's own files cannot be written, so it changes nothing; read its log, and make room on the disk or correct the permissions",
	}, Err: err}
}
