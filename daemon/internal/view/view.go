// Package view describes the daemon's state after a Sync, for ENINodeState, Events, metrics and the status command.
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
	Number    uint64 // counts the Views of this daemon from 1
	At        time.Time
	Inventory nodestate.Inventory // the content of the file
	Declared  []Declared          // the NodeENIs of this node, by name
	Holders   []Holder            // the pods that have devices of the inventory
	Config    ConfigView
	Plugin    PluginView
	Offer     OfferView
	// Slots are the controller's, in its order, and Released those of them that the controller wants back and nothing on the node has.
	Slots        []Slot
	Released     []Released
	Unlisted     bool // not all of the declarations are known
	ByController bool // the lifecycle controller's list names the ENIs
	Did          Did
}

// Slot is an entry of the controller's list for this node.
type Slot struct {
	Slot     string       `json:"slot"`
	NodeENI  string       `json:"nodeENI"`
	ENIID    device.ENIID `json:"eniID,omitempty"`
	Wanted   string       `json:"wanted"`
	Phase    string       `json:"phase,omitempty"`
	Reason   string       `json:"reason,omitempty"`
	Message  string       `json:"message,omitempty"`
	Released bool         `json:"released,omitempty"` // the daemon has told the controller that nothing has the ENI
}

// Released is an ENI that no pod of the node has, or can get. Release is the number of the wish that it answers.
type Released struct {
	Slot    string
	ENIID   device.ENIID
	Release int
}

// Declared is the version of a NodeENI that was acted upon. UID and Generation are empty for a manifest.
type Declared struct {
	Name, UID  string
	Generation int64
}

// Holder is an attachment of this boot that has its device, or a container to which the kubelet has allocated one.
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
	Addresses   []netip.Addr    `json:"addresses,omitempty"` // the pod's on this device; none before they are known
	Container   string          `json:"container,omitempty"` // Container has the kubelet's allocation; "" for a record
}

// ConfigView is the device plugin's config.
type ConfigView struct {
	Path    string `json:"path"`
	Hash    string `json:"hash,omitempty"` // the hash of the canonical content; "" while unknown
	Current bool   `json:"current"`        // Current says that the file agrees with the inventory
}

// PluginState relates the device plugin to the config on disk.
type PluginState string

// The states of the device plugin.
const (
	PluginUnknown    = PluginState(reason.Unknown)        // not looked for yet, or it could not be
	PluginUnmanaged  = PluginState(reason.Unmanaged)      // somebody else restarts it (--restart=none)
	PluginNotFound   = PluginState(reason.NotFound)       // there is none on this node
	PluginPending    = PluginState(reason.RestartPending) // a restart is due and waits for its time
	PluginRestarting = PluginState(reason.Restarting)     // a restart is under way, or being verified
	PluginServing    = PluginState(reason.Serving)        // it is verified to serve the config on disk
	PluginFailed     = PluginState(reason.RestartFailed)  // the last restart has failed, and is tried again
)

// PluginView is the device plugin.
type PluginView struct {
	State       PluginState `json:"state"`
	Pods        []string    `json:"pods,omitempty"`       // its pods on this node as namespace/name
	ServedHash  string      `json:"servedHash,omitempty"` // the config that the plugin was last verified to serve
	LastRestart time.Time   `json:"lastRestart,omitzero"` // when this daemon last deleted pods of the plugin; zero for not yet
	Message     string      `json:"message,omitempty"`    // Message says why the state is not PluginServing, in stable words
}

// OfferState says how far the daemon's own offer to the kubelet is.
type OfferState string

// The states of the offer. In the mode pcidp it is "" unless the daemon is handing its resources back.
const (
	OfferUnknown     = OfferState(reason.OfferUnknown)    // the Node's label has not been read yet, so nothing changes hands
	OfferWaiting     = OfferState(reason.KubeletAway)     // the kubelet cannot be reached, or refuses the registration
	OfferRefused     = OfferState(reason.TakeoverRefused) // the device plugin's config offers a resource or a device of ours, so it goes on
	OfferTakingOver  = OfferState(reason.TakingOver)      // the daemon offers the devices, and the SR-IOV device plugin still does
	OfferOffered     = OfferState(reason.Offered)         // the kubelet has the devices from the daemon alone
	OfferHandingBack = OfferState(reason.HandingBack)     // the mode is pcidp again, and the SR-IOV device plugin is not verified to serve yet
)

// OfferView is the offer of devices to the kubelet.
type OfferView struct {
	Mode nodestate.OfferMode `json:"mode,omitempty"` // in effect; "" while not known
	// Wanted is the mode that the flag or the Node's label asks for; "" while not known.
	Wanted    nodestate.OfferMode `json:"wanted,omitempty"`
	State     OfferState          `json:"state,omitempty"`
	Message   string              `json:"message,omitempty"`   // Message says why the state is not OfferOffered, in stable words
	Resources []OfferedResource   `json:"resources,omitempty"` // the resources that the daemon serves, by name
}

// OfferedResource is a resource that the daemon serves.
type OfferedResource struct {
	Name       device.ResourceName `json:"name"`
	Registered bool                `json:"registered"` // Registered says that the kubelet listens to the daemon's list
	Healthy    int                 `json:"healthy"`    // the number of devices that a pod may get, or has
	Unhealthy  int                 `json:"unhealthy"`  // the number of devices that are draining, gone or not ready
}

// Did lists the actions of one Sync.
type Did struct {
	Took          time.Duration       // how long the Sync took
	ConfigWritten bool                // ConfigWritten says that the device plugin's config was written
	Withdrawn     []time.Duration     // Withdrawn has the time since the removal was seen, for each device that this Sync took out of the config
	DriverChanges []DriverChange      // DriverChanges have ended since the Sync before, sorted by device
	Restart       *RestartDone        // the restart that has ended since the Sync before; nil for none
	Offered       nodestate.OfferMode // Offered is the mode to which the last resource has changed hands in this Sync; "" for none
	Registrations int                 // Registrations is how often the kubelet has accepted a resource since the Sync before
	// Began and Over are the problems that have appeared and gone.
	Began, Over []nodestate.Problem
}

// DriverChange is the end of one change of a driver.
type DriverChange struct {
	PCIAddress device.PCIAddress
	To         string // the driver that the device should get
	Err        error  // nil if the device got it
	Took       time.Duration
}

// RestartDone is the end of a restart.
type RestartDone struct {
	Result  RestartResult // RestartVerified, RestartNoneFound or RestartFailed
	Deleted []string      // the pods that were deleted, as namespace/name
	Err     error         // nil when Result is RestartVerified
	Took    time.Duration
}

// RestartResult is how a restart of the device plugin ended.
type RestartResult string

// The results of a restart.
const (
	RestartVerified  RestartResult = "verified"
	RestartNoneFound RestartResult = "none_found"
	RestartFailed    RestartResult = "failed"
)
