// Package pcidp keeps the config of the SR-IOV network device plugin (/etc/pcidp/config.json), which people edit too,
// in step with the devices of this node. Desired says which entries are wanted, Render merges them into the content,
// and File.Apply writes it.
//
// An entry is ours if the caller remembers its resource name as owned, or if it equals an entry about to be written.
// Ours are replaced as a whole. Every other entry belongs to people and keeps its exact value. Two kinds would end the
// device plugin, and are left out, named in a Problem while they are missing, and kept in a copy of the file
// (config.json.corrupt-<time>), as is an unparsable file: a second entry of one resource, and an entry that makes the
// plugin exit or crash. An entry on which the plugin ends only when a device matches it stays until one does.
package pcidp

import (
	"maps"
	"slices"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Entry is one resource to be advertised.
type Entry struct {
	Resource  device.ResourceName
	Selectors []Selector // Selectors have one driver each and are sorted by it
	NodeENIs  []string   // the objects that ask for the resource, sorted; they appear in Problems only
}

// Selector takes the devices that have one of the drivers and one of the addresses.
type Selector struct {
	Drivers      []string
	PCIAddresses []device.PCIAddress
}

func (e Entry) addresses() []device.PCIAddress {
	var all []device.PCIAddress
	for _, s := range e.Selectors {
		all = append(all, s.PCIAddresses...)
	}
	slices.Sort(all)
	return all
}

// Desired returns the entries for the rows to advertise: ready, with a resource name, a PCI address and a driver. Rows
// of one resource share an entry. The order of the rows does not matter.
func Desired(devices []nodestate.Device) []Entry {
	type pool struct {
		drivers  map[string]map[device.PCIAddress]bool
		nodeENIs map[string]bool
	}
	pools := map[device.ResourceName]pool{}
	for _, d := range devices {
		if d.Phase != nodestate.PhaseReady || d.ResourceName == "" || d.PCIAddress == "" || d.Driver == "" {
			continue
		}
		p, ok := pools[d.ResourceName]
		if !ok {
			p = pool{map[string]map[device.PCIAddress]bool{}, map[string]bool{}}
			pools[d.ResourceName] = p
		}
		if p.drivers[d.Driver] == nil {
			p.drivers[d.Driver] = map[device.PCIAddress]bool{}
		}
		p.drivers[d.Driver][d.PCIAddress] = true
		p.nodeENIs[d.NodeENI] = true
	}
	var entries []Entry
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		e := Entry{Resource: name, NodeENIs: slices.Sorted(maps.Keys(pools[name].nodeENIs))}
		for _, driver := range slices.Sorted(maps.Keys(pools[name].drivers)) {
			e.Selectors = append(e.Selectors, Selector{
				Drivers:      []string{driver},
				PCIAddresses: slices.Sorted(maps.Keys(pools[name].drivers[driver])),
			})
		}
		entries = append(entries, e)
	}
	return entries
}
