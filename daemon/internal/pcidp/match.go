package pcidp

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// Facts describe PCI functions as sysfs shows them: those that are advertised,
// and the PFs of the VFs among them.
type Facts map[device.PCIAddress]sysfs.PCIFunction

// couldTake says whether the entry would put the function with this address into
// its pool if ours did not come first. Of a function without facts only the
// address is compared. What sysfs does not tell (ACPI index) counts as a match.
func (e foreignEntry) couldTake(addr device.PCIAddress, facts Facts) bool {
	for _, s := range e.selectors {
		if e.netDevice && s.couldTake(addr, facts) {
			return true
		}
	}
	return false
}

func (s *foreignSelector) couldTake(addr device.PCIAddress, facts Facts) bool {
	f, known := facts[addr]
	if !known {
		return slices.Contains(s.PCIAddresses, addr.String())
	}
	return permits(s.PCIAddresses, addr.String()) &&
		permits(s.Vendors, fmt.Sprintf("%04x", f.Vendor)) &&
		permits(s.Devices, fmt.Sprintf("%04x", f.Device)) &&
		permits(s.Drivers, f.Driver) &&
		s.permitsPF(f, facts) && s.permitsLink(f)
}

// permitsLink compares what depends on the kind of network. An ENI is Ethernet,
// and has neither RDMA (EFA is never advertised), nor vDPA, nor DDP profiles.
func (s *foreignSelector) permitsLink(f sysfs.PCIFunction) bool {
	if len(s.PKeys) > 0 { // InfiniBand
		return false
	}
	const amazon = 0x1d0f
	if f.Vendor == amazon && (s.IsRDMA || s.VDPAType != "" || len(s.DDPProfiles) > 0) {
		return false
	}
	link := "ether"
	if f.UserspaceDriver() {
		link = ""
	}
	return permits(s.LinkTypes, link)
}

func (s *foreignSelector) permitsPF(f sysfs.PCIFunction, facts Facts) bool {
	root, names, vf := f.Address, f.Interfaces, -1
	if f.PhysFn != "" {
		root, names = f.PhysFn, facts[f.PhysFn].Interfaces
		vf = slices.Index(facts[f.PhysFn].VirtFns, f.Address)
	}
	if len(s.PFNames) > 0 && (len(names) == 0 || !permitsVF(s.PFNames, names[0], vf)) {
		return false
	}
	return len(s.RootDevices) == 0 || permitsVF(s.RootDevices, root.String(), vf)
}

func permits(list []string, value string) bool {
	return len(list) == 0 || slices.Contains(list, value)
}

// permitsVF applies pfNames or rootDevices: "name" or "name#0,2-7", where name
// is taken in any case or as an unanchored regular expression, and the first
// item whose name fits decides.
func permitsVF(items []string, value string, vf int) bool {
	for _, item := range items {
		name, numbers, limited := strings.Cut(item, "#")
		re, err := regexp.Compile(name)
		if !strings.EqualFold(name, value) && (err != nil || !re.MatchString(value)) {
			continue
		}
		return item != "" && (!limited || inNumbers(numbers, vf))
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
