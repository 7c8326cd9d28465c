package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What an ENINodeState is called on the wire.
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
	// config. Its reason is DevicePluginState.State.
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

// ENINodeState is what one node knows of its ENIs: the contents of the node's
// inventory and how its device plugin stands. It has the node's name and is
// owned by the Node. Only the daemon on that node writes it, and only its
// status; whatever else writes it is overwritten at the next change.
//
// Every value is the plain string that the daemon wrote, so that no reader
// fails on one that it does not know.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=eninodestates,singular=eninodestate,shortName=ens,scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.devicesReady`,description="Devices that are ready for pods, of all that are declared"
// +kubebuilder:printcolumn:name="Problems",type=integer,JSONPath=`.status.problemCount`,description="What keeps devices from being ready, see .status.problems"
// +kubebuilder:printcolumn:name="Device plugin",type=string,JSONPath=`.status.devicePlugin.state`,description="How the SR-IOV device plugin stands to its config"
// +kubebuilder:printcolumn:name="Last restart",type=date,priority=1,JSONPath=`.status.devicePlugin.lastRestart`,description="When this daemon last restarted the device plugin"
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.devicePlugin.message`,description="Why the device plugin does not serve the config"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ENINodeState struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Status is what the daemon on the node reported last.
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

// ENINodeStateStatus is what a node knows. No list of it is bounded: each grows
// with the ENIs and pods of one node, and cutting it would hide a device.
type ENINodeStateStatus struct {
	// Conditions sum up the rest: DevicesReady, ConfigCurrent and
	// DevicePluginServing.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// DevicesReady is how many of Devices are ready, such as 3/4.
	//
	// +optional
	DevicesReady string `json:"devicesReady,omitempty"`

	// ProblemCount is the length of Problems.
	//
	// +optional
	ProblemCount int `json:"problemCount"`

	// NodeENIs are the NodeENIs that mean this node, sorted by name.
	//
	// +optional
	NodeENIs []ObservedNodeENI `json:"nodeENIs,omitempty"`

	// Devices are the rows of the node's inventory, in its order.
	//
	// +optional
	Devices []DeviceState `json:"devices,omitempty"`

	// Config is the device plugin's config file; absent while nothing is known
	// of it.
	//
	// +optional
	Config *ConfigState `json:"config,omitempty"`

	// DevicePlugin is the SR-IOV device plugin; absent while nothing is known of
	// it.
	//
	// +optional
	DevicePlugin *DevicePluginState `json:"devicePlugin,omitempty"`

	// Problems are what keeps devices from being as declared.
	//
	// +optional
	Problems []ProblemState `json:"problems,omitempty"`
}

// ObservedNodeENI is the version of a NodeENI that the node has acted upon.
type ObservedNodeENI struct {
	// Name is the NodeENI's.
	Name string `json:"name"`

	// UID is the NodeENI's; absent for a manifest from a folder.
	//
	// +optional
	UID string `json:"uid,omitempty"`

	// ObservedGeneration is the metadata.generation that was acted upon.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
}

// DeviceState is one row of the inventory. An absent field is one that is not
// known (yet).
type DeviceState struct {
	// ENIID is the ENI, such as eni-0a1b2c3d4e5f60718; empty while it is sought.
	ENIID string `json:"eniID"`

	// NodeENI is the name of the NodeENI that declares the device.
	NodeENI string `json:"nodeENI"`

	// Phase is pending, ready or draining.
	Phase string `json:"phase"`

	// MAC is the ENI's, such as 02:00:00:00:00:07.
	//
	// +optional
	MAC string `json:"mac,omitempty"`

	// PCIAddress is where the device was found, such as 0000:00:07.0.
	//
	// +optional
	PCIAddress string `json:"pciAddress,omitempty"`

	// InterfaceName is the link's name in the host; absent while a pod or a
	// userspace driver has the device.
	//
	// +optional
	InterfaceName string `json:"interfaceName,omitempty"`

	// Driver is the kernel driver it is bound to.
	//
	// +optional
	Driver string `json:"driver,omitempty"`

	// DeviceIndex is EC2's index of the ENI on its network card; -1 when not
	// known.
	DeviceIndex int `json:"deviceIndex"`

	// NetworkCard is EC2's index of the network card; -1 when not known.
	NetworkCard int `json:"networkCard"`

	// SubnetID is the ENI's subnet.
	//
	// +optional
	SubnetID string `json:"subnetID,omitempty"`

	// SubnetCIDR is that subnet's IPv4 range, such as 10.0.2.0/24.
	//
	// +optional
	SubnetCIDR string `json:"subnetCIDR,omitempty"`

	// Addresses are the ENI's private addresses, such as 10.0.2.15/24.
	//
	// +optional
	Addresses []string `json:"addresses,omitempty"`

	// Prefixes are the prefixes delegated to the ENI.
	//
	// +optional
	Prefixes []string `json:"prefixes,omitempty"`

	// MTU is the one asked for, in octets; absent to leave the link's own.
	//
	// +optional
	MTU int `json:"mtu,omitempty"`

	// ResourceName is the resource, as prefix/name, under which the device is
	// advertised; absent for one that is not.
	//
	// +optional
	ResourceName string `json:"resourceName,omitempty"`

	// Holders are the pods that have the device, as namespace/name.
	//
	// +optional
	Holders []string `json:"holders,omitempty"`
}

// ConfigState is the device plugin's config file.
type ConfigState struct {
	// Path is the file's on the node.
	Path string `json:"path"`

	// Hash is that of the file's canonical content; absent when not known.
	//
	// +optional
	Hash string `json:"hash,omitempty"`

	// Current says that the file is as the devices want it.
	Current bool `json:"current"`
}

// DevicePluginState is the SR-IOV device plugin on the node.
type DevicePluginState struct {
	// State is Unknown, Unmanaged, NotFound, RestartPending, Restarting, Serving
	// or RestartFailed.
	State string `json:"state"`

	// Pods are its pods on the node, as namespace/name.
	//
	// +optional
	Pods []string `json:"pods,omitempty"`

	// ServedHash is the Config.Hash that it was last verified to serve.
	//
	// +optional
	ServedHash string `json:"servedHash,omitempty"`

	// LastRestart is when the daemon last restarted it; absent when it never did.
	//
	// +optional
	LastRestart metav1.Time `json:"lastRestart,omitzero"`

	// LastResult is how the last restart ended: verified, none_found or failed;
	// absent before the first end.
	//
	// +optional
	LastResult string `json:"lastResult,omitempty"`

	// Message says why State is not Serving.
	//
	// +optional
	Message string `json:"message,omitempty"`
}

// ProblemState is one fault that a person can mend.
type ProblemState struct {
	// Reason is one word in CamelCase, such as InvalidMTU.
	Reason string `json:"reason"`

	// NodeENI is the name of the one concerned.
	//
	// +optional
	NodeENI string `json:"nodeENI,omitempty"`

	// Device is the device concerned, by ENI id or PCI address.
	//
	// +optional
	Device string `json:"device,omitempty"`

	// Message names the field, the value and the way out.
	Message string `json:"message"`
}
