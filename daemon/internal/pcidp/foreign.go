package pcidp

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// DefaultPrefix is the plugin's -resource-prefix unless its command line says otherwise (cmd/sriovdp/main.go).
const DefaultPrefix = "intel.com"

// foreignEntry is an entry as the plugin reads it, with encoding/json: keys match in any case, and the last of two
// wins.
type foreignEntry struct {
	raw json.RawMessage
	// prefix is the entry's own, "" for none. Neither it nor name is validated.
	prefix, name string
	// resources are the full names, one for each prefix of this node's device plugins; an entry with its own prefix has
	// one.
	resources  []device.ResourceName
	selectors  []*foreignSelector
	deviceType string
}

// names lists the entry's resources, each once.
func (e foreignEntry) names() string {
	var names []string
	for _, r := range e.resources {
		if !slices.Contains(names, r.String()) {
			names = append(names, r.String())
		}
	}
	return strings.Join(names, " or ")
}

// always says whether every device plugin of this node reads that name in it.
func (e foreignEntry) always(name device.ResourceName) bool {
	return !slices.ContainsFunc(e.resources, func(r device.ResourceName) bool { return r != name })
}

func (e foreignEntry) netDevice() bool { return e.deviceType == "" || e.deviceType == netDevice }

// skipped says whether the plugin skips the entry with a warning, so that its name does not count.
func (e foreignEntry) skipped() bool { return len(e.selectors) == 0 }

// plain says whether the entry has no field but a name and selectors.
func (e foreignEntry) plain() bool {
	members, err := objectMembers(e.raw)
	return err == nil && !slices.ContainsFunc(members, func(m member) bool {
		return !slices.Contains([]string{`"resourcePrefix"`, `"resourceName"`, `"deviceType"`, `"selectors"`}, string(m.key))
	})
}

// onlySelects says whether the entry only selects some of these addresses, by driver and address.
func (e foreignEntry) onlySelects(addresses []device.PCIAddress) bool {
	if !e.plain() || !e.netDevice() || e.skipped() {
		return false
	}
	for _, s := range e.selectors {
		if s == nil || len(s.Drivers) == 0 || len(s.PCIAddresses) == 0 || !s.equal(foreignSelector{Drivers: s.Drivers, PCIAddresses: s.PCIAddresses}) {
			return false
		}
		for _, a := range s.PCIAddresses {
			if !slices.Contains(addresses, device.PCIAddress(a)) {
				return false
			}
		}
	}
	return true
}

// entryFields are the fields whose types the plugin insists on.
type entryFields struct {
	ResourcePrefix  string                       `json:"resourcePrefix"`
	ResourceName    string                       `json:"resourceName"`
	DeviceType      string                       `json:"deviceType"`
	ExcludeTopology bool                         `json:"excludeTopology"`
	Selectors       *json.RawMessage             `json:"selectors"`
	AdditionalInfo  map[string]map[string]string `json:"additionalInfo"`
}

// foreignSelector has the criteria of pkg/types.NetDeviceSelectors. A list that is empty sets no condition.
type foreignSelector struct {
	Vendors      []string `json:"vendors"`
	Devices      []string `json:"devices"`
	Drivers      []string `json:"drivers"`
	PCIAddresses []string `json:"pciAddresses"`
	networkCriteria
	auxTypes []string // of an auxNetDevice
}

// equal says whether both select by the same criteria; an empty list is none.
func (s foreignSelector) equal(o foreignSelector) bool {
	lists := func(s foreignSelector) [][]string {
		return [][]string{s.Vendors, s.Devices, s.Drivers, s.PCIAddresses, s.PFNames, s.RootDevices, s.LinkTypes, s.ACPIIndexes, s.DDPProfiles, s.PKeys}
	}
	return slices.EqualFunc(lists(s), lists(o), slices.Equal[[]string]) &&
		s.VDPAType == o.VDPAType && s.IsRDMA == o.IsRDMA && s.NeedVhostNet == o.NeedVhostNet
}

type networkCriteria struct {
	PFNames      []string `json:"pfNames"`
	RootDevices  []string `json:"rootDevices"`
	LinkTypes    []string `json:"linkTypes"`
	ACPIIndexes  []string `json:"acpiIndexes"`
	DDPProfiles  []string `json:"ddpProfiles"`
	PKeys        []string `json:"pKeys"`
	VDPAType     string   `json:"vdpaType"`
	IsRDMA       bool     `json:"isRdma"`
	NeedVhostNet bool     `json:"needVhostNet"`
}

