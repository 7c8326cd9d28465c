package nodestate

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// AttachmentID names one attachment on this node: CNI_CONTAINERID and CNI_IFNAME, the key of CNI spec 1.1.0 section 2.
type AttachmentID struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// String is the form used in messages.
func (id AttachmentID) String() string { return id.ContainerID + "-" + id.IfName }

// State of an attachment record.
type State string

// The states of a record.
const (
	// StateIntent: effects may have happened. While the writer lives, it holds a lock on the record; see AttachmentDir.
	StateIntent State = "intent"
	// StateComplete: ADD has succeeded.
	StateComplete State = "complete"
	// StateReleased: the device is back and free for others, but a delegate's or
	// IPAM plugin's DEL has failed and is to be repeated.
	StateReleased State = "released"
)

// Mode says how the pod has the device.
type Mode string

// The modes of an attachment.
const (
	// ModeExclusive: the device itself is in the container's netns.
	ModeExclusive Mode = "exclusive"
	// ModeDPDK: bound to a userspace driver; nothing was moved.
	ModeDPDK Mode = "dpdk"
	// ModeDelegateExclusive: a delegate has put the device into the pod.
	ModeDelegateExclusive Mode = "delegate-exclusive"
	// ModeShared: a delegate made an interface on top of the device.
	ModeShared Mode = "shared"
)

// Exclusive says whether the attachment excludes every other one.
func (m Mode) Exclusive() bool { return m != ModeShared }

// Attachment is the record of one attachment: everything that DEL, CHECK and
// GC need when netns, device, inventory and netconf are gone or have changed.
type Attachment struct {
	SchemaVersion int `json:"schemaVersion"`
	AttachmentID
	State State `json:"state"`
	// Network is the netconf's name, by which GC selects.
	Network   string    `json:"network"`
	CreatedAt time.Time `json:"createdAt"`
	BootID    string    `json:"bootID"`
	Netns     Netns     `json:"netns"`
	// Pod is namespace/name from CNI_ARGS, for messages only; may be "".
	Pod string `json:"pod,omitempty"`
	// PodUID is K8S_POD_UID from CNI_ARGS. "": the runtime gave none, or an older version wrote the record.
	PodUID string         `json:"podUID,omitempty"`
	Mode   Mode           `json:"mode"`
	Device AttachedDevice `json:"device"`
	// Config is the netconf, as the runtime gave it to ADD.
	Config json.RawMessage `json:"config,omitempty"`
	// Args and Path are CNI_ARGS and CNI_PATH as ADD had them.
	Args string `json:"args,omitempty"`
	Path string `json:"path,omitempty"`
	// Delegate and IPAM are the netconfs to run a plugin's DEL with; null when there is none.
	Delegate *Delegation `json:"delegate,omitempty"`
	IPAM     *Delegation `json:"ipam,omitempty"`
	// Leases is the folder in which the attachment has leases of the device's addresses; "" when it needs none.
	Leases string `json:"leases,omitempty"`
	// LeasedAddresses are these leases', from before the first of them is configured.
	LeasedAddresses []netip.Addr `json:"leasedAddresses,omitempty"`
	// Interface identifies the attachment's interface in the container's netns. It is null for a userspace device, in records of older
	// versions, and in an intent whose delegate may make any kind of interface.
	Interface *Interface `json:"interface,omitempty"`
	// DeviceInfoFile is the file written for runtimeConfig.CNIDeviceInfoFile.
	DeviceInfoFile string `json:"deviceInfoFile,omitempty"`
	// Result is ADD's result, in the config's cniVersion; null in an intent.
	Result json.RawMessage `json:"result,omitempty"`
}

// Holds says whether the attachment has its device in the boot of that id: not
// when it is of another boot, which ended it, nor once the device is back.
func (a *Attachment) Holds(bootID string) bool {
	return a.BootID == bootID && a.State != StateReleased
}

// Interface is a link in a container's netns, described by properties that the pod
// cannot change. It can change name, MAC, MTU and flags.
type Interface struct {
	// Index is the link's; 0 until ADD has seen it.
	Index int `json:"index,omitempty"`
	// Kind is IFLA_INFO_KIND, "" for a hardware device.
	Kind string `json:"kind,omitempty"`
	// Over is the index of the host's link that it lies on (IFLA_LINK); 0 for none.
	Over int `json:"over,omitempty"`
}

// Netns identifies a network namespace. Path alone does not: paths and inode numbers are reused.
type Netns struct {
	Path string `json:"path"`
	// Cookie is SO_NETNS_COOKIE of a socket in it (Linux 5.14); 0 where the kernel has none, and then Inode decides.
	Cookie uint64 `json:"cookie,omitempty"`
	Inode  uint64 `json:"inode"`
	// PIDNamespace is the inode number of the PID namespace in which Path, one of
	// /proc/PID, names it; 0 for any other path.
	PIDNamespace uint64 `json:"pidNamespace,omitempty"`
}

