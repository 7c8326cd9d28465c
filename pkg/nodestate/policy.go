package nodestate

// DefaultPolicyPath is where the installer puts the node's policy and the plugin
// looks for it. There is no key or variable by which a netconf could move it.
const DefaultPolicyPath = "/etc/multi-eni/policy.json"

// Policy is what the node's administrator allows: NetworkAttachmentDefinitions
// are written by tenants, and the plugin runs as root.
type Policy struct {
	SchemaVersion int `json:"schemaVersion"`
	// BinDir is the only folder from which delegates and IPAM plugins come.
	BinDir string `json:"binDir"`
	// Delegates and IPAM are the plugin types that a netconf may name.
	Delegates []string `json:"delegates"`
	IPAM      []string `json:"ipam"`
	// Paths that replace the netconf's; "" keeps the default.
	DataDir   string `json:"dataDir"`
	Inventory string `json:"inventory"`
	Sysfs     string `json:"sysfs"`
	LogFile   string `json:"logFile"`
	LogLevel  string `json:"logLevel,omitempty"`
}
