// Package dpmodel judges a device plugin config as the SR-IOV network device plugin would: whether the plugin
// exits, panics or leaves out an entry, and the devices of every pool.
//
// It is a model for tests, written from the public facts of k8snetworkplumbingwg/sriov-network-device-plugin v3.6
// and later (README "Configurations"; cmd/sriovdp, pkg/factory, pkg/resources, pkg/netdevice), and as strict as the
// strictest of those releases. verdicts/verdicts.json has measured verdicts of one of them. The model shares no code
// with the daemon. Like the plugin it uses encoding/json, whose rules are part of the facts: keys match in any case,
// the last of two keys wins, and one value of a wrong type makes the whole file unreadable.
package dpmodel

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// DefaultPrefix is the plugin's --resource-prefix when nothing else is given.
const DefaultPrefix = "intel.com"

// Verdict is the plugin's reaction to a config.
type Verdict struct {
	// Exit is the reason why the plugin exits, or "".
	Exit string
	// Panic is the reason why the plugin crashes, or "".
	Panic string
	// Status is the exit status: 0 where main returns or still runs, 2 after glog.Fatal and after a panic.
	Status int
	// Skipped has a line for every entry that the plugin leaves out with a warning, by its index in resourceList.
	Skipped map[int]string
	// Resources are the pools with a device, by "prefix/name", with their devices in the order given to Judge.
	Resources map[string][]device.PCIAddress
	// Keys are an entry's keys that change the answers of its pool, such as excludeTopology and needVhostNet.
	Keys map[string][]string
}

// Runs says whether the plugin stays up.
func (v Verdict) Runs() bool { return v.Exit == "" && v.Panic == "" }

// pool is one entry of resourceList, with the plugin's own field names.
type pool struct {
	ResourcePrefix  string                       `json:"resourcePrefix,omitempty"`
	ResourceName    string                       `json:"resourceName"`
	DeviceType      string                       `json:"deviceType,omitempty"`
	ExcludeTopology bool                         `json:"excludeTopology,omitempty"`
	Selectors       *json.RawMessage             `json:"selectors,omitempty"`
	AdditionalInfo  map[string]map[string]string `json:"additionalInfo,omitempty"`

	index     int
	selectors []*selector
}

func (p *pool) name() string { return p.ResourcePrefix + "/" + p.ResourceName }

