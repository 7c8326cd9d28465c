// Package view describes the state of the daemon after a Sync. ENINodeState, Events, metrics and
// the status command are all made of it.
package view

import (
	"net/netip"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// View is the state after a Sync, and the actions of that Sync. It is not changed once it was handed out.
type View struct {
	At time.Time
	// Inventory is the content of the file.
	Inventory nodestate.Inventory
	// Declared are the NodeENIs of this node, by name.
	Declared []Declared
	// Holders are the pods that have devices of the inventory.
	Holders []Holder
	Config  ConfigView
	Plugin  PluginView
	Did     Did
}

// Declared names the version of a NodeENI that was acted upon. UID and Generation come from the
// API server; empty and 0 for a manifest.
type Declared struct {
	Name, UID  string
	Generation int64
}

// Holder is an attachment of this boot that still has its device, or a container to which the
// kubelet has allocated one.
type Holder struct {
	PCIAddress device.PCIAddress `json:"pciAddress"`
	// Pod is namespace/name; PodUID is "" if the runtime did not pass it, or an older version wrote the record.
	Pod    string `json:"pod,omitempty"`
	PodUID string `json:"podUID,omitempty"`
	// ContainerID, IfName, Mode and State come from the attachment record; empty for an allocation without one.
	ContainerID string          `json:"containerID,omitempty"`
	IfName      string          `json:"ifname,omitempty"`
	Mode        nodestate.Mode  `json:"mode,omitempty"`
	State       nodestate.State `json:"state,omitempty"`
	// Addresses are the pod's on this device; none before they are known.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Container has the kubelet's allocation; "" for a record.
	Container string `json:"container,omitempty"`
}

// ConfigView is the device plugin's config.
type ConfigView struct {
	Path string `json:"path"`
	// Hash is the hash of the canonical content; "" while unknown.
	Hash string `json:"hash,omitempty"`
	// Current says that the file agrees with the inventory.
	Current bool `json:"current"`
}

// PluginState relates the device plugin to the config on disk.
type PluginState string

// The states of the device plugin.
const (
	// PluginUnknown: not looked for yet, or it could not be.
	PluginUnknown = PluginState(reason.Unknown)
	// PluginUnmanaged: somebody else restarts it (--restart=none).
	PluginUnmanaged = PluginState(reason.Unmanaged)
	// PluginNotFound: there is none on this node.
	PluginNotFound = PluginState(reason.NotFound)
	// PluginPending: a restart is due and waits for its time.
	PluginPending = PluginState(reason.RestartPending)
	// PluginRestarting: a restart is under way, or being verified.
	PluginRestarting = PluginState(reason.Restarting)
	// PluginServing: it is verified to serve the config on disk.
	PluginServing = PluginState(reason.Serving)
	// PluginFailed: the last restart has failed, and is tried again.
	PluginFailed = PluginState(reason.RestartFailed)
)

// PluginView is the device plugin.
type PluginView struct {
	State PluginState `json:"state"`
	// Pods are its pods on this node as namespace/name.
	Pods []string `json:"pods,omitempty"`
	// ServedHash is the config that the plugin was last verified to serve.
	ServedHash string `json:"servedHash,omitempty"`
	// LastRestart is when this daemon last deleted pods of the plugin; zero for not yet.
	LastRestart time.Time `json:"lastRestart,omitzero"`
	// Message says why the state is not PluginServing, in stable words.
	Message string `json:"message,omitempty"`
}

// Did lists the actions of one Sync.
type Did struct {
	// Took is how long the Sync took.
	Took time.Duration
	// ConfigWritten says that the device plugin's config was written.
	ConfigWritten bool
	// Withdrawn has, for each device that this Sync took out of the config, the time since its
	// removal was first seen.
	Withdrawn []time.Duration
	// DriverChanges have ended since the Sync before, sorted by device.
	DriverChanges []DriverChange
	// Restart is the restart that has ended since the Sync before; nil for none.
	Restart *RestartDone
	// Began and Over are the problems that have appeared and gone.
	Began, Over []nodestate.Problem
}

// DriverChange is the end of one change of a driver.
type DriverChange struct {
	PCIAddress device.PCIAddress
	// To is the driver that the device should get.
	To string
	// Err is nil if the device got it.
	Err  error
	Took time.Duration
}

// RestartDone is the end of a restart.
type RestartDone struct {
	// Result is RestartVerified, RestartNoneFound or RestartFailed.
	Result RestartResult
	// Deleted are the pods that were deleted, as namespace/name.
	Deleted []string
	// Err is nil when Result is RestartVerified.
	Err  error
	Took time.Duration
}

// RestartResult is how a restart of the device plugin ended.
type RestartResult string

// The results of a restart.
const (
	RestartVerified  RestartResult = "verified"
	RestartNoneFound RestartResult = "none_found"
	RestartFailed    RestartResult = "failed"
)
