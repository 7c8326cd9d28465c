package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Names of a NodeENI on the wire.
const (
	GroupName  = "networking.k8s.aws"
	Version    = "v1alpha1"
	APIVersion = GroupName + "/" + Version
	Kind       = "NodeENI"
	ListKind   = "NodeENIList"
)

// NodeENI declares one ENI, or one ENI in each of several subnets, for every node that
// its selector matches.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=nodeenis,singular=nodeeni,shortName=neni,scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Subnet",type=string,JSONPath=`.spec.subnetID`,description="Subnet of the ENI; -o wide shows several"
// +kubebuilder:printcolumn:name="Index",type=integer,JSONPath=`.spec.deviceIndex`,description="Device index of the first ENI on the instance"
// +kubebuilder:printcolumn:name="MTU",type=integer,JSONPath=`.spec.mtu`,description="MTU in octets"
// +kubebuilder:printcolumn:name="DPDK",type=boolean,JSONPath=`.spec.enableDPDK`,description="Whether nodes bind the device to a userspace driver"
// +kubebuilder:printcolumn:name="Resource",type=string,JSONPath=`.spec.dpdkResourceName`,description="Resource under which the device is advertised to pods"
// +kubebuilder:printcolumn:name="First node",type=string,JSONPath=`.status.attachments[0].nodeID`,description="First node to which a controller has attached an ENI; kubectl get ens shows the readiness on each node"
// +kubebuilder:printcolumn:name="Subnets",type=string,priority=1,JSONPath=`.spec.subnetIDs`,description="Subnets that have one ENI each"
// +kubebuilder:printcolumn:name="Subnet names",type=string,priority=1,JSONPath=.spec.subnetNames,description="Name tags of the subnets that have one ENI each"
// +kubebuilder:printcolumn:name="PCI address",type=string,priority=1,JSONPath=`.spec.dpdkPCIAddress`,description="PCI address that the NodeENI gives"
// +kubebuilder:printcolumn:name="Selector",type=string,priority=1,JSONPath=`.spec.nodeSelector`,description="Labels of the nodes that get the ENI"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeENI struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// The ENIs that nodes get, and how pods get them.
	Spec NodeENISpec `json:"spec,omitempty"`
	// Report of the controller that attaches the ENIs.
	Status NodeENIStatus `json:"status,omitempty"`
}

// NodeENIList is a list of NodeENI objects, as the API server and kubectl write
// it.
//
// +kubebuilder:object:root=true
type NodeENIList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []NodeENI `json:"items"`
}

