package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a NodeENI is called on the wire.
const (
	GroupName  = "networking.k8s.aws"
	Version    = "v1alpha1"
	APIVersion = GroupName + "/" + Version
	Kind       = "NodeENI"
	ListKind   = "NodeENIList"
)

// NodeENI declares one ENI, or one per subnet, on every node that its selector
// selects.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=nodeenis,singular=nodeeni,shortName=neni,scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Subnet",type=string,JSONPath=`.spec.subnetID`,description="Subnet of the ENI; see also Subnets (-o wide)"
// +kubebuilder:printcolumn:name="Index",type=integer,JSONPath=`.spec.deviceIndex`,description="Device index of the (first) ENI on the instance"
// +kubebuilder:printcolumn:name="MTU",type=integer,JSONPath=`.spec.mtu`,description="MTU asked for, in octets"
// +kubebuilder:printcolumn:name="DPDK",type=boolean,JSONPath=`.spec.enableDPDK`,description="Whether the device is bound to a userspace driver"
// +kubebuilder:printcolumn:name="Resource",type=string,JSONPath=`.spec.dpdkResourceName`,description="Resource under which the device is advertised to pods"
// +kubebuilder:printcolumn:name="Subnets",type=string,priority=1,JSONPath=`.spec.subnetIDs`,description="Subnets with an ENI each"
// +kubebuilder:printcolumn:name="Subnet names",type=string,priority=1,JSONPath=`.spec.subnetNames`,description="Name tags of the subnets with an ENI each"
// +kubebuilder:printcolumn:name="PCI address",type=string,priority=1,JSONPath=`.spec.dpdkPCIAddress`,description="Where a person says that the device is"
// +kubebuilder:printcolumn:name="Selector",type=string,priority=1,JSONPath=`.spec.nodeSelector`,description="Labels of the nodes that have it"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeENI struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   NodeENISpec   `json:"spec,omitempty"`
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

// NodeENISpec is what a person declares. The zero value of an optional field
// means "not given"; Defaulted fills in what that stands for.
type NodeENISpec struct {
	// NodeSelector are the labels that a node must all have. Empty selects every
	// node, as an empty label selector does.
	NodeSelector map[string]string `json:"nodeSelector"`

	// SubnetID is the subnet that the ENI lies in.
	//
	// +optional
	SubnetID string `json:"subnetID,omitempty"`

	// SubnetName is the subnet's Name tag, for use instead of SubnetID.
	//
	// +optional
	SubnetName string `json:"subnetName,omitempty"`

	// SubnetIDs asks for one ENI in each of these subnets; the n-th, counted from
	// zero, has device index DeviceIndex+n.
	//
	// +optional
	SubnetIDs []string `json:"subnetIDs,omitempty"`

	// SubnetNames are Name tags, for use instead of SubnetIDs.
	//
	// +optional
	SubnetNames []string `json:"subnetNames,omitempty"`

	// SecurityGroupIDs are the ENI's security groups.
	//
	// +optional
	SecurityGroupIDs []string `json:"securityGroupIDs,omitempty"`

	// SecurityGroupNames are names of security groups, for use instead of, or
	// with, SecurityGroupIDs.
	//
	// +optional
	SecurityGroupNames []string `json:"securityGroupNames,omitempty"`

	// DeviceIndex is EC2's index of the (first) ENI on the instance. Index 0 is
	// the primary ENI, which no NodeENI can mean: 0 and less stand for the
	// default, as they do for the public controller.
	//
	// +optional
	// +kubebuilder:default=1
	DeviceIndex int `json:"deviceIndex,omitempty"`

	// DeleteOnTermination says whether the ENI ends with its instance. It is a
	// pointer because false and "not given" (true) differ.
	//
	// +optional
	// +kubebuilder:default=true
	DeleteOnTermination *bool `json:"deleteOnTermination,omitempty"`

	// Description is the ENI's description in EC2.
	//
	// +optional
	Description string `json:"description,omitempty"`

	// MTU is the link's, in octets; 0 leaves it as it is.
	//
	// +optional
	MTU int `json:"mtu,omitempty"`

	// EnableDPDK asks for the device to be bound to DPDKDriver.
	//
	// +optional
	EnableDPDK bool `json:"enableDPDK,omitempty"`

	// DPDKDriver is the userspace driver; it means nothing without EnableDPDK.
	// The CRD gives it no default, hence it may be empty: see Defaulted.
	//
	// +optional
	DPDKDriver string `json:"dpdkDriver,omitempty"`

	// DPDKResourceName is the resource, as prefix/name, under which the device
	// plugin advertises the device, with or without EnableDPDK.
	//
	// +optional
	DPDKResourceName string `json:"dpdkResourceName,omitempty"`

	// DPDKPCIAddress is where a person says that the device is. It is discovered
	// anyway; where given, both must agree.
	//
	// +optional
	DPDKPCIAddress string `json:"dpdkPCIAddress,omitempty"`
}

// NodeENIStatus is what the controller that attaches ENIs reports.
type NodeENIStatus struct {
	// Attachments has one entry for each ENI on each node.
	//
	// +optional
	Attachments []ENIAttachment `json:"attachments,omitempty"`
}

// ENIAttachment is one ENI on one node. None of its fields is required by the
// CRD: any may be empty.
type ENIAttachment struct {
	// NodeID is the node's name, in spite of its own name.
	//
	// +optional
	NodeID string `json:"nodeID"`

	// InstanceID is the EC2 instance, such as i-0a1b2c3d4e5f60718.
	//
	// +optional
	InstanceID string `json:"instanceID"`

	// ENIID is the ENI, such as eni-0a1b2c3d4e5f60718.
	//
	// +optional
	ENIID string `json:"eniID"`

	// AttachmentID is EC2's name of this attachment, such as
	// eni-attach-0a1b2c3d4e5f60718.
	//
	// +optional
	AttachmentID string `json:"attachmentID"`

	// SubnetID is the subnet that the ENI lies in.
	//
	// +optional
	SubnetID string `json:"subnetID,omitempty"`

	// SubnetCIDR is that subnet's IPv4 range, such as 10.0.2.0/24.
	//
	// +optional
	SubnetCIDR string `json:"subnetCIDR,omitempty"`

	// MTU is the one asked for, in octets; 0 means that none was.
	//
	// +optional
	MTU int `json:"mtu,omitempty"`

	// DeviceIndex is EC2's index of the ENI; 0 means that it was not reported,
	// since a NodeENI never has the primary one.
	//
	// +optional
	DeviceIndex int `json:"deviceIndex,omitempty"`

	// Status is a word for people, such as attached.
	//
	// +optional
	Status string `json:"status"`

	// LastUpdated is when this entry was written last; zero when unknown.
	//
	// +optional
	LastUpdated metav1.Time `json:"lastUpdated,omitzero"`

	// DPDKBound says that the public controller's node agent bound the device to
	// DPDKDriver, at DPDKPCIAddress, advertised as DPDKResourceName.
	//
	// +optional
	DPDKBound bool `json:"dpdkBound,omitempty"`
	// +optional
	DPDKDriver string `json:"dpdkDriver,omitempty"`
	// +optional
	DPDKResourceName string `json:"dpdkResourceName,omitempty"`
	// +optional
	DPDKPCIAddress string `json:"dpdkPCIAddress,omitempty"`
}
