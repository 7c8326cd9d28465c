package nodestate

// DefaultPolicyPath is where the installer puts the node's policy and the plugin
// looks for it. There is no key or variable by which a netconf could move it.
const DefaultPolicyPath = "/etc/multi-eni/policy.json"

// Policy is what the node's administrator allows: NetworkAttachmentDefinitions
// are written by tenants, and the plugin runs as root.
type Policy struct {
	// SchemaVersion is 1; a file with another is refused, and with it every ADD.
	SchemaVersion int `json:"schemaVersion"`
	// BinDir is the only folder from which delegates and IPAM plugins come.
	BinDir string `json:"binDir"`
	// Delegates are the plugin types that a netconf may name in delegate.type.
	Delegates []string `json:"delegates"`
	// IPAM are the plugin types that a netconf may name in ipam.type.
	IPAM []string `json:"ipam"`
	// Restricted are keys that an administrator reserves: by plugin type and key, the
	// values that a netconf may give it in delegate or ipam, as written in JSON but
	// for the quotes of text. Without one it may not have the key at all.
	Restricted map[string]map[string][]string `json:"restricted,omitzero"`
	// DataDir is the folder of the attachment records; "" is the default.
	DataDir string `json:"dataDir"`
	// LeaseDir is the folder of the leases of addresses; "" is the default.
	LeaseDir string `json:"leaseDir,omitempty"`
	// Inventory is the file that the daemon writes; "" is the default.
	Inventory string `json:"inventory"`
	// Sysfs is where sysfs is mounted; "" is the default.
	Sysfs string `json:"sysfs"`
	// LogFile is where the plugin's log goes; "" stands for standard error.
	LogFile string `json:"logFile"`
	// LogLevel is one of debug, info, warning and error; "" is info.
	LogLevel string `json:"logLevel,omitempty"`
}

// DefaultRestricted returns the keys and values to which a policy restricts tenants by
// default, in the form of Policy.Restricted. A VF that the PF trusts, or whose source addresses it does not check,
// reaches other pods' traffic. sriov takes every other text than "on" for off.
func DefaultRestricted() map[string]map[string][]string {
	return map[string]map[string][]string{"sriov": {"spoofchk": {"on"}, "trust": {"off"}}}
}
