// Package pcidp keeps the config of the SR-IOV network device plugin (/etc/pcidp/config.json) in step with the
// devices of this node, in a file that people edit too.
//
// Desired says which entries are wanted, Render merges them into the file's
// content, and File.Apply makes the file so. Desired and Render are pure.
//
// Entries are "ours" when their resource name is in the list of owned names that the caller remembers, or when they
// are equal to the entries about to be written. Ours are replaced as a whole: an edit of one does not last. Every
// other entry belongs to people and keeps its exact value, unknown fields, number spellings and escapes included.
// There are two exceptions, both of which the device plugin cannot live with: a second entry of one resource, and an
// entry that is known to make the plugin exit or crash, and with it every pool of the node. Those are left out, named
// in a Problem for as long as they are missing, and kept in a copy of the file beside it
// (config.json.corrupt-<time>), as is a file that cannot be parsed at all. An entry on which the plugin ends only
// once a device matches it stays until one does.
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

// addresses returns the addresses of all selectors, sorted.
func (e Entry) addresses() []device.PCIAddress {
	var all []device.PCIAddress
	for _, s := range e.Selectors {
		all = append(all, s.PCIAddresses...)
	}
	slices.Sort(all)
	return all
}

// Desired returns the entries for the rows that are to be advertised: ready, with a resource name, a PCI address and
// a driver. Rows of the same resource share one entry. The result depends on the rows only, not on their order.
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
