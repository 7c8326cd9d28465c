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

// defaultPrefix is the plugin's --resource-prefix unless its pod says otherwise.
const defaultPrefix = "intel.com"

// maxResourceName is the length of "prefix/name" up to which the plugin can
// listen: its socket is /var/lib/kubelet/plugins_registry/<prefix>_<name>.sock,
// and a Unix socket's path has at most 107 octets (unix(7)).
const maxResourceName = 68

// foreignEntry is an entry of the resource list as the plugin reads it: with
// encoding/json, so that keys match in any case and the last of two keys wins.
type foreignEntry struct {
	raw       json.RawMessage
	resource  device.ResourceName // not validated
	selectors []*foreignSelector
	// netDevice says whether the entry is for network functions.
	netDevice bool
}

// skipped says whether the plugin leaves the entry out with a warning, so that
// its name does not count.
func (e foreignEntry) skipped() bool { return len(e.selectors) == 0 }

// plain says whether the entry has no field but a name and selectors.
func (e foreignEntry) plain() bool {
	members, err := objectMembers(e.raw)
	return err == nil && !slices.ContainsFunc(members, func(m member) bool {
		return !slices.Contains([]string{`"resourcePrefix"`, `"resourceName"`, `"deviceType"`, `"selectors"`}, string(m.key))
	})
}

// onlySelects says whether the entry selects some of these addresses, by driver
// and address, and says nothing else.
func (e foreignEntry) onlySelects(addresses []device.PCIAddress) bool {
	if !e.plain() || !e.netDevice || e.skipped() {
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

// foreignSelector has the criteria of pkg/types.NetDeviceSelectors. A list that
// is empty sets no condition.
type foreignSelector struct {
	Vendors      []string `json:"vendors"`
	Devices      []string `json:"devices"`
	Drivers      []string `json:"drivers"`
	PCIAddresses []string `json:"pciAddresses"`
	networkCriteria
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

// pluginName is the rule by which the plugin refuses a name, and then exits
// (ValidResourceName in its pkg/utils).
var pluginName = regexp.MustCompile(`^[a-zA-Z0-9_]+$`)

// parseForeign reads an entry that is not ours. An error says why the plugin
// would exit or crash because of it; the resource is still filled in when it can
// be read. An entry that the plugin skips with a warning is no error: it has no
// selectors.
func parseForeign(raw json.RawMessage) (foreignEntry, error) {
	e := foreignEntry{raw: raw}
	var f entryFields
	err := json.Unmarshal(raw, &f)
	if f.ResourcePrefix == "" {
		f.ResourcePrefix = defaultPrefix
	}
	e.resource = device.ResourceName(f.ResourcePrefix + "/" + f.ResourceName)
	if err != nil {
		return e, wrongType(err)
	}
	switch f.DeviceType {
	case "", "netDevice":
		e.netDevice = true
	case "accelerator", "auxNetDevice":
	default:
		return e, fmt.Errorf("deviceType is %q, want netDevice, accelerator or auxNetDevice", f.DeviceType)
	}
	if f.Selectors == nil {
		return e, errors.New("selectors is missing")
	}
	if e.selectors = parseSelectors(f.DeviceType, *f.Selectors); len(e.selectors) == 0 {
		return e, nil
	}
	return e, e.check(f)
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

func (e foreignEntry) check(f entryFields) error {
	if slices.Contains(e.selectors, nil) {
		return errors.New("selectors has a null in it")
	}
	if !pluginName.MatchString(f.ResourceName) {
		return fmt.Errorf("resourceName is %q, want letters, digits and underscores", f.ResourceName)
	}
	if len(e.resource) > maxResourceName {
		return fmt.Errorf("resourcePrefix and resourceName have %d characters together, want at most %d", len(e.resource)-1, maxResourceName-1)
	}
	if strings.ContainsAny(f.ResourcePrefix, "/\x00") {
		return fmt.Errorf("resourcePrefix is %q, want a DNS name", f.ResourcePrefix)
	}
	for _, s := range e.selectors {
		if e.netDevice && s.IsRDMA && s.VDPAType != "" {
			return errors.New("a selector has both isRdma and vdpaType")
		}
	}
	return nil
}

// parseSelectors returns nil for selectors that the plugin warns about and then
// skips together with their entry.
func parseSelectors(deviceType string, raw json.RawMessage) []*foreignSelector {
	switch deviceType {
	case "accelerator":
		return objectOrList(raw, func(s struct {
			Vendors, Devices, Drivers, PCIAddresses []string
		}) foreignSelector {
			return foreignSelector{Vendors: s.Vendors, Devices: s.Devices, Drivers: s.Drivers, PCIAddresses: s.PCIAddresses}
		})
	case "auxNetDevice":
		return objectOrList(raw, func(s struct {
			Vendors, Devices, Drivers, PFNames, RootDevices, LinkTypes, ACPIIndexes, AuxTypes []string
			IsRDMA                                                                            bool
		}) foreignSelector {
			return foreignSelector{} // they match no PCI function
		})
	}
	return objectOrList(raw, func(s foreignSelector) foreignSelector { return s })
}

// objectOrList reads one object, or else a list of objects. A null in the list
// gives nil.
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