// Same says whether both identify one namespace of one boot, by cookie where
// both have one, else by inode. The path is not looked at.
func (n Netns) Same(o Netns) bool {
	if n.Cookie != 0 && o.Cookie != 0 {
		return n.Cookie == o.Cookie
	}
	return n.Inode != 0 && n.Inode == o.Inode
}

// AttachedDevice is the device of an attachment, and its state before that.
type AttachedDevice struct {
	PCIAddress device.PCIAddress `json:"pciAddress"`
	MAC        device.MAC        `json:"mac,omitempty"`
	ENIID      device.ENIID      `json:"eniID,omitempty"`
	NodeENI    string            `json:"nodeENI,omitempty"`
	// VF: the MAC may change on reset and identifies nothing.
	VF bool `json:"vf,omitempty"`
	// Instance is the PCI function that the device was (sysfs.PCIFunction.Instance); 0 when that is not known.
	Instance uint64 `json:"instance,omitempty"`
	// Link is the host's link before ADD; null for a device without netdev.
	Link *LinkState `json:"link,omitempty"`
	// Assigned is the PF's assignment to a VF before a delegate got it, which
	// may have the PF change it; null for any other device.
	Assigned *VFState `json:"assigned,omitempty"`
}

// VFState holds the values that a PF assigns to one of its VFs (IFLA_VFINFO_LIST).
type VFState struct {
	// MAC is "" when the PF leaves it to the VF.
	MAC device.MAC `json:"mac,omitempty"`
	// VLAN is the VLAN id that the PF tags the VF's packets with, 0 for none; QoS is its priority, 0 to 7.
	VLAN int `json:"vlan,omitempty"`
	QoS  int `json:"qos,omitempty"`
	// Spoofchk: packets of other MACs than the VF's own are dropped.
	Spoofchk bool `json:"spoofchk,omitempty"`
	// Trust: the VF may take other MACs and be promiscuous.
	Trust bool `json:"trust,omitempty"`
}

// Replaced says whether the function that is at the device's PCI address now, of
// that instance, is certainly another one. 0 means not known.
func (d *AttachedDevice) Replaced(instance uint64) bool {
	return d.Instance != 0 && instance != 0 && d.Instance != instance
}

// LinkState is the state that DEL gives back to a link.
type LinkState struct {
	Name     string     `json:"name"`
	AltNames []string   `json:"altNames,omitempty"`
	MAC      device.MAC `json:"mac"`
	MTU      int        `json:"mtu"`
	Up       bool       `json:"up"`
	// Kind is IFLA_INFO_KIND, "" for a hardware device: it tells the device
	// from links stacked on it that share its MAC.
	Kind string `json:"kind,omitempty"`
	// XDP is the id of the program that the host has on the link; others go.
	XDP uint32 `json:"xdp,omitempty"`
	// Settings are the link's own; null in a record of a version that did not write them.
	Settings Settings `json:"settings,omitzero"`
	// Ethtool are the device's settings (ethtool(8)), as the inventory's row had them
	// when the pod came; null where no daemon had read them.
	Ethtool Settings `json:"ethtool,omitzero"`
	// AcceptRA is the IPv6 setting accept_ra: "0", "1" or "2". The kernel resets it whenever
	// the link changes netns. "": it was not known, and is not restored.
	AcceptRA string `json:"acceptRA,omitempty"`
}

// Settings are values by name. One that is missing was not known, and is left as it is.
type Settings map[string]string

// Only is the setting of that name, if it is known.
func (s Settings) Only(name string) Settings {
	if value, known := s[name]; known {
		return Settings{name: value}
	}
	return nil
}

// Differing are the names of the settings that have another value, sorted.
func (s Settings) Differing(now Settings) []string {
	var names []string
	for name, value := range s {
		if now[name] != value {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Delegation is one run of another CNI plugin.
type Delegation struct {
	Type   string          `json:"type"`
	Config json.RawMessage `json:"config,omitempty"`
}

// Restore is the state that a device must get back once its link appears in the host again: a dying netns returns links
// late and renamed, and a device that the daemon has bound to a userspace driver has none until it is unbound.
type Restore struct {
	SchemaVersion int            `json:"schemaVersion"`
	BootID        string         `json:"bootID"`
	Device        AttachedDevice `json:"device"`
	// Driver is the kernel driver that the daemon has taken, or is about to take,
	// the device from; "" when the daemon has not.
	Driver string `json:"driver,omitempty"`
}

func (a *Attachment) validate() error {
	switch {
	case a.ContainerID == "" || a.IfName == "":
		return fmt.Errorf("%w: containerID or ifname is empty", ErrCorrupt)
	case a.State != StateIntent && a.State != StateComplete && a.State != StateReleased:
		return fmt.Errorf("%w: state %q", ErrCorrupt, a.State)
	case a.Device.PCIAddress == "":
		return fmt.Errorf("%w: device.pciAddress is empty", ErrCorrupt)
	}
	switch a.Mode {
	case ModeExclusive, ModeDPDK, ModeDelegateExclusive, ModeShared:
		return nil
	}
	return fmt.Errorf("%w: mode %q", ErrCorrupt, a.Mode)
}
