package pcidp

import (
	"slices"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// Conflict is an entry of people's that offers a resource or a device that is offered by the daemon itself, or is to be.
type Conflict struct {
	Entry    string              // the entry's resource
	Resource device.ResourceName // the resource of the daemon
	Device   device.PCIAddress   // the device that the entry may take, too; "" if the entry has the resource's name
}

// Conflicts returns the entries of the file that would offer a resource or a device of r.Entries, too, if the file had
// none of ours. A missing file has none. The error is *SyntaxError for a file that cannot be understood, as while
// somebody edits it.
func (f *File) Conflicts(r Request) ([]Conflict, error) {
	current, err := readConfig(f.Path)
	if err != nil || current == nil {
		return nil, err
	}
	return conflicts(current, r.Entries, r.Owned, r.Node)
}

func conflicts(current []byte, ours []Entry, owned []device.ResourceName, node Node) ([]Conflict, error) {
	doc, err := parseDocument(current)
	if err != nil {
		return nil, err
	}
	m := merge{owned: owned, node: node}
	wanted := m.encodeOurs(ours)
	m.walk(doc, wanted)
	var found []Conflict
	for _, w := range wanted {
		for _, f := range m.foreign {
			if !f.skipped() && slices.Contains(f.resources, w.entry.Resource) {
				found = append(found, Conflict{Entry: clip(f.names()), Resource: w.entry.Resource})
				continue
			}
			for _, addr := range w.entry.addresses() {
				if f.couldTake(addr, node.Facts) {
					found = append(found, Conflict{clip(f.names()), w.entry.Resource, addr})
				}
			}
		}
	}
	return found, nil
}

// nothing says whether a missing file may stay missing: the device plugin needs it for nobody.
func (r Request) nothing() bool {
	if !r.Optional || len(r.Entries)+len(r.Owned) > 0 {
		return false
	}
	if len(r.LastGood) == 0 {
		return true
	}
	last, err := Render(r.LastGood, nil, nil, r.Node)
	return err == nil && len(last.Foreign) == 0
}
