// Package netconf validates a netconf as a Config, and makes the netconf of a delegate
// from a Config and a device. It is pure: no function reads a file or the environment.
package netconf

import (
	"encoding/json"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/utils"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Type is the type by which a netconf names multi-eni.
const Type = "multi-eni"

// Config is a validated netconf. The tag key gives the key of the netconf and an example
// of its value. docs/netconf.md and conf/netconf.schema.json are made of the tags and of
// the comments up to a line ---; go generate writes them.
type Config struct {
	// Version of the CNI spec for the result: 0.1.0 to 1.1.0. Prefer 1.0.0 or later. Without
	// the key, or with "", it is 0.1.0. Before 0.3.0 a result has one address of each family
	// and no interface.
	CNIVersion string `key:"cniVersion,\"1.1.0\""`
	// Name of the network. GC selects attachments by it. It has letters, digits, '_', '.'
	// and '-', and begins with a letter or a digit.
	Name string `key:"name,\"dataplane-a\""`
	// The device of the node that the pod gets. The key may be missing if the device plugin
	// has allocated a device.
	Select Select `key:"select,object"`
	// PCI address of the device that the kubelet has allocated. Multus writes it into
	// `runtimeConfig.deviceID`, `deviceID` and `pciBusID`, so you need not. All three must
	// be the same.
	// ---
	// "" if none was allocated.
	DeviceID device.PCIAddress `key:"deviceID,\"0000:00:07.0\""`
	// Interface is the host's interface that another plugin's netconf names, from which
	// eni-ipam finds its ENI.
	Interface string
	// The plugin that makes the pod's interface from the device. Without it, the pod gets
	// the device itself.
	Delegate *Delegate `key:"delegate,object"`
	// The plugin that gives the pod addresses. Without it, the pod gets none. The type
	// `eni-ipam` is built in: it gives the ENI's own addresses and starts no process.
	IPAM *Plugin `key:"ipam,object"`
	// ENIIPAM is set if ipam.type is eni-ipam; IPAM is nil then.
	ENIIPAM *ENIIPAM
	// MTU of the pod's interface in octets, 68 to 65535. Without the key, or with 0, it is
	// the MTU of the NodeENI.
	MTU int `key:"mtu,9001"`
	// Routes of the pod, besides those that the IPAM plugin gives.
	Routes []Route `key:"routes,list of objects"`
	// DNS, Args, RuntimeConfig and PrevResult are the runtime's JSON; nil if absent.
	DNS, Args, RuntimeConfig, PrevResult json.RawMessage
	// MAC is requested by runtimeConfig.mac, args.cni.mac and the delegate's mac, which
	// must agree. IPs are the addresses of runtimeConfig.ips and args.cni.ips. Empty if
	// nobody asks.
	MAC device.MAC
	IPs []netip.Addr
	// DeviceInfoFile is runtimeConfig.CNIDeviceInfoFile (device-info spec 1.1.0).
	DeviceInfoFile string
	Paths          Paths
	// ValidAttachments is GC's list; nil if the key is absent. An empty list differs from
	// nil.
	ValidAttachments []nodestate.AttachmentID
	// Refused is the error with which ADD refuses the netconf for any device, so no ADD
	// has made anything of it; nil if ADD accepts it.
	Refused error
	// Raw is the whole netconf with every key once, for the attachment record.
	Raw json.RawMessage
}

// Select selects a device: every field that is set must match.
type Select struct {
	// Name of the NodeENI that declares the ENI.
	NodeENI string `key:"nodeENI,\"dataplane-a\""`
	// ID of the ENI in EC2.
	ENIID device.ENIID `key:"eniID,\"eni-0a1b2c3d4e5f60001\""`
	// MAC address of the ENI.
	MAC device.MAC `key:"mac,\"02:00:00:00:00:0b\""`
	// Subnet of the ENI. It tells the ENIs of a NodeENI with several subnets apart.
	SubnetID device.SubnetID `key:"subnetID,\"subnet-0a1b2c3d4e5f60001\""`
	// PCI address of the device. It differs between instance types and can change when an
	// ENI is attached again, so prefer `nodeENI`.
	PCIAddress device.PCIAddress `key:"pciAddress,\"0000:00:07.0\""`
	// Resource under which the device plugin advertises the device. The runtime must pass
	// the allocated device as `deviceID`; otherwise ADD fails with 103.
	ResourceName device.ResourceName `key:"resourceName,\"intel.com/sriov_net_b\""`
}

// Shares reports whether the delegate lets several pods use the device.
func (c *Config) Shares() bool { return c.Delegate != nil && c.Delegate.Shared }

// Empty reports whether nothing is selected.
func (s Select) Empty() bool { return s == Select{} }

// String lists the fields that are set, for messages.
func (s Select) String() string {
	var parts []string
	for _, f := range []struct{ name, value string }{
		{"nodeENI", s.NodeENI}, {"eniID", s.ENIID.String()}, {"mac", s.MAC.String()}, {"subnetID", s.SubnetID.String()},
		{"pciAddress", s.PCIAddress.String()}, {"resourceName", s.ResourceName.String()},
	} {
		if f.value != "" {
			parts = append(parts, f.name+"="+f.value)
		}
	}
	return strings.Join(parts, " ")
}

// Matches reports whether a device has every selected property.
func (s Select) Matches(d nodestate.Device) bool {
	return (s.NodeENI == "" || s.NodeENI == d.NodeENI) &&
		(s.ENIID == "" || s.ENIID == d.ENIID) &&
		(s.MAC == "" || s.MAC == d.MAC) &&
		(s.SubnetID == "" || s.SubnetID == d.SubnetID) &&
		(s.PCIAddress == "" || s.PCIAddress == d.PCIAddress) &&
		(s.ResourceName == "" || s.ResourceName == d.ResourceName)
}

// Paths are the node's files. A netconf may set them only without a policy.
type Paths struct {
	// Folder of the attachment records.
	DataDir string `key:"dataDir,\"/var/lib/cni/multi-eni\""`
	// The daemon's list of the node's devices.
	Inventory string `key:"inventory,\"/run/multi-eni/inventory.json\""`
	// Mount point of sysfs.
	Sysfs string `key:"sysfs,\"/sys\""`
	// File of the log. With "" the log goes to standard error, which the runtime shows.
	LogFile string `key:"logFile,\"\""`
	// Least severe messages in the log: debug, info, warning or error.
	LogLevel string `key:"logLevel,\"info\""`

	// LeaseDir is ipam.dataDir of eni-ipam.
	LeaseDir string
}

// DefaultPaths returns the paths of a node without policy and netconf keys.
func DefaultPaths() Paths {
	return Paths{
		DataDir: nodestate.DefaultAttachmentsDir, Inventory: nodestate.DefaultInventoryPath,
		Sysfs: "/sys", LogLevel: "info", LeaseDir: leases.DefaultDir,
	}
}

// The keys of a netconf.
var (
	// Runtimes (libcni, Multus) inject these keys, or the CNI spec defines them.
	specKeys = []string{
		"cniVersion", "cniVersions", "name", "type", "args", "capabilities", "disableCheck", "disableGC", "loadOnlyInlinedPlugins",
		"dns", "prevResult", "runtimeConfig", "deviceID", "pciBusID", "ipam",
		"$schema", // names conf/netconf.schema.json to editors; nothing reads it
	}
	pathKeys   = keysOf(Paths{})
	ownKeys    = slices.Concat(keysOf(Config{}), pathKeys)
	selectKeys = keysOf(Select{})
	logLevels  = []string{"debug", "info", "warning", "error"}
)

func keysOf(of any) (keys []string) {
	t := reflect.TypeOf(of)
	for i := range t.NumField() {
		if key, _, ok := strings.Cut(t.Field(i).Tag.Get("key"), ","); ok {
			keys = append(keys, key)
		}
	}
	return keys
}

func suggestions() []string {
	all := slices.Concat(ownKeys, specKeys)
	for _, key := range selectKeys {
		all = append(all, "select."+key)
	}
	return all
}

// Parse checks a netconf for ADD and CHECK. Errors: *DecodeError if it is not JSON,
// *VersionError if its CNI version is unknown, and *InvalidError with every other fault.
func Parse(stdin []byte) (*Config, error) {
	d, c, err := parse(stdin)
	if err != nil {
		return nil, err
	}
	if c.Select.Empty() && c.DeviceID == "" && !d.faultAt("select", "deviceID", "pciBusID", "runtimeConfig") {
		d.fault("select", `names no device; give select.nodeENI, or let the device plugin allocate one (deviceID)`)
	}
	return c, d.refused(c)
}

// ParseLenient reads a netconf for DEL, GC and STATUS, which ADD may have refused: faulty
// keys count as absent. A *DecodeError if it is not a JSON object.
func ParseLenient(stdin []byte) (*Config, error) {
	_, c, err := parse(stdin)
	return c, err
}

func parse(stdin []byte) (*decoder, *Config, error) {
	d, err := newDecoder(stdin)
	if err != nil {
		return nil, nil, err
	}
	c := d.common()
	c.DNS = d.rawObject("dns", &dns{}, "an object with nameservers, domain, search and options")
	c.Args = d.rawObject("args", &struct{}{}, "an object")
	c.PrevResult = d.rawObject("prevResult", &struct{}{}, "an object")
	c.Select = d.selectDevice()
	c.Delegate = d.delegate()
	c.IPAM = d.ipam()
	if c.ENIIPAM = d.eniIPAM(c.IPAM); c.ENIIPAM != nil {
		c.IPAM, c.Paths.LeaseDir = nil, c.ENIIPAM.DataDir
	}
	c.MTU = d.number("mtu", 68, 65535, "octets between 68 and 65535, or leave it out")
	c.Routes = d.routes()
	d.path("dataDir", &c.Paths.DataDir)
	d.path("inventory", &c.Paths.Inventory)
	d.path("sysfs", &c.Paths.Sysfs)
	d.path("logFile", &c.Paths.LogFile)
	d.oneOf("logLevel", &c.Paths.LogLevel, logLevels...)
	d.requested(c)
	d.check(c)
	c.Refused = d.refused(c)
	return d, c, nil
}

func (d *decoder) common() *Config {
	c := &Config{Paths: DefaultPaths(), Raw: d.whole}
	d.str("cniVersion", &c.CNIVersion)
	switch d.str("name", &c.Name); {
	case d.faultAt("name"):
	case c.Name == "":
		d.fault("name", "is missing; give the network a name")
	case utils.ValidateNetworkName(c.Name) != nil: // host-local, for one, makes a folder of it
		d.fault("name", "%q: want letters, digits, '_', '.' and '-', beginning with a letter or digit", c.Name)
	}
	c.RuntimeConfig = d.runtimeConfig(c)
	c.DeviceID = d.deviceID()
	c.ValidAttachments = d.validAttachments()
	return c
}

// PathKeys returns the path keys that the netconf sets, by their place in it.
func (c *Config) PathKeys() map[string]string {
	set := map[string]string{}
	collect := func(raw json.RawMessage, prefix string, keys []string) (fields map[string]json.RawMessage) {
		if json.Unmarshal(raw, &fields) == nil {
			for _, key := range keys {
				if v := unquote(fields[key]); v != "" {
					set[prefix+key] = v
				}
			}
		}
		return fields
	}
	if fields := collect(c.Raw, "", pathKeys); c.ENIIPAM != nil {
		collect(fields["ipam"], "ipam.", pathKeys)
	}
	return set
}

const wantPath = `an absolute path without "..", "//" or a slash at the end`

func (d *decoder) path(key string, dst *string) {
	v := *dst
	if !d.str(key, &v) || v == "" {
		return
	}
	if !filepath.IsAbs(v) || filepath.Clean(v) != v {
		d.fault(key, "%q: want %s", v, wantPath)
		return
	}
	*dst = v
}

func (d *decoder) runtimeConfig(c *Config) json.RawMessage {
	sub := d.object("runtimeConfig")
	if sub == nil {
		return nil
	}
	sub.path("CNIDeviceInfoFile", &c.DeviceInfoFile)
	return d.rawObject("runtimeConfig", &struct{}{}, "an object")
}

// dns is the form of the key dns (CNI spec 1.1.0 section 1).
type dns struct {
	Nameservers, Search, Options []string
	Domain                       string
}

// deviceID returns the value of the three keys, which must agree.
func (d *decoder) deviceID() device.PCIAddress {
	var found device.PCIAddress
	var where string
	take := func(in *decoder, key string) {
		var v device.PCIAddress
		if in == nil || !parseInto(in, key, &v, device.ParsePCIAddress) {
			return
		}
		path := in.prefix + key
		if found != "" && v != found {
			d.fault(path, "%s, but %s is %s; they must name the same device, so remove one", v, where, found)
			return
		}
		if found == "" {
			found, where = v, path
		}
	}
	take(d.object("runtimeConfig"), "deviceID")
	take(d, "deviceID")
	take(d, "pciBusID")
	return found
}

func (d *decoder) selectDevice() Select {
	var s Select
	sub := d.object("select")
	if sub == nil {
		return s
	}
	sub.onlyKeys(selectKeys...)
	sub.str("nodeENI", &s.NodeENI)
	parseInto(sub, "eniID", &s.ENIID, device.ParseENIID)
	parseInto(sub, "mac", &s.MAC, device.ParseMAC)
	parseInto(sub, "subnetID", &s.SubnetID, device.ParseSubnetID)
	parseInto(sub, "pciAddress", &s.PCIAddress, device.ParsePCIAddress)
	parseInto(sub, "resourceName", &s.ResourceName, device.ParseResourceName)
	return s
}

// validAttachments returns GC's list. A list with a fault counts as absent, since GC would
// release the living pods that it lacks.
func (d *decoder) validAttachments() []nodestate.AttachmentID {
	const key = "cni.dev/valid-attachments"
	if _, present := d.fields[key]; !present {
		return nil
	}
	out := []nodestate.AttachmentID{}
	for _, sub := range d.list(key) {
		if sub == nil {
			continue
		}
		var id nodestate.AttachmentID
		for name, dst := range map[string]*string{"containerID": &id.ContainerID, "ifname": &id.IfName} {
			if sub.str(name, dst); *dst == "" && !sub.faultAt(name) {
				sub.fault(name, "is missing; each entry needs containerID and ifname")
			}
		}
		out = append(out, id)
	}
	if d.faultAt(key) {
		return nil
	}
	return out
}
