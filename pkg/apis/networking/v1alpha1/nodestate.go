package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Names of an ENINodeState on the wire.
const (
	NodeStateKind     = "ENINodeState"
	NodeStateListKind = "ENINodeStateList"
	// NodeStateResource is its name in paths and in RBAC rules.
	NodeStateResource = "eninodestates"
)

// The types of an ENINodeState's conditions. Each is True when all is as people
// declared it, False when it is not, Unknown when the daemon cannot tell.
const (
	// ConditionDevicesReady: every device of the node is ready for pods.
	ConditionDevicesReady = "DevicesReady"
	// ConditionConfigCurrent: the device plugin's config file is as the devices
	// want it.
	ConditionConfigCurrent = "ConfigCurrent"
	// ConditionDevicePluginServing: the device plugin is verified to serve that
	// config, or the daemon offers the devices itself. Its reason is
	// OfferState.State, or DevicePluginState.State where that is empty.
	ConditionDevicePluginServing = "DevicePluginServing"
)

// The reasons of the conditions but ConditionDevicePluginServing.
const (
	// ReasonAllReady: there are devices, and each is ready.
	ReasonAllReady = "AllReady"
	// ReasonNoDevices: no NodeENI means this node, so that nothing is missing.
	ReasonNoDevices = "NoDevices"
	// ReasonDevicesPending: a device is not usable yet; problems say why.
	ReasonDevicesPending = "DevicesPending"
	// ReasonDevicesDraining: a device is being given back, the others are ready.
	ReasonDevicesDraining = "DevicesDraining"
	// ReasonConfigWritten: the file is as it ought to be.
	ReasonConfigWritten = "ConfigWritten"
	// ReasonConfigOutdated: the file could not be brought up to date; problems
	// say why.
	ReasonConfigOutdated = "ConfigOutdated"
)

