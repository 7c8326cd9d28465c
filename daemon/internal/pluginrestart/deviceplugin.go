// Package pluginrestart restarts the SR-IOV device plugin when its config has changed.
package pluginrestart

import (
	"context"
	"errors"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// DevicePlugin is the SR-IOV device plugin of this node. It reads its config
// once, at its start, so that it serves another one only after a restart.
type DevicePlugin interface {
	// Find looks for it and changes nothing. The error wraps ErrNoDevicePlugin
	// when there is none.
	Find(ctx context.Context) (PluginReport, error)
	// Restart makes every device plugin of this node serve the config, and
	// returns when that is verified, has failed, or ctx has ended. One that has
	// read the config already is left alone, so that repeating a call is free.
	// The error wraps ErrNoDevicePlugin when there is none; the report is filled
	// in as far as it is known even then.
	Restart(ctx context.Context, want Wanted) (PluginReport, error)
}

// ErrNoDevicePlugin says that no device plugin runs on this node. That is a
// state, not a failure: one that comes later reads the config as it is then.
var ErrNoDevicePlugin = errors.New("no SR-IOV device plugin pod on this node")

// Wanted is the config that the device plugin is to serve.
type Wanted struct {
	// Path is the config file, and Hash that of its canonical content.
	Path, Hash string
	// Written is a time from which on the file has had this content, and never later
	// than the call. It is no modification time: people's tools set those.
	Written time.Time
	// Readers are runs of containers of which it is known, whatever their times say,
	// that they have read this config (true) or another (false).
	Readers map[nodestate.Reader]bool
	// Before is a time before which the file had this content already, and every
	// pod served it, though another one was there in between; zero when there was
	// none. What has started before it, and not again, has read it.
	Before time.Time
	// Devices are the addresses that each resource of ours must offer to the
	// kubelet, no more and no less. A resource that must have none has an empty
	// list.
	Devices map[device.ResourceName][]device.PCIAddress
}

// HasRead says whether a run has read this config. If Readers does not list the run,
// its start decides: it was later than this content, or well before another one. A
// start that is still to come at the time now was before the clock was set back.
func (w Wanted) HasRead(run nodestate.Reader, now time.Time) bool {
	if current, known := w.Readers[run]; known {
		return current
	}
	started := run.StartedAt()
	return started.Before(w.Before) || w.Precedes(started) && !started.After(now)
}

// Precedes says whether a container that started then has certainly found this config.
// The kubelet tells whole seconds, rounded down, so that a start in a later second than
// the config was at least a second after it. The second is needed: Written is the time
// of the content, and the file is renamed into its place afterwards.
func (w Wanted) Precedes(started time.Time) bool {
	second := w.Written.Truncate(time.Second)
	if second.Before(w.Written) {
		second = second.Add(time.Second)
	}
	return started.After(second)
}

// PluginReport is what is known of the device plugin after a call.
type PluginReport struct {
	// Pods are its pods on this node as namespace/name, sorted.
	Pods []string
	// Prefixes are their -resource-prefix, sorted and each once: names without a
	// prefix in the config get it. Pods that do not read the config, or do not show
	// their prefix, have none here.
	Prefixes []string
	// Readers are the runs of their containers that read the config file.
	Readers []nodestate.Reader
	// Deleted are those of them, or of their predecessors, that were deleted.
	Deleted []string
	// Problems are for a person: a pod that takes its config from elsewhere, a
	// namespace that may not be searched. Their messages hold stable values only.
	Problems []nodestate.Problem
}
