// Package pluginrestart restarts the SR-IOV device plugin when its config has changed.
package pluginrestart

import (
	"context"
	"errors"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// DevicePlugin is the SR-IOV device plugin of this node. It reads its config only at its start.
type DevicePlugin interface {
	// Find looks for the device plugin and changes nothing. The error wraps ErrNoDevicePlugin if there is none.
	Find(ctx context.Context) (PluginReport, error)
	// Restart makes every device plugin of this node serve the config. It returns when that is verified, has failed, or
	// ctx has ended. It leaves plugins alone that have read the config, so repeating a call is free. The error wraps
	// ErrNoDevicePlugin if there is none; the report is as complete as possible even then.
	Restart(ctx context.Context, want Wanted) (PluginReport, error)
}

// ErrNoDevicePlugin says that this node has no device plugin: a state, as a later one reads the current config.
var ErrNoDevicePlugin = errors.New("no SR-IOV device plugin pod on this node")

// Wanted is the config that the device plugin is to serve.
type Wanted struct {
	Path, Hash string // the config file, and Hash identifies its canonical content
	// Written is a time since which the file has had this content. It is no modification time: people's tools set
	// those.
	Written time.Time
	// Readers are runs of containers known to have read this config (true) or another one (false), whatever their start
	// times.
	Readers map[nodestate.Reader]bool
	// Before is a time before which every pod served this content, although another was on disk since; zero for none. A
	// pod that started earlier, and not again, has read the config.
	Before  time.Time
	Devices map[device.ResourceName][]device.PCIAddress // the exact addresses that each resource of ours must offer to the kubelet, perhaps none
}

// HasRead says whether a run has read this config: by Readers, or else by its start, later than Written or before
// Before. A start after now happened before the clock was set back.
func (w Wanted) HasRead(run nodestate.Reader, now time.Time) bool {
	if current, known := w.Readers[run]; known {
		return current
	}
	started := run.StartedAt()
	return started.Before(w.Before) || w.Precedes(started) && !started.After(now)
}

// Precedes says whether a container that started then has surely found this config. The kubelet reports seconds,
// rounded down, so a start in a later second was up to a second after Written, which the rename after Written needs.
func (w Wanted) Precedes(started time.Time) bool {
	second := w.Written.Truncate(time.Second)
	if second.Before(w.Written) {
		second = second.Add(time.Second)
	}
	return started.After(second)
}

// PluginReport describes the device plugin after a call.
type PluginReport struct {
	Pods []string // its pods on this node as namespace/name, sorted
	// Prefixes are the -resource-prefix of these pods, sorted, each once: the plugin adds it to names without a prefix.
	// Pods that do not read the config, or hide their prefix, have none here.
	Prefixes []string
	Readers  []nodestate.Reader // the runs of the pods' containers that read the config file
	Deleted  []string           // the pods, or their predecessors, that were deleted
	// Problems are a pod with a config from elsewhere, or a namespace that may not be searched. Messages are stable.
	Problems []nodestate.Problem
}