func (p *pool) keys() (out []string) {
	for key, set := range map[string]bool{
		"excludeTopology": p.ExcludeTopology,
		"additionalInfo":  p.AdditionalInfo != nil,
		"isRdma":          slices.ContainsFunc(p.selectors, func(s *selector) bool { return s.IsRdma }),
		"needVhostNet":    slices.ContainsFunc(p.selectors, func(s *selector) bool { return s.NeedVhostNet }),
		"vdpaType":        slices.ContainsFunc(p.selectors, func(s *selector) bool { return s.VdpaType != "" }),
	} {
		if set {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

// Machine describes the plugin's host.
type Machine struct {
	Devices []Device
	// NoKubelet: the folders for the plugin's sockets are missing.
	NoKubelet bool
}

// Judge reads content as the plugin does on a node with devices. Args is its command line; an unknown flag ends it.
func Judge(content []byte, devices []Device, args ...string) Verdict {
	return Machine{Devices: devices}.Judge(content, args...)
}

// Judge is the function Judge for this machine.
func (m Machine) Judge(content []byte, args ...string) Verdict {
	v := Verdict{Skipped: map[int]string{}, Resources: map[string][]device.PCIAddress{}, Keys: map[string][]string{}}
	prefix, err := Prefix(args)
	if err != nil {
		v.ends(2, "%v", err)
		return v
	}
	pools := v.read(content)
	if v.Runs() && len(pools) == 0 {
		v.ends(0, "no resource configuration")
	}
	for _, p := range pools {
		if p.ResourcePrefix == "" {
			p.ResourcePrefix = prefix
		}
	}
	if v.Runs() {
		v.validate(pools)
	}
	if v.Runs() {
		v.allocate(pools, m)
	}
	return v
}

// Prefix is -resource-prefix of the plugin's command line, or the default; an error if the plugin refuses the line.
func Prefix(args []string) (string, error) {
	flags := flag.NewFlagSet("sriovdp", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	prefix := flags.String("resource-prefix", DefaultPrefix, "")
	flags.String("config-file", "", "")
	flags.Bool("use-cdi", false, "")
	for _, name := range []string{"v", "log_dir", "stderrthreshold", "vmodule", "log_backtrace_at"} { // glog's
		flags.String(name, "", "")
	}
	flags.Bool("logtostderr", false, "")
	flags.Bool("alsologtostderr", false, "")
	if err := flags.Parse(args); err != nil {
		return "", err
	}
	return *prefix, nil
}

func (v *Verdict) ends(status int, format string, values ...any) {
	v.Status, v.Exit = status, fmt.Sprintf(format, values...)
}

func (v *Verdict) panics(format string, values ...any) {
	v.Status, v.Panic = 2, fmt.Sprintf(format, values...)
}

func (v *Verdict) read(content []byte) []*pool {
	var config struct {
		ResourceList []pool `json:"resourceList"`
	}
	if err := json.Unmarshal(content, &config); err != nil {
		v.ends(0, "unreadable: %v", err)
		return nil
	}
	var pools []*pool
	for i := range config.ResourceList {
		p := &config.ResourceList[i]
		p.index = i
		switch p.DeviceType {
		case "":
			p.DeviceType = "netDevice"
		case "netDevice", "accelerator", "auxNetDevice":
		default:
			v.ends(0, "entry %d: unsupported deviceType %q", i, p.DeviceType)
			return nil
		}
		if p.Selectors == nil {
			v.panics("entry %d: nil selectors", i)
			return nil
		}
		selectors, err := parseSelectors(p.DeviceType, *p.Selectors)
		if err != nil {
			v.Skipped[i] = err.Error()
			continue
		}
		p.selectors = selectors
		pools = append(pools, p)
	}
	return pools
}

// validName has a hyphen since v3.6.0 (ValidResourceName in pkg/utils).
var validName = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

func (v *Verdict) validate(pools []*pool) {
	seen := map[string]int{}
	for _, p := range pools {
		if !validName.MatchString(p.ResourceName) {
			v.ends(2, "entry %d: resource name %q contains invalid characters", p.index, p.ResourceName)
			return
		}
		if first, ok := seen[p.name()]; ok {
			v.ends(2, "entry %d: resource name %q already exists in entry %d", p.index, p.name(), first)
			return
		}
		seen[p.name()] = p.index
		for _, s := range p.selectors {
			if s == nil { // of an accelerator when its devices are filtered, of the others now
				v.panics("entry %d: nil selector", p.index)
				return
			}
			if fault := s.fault(p.DeviceType); fault != "" {
				v.ends(2, "entry %d: %s", p.index, fault)
				return
			}
		}
	}
}

// allocate gives every device to the first matching pool, and starts a server for each pool with a device.
func (v *Verdict) allocate(pools []*pool, m Machine) {
	taken := map[device.PCIAddress]bool{}
	for _, p := range pools {
		for _, s := range p.selectors {
			for _, d := range m.Devices {
				if !taken[d.Address] && d.offered(p.DeviceType) && s.matches(p.DeviceType, d) {
					taken[d.Address] = true
					v.Resources[p.name()] = append(v.Resources[p.name()], d.Address)
				}
			}
		}
		if keys := p.keys(); len(keys) > 0 {
			v.Keys[p.name()] = keys
		}
	}
	for _, p := range pools {
		if v.Resources[p.name()] == nil {
			continue
		}
		if fault := m.socketFault(p.ResourcePrefix + "_" + p.ResourceName + ".sock"); fault != "" {
			v.ends(0, "entry %d: cannot listen: %s", p.index, fault)
			return
		}
	}
}

// socketDir is the folder of the plugin's sockets (types.SockDir). existing are folders that every host has.
const socketDir = "/var/lib/kubelet/plugins_registry"

var existing = []string{socketDir, "/var/lib/kubelet/device-plugins", "/var/lib/kubelet", "/var/lib", "/var", "/"}

// socketFault is why no socket of that name can listen: filepath.Join resolves "..", and unix(7) allows 107 octets.
func (m Machine) socketFault(name string) string {
	path := filepath.Join(socketDir, name)
	switch {
	case m.NoKubelet, !slices.Contains(existing, filepath.Dir(path)):
		return fmt.Sprintf("no folder %s", filepath.Dir(path))
	case len(path) > 107:
		return fmt.Sprintf("the socket's path has %d octets", len(path))
	}
	return ""
}
