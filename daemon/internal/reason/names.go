package reason

import "github.com/multi-eni/multi-eni-cni/pkg/nodestate"

// Reasons about the ENI that a NodeENI declares.
const (
	NotAttached      nodestate.Reason = "NotAttached"
	ENINotAttached   nodestate.Reason = "ENINotAttached"
	ENINotListed     nodestate.Reason = "ENINotListed"
	DeviceNotSeen    nodestate.Reason = "DeviceNotSeen"
	DeviceGone       nodestate.Reason = "DeviceGone"
	NoInterface      nodestate.Reason = "NoInterface"
	AmbiguousENI     nodestate.Reason = "AmbiguousENI"
	ENIClaimedTwice  nodestate.Reason = "ENIClaimedTwice"
	DuplicateMAC     nodestate.Reason = "DuplicateMAC"
	PCIAddressShared nodestate.Reason = "PCIAddressShared"
	PrimaryENI       nodestate.Reason = "PrimaryENI"
	EFADevice        nodestate.Reason = "EFADevice"
	ForeignENI       nodestate.Reason = "ForeignENI"
	MACChanged       nodestate.Reason = "MACChanged"
	ReleaseWaits     nodestate.Reason = "ReleaseWaits"
)

// Reasons about a field of a NodeENI.
const (
	InvalidMTU               nodestate.Reason = "InvalidMTU"
	InvalidDeviceIndex       nodestate.Reason = "InvalidDeviceIndex"
	InvalidPCIAddress        nodestate.Reason = "InvalidPCIAddress"
	PCIAddressMismatch       nodestate.Reason = "PCIAddressMismatch"
	InvalidResourceName      nodestate.Reason = "InvalidResourceName"
	InvalidDPDKDriver        nodestate.Reason = "InvalidDPDKDriver"
	InvalidAllowedNamespaces nodestate.Reason = "InvalidAllowedNamespaces"
	AllowedNamespacesTooLong nodestate.Reason = "AllowedNamespacesTooLong"
	InvalidENIID             nodestate.Reason = "InvalidENIID"
	InvalidSubnetID          nodestate.Reason = "InvalidSubnetID"
	NoSubnet                 nodestate.Reason = "NoSubnet"
	SubnetNameUnknown        nodestate.Reason = "SubnetNameUnknown"
	TooManyENIs              nodestate.Reason = "TooManyENIs"
	MoreProblems             nodestate.Reason = "MoreProblems"
)

// Reasons about links, addresses and routes of the node.
const (
	LinkNotConfigured            nodestate.Reason = "LinkNotConfigured"
	LinkNotRestored              nodestate.Reason = "LinkNotRestored"
	LinkUnfit                    nodestate.Reason = "LinkUnfit"
	OnlyDefaultRoute             nodestate.Reason = "OnlyDefaultRoute"
	SharedDefaultRoute           nodestate.Reason = "SharedDefaultRoute"
	HostAddress                  nodestate.Reason = "HostAddress"
	RouterAdvertisementsAccepted nodestate.Reason = "RouterAdvertisementsAccepted"
	SourceRoutingFailed          nodestate.Reason = "SourceRoutingFailed"
)

// Reasons about drivers of devices.
const (
	DriverNotLoaded  nodestate.Reason = "DriverNotLoaded"
	NoIOMMU          nodestate.Reason = "NoIOMMU"
	IOMMUGroupShared nodestate.Reason = "IOMMUGroupShared"
	PFInUse          nodestate.Reason = "PFInUse"
	NotBindable      nodestate.Reason = "NotBindable"
	DriverNotBound   nodestate.Reason = "DriverNotBound"
	DriverMismatch   nodestate.Reason = "DriverMismatch"
	DeviceOpen       nodestate.Reason = "DeviceOpen"
	DeviceUseUnknown nodestate.Reason = "DeviceUseUnknown"
	DriverStuck      nodestate.Reason = "DriverStuck"
)

// Reasons about the device plugin's config file.
const (
	ResourceClash          nodestate.Reason = "ResourceClash"
	ForeignSelectorMatches nodestate.Reason = "ForeignSelectorMatches"
	AdvertisedTwice        nodestate.Reason = "AdvertisedTwice"
	DuplicateEntry         nodestate.Reason = "DuplicateEntry"
	FatalEntry             nodestate.Reason = "FatalEntry"
	UnservableEntry        nodestate.Reason = "UnservableEntry"
	ConfigSetAside         nodestate.Reason = "ConfigSetAside"
	ConfigCorrupt          nodestate.Reason = "ConfigCorrupt"
	ConfigIsSymlink        nodestate.Reason = "ConfigIsSymlink"
	ConfigUnwritable       nodestate.Reason = "ConfigUnwritable"
	ConfigUnsettled        nodestate.Reason = "ConfigUnsettled"
	ConfigTooLarge         nodestate.Reason = "ConfigTooLarge"
	CheckpointLost         nodestate.Reason = "CheckpointLost"
)

// Reasons about the device plugin itself. The states of the condition DevicePluginServing are among them.
const (
	DevicePluginPrefixUnknown   nodestate.Reason = "DevicePluginPrefixUnknown"
	DevicePluginConfigElsewhere nodestate.Reason = "DevicePluginConfigElsewhere"
	DevicePluginUnowned         nodestate.Reason = "DevicePluginUnowned"
	NamespacesNotSearchable     nodestate.Reason = "NamespacesNotSearchable"
)