// The ENIs that nodes get, and how pods get them.
// ---
// The zero value of an optional field means "not given"; Defaulted fills in the default.
type NodeENISpec struct {
	// Labels that a node must have, all of them, to get the ENI. An empty selector matches
	// every node.
	NodeSelector map[string]string `json:"nodeSelector"`

	// ID of the subnet of the ENI, such as subnet-0a1b2c3d4e5f60718.
	//
	// +optional
	SubnetID string `json:"subnetID,omitempty"`

	// Name tag of the subnet, instead of subnetID.
	//
	// +optional
	SubnetName string `json:"subnetName,omitempty"`

	// IDs of subnets, for one ENI in each of them. The first ENI has the device index
	// deviceIndex, the second deviceIndex + 1, and so on.
	//
	// +optional
	SubnetIDs []string `json:"subnetIDs,omitempty"`

	// Name tags of subnets, instead of subnetIDs.
	//
	// +optional
	SubnetNames []string `json:"subnetNames,omitempty"`

	// IDs of the security groups of the ENI, such as sg-0a1b2c3d4e5f60718.
	//
	// +optional
	SecurityGroupIDs []string `json:"securityGroupIDs,omitempty"`

	// Names of security groups, instead of securityGroupIDs or in addition to them.
	//
	// +optional
	SecurityGroupNames []string `json:"securityGroupNames,omitempty"`

	// Device index of the ENI on the instance, or of the first ENI if there are several.
	// Defaults to 1. Index 0 is the primary ENI, which no NodeENI can declare. Therefore 0
	// and negative numbers stand for the default.
	//
	// +optional
	// +kubebuilder:default=1
	DeviceIndex int `json:"deviceIndex,omitempty"`

	// Whether EC2 deletes the ENI when its instance terminates. Defaults to true.
	// ---
	// It is a pointer because false and "not given" differ.
	//
	// +optional
	// +kubebuilder:default=true
	DeleteOnTermination *bool `json:"deleteOnTermination,omitempty"`

	// Description of the ENI in EC2.
	//
	// +optional
	Description string `json:"description,omitempty"`

	// MTU of the network interface in octets, such as 9001. Defaults to 0, which leaves the
	// MTU of the interface as it is.
	//
	// +optional
	MTU int `json:"mtu,omitempty"`

	// Whether the node binds the device to dpdkDriver, for DPDK programs. Defaults to false.
	//
	// +optional
	EnableDPDK bool `json:"enableDPDK,omitempty"`

	// Userspace driver, such as vfio-pci. It has no effect without enableDPDK. Defaults to
	// vfio-pci.
	// ---
	// The CRD gives it no default, hence it may be empty: see Defaulted.
	//
	// +optional
	DPDKDriver string `json:"dpdkDriver,omitempty"`

	// Resource under which the SR-IOV device plugin advertises the device to pods, as
	// prefix/name, such as intel.com/sriov_net_a. It works with and without enableDPDK.
	// Defaults to intel.com/sriov_net with enableDPDK or dpdkPCIAddress. Otherwise a device
	// without a resource name is not advertised.
	//
	// +optional
	DPDKResourceName string `json:"dpdkResourceName,omitempty"`

	// PCI address of the device, such as 0000:00:07.0. The node finds the address itself. If
	// you give one, it must be the same.
	//
	// +optional
	DPDKPCIAddress string `json:"dpdkPCIAddress,omitempty"`
}

// Report of the controller that attaches the ENIs.
type NodeENIStatus struct {
	// One entry for each ENI on each node.
	//
	// +optional
	Attachments []ENIAttachment `json:"attachments,omitempty"`
}

// One ENI on one node. Any field may be empty.
type ENIAttachment struct {
	// Name of the node.
	// ---
	// In spite of its own name.
	//
	// +optional
	NodeID string `json:"nodeID"`

	// ID of the EC2 instance, such as i-0a1b2c3d4e5f60718.
	//
	// +optional
	InstanceID string `json:"instanceID"`

	// ID of the ENI, such as eni-0a1b2c3d4e5f60718.
	//
	// +optional
	ENIID string `json:"eniID"`

	// ID of the attachment in EC2, such as eni-attach-0a1b2c3d4e5f60718.
	//
	// +optional
	AttachmentID string `json:"attachmentID"`

	// ID of the subnet of the ENI, such as subnet-0a1b2c3d4e5f60718.
	//
	// +optional
	SubnetID string `json:"subnetID,omitempty"`

	// IPv4 range of the subnet, such as 10.0.2.0/24.
	//
	// +optional
	SubnetCIDR string `json:"subnetCIDR,omitempty"`

	// MTU of the NodeENI in octets. 0 if it has none.
	//
	// +optional
	MTU int `json:"mtu,omitempty"`

	// Device index of the ENI on the instance. 0 if the controller did not report it.
	// ---
	// A NodeENI never has the primary ENI, whose index is 0.
	//
	// +optional
	DeviceIndex int `json:"deviceIndex,omitempty"`

	// State of the attachment for people to read, such as attached.
	//
	// +optional
	Status string `json:"status"`

	// Time of the last change of this entry.
	// ---
	// Zero when unknown.
	//
	// +optional
	LastUpdated metav1.Time `json:"lastUpdated,omitzero"`

	// Whether the node agent of the public controller bound the device to a userspace
	// driver.
	//
	// +optional
	DPDKBound bool `json:"dpdkBound,omitempty"`
	// Userspace driver that the device was bound to.
	//
	// +optional
	DPDKDriver string `json:"dpdkDriver,omitempty"`
	// Resource under which the device was advertised.
	//
	// +optional
	DPDKResourceName string `json:"dpdkResourceName,omitempty"`
	// PCI address at which the device was bound, such as 0000:00:07.0.
	//
	// +optional
	DPDKPCIAddress string `json:"dpdkPCIAddress,omitempty"`
}
