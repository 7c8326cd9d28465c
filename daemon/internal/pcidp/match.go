package pcidp

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// Facts describe PCI functions as sysfs shows them: the advertised ones, and the PFs of the VFs among them.
type Facts map[device.PCIAddress]sysfs.PCIFunction

type answer int

const (
	no answer = iota
	perhaps
	yes
)

// couldTake says whether the entry would take the function if ours did not come first. Without facts it compares only
// the address.
func (e foreignEntry) couldTake(addr device.PCIAddress, facts Facts) bool {
	if _, known := facts[addr]; !known {
		return e.netDevice() && slices.ContainsFunc(e.selectors, func(s *foreignSelector) bool {
			return slices.Contains(s.PCIAddresses, addr.String())
		})
	}
	return e.netDevice() && e.matches(addr, facts) != no
}

// matches applies a selector to a function with facts, by the rules of the device providers in the plugin's
// pkg/netdevice and pkg/accelerator. sysfs does not tell an ACPI index and a function's auxiliary devices. Default
// routes do not matter here.
func (e foreignEntry) matches(addr device.PCIAddress, facts Facts) answer {
	f := facts[addr]
	class := f.Class >> 16
	switch {
	case f.Driver == "":
		return no
	case e.deviceType == accelerator:
		if class != 0x12 {
			return no
		}
	case class != 0x02 || e.netDevice() && len(f.VirtFns) > 0:
		return no
	}
	best := no
	for _, s := range e.selectors {
		best = max(best, s.matches(f, e.deviceType, facts))
	}
	return best
}

func (s *foreignSelector) matches(f sysfs.PCIFunction, deviceType string, facts Facts) answer {
	if !permits(s.PCIAddresses, f.Address.String()) || !permits(s.Vendors, fmt.Sprintf("%04x", f.Vendor)) ||
		!permits(s.Devices, fmt.Sprintf("%04x", f.Device)) || !permits(s.Drivers, f.Driver) {
		return no
	}
	switch deviceType {
	case accelerator:
		return yes
	case auxNetDevice:
		return perhaps
	}
	if !s.permitsPF(f, facts) {
		return no
	}
	found := min(s.permitsLink(f, facts), s.permitsFeatures(f))
	if len(s.ACPIIndexes) > 0 {
		found = min(found, perhaps)
	}
	return found
}

const amazon = 0x1d0f

// permitsLink compares the kind of the function's link, or else of its PF's (NewGenNetDevice in the plugin's
// pkg/devices). An ENI is Ethernet. A link that is in a pod may be back when the plugin looks.
func (s *foreignSelector) permitsLink(f sysfs.PCIFunction, facts Facts) answer {
	if len(s.LinkTypes) == 0 {
		return yes
	}
	linked := len(slices.Concat(f.Interfaces, facts[f.PhysFn].Interfaces)) > 0
	switch {
	case linked && f.Vendor != amazon:
		return perhaps // Ethernet or InfiniBand
	case linked:
		return certain(slices.Contains(s.LinkTypes, "ether"))
	case !f.UserspaceDriver() && slices.Contains(s.LinkTypes, "ether"):
		return perhaps
	}
	return certain(slices.Contains(s.LinkTypes, ""))
}

// permitsFeatures compares features that an ENI never has: RDMA (EFA is never advertised), vDPA, DDP profiles,
// InfiniBand's partition keys.
func (s *foreignSelector) permitsFeatures(f sysfs.PCIFunction) answer {
	switch {
	case !s.IsRDMA && s.VDPAType == "" && len(slices.Concat(s.DDPProfiles, s.PKeys)) == 0:
		return yes
	case f.Vendor == amazon:
		return no
	}
	return perhaps
}

// permitsPF applies pfNames and rootDevices, which match VFs only (GetPfName and GetPfAddr in the plugin's pkg/utils).
func (s *foreignSelector) permitsPF(f sysfs.PCIFunction, facts Facts) bool {
	if len(slices.Concat(s.PFNames, s.RootDevices)) == 0 {
		return true
	}
	if f.PhysFn == "" {
		return false
	}
	pf := facts[f.PhysFn]
	vf := slices.Index(pf.VirtFns, f.Address)
	if len(s.PFNames) > 0 && (len(pf.Interfaces) == 0 || !permitsVF(s.PFNames, pf.Interfaces[0], vf)) {
		return false
	}
	return len(s.RootDevices) == 0 || permitsVF(s.RootDevices, f.PhysFn.String(), vf)
}

func certain(is bool) answer {
	if is {
		return yes
	}
	return no
}

func permits(list []string, value string) bool {
	return len(list) == 0 || slices.Contains(list, value)
}

// permitsVF applies pfNames or rootDevices: "name" or "name#0,2-7". The first item of that name, in any case, decides
// (getItem and isSelected in the plugin's pkg/resources).
func permitsVF(items []string, value string, vf int) bool {
	for _, item := range items {
		if name, numbers, limited := strings.Cut(item, "#"); strings.EqualFold(name, value) {
			return !limited || inNumbers(numbers, vf)
		}
	}
	return false
}

func inNumbers(numbers string, vf int) bool {
	for _, part := range strings.Split(numbers, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		if err != nil {
			return false
		}
		last := first
		if isRange {
			if last, err = strconv.Atoi(to); err != nil {
				return false
			}
		}
		if first <= vf && vf <= last {
			return true
		}
	}
	return false
}