// Reasons about devices that the daemon offers to the kubelet itself. OfferUnknown to HandingBack are states.
const (
	OfferUnknown      nodestate.Reason = "OfferUnknown"
	KubeletAway       nodestate.Reason = "KubeletAway"
	TakeoverRefused   nodestate.Reason = "TakeoverRefused"
	TakingOver        nodestate.Reason = "TakingOver"
	Offered           nodestate.Reason = "Offered"
	HandingBack       nodestate.Reason = "HandingBack"
	OfferedTwice      nodestate.Reason = "OfferedTwice"
	OfferLabelInvalid nodestate.Reason = "OfferLabelInvalid"
	NotRegistered     nodestate.Reason = "NotRegistered"
	OfferNotTaken     nodestate.Reason = "OfferNotTaken"

	DeviceInfoUnwritable nodestate.Reason = "DeviceInfoUnwritable"
)

// Reasons about addresses of ENIs, and EC2.
const (
	LeasedAddressGone  nodestate.Reason = "LeasedAddressGone"
	ENINotTagged       nodestate.Reason = "ENINotTagged"
	EC2Forbidden       nodestate.Reason = "EC2Forbidden"
	EC2Unauthenticated nodestate.Reason = "EC2Unauthenticated"
	EC2Failing         nodestate.Reason = "EC2Failing"
	ENIAddressLimit    nodestate.Reason = "ENIAddressLimit"
	SubnetFull         nodestate.Reason = "SubnetFull"
	ENIUnknownToEC2    nodestate.Reason = "ENIUnknownToEC2"
)

// Reasons about files of the daemon and of the plugin.
const (
	LeasesUnreadable       nodestate.Reason = "LeasesUnreadable"
	RecordUnreadable       nodestate.Reason = "RecordUnreadable"
	RecordsUnreadable      nodestate.Reason = "RecordsUnreadable"
	CheckpointOtherVersion nodestate.Reason = "CheckpointOtherVersion"
	StateUnwritable        nodestate.Reason = "StateUnwritable"
	StateTooLarge          nodestate.Reason = "StateTooLarge"
	OrphansUnwatched       nodestate.Reason = "OrphansUnwatched"
	OrphanPluginUnusable   nodestate.Reason = "OrphanPluginUnusable"
	OrphanNotReleased      nodestate.Reason = "OrphanNotReleased"
)

// Reasons about the daemon's sources and endpoints.
const (
	LinksUnreadable    nodestate.Reason = "LinksUnreadable"
	RoutesUnreadable   nodestate.Reason = "RoutesUnreadable"
	SysfsUnreadable    nodestate.Reason = "SysfsUnreadable"
	MetadataUnreadable nodestate.Reason = "MetadataUnreadable"
	MetadataSenseless  nodestate.Reason = "MetadataSenseless"
	KubeletUnreadable  nodestate.Reason = "KubeletUnreadable"
	FilesUnwatched     nodestate.Reason = "FilesUnwatched"
	KernelEventsUnseen nodestate.Reason = "KernelEventsUnseen"
	MetricsUnserved    nodestate.Reason = "MetricsUnserved"
	StatusUnserved     nodestate.Reason = "StatusUnserved"
)

// Reasons about where NodeENIs come from.
const (
	NodeENIsUnreadable nodestate.Reason = "NodeENIsUnreadable"
	NodeENIUnreadable  nodestate.Reason = "NodeENIUnreadable"
	UnreadableManifest nodestate.Reason = "UnreadableManifest"
	ManifestsChanging  nodestate.Reason = "ManifestsChanging"
	OtherKind          nodestate.Reason = "OtherKind"
	UnknownField       nodestate.Reason = "UnknownField"
	DuplicateNodeENI   nodestate.Reason = "DuplicateNodeENI"
	OtherInstance      nodestate.Reason = "OtherInstance"
	ControllerSilent   nodestate.Reason = "ControllerSilent"
	EntryUnreadable    nodestate.Reason = "EntryUnreadable"
)

// Reasons why the API server is not followed.
const (
	Unreachable  nodestate.Reason = "Unreachable"
	Unauthorized nodestate.Reason = "Unauthorized"
	Forbidden    nodestate.Reason = "Forbidden"
	NoCRD        nodestate.Reason = "NoCRD"
	NoNode       nodestate.Reason = "NoNode"
)

// Reasons of Events that tell of a step.
const (
	DeviceReady               nodestate.Reason = "DeviceReady"
	DeviceRemoved             nodestate.Reason = "DeviceRemoved"
	DeviceReleased            nodestate.Reason = "DeviceReleased"
	DevicePluginRestarted     nodestate.Reason = "DevicePluginRestarted"
	DevicePluginRestartFailed nodestate.Reason = "DevicePluginRestartFailed"
	DevicePluginNotFound      nodestate.Reason = "DevicePluginNotFound"
)

// Reasons of Events about the daemon's own offer.
const (
	OfferTakenOver  nodestate.Reason = "OfferTakenOver"
	OfferHandedBack nodestate.Reason = "OfferHandedBack"
)

// Reasons of the condition DevicePluginServing.
const (
	Serving        nodestate.Reason = "Serving"
	Unmanaged      nodestate.Reason = "Unmanaged"
	Unknown        nodestate.Reason = "Unknown"
	NotFound       nodestate.Reason = "NotFound"
	RestartPending nodestate.Reason = "RestartPending"
	Restarting     nodestate.Reason = "Restarting"
	RestartFailed  nodestate.Reason = "RestartFailed"
)