// The device types (SupportedDevices in the plugin's pkg/types).
const (
	netDevice    = "netDevice"
	accelerator  = "accelerator"
	auxNetDevice = "auxNetDevice"
)

// pluginName: the plugin exits on other names (ValidResourceName in its pkg/utils; before v3.6.0 also on a hyphen).
var pluginName = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

// parseForeign reads an entry that is not ours, as plugins with these prefixes do. An error says why the plugin would
// exit or crash whatever the devices; names are still set if readable. An entry without selectors, which the plugin
// skips, is no error.
func parseForeign(raw json.RawMessage, prefixes []string) (foreignEntry, error) {
	var f entryFields
	err := json.Unmarshal(raw, &f)
	e := foreignEntry{raw: raw, prefix: f.ResourcePrefix, name: f.ResourceName, deviceType: f.DeviceType}
	for _, prefix := range prefixes {
		if f.ResourcePrefix != "" {
			prefix = f.ResourcePrefix
		}
		e.resources = append(e.resources, device.ResourceName(prefix+"/"+f.ResourceName))
	}
	if err != nil {
		return e, wrongType(err)
	}
	if !slices.Contains([]string{"", netDevice, accelerator, auxNetDevice}, f.DeviceType) {
		return e, fmt.Errorf("deviceType is %q, want netDevice, accelerator or auxNetDevice", f.DeviceType)
	}
	if f.Selectors == nil {
		return e, errors.New("selectors is missing")
	}
	if e.selectors = parseSelectors(f.DeviceType, *f.Selectors); len(e.selectors) == 0 {
		return e, nil
	}
	return e, e.check()
}

// wrongType rewords encoding/json's error, which names our types.
func wrongType(err error) error {
	var t *json.UnmarshalTypeError
	if !errors.As(err, &t) {
		return err
	}
	if t.Field == "" {
		return fmt.Errorf("it is a JSON %s, want an object", t.Value)
	}
	return fmt.Errorf("%s has a JSON %s in it, want a %s", t.Field, t.Value, t.Type.Kind())
}

// check has the rules of validConfigs in the plugin's cmd/sriovdp, and of ValidConfig of its device providers.
func (e foreignEntry) check() error {
	if slices.Contains(e.selectors, nil) {
		return errors.New("selectors has a null in it")
	}
	if !pluginName.MatchString(e.name) {
		return fmt.Errorf("resourceName is %q, want letters, digits, underscores and hyphens", e.name)
	}
	for _, s := range e.selectors {
		switch {
		case e.netDevice() && s.IsRDMA && s.VDPAType != "":
			return errors.New("a selector has both isRdma and vdpaType")
		case e.deviceType == auxNetDevice && len(s.auxTypes) == 0:
			return errors.New(`a selector of an auxNetDevice has no auxTypes, want ["sf"]`)
		case e.deviceType == auxNetDevice && slices.ContainsFunc(s.auxTypes, func(t string) bool { return t != "sf" }):
			return fmt.Errorf(`auxTypes is %q, want ["sf"]`, s.auxTypes)
		}
	}
	return nil
}

// parseSelectors returns nil for selectors for which the plugin warns and skips the entry.
func parseSelectors(deviceType string, raw json.RawMessage) []*foreignSelector {
	switch deviceType {
	case accelerator:
		return objectOrList(raw, func(s struct {
			Vendors, Devices, Drivers, PCIAddresses []string
		}) foreignSelector {
			return foreignSelector{Vendors: s.Vendors, Devices: s.Devices, Drivers: s.Drivers, PCIAddresses: s.PCIAddresses}
		})
	case auxNetDevice:
		return objectOrList(raw, func(s struct {
			Vendors, Devices, Drivers, PFNames, RootDevices, LinkTypes, ACPIIndexes, AuxTypes []string
			IsRDMA                                                                            bool
		}) foreignSelector {
			return foreignSelector{Vendors: s.Vendors, Devices: s.Devices, Drivers: s.Drivers, auxTypes: s.AuxTypes}
		})
	}
	return objectOrList(raw, func(s foreignSelector) foreignSelector { return s })
}

// objectOrList reads one object, or else a list of objects. A null in the list gives nil.
func objectOrList[T any](raw json.RawMessage, convert func(T) foreignSelector) []*foreignSelector {
	list := make([]*T, 1)
	if json.Unmarshal(raw, &list[0]) != nil {
		list = nil
		if json.Unmarshal(raw, &list) != nil {
			return nil
		}
	}
	selectors := make([]*foreignSelector, len(list))
	for i, s := range list {
		if s != nil {
			c := convert(*s)
			selectors[i] = &c
		}
	}
	return selectors
}
