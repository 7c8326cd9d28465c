// Package dpmodel judges a device plugin config as the SR-IOV network device
// plugin would read it: what makes the plugin exit, panic or leave out an entry,
// and which device every pool gets.
//
// It is a model for tests, written from the public facts of
// k8snetworkplumbingwg/sriov-network-device-plugin v3.7 and later (README
// "Configurations"; cmd/sriovdp, pkg/factory, pkg/resources, pkg/netdevice), and
// as strict as the strictest of those releases. It shares no code with the
// daemon. Like the plugin it reads with encoding/json, whose rules are part of
// the facts: keys match in any case, the last of two keys wins, and one value of
// a wrong type makes the whole file unreadable.
package dpmodel

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// DefaultPrefix is the plugin's --resource-prefix when nothing else is given.
const DefaultPrefix = "intel.com"

// socketDir is where the plugin listens; the name of a pool's socket is
// "<prefix>_<name>.sock". A Unix socket's path has at most 107 octets (unix(7)).
const (
	socketDir    = "/var/lib/kubelet/plugins_registry/"
	maxSocketLen = 107
)

// Verdict is what the plugin does with a config.
type Verdict struct {
	// Exit says why the plugin ends, whatever its status; "" when it runs.
	Exit string
	// Panic says why the plugin crashes; "" when it does not.
	Panic string
	// Skipped has a line for every entry that the plugin leaves out with a
	// warning, by its index in resourceList.
	Skipped map[int]string
	// Resources are the pools that get a device, by "prefix/name", with their
	// devices in the order of the devices given to Judge.
	Resources map[string][]device.PCIAddress
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

func (p *pool) prefix() string {
	if p.ResourcePrefix == "" {
		return DefaultPrefix
	}
	return p.ResourcePrefix
}

func (p *pool) name() string { return p.prefix() + "/" + p.ResourceName }

// Judge reads content as the plugin does on a machine with the given devices.
func Judge(content []byte, devices []Device) Verdict {
	v := Verdict{Skipped: map[int]string{}, Resources: map[string][]device.PCIAddress{}}
	pools := v.read(content)
	if v.Runs() && len(pools) == 0 {
		v.Exit = "no resource configuration"
	}
	if v.Runs() {
		v.validate(pools)
	}
	if v.Runs() {
		v.allocate(pools, devices)
	}
	return v
}

func (v *Verdict) read(content []byte) []*pool {
	var config struct {
		ResourceList []pool `json:"resourceList"`
	}
	if err := json.Unmarshal(content, &config); err != nil {
		v.Exit = "unreadable: " + err.Error()
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
			v.Exit = fmt.Sprintf("entry %d: unsupported deviceType %q", i, p.DeviceType)
			return nil
		}
		if p.Selectors == nil {
			v.Panic = fmt.Sprintf("entry %d: nil selectors", i)
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

var validName = regexp.MustCompile(`^[a-zA-Z0-9_]+$`)

func (v *Verdict) validate(pools []*pool) {
	seen := map[string]int{}
	for _, p := range pools {
		if !validName.MatchString(p.ResourceName) {
			v.Exit = fmt.Sprintf("entry %d: resource name %q contains invalid characters", p.index, p.ResourceName)
			return
		}
		if first, ok := seen[p.name()]; ok {
			v.Exit = fmt.Sprintf("entry %d: resource name %q already exists in entry %d", p.index, p.name(), first)
			return
		}
		seen[p.name()] = p.index
		for _, s := range p.selectors {
			if s == nil {
				v.Panic = fmt.Sprintf("entry %d: nil selector", p.index)
				return
			}
			if p.DeviceType == "netDevice" && s.IsRdma && s.VdpaType != "" {
				v.Exit = fmt.Sprintf("entry %d: isRdma and vdpaType exclude each other", p.index)
				return
			}
		}
	}
}

// allocate gives every device to the first pool of which a selector matches it,
// and starts a server for each pool that got one.
func (v *Verdict) allocate(pools []*pool, devices []Device) {
	taken := map[device.PCIAddress]bool{}
	for _, p := range pools {
		for _, s := range p.selectors {
			for _, d := range devices {
				if !taken[d.Address] && d.offered(p.DeviceType) && s.matches(p.DeviceType, d) {
					taken[d.Address] = true
					v.Resources[p.name()] = append(v.Resources[p.name()], d.Address)
				}
			}
		}
		if v.Resources[p.name()] == nil {
			continue
		}
		socket := p.prefix() + "_" + p.ResourceName + ".sock"
		if len(socketDir)+len(socket) > maxSocketLen || strings.ContainsAny(socket, "/\x00") {
			v.Exit = fmt.Sprintf("entry %d: cannot listen on %q", p.index, socketDir+socket)
			return
		}
	}
}
