package v1alpha1

// Protocol is the version of the hand-shake between controller and daemon.
const Protocol = 1

// Values of AttachmentEntry.Wanted.
const (
	WantedAttached = "Attached"
	WantedReleased = "Released"
)

// ENI attachments that the controller makes for one node.
type ENINodeStateSpec struct {
	// Version of the hand-shake that the controller speaks. Absent until the controller has
	// written the spec.
	//
	// +optional
	Protocol int `json:"protocol,omitempty"`

	// One entry for each slot: one ENI of one NodeENI, in one subnet, on this node's instance.
	//
	// +optional
	// +listType=map
	// +listMapKey=slot
	Attachments []AttachmentEntry `json:"attachments,omitempty"`
}

// One slot of a node. A field is absent if its value is not known.
type AttachmentEntry struct {
	// ID of the slot: 16 hexadecimal digits.
	Slot string `json:"slot"`

	// NodeENI that declares the ENI.
	NodeENI NodeENIReference `json:"nodeENI"`

	// ID of the EC2 instance, such as i-0a1b2c3d4e5f60718.
	InstanceID string `json:"instanceID"`

	// ID of the subnet of the ENI, such as subnet-0a1b2c3d4e5f60718.
	SubnetID string `json:"subnetID"`

	// IPv4 range of the subnet, such as 10.0.2.0/24.
	//
	// +optional
	SubnetCIDR string `json:"subnetCIDR,omitempty"`

	// ID of the ENI, such as eni-0a1b2c3d4e5f60718. Absent until it has been created.
	//
	// +optional
	ENIID string `json:"eniID,omitempty"`

	// ID of the attachment in EC2, such as eni-attach-0a1b2c3d4e5f60718.
	//
	// +optional
	AttachmentID string `json:"attachmentID,omitempty"`

	// MAC address of the ENI, such as 02:00:00:00:00:07.
	//
	// +optional
	MAC string `json:"mac,omitempty"`

	// Private addresses of the ENI, the primary one first, such as 10.0.2.15.
	//
	// +optional
	Addresses []string `json:"addresses,omitempty"`

	// Prefixes that are delegated to the ENI, such as 10.0.2.16/28.
	//
	// +optional
	Prefixes []string `json:"prefixes,omitempty"`

	// Index of the network card in EC2.
	NetworkCard int `json:"networkCard"`

	// Device index of the ENI on its network card.
	DeviceIndex int `json:"deviceIndex"`

	// MTU of the NodeENI in octets. Absent if it has none.
	//
	// +optional
	MTU int `json:"mtu,omitempty"`

	// Whether the node binds the device to dpdkDriver.
	//
	// +optional
	EnableDPDK bool `json:"enableDPDK,omitempty"`

	// Userspace driver of the NodeENI, such as vfio-pci.
	//
	// +optional
	DPDKDriver string `json:"dpdkDriver,omitempty"`

	// PCI address that the NodeENI names, for DPDK. Absent if it has none.
	//
	// +optional
	DPDKPCIAddress string `json:"dpdkPCIAddress,omitempty"`

	// Name of the resource that pods request. Absent if the NodeENI has none.
	//
	// +optional
	ResourceName string `json:"resourceName,omitempty"`

	// Value of the annotation networking.k8s.aws/allowed-namespaces of the NodeENI. Absent
	// without the annotation, which allows every namespace.
	//
	// +optional
	AllowedNamespaces *string `json:"allowedNamespaces,omitempty"`

	// Attached: pods may get the device. Released: the daemon drains it, and reports it in
	// status.released once no pod has it.
	//
	// +kubebuilder:validation:Enum=Attached;Released
	Wanted string `json:"wanted"`

	// Number of the wish to release the ENI: it grows each time wanted becomes Released, and
	// stays while wanted is Attached. The daemon's answer counts only with this number. With 0,
	// the value if absent, none counts. It begins with the time in seconds, so that no number
	// comes again when the ENINodeState was deleted and is made anew.
	//
	// +optional
	Release int `json:"release,omitempty"`

	// How many ENIs the controller has asked EC2 to create for the slot, 0 if none. It is part
	// of the client token of the call.
	//
	// +optional
	Attempt int `json:"attempt,omitempty"`

	// Hash of the parameters with which the ENI is created in this attempt. Absent for an ENI
	// that the controller did not create.
	//
	// +optional
	Request string `json:"request,omitempty"`

	// Phase of the slot: Wanted, Creating, Created, Attaching, Attached, Ready, Draining,
	// Released, Detaching, Deleting, Parked, Blocked or External.
	//
	// +optional
	Phase string `json:"phase,omitempty"`

	// Why the slot is blocked or waits, in one word. Absent otherwise.
	//
	// +optional
	Reason string `json:"reason,omitempty"`

	// The field, its value and the remedy, if there is a reason.
	//
	// +optional
	Message string `json:"message,omitempty"`

	// Whether the ENI was found on the instance, without a record that the controller made it
	// for this slot. The daemon then releases it although its report never named it.
	//
	// +optional
	Found bool `json:"found,omitempty"`
}
