package nodestate

import (
	"net/netip"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// SchemaVersion is the version of every file this package writes. A file with
// another version is refused on reading, never guessed at: see ErrOtherVersion.
const SchemaVersion = 1

// Default paths of the files and folders of the contract.
const (
	DefaultInventoryPath  = "/run/multi-eni/inventory.json"
	DefaultAttachmentsDir = "/var/lib/cni/multi-eni"
	DefaultStateDir       = "/var/lib/multi-eni"
)

// Phase says what may be done with a device.
type Phase string

// The phases of a device's life in the inventory.
const (
	// PhasePending: declared, but not usable yet; an attach gets "try again".
	PhasePending Phase = "pending"
	// PhaseReady: its link was seen up, or its userspace driver bound.
	PhaseReady Phase = "ready"
	// PhaseDraining: its NodeENI no longer holds for this node; no new pod.
	PhaseDraining Phase = "draining"
)

// Inventory is what the daemon knows of this node's declared ENIs: written by multi-enid, read by multi-eni. Devices
// are sorted by NodeENI, then SubnetID, then ENIID; Problems by Device, then NodeENI, then Reason.
type Inventory struct {
	SchemaVersion int    `json:"schemaVersion"`
	NodeName      string `json:"nodeName"`
	// BootID is the content of /proc/sys/kernel/random/boot_id when the file
	// was written. Under another boot id the whole file is void.
	BootID string `json:"bootID"`
	// UpdatedAt is the time of the last change of anything else in the file.
	UpdatedAt time.Time `json:"updatedAt"`
	Problems  []Problem `json:"problems"`
	Devices   []Device  `json:"devices"`
}

// Reason is one word in CamelCase, for programs. The daemon's are listed in docs/troubleshooting.md.
type Reason string

// Problem is something a person must look at. It names what is wrong, with which value, and the way out.
type Problem struct {
	// Reason is a stable CamelCase word, such as PCIAddressMismatch.
	Reason Reason `json:"reason"`
	// NodeENI is the object concerned, or "".
	NodeENI string `json:"nodeENI,omitempty"`
	// Device is the ENI id, PCI address or file concerned, or "".
	Device string `json:"device,omitempty"`
	// Message is one sentence for people.
	Message string `json:"message"`
}

// Device is one row of the inventory: one ENI that one NodeENI declares for this node. The zero value of a field means
// "not known" (a pending row may lack MAC, PCIAddress and InterfaceName) or "does not apply".
type Device struct {
	ENIID         device.ENIID      `json:"eniID"`
	NodeENI       string            `json:"nodeENI"`
	MAC           device.MAC        `json:"mac,omitempty"`
	PCIAddress    device.PCIAddress `json:"pciAddress,omitempty"`
	InterfaceName string            `json:"interfaceName,omitempty"`
	// Driver is the kernel or userspace driver bound to the PCI function, as the basename of its sysfs driver link.
	Driver string `json:"driver,omitempty"`
	// DeviceIndex and NetworkCard are EC2's; -1 means not known.
	DeviceIndex int             `json:"deviceIndex"`
	NetworkCard int             `json:"networkCard"`
	SubnetID    device.SubnetID `json:"subnetID,omitempty"`
	SubnetCIDR  netip.Prefix    `json:"subnetCIDR,omitzero"`
	// VPCCIDRs are the IPv4 networks of the ENI's VPC.
	VPCCIDRs []netip.Prefix `json:"vpcCIDRs,omitempty"`
	// Addresses are the ENI's own, primary first, with the subnet's mask.
	Addresses []netip.Prefix `json:"addresses"`
	// Prefixes are delegated to the ENI (/28 for IPv4, /80 for IPv6).
	Prefixes []netip.Prefix `json:"prefixes"`
	// MTU in octets, from the NodeENI; 0 leaves the link's own.
	MTU          int                 `json:"mtu,omitempty"`
	ResourceName device.ResourceName `json:"resourceName,omitempty"`
	// AllowedNamespaces are the pod namespaces that may use the device, copied from the NodeENI's annotation
	// networking.k8s.aws/allowed-namespaces; empty means any.
	AllowedNamespaces []string `json:"allowedNamespaces,omitempty"`
	// Ethtool are the device's settings (ethtool(8)) as they were when no pod had it,
	// in link.Handle.Ethtool's own form; null when it was not seen like that.
	Ethtool Settings `json:"ethtool,omitzero"`
	Phase   Phase    `json:"phase"`
	// Cause says why a draining device drains: a clause for people, of stable values.
	// It is "" in every other phase, and in a row of a version that did not write it.
	Cause string `json:"cause,omitempty"`
}

// Router is the subnet's in the VPC: its first address. The zero Addr for IPv6,
// where it is known by its announcements only.
func Router(p netip.Prefix) netip.Addr {
	if !p.Addr().Is4() {
		return netip.Addr{}
	}
	return p.Masked().Addr().Next()
}
