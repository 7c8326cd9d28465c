package dpmodel

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// Device is a PCI function as the plugin sees it in sysfs and netlink.
type Device struct {
	Address device.PCIAddress
	Vendor  uint16
	Device  uint16
	// Class is the 24-bit class code; only the base class (0x02 network, 0x12 accelerator) is looked at.
	Class uint32
	// Driver is the bound driver. A function without driver is in no pool.
	Driver string
	// PFAddress and PFName are a VF's PF and its interface; "" else, which no selector matches (GetPfName, GetPfAddr).
	PFAddress device.PCIAddress
	PFName    string
	// VFID is the VF's number; -1 for any other function.
	VFID int
	// LinkType is "ether" or "infiniband"; "" without an interface.
	LinkType  string
	ACPIIndex string
	// DDPProfile, PKey, VDPAType and RDMA are "" and false on Ethernet devices without those features.
	DDPProfile, PKey, VDPAType string
	RDMA                       bool
	// DefaultRoute: the interface has an IPv4 default route. VFs is the number of enabled VFs. Either
	// keeps a network function out of every pool. The former does so only in releases before v3.8: netlink
	// 1.3 has a destination in each route.
	DefaultRoute bool
	VFs          int
}

// offered says whether the plugin considers d at all for a pool of this type.
func (d Device) offered(deviceType string) bool {
	if d.Driver == "" {
		return false
	}
	switch deviceType {
	case "netDevice":
		return d.Class>>16 == 0x02 && !d.DefaultRoute && d.VFs == 0
	case "accelerator":
		return d.Class>>16 == 0x12
	}
	return false // auxNetDevice: auxiliary devices, not PCI functions
}

type selector struct {
	Vendors      []string `json:"vendors,omitempty"`
	Devices      []string `json:"devices,omitempty"`
	Drivers      []string `json:"drivers,omitempty"`
	PciAddresses []string `json:"pciAddresses,omitempty"`
	networkSelector
}

type networkSelector struct {
	PfNames      []string `json:"pfNames,omitempty"`
	RootDevices  []string `json:"rootDevices,omitempty"`
	LinkTypes    []string `json:"linkTypes,omitempty"`
	AcpiIndexes  []string `json:"acpiIndexes,omitempty"`
	DDPProfiles  []string `json:"ddpProfiles,omitempty"`
	PKeys        []string `json:"pKeys,omitempty"`
	VdpaType     string   `json:"vdpaType,omitempty"`
	IsRdma       bool
	NeedVhostNet bool
	// AuxTypes is read for auxNetDevice only.
	AuxTypes []string `json:"-"`
}

type acceleratorSelector struct {
	Vendors      []string `json:"vendors,omitempty"`
	Devices      []string `json:"devices,omitempty"`
	Drivers      []string `json:"drivers,omitempty"`
	PciAddresses []string `json:"pciAddresses,omitempty"`
}

type auxSelector struct {
	Vendors     []string `json:"vendors,omitempty"`
	Devices     []string `json:"devices,omitempty"`
	Drivers     []string `json:"drivers,omitempty"`
	PfNames     []string `json:"pfNames,omitempty"`
	RootDevices []string `json:"rootDevices,omitempty"`
	LinkTypes   []string `json:"linkTypes,omitempty"`
	AcpiIndexes []string `json:"acpiIndexes,omitempty"`
	AuxTypes    []string `json:"auxTypes,omitempty"`
	IsRdma      bool
}

func parseSelectors(deviceType string, raw json.RawMessage) ([]*selector, error) {
	switch deviceType {
	case "accelerator":
		list, err := objectOrList[acceleratorSelector](raw)
		return convert(list, func(a acceleratorSelector) selector {
			return selector{Vendors: a.Vendors, Devices: a.Devices, Drivers: a.Drivers, PciAddresses: a.PciAddresses}
		}), err
	case "auxNetDevice":
		list, err := objectOrList[auxSelector](raw)
		return convert(list, func(a auxSelector) selector { return selector{networkSelector: networkSelector{AuxTypes: a.AuxTypes}} }), err
	}
	return objectOrList[selector](raw)
}

func objectOrList[T any](raw json.RawMessage) ([]*T, error) {
	list := make([]*T, 1)
	if json.Unmarshal(raw, &list[0]) == nil {
		return list, nil
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("unreadable selectors: %w", err)
	}
	if len(list) == 0 {
		return nil, errors.New("no selector")
	}
	return list, nil
}

func convert[T any](in []*T, f func(T) selector) []*selector {
	out := make([]*selector, len(in))
	for i, p := range in {
		if p != nil {
			s := f(*p)
			out[i] = &s
		}
	}
	return out
}

// fault is the reason why ValidConfig of the device type's provider refuses s.
func (s *selector) fault(deviceType string) string {
	switch {
	case deviceType == "netDevice" && s.IsRdma && s.VdpaType != "":
		return "isRdma and vdpaType exclude each other"
	case deviceType == "auxNetDevice" && len(s.AuxTypes) == 0:
		return "auxTypes are not specified"
	case deviceType == "auxNetDevice" && slices.ContainsFunc(s.AuxTypes, func(t string) bool { return t != "sf" }):
		return `only auxType "sf" is supported`
	}
	return ""
}

// matches applies every criterion that is given; an empty selector matches all.
func (s *selector) matches(deviceType string, d Device) bool {
	if !allowed(s.Vendors, fmt.Sprintf("%04x", d.Vendor)) || !allowed(s.Devices, fmt.Sprintf("%04x", d.Device)) ||
		!allowed(s.Drivers, d.Driver) || !allowed(s.PciAddresses, d.Address.String()) {
		return false
	}
	if deviceType != "netDevice" {
		return true
	}
	return allowed(s.AcpiIndexes, d.ACPIIndex) && selected(s.PfNames, d.PFName, d.VFID) &&
		selected(s.RootDevices, d.PFAddress.String(), d.VFID) && allowed(s.LinkTypes, d.LinkType) &&
		allowed(s.DDPProfiles, d.DDPProfile) && allowed(s.PKeys, d.PKey) &&
		(!s.IsRdma || d.RDMA) && (s.VdpaType == "" || s.VdpaType == d.VDPAType)
}

func allowed(list []string, value string) bool {
	return len(list) == 0 || slices.Contains(list, value)
}

// selected is the rule of pfNames and rootDevices, "name" or "name#0,2-7": the first item with the name decides.
func selected(list []string, value string, vf int) bool {
	if len(list) == 0 {
		return true
	}
	if value == "" {
		return false
	}
	for _, item := range list {
		name, _, _ := strings.Cut(item, "#")
		if strings.EqualFold(name, value) {
			return inRange(item, vf)
		}
	}
	return false
}

func inRange(item string, vf int) bool {
	fields := strings.Split(item, "#")
	if len(fields) == 1 {
		return true
	}
	if len(fields) != 2 {
		return false
	}
	for _, part := range strings.Split(fields[1], ",") {
		bounds := strings.Split(part, "-")
		first, err := strconv.Atoi(bounds[0])
		if err != nil || len(bounds) > 2 {
			return false
		}
		last := first
		if len(bounds) == 2 {
			if last, err = strconv.Atoi(bounds[1]); err != nil {
				return false
			}
		}
		if first <= vf && vf <= last {
			return true
		}
	}
	return false
}
