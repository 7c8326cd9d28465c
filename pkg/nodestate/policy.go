package nodestate

// DefaultPolicyPath is where the installer puts the node's policy and the plugin
// looks for it. There is no key or variable by which a netconf could move it.
const DefaultPolicyPath = "/etc/multi-eni/policy.json"

// Policy is what the node's administrator allows: NetworkAttachmentDefinitions
// are written by tenants, and the plugin runs as root.
type Policy struct {
	// Must be 1. With any other value, every ADD is refused.
	SchemaVersion int `json:"schemaVersion"`
	// The only folder from which delegates and IPAM plugins are started.
	BinDir string `json:"binDir"`
	// Plugin types that a netconf may name in `delegate.type`.
	Delegates []string `json:"delegates"`
	// Plugin types that a netconf may name in `ipam.type`.
	IPAM []string `json:"ipam"`
	// Keys that an administrator reserves, by plugin type and key, each with the values that
	// a netconf may give it in `delegate` or `ipam`. Write a value as in JSON, but text
	// without its quotes. With an empty list, no netconf may have the key.
	Restricted map[string]map[string][]string `json:"restricted,omitzero"`
	// Folder of the attachment records. "" is the default.
	DataDir string `json:"dataDir"`
	// Folder of the address leases. "" is the default.
	LeaseDir string `json:"leaseDir,omitempty"`
	// The daemon's list of the node's devices. "" is the default.
	Inventory string `json:"inventory"`
	// Mount point of sysfs. "" is the default.
	Sysfs string `json:"sysfs"`
	// File of the plugin's log. With "" the log goes to standard error.
	LogFile string `json:"logFile"`
	// Least severe messages in the log: debug, info, warning or error. "" is info.
	LogLevel string `json:"logLevel,omitempty"`
}

// DefaultRestricted returns the keys and values to which a policy restricts tenants by
// default, in the form of Policy.Restricted. A VF that the PF trusts, or whose source addresses it does not check,
// reaches other pods' traffic. sriov takes every other text than "on" for off.
func DefaultRestricted() map[string]map[string][]string {
	return map[string]map[string][]string{"sriov": {"spoofchk": {"on"}, "trust": {"off"}}}
}