// ENINodeState has the ENIs of one node. The spec lists the ENI attachments that the
// controller makes for it. The status reports the devices and the state of the SR-IOV
// device plugin. It has the name of the node and is deleted with it. Only the controller
// writes the spec, and only the daemon on that node writes the status.
// ---
// Every value is the plain string that the daemon wrote, so that no reader fails on one
// that it does not know.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=eninodestates,singular=eninodestate,shortName=ens,scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.devicesReady`,description="Devices that are ready for pods, of all declared devices"
// +kubebuilder:printcolumn:name="Problems",type=integer,JSONPath=`.status.problemCount`,description="Number of problems, see .status.problems"
// +kubebuilder:printcolumn:name="Device plugin",type=string,JSONPath=`.status.conditions[?(@.type=="DevicePluginServing")].reason`,description="State of the SR-IOV device plugin, or of the daemon's own offer"
// +kubebuilder:printcolumn:name="Offer",type=string,priority=1,JSONPath=`.status.offer.mode`,description="How the devices are offered to the kubelet: pcidp or deviceplugin"
// +kubebuilder:printcolumn:name="Last restart",type=date,priority=1,JSONPath=`.status.devicePlugin.lastRestart`,description="Time at which the daemon last restarted the device plugin"
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="DevicePluginServing")].message`,description="Message of the condition DevicePluginServing"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ENINodeState struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// ENI attachments that the controller makes for the node. Absent without the controller.
	//
	// +optional
	Spec ENINodeStateSpec `json:"spec,omitzero"`

	// Last report of the daemon on the node.
	//
	// +optional
	Status ENINodeStateStatus `json:"status,omitzero"`
}

// ENINodeStateList is a list of ENINodeState objects.
//
// +kubebuilder:object:root=true
type ENINodeStateList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ENINodeState `json:"items"`
}

// One version of a NodeENI.
type NodeENIReference struct {
	// Name of the NodeENI.
	Name string `json:"name"`

	// UID of the NodeENI.
	UID string `json:"uid"`

	// The metadata.generation of the NodeENI from which the entry was made.
	//
	// +optional
	Generation int64 `json:"generation,omitempty"`
}

// An ENI that the node has released: no pod has it, and no pod gets it.
type ReleasedENI struct {
	// ID of the slot, as in spec.attachments.
	Slot string `json:"slot"`

	// ID of the ENI.
	ENIID string `json:"eniID"`

	// Number of the wish that this answers, as in spec.attachments.
	//
	// +optional
	Release int `json:"release,omitempty"`
}

// Report of one node.
// ---
// No list of it is bounded: each grows with the ENIs and pods of one node, and cutting
// it would hide a device.
type ENINodeStateStatus struct {
	// Summary of the status in three conditions: DevicesReady, ConfigCurrent and
	// DevicePluginServing.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// How many of the devices are ready, such as 3/4.
	//
	// +optional
	DevicesReady string `json:"devicesReady,omitempty"`

	// Number of problems.
	//
	// +optional
	ProblemCount int `json:"problemCount"`

	// NodeENIs that select this node, sorted by name.
	//
	// +optional
	NodeENIs []ObservedNodeENI `json:"nodeENIs,omitempty"`

	// Version of the hand-shake with the controller that the daemon speaks. Absent unless it
	// runs with --attachments-from=controller.
	//
	// +optional
	Protocol int `json:"protocol,omitempty"`

	// ENIs that the node has released, so that the controller may detach them. An ENI is listed
	// as long as spec.attachments wants it released.
	//
	// +optional
	// +listType=map
	// +listMapKey=slot
	Released []ReleasedENI `json:"released,omitempty"`

	// Devices of the node, as in the node's inventory.
	//
	// +optional
	Devices []DeviceState `json:"devices,omitempty"`

	// Config file of the SR-IOV device plugin. Absent until the daemon has read it.
	//
	// +optional
	Config *ConfigState `json:"config,omitempty"`

	// The SR-IOV device plugin on the node. Absent until the daemon has found out about it.
	//
	// +optional
	DevicePlugin *DevicePluginState `json:"devicePlugin,omitempty"`

	// How the node's devices are offered to the kubelet. Absent until the daemon knows.
	//
	// +optional
	Offer *OfferState `json:"offer,omitempty"`

	// Problems that keep devices from being as declared, each with its remedy.
	//
	// +optional
	Problems []ProblemState `json:"problems,omitempty"`
}

// The version of a NodeENI that the node has acted upon.
type ObservedNodeENI struct {
	// Name of the NodeENI.
	Name string `json:"name"`

	// UID of the NodeENI. Absent if the NodeENI comes from a folder of manifests.
	//
	// +optional
	UID string `json:"uid,omitempty"`

	// The metadata.generation of the NodeENI that the node has acted upon.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// One device of the node. A field is absent if its value is not known.
type DeviceState struct {
	// ID of the ENI, such as eni-0a1b2c3d4e5f60718. Empty until the node has found the ENI.
	ENIID string `json:"eniID"`

	// Name of the NodeENI that declares the device.
	NodeENI string `json:"nodeENI"`

	// Phase of the device: pending, ready or draining. Only a ready device goes to new pods.
	Phase string `json:"phase"`

	// MAC address of the ENI, such as 02:00:00:00:00:07.
	//
	// +optional
	MAC string `json:"mac,omitempty"`

	// PCI address of the device, such as 0000:00:07.0.
	//
	// +optional
	PCIAddress string `json:"pciAddress,omitempty"`

	// Name of the network interface in the host, such as ens6. Absent while the device is in
	// a pod or bound to a userspace driver.
	//
	// +optional
	InterfaceName string `json:"interfaceName,omitempty"`

	// Driver that the device is bound to, such as ena.
	//
	// +optional
	Driver string `json:"driver,omitempty"`

	// Device index of the ENI on its network card in EC2. -1 if not known.
	DeviceIndex int `json:"deviceIndex"`

	// Index of the network card in EC2. -1 if not known.
	NetworkCard int `json:"networkCard"`

	// ID of the subnet of the ENI, such as subnet-0a1b2c3d4e5f60718.
	//
	// +optional
	SubnetID string `json:"subnetID,omitempty"`

	// IPv4 range of the subnet, such as 10.0.2.0/24.
	//
	// +optional
	SubnetCIDR string `json:"subnetCIDR,omitempty"`

	// Private addresses of the ENI with the prefix length of the subnet, such as
	// 10.0.2.15/24.
	//
	// +optional
	Addresses []string `json:"addresses,omitempty"`

	// Prefixes that are delegated to the ENI, such as 10.0.2.16/28.
	//
	// +optional
	Prefixes []string `json:"prefixes,omitempty"`

	// MTU of the NodeENI in octets, such as 9001. Absent if it has none.
	//
	// +optional
	MTU int `json:"mtu,omitempty"`

	// Resource under which the device is advertised to pods, as prefix/name. Absent if it is
	// not advertised.
	//
	// +optional
	ResourceName string `json:"resourceName,omitempty"`

	// Pods that have the device, as namespace/name.
	//
	// +optional
	Holders []string `json:"holders,omitempty"`
}

// The config file of the SR-IOV device plugin.
type ConfigState struct {
	// Path of the file on the node.
	Path string `json:"path"`

	// Hash of the content of the file, independent of its formatting. Absent if not known.
	//
	// +optional
	Hash string `json:"hash,omitempty"`

	// Whether the file lists the devices as they are now.
	Current bool `json:"current"`
}

// The SR-IOV device plugin on the node.
type DevicePluginState struct {
	// State of the device plugin: Unknown, Unmanaged, NotFound, RestartPending, Restarting,
	// Serving or RestartFailed. Serving means that it advertises the devices of the config
	// file.
	State string `json:"state"`

	// Pods of the device plugin on the node, as namespace/name.
	//
	// +optional
	Pods []string `json:"pods,omitempty"`

	// Hash of the config that the device plugin was last seen to serve. Compare it with
	// config.hash.
	//
	// +optional
	ServedHash string `json:"servedHash,omitempty"`

	// Time at which the daemon last restarted the device plugin. Absent if it never did.
	//
	// +optional
	LastRestart metav1.Time `json:"lastRestart,omitzero"`

	// Result of the last restart: verified, none_found or failed. Absent until a restart has
	// ended.
	//
	// +optional
	LastResult string `json:"lastResult,omitempty"`

	// Why the state is not Serving.
	//
	// +optional
	Message string `json:"message,omitempty"`
}

// How the node's devices are offered to the kubelet.
type OfferState struct {
	// Mode in effect: pcidp (the SR-IOV device plugin offers them) or deviceplugin (the daemon
	// does). Absent while it is not known.
	//
	// +optional
	Mode string `json:"mode,omitempty"`

	// Mode that the Node's label networking.k8s.aws/offer asks for, or else the daemon's flag
	// --offer. Differs from mode while the node changes over, or cannot. Absent while it is not
	// known.
	//
	// +optional
	Wanted string `json:"wanted,omitempty"`

	// State of the daemon's own offer: OfferUnknown, KubeletAway, TakeoverRefused, TakingOver,
	// Offered or HandingBack. Absent while the SR-IOV device plugin offers the devices and
	// nothing changes.
	//
	// +optional
	State string `json:"state,omitempty"`

	// Why the state is not Offered.
	//
	// +optional
	Message string `json:"message,omitempty"`

	// Resources that the daemon offers, sorted by name.
	//
	// +optional
	Resources []OfferedResource `json:"resources,omitempty"`
}

// A resource that the daemon offers to the kubelet.
type OfferedResource struct {
	// Name of the resource, as prefix/name.
	Name string `json:"name"`

	// Whether the kubelet has accepted the resource and listens to its devices.
	Registered bool `json:"registered"`

	// Number of devices that a pod has or may get.
	Healthy int `json:"healthy"`

	// Number of devices that no new pod gets, since they are draining, gone or not ready.
	Unhealthy int `json:"unhealthy"`
}

// One problem that a person can solve.
type ProblemState struct {
	// Kind of the problem in one word, such as InvalidMTU. docs/troubleshooting.md explains
	// each.
	Reason string `json:"reason"`

	// Name of the NodeENI concerned.
	//
	// +optional
	NodeENI string `json:"nodeENI,omitempty"`

	// Device concerned, by ENI ID or PCI address.
	//
	// +optional
	Device string `json:"device,omitempty"`

	// The field, its value and the remedy.
	Message string `json:"message"`
}
