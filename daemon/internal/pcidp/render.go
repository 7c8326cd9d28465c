package pcidp

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Rendering is the content that the config should have.
type Rendering struct {
	Content []byte                                      // canonical: rendering it again changes no octet
	Owned   []device.ResourceName                       // the resources of our entries in Content, sorted
	Offered map[device.ResourceName][]device.PCIAddress // the addresses that our entries in Content select
	Foreign []device.ResourceName                       // the resources of people's entries in Content, in its order
	// Problems come in the order of the file. They do not repeat LeftOut.
	Problems []nodestate.Problem
	// LeftOut are people's entries that Content lacks. If there are any, copy the file before replacing it.
	LeftOut []LeftOut
	kept    map[string]bool // the names of people's entries in Content that are not skipped
	losing  [][]byte        // contents that have something that Content lacks; the caller of Render sets it
}

// SetAside says that the file must be copied before it is replaced.
func (r Rendering) SetAside() bool { return len(r.LeftOut) > 0 }

// LeftOut is an entry, or a list of them, that the device plugin would end on.
type LeftOut struct {
	Reason        nodestate.Reason // reason.FatalEntry or reason.DuplicateEntry
	Entry         string           // Entry names the entry by its resource, or else by its place
	Cause, Remedy string           // Cause completes "Entry …"; Remedy tells the reader how to mend it
}

// Node describes the machine and its device plugins, as far as they are known.
type Node struct {
	Facts Facts
	// Prefixes has the -resource-prefix of each device plugin of this node, each value once. Empty stands for
	// DefaultPrefix.
	Prefixes []string
	// DefaultRoutes returns the links with a default route, by name, or nil if unknown. It is called only where it
	// matters, and may be nil.
	DefaultRoutes func() map[string]bool

	newPrefixes bool // the content was rendered for other Prefixes
}

func (n Node) prefixes() []string {
	if len(n.Prefixes) == 0 {
		return []string{DefaultPrefix}
	}
	return n.Prefixes
}

// Render merges our entries, at most one for each resource, into the current content; nil is a missing file. It
// replaces or removes entries of owned resources. Ours come first: the plugin gives a device to the first matching
// entry. Without any entry the plugin would exit, so Render adds a placeholder. The only error is *SyntaxError.
func Render(current []byte, ours []Entry, owned []device.ResourceName, node Node) (Rendering, error) {
	doc, err := parseDocument(current)
	if err != nil {
		return Rendering{}, err
	}
	m := merge{owned: owned, node: node}
	wanted := m.encodeOurs(ours)
	m.walk(doc, wanted)
	wanted = slices.DeleteFunc(wanted, m.clashes)
	if slices.ContainsFunc(m.foreign, foreignEntry.unservable) {
		m.pools = newPools(node, wanted)
		m.walk(doc, wanted)
	}
	r := Rendering{Offered: map[device.ResourceName][]device.PCIAddress{}, kept: map[string]bool{}}
	wanted = slices.DeleteFunc(wanted, m.clashes)
	var entries []json.RawMessage
	for _, w := range wanted {
		entries = append(entries, w.raw)
		r.Owned = append(r.Owned, w.entry.Resource)
		r.Offered[w.entry.Resource] = w.entry.addresses()
		m.compare(w)
	}
	for _, f := range m.foreign {
		entries = append(entries, f.raw)
		r.Foreign = append(r.Foreign, f.resources...)
		r.kept[f.names()] = !f.skipped()
	}
	if len(r.Owned) == 0 && !slices.ContainsFunc(m.foreign, func(f foreignEntry) bool { return !f.skipped() }) {
		entries = slices.Insert(entries, 0, json.RawMessage(placeholder))
	}
	slices.Sort(r.Owned)
	r.Problems, r.LeftOut = m.problems, m.leftOut
	r.Content, err = doc.format(entries)
	return r, err
}

// reading is a resource as one of the device plugins reads it.
type reading struct {
	plugin   int // index of its prefix
	resource device.ResourceName
}

type merge struct {
	owned []device.ResourceName
	node  Node
	// ours has the resources of our entries found so far, seen those of people's.
	ours     map[device.ResourceName]bool
	seen     map[reading]bool
	foreign  []foreignEntry
	pools    *pools // nil where no entry depends on them
	problems []nodestate.Problem
	leftOut  []LeftOut
}

func (m *merge) walk(doc document, wanted []wantedEntry) {
	m.ours, m.seen, m.foreign, m.leftOut = map[device.ResourceName]bool{}, map[reading]bool{}, nil, nil
	if doc.shadowed > 0 {
		m.leaveOut(LeftOut{reason.DuplicateEntry, listKey, "is there more than once, and the device plugin reads the last only", "move the entries that you " +
			"need into that one"})
	}
	for i, raw := range doc.entries {
		m.add(i, raw, wanted)
	}
}

// wantedEntry is one of ours that can be written.
type wantedEntry struct {
	entry Entry
	raw   json.RawMessage
}

// encodeOurs leaves out entries that the plugin cannot serve, each with a Problem.
func (m *merge) encodeOurs(ours []Entry) []wantedEntry {
	var wanted []wantedEntry
	advertised := map[device.PCIAddress]device.ResourceName{}
	for _, e := range ours {
		if _, err := device.ParseResourceName(e.Resource.String()); err != nil {
			m.report(reason.InvalidResourceName, e, "", fmt.Sprintf("%v; correct dpdkResourceName", err))
			continue
		}
		e.Selectors = m.unadvertised(e, advertised)
		if len(e.Selectors) > 0 {
			wanted = append(wanted, wantedEntry{e, encodeEntry(e)})
		}
	}
	return wanted
}

// unadvertised returns the entry's selectors without addresses of earlier entries, and without selectors that match any
// driver or address.
func (m *merge) unadvertised(e Entry, advertised map[device.PCIAddress]device.ResourceName) []Selector {
	var selectors []Selector
	for _, s := range e.Selectors {
		var addrs []device.PCIAddress
		for _, a := range s.PCIAddresses {
			if first, ok := advertised[a]; ok && first != e.Resource {
				m.report(reason.AdvertisedTwice, e, a.String(), fmt.Sprintf(
					"device %s is asked for as %s and as %s; it is advertised as the former; give it one dpdkResourceName", a, first, e.Resource))
				continue
			}
			advertised[a] = e.Resource
			addrs = append(addrs, a)
		}
		if len(addrs) > 0 && len(s.Drivers) > 0 {
			selectors = append(selectors, Selector{s.Drivers, addrs})
		}
	}
	return selectors
}

// add decides about one entry of the file. Ours always have a prefix, so one without is people's even if its resource
// is owned.
func (m *merge) add(index int, raw json.RawMessage, wanted []wantedEntry) {
	f, err := parseForeign(raw, m.node.prefixes())
	label := f.names()
	if f.name == "" {
		label = fmt.Sprintf("%d (no resourceName)", index)
	}
	ours := f.prefix != "" && slices.Contains(m.owned, f.resources[0]) || isWanted(f, wanted)
	switch {
	case isPlaceholder(f):
	case ours && !m.ours[f.resources[0]]:
		m.ours[f.resources[0]] = true
	case err != nil:
		m.leaveOut(LeftOut{reason.FatalEntry, label, "stops the device plugin: " + err.Error(), "correct it and put it back"})
	case !f.skipped() && (ours || m.isSecond(f) || m.isOursToo(f)):
		m.leaveOut(LeftOut{reason.DuplicateEntry, label, "is the second entry of its name, on which the device plugin exits; the first is kept", "give it " +
			"another name and put it back, or add its selectors to the first"})
	case f.skipped():
		m.foreign = append(m.foreign, f)
	case m.pools == nil || m.pools.foreign(f, m.servable):
		m.see(f)
		m.foreign = append(m.foreign, f)
	}
}

func (m *merge) isSecond(f foreignEntry) bool {
	for i, r := range f.resources {
		if m.seen[reading{i, r}] {
			return true
		}
	}
	return false
}

// isOursToo says whether somebody wrote the entry beside ours knowingly, which an entry read as ours only by changed
// prefixes was not.
func (m *merge) isOursToo(f foreignEntry) bool {
	return !m.node.newPrefixes && slices.ContainsFunc(f.resources, func(r device.ResourceName) bool { return m.ours[r] })
}

func (m *merge) see(f foreignEntry) {
	for i, r := range f.resources {
		m.seen[reading{i, r}] = true
	}
}

// isWanted says whether an entry only has a resource of ours and some of its devices by driver and PCI address, as the
// public controller's eni-manager leaves them. Dropping it loses nothing.
func isWanted(f foreignEntry, wanted []wantedEntry) bool {
	return slices.ContainsFunc(wanted, func(w wantedEntry) bool { return f.always(w.entry.Resource) && f.onlySelects(w.entry.addresses()) })
}

func (m *merge) clashes(w wantedEntry) bool {
	if !slices.ContainsFunc(m.foreign, func(f foreignEntry) bool { return !f.skipped() && slices.Contains(f.resources, w.entry.Resource) }) {
		return false
	}
	m.report(reason.ResourceClash, w.entry, "", fmt.Sprintf(
		"resource %s has an entry in the device plugin config that is not ours, so its devices are not advertised; give the NodeENI another "+
			"dpdkResourceName or delete that entry", w.entry.Resource))
	return true
}

// servable says whether an entry may stay. One with a function of the machine but without a possible socket is left
// out; if the function is uncertain, the entry stays, with a Problem.
func (m *merge) servable(f foreignEntry, has answer) bool {
	switch {
	case !f.unservable():
	case has == yes:
		m.leaveOut(LeftOut{reason.FatalEntry, f.names(), "matches a device and stops the device plugin: " + f.socketFault(), "correct it and put it back"})
		return false
	default:
		m.problems = append(m.problems, nodestate.Problem{Reason: reason.UnservableEntry, Message: fmt.Sprintf(
			"entry %s of the device plugin config would stop the device plugin if a device matched it: %s; correct it", clip(f.names()), clip(f.socketFault()))})
	}
	return true
}

func (m *merge) compare(w wantedEntry) {
	for _, f := range m.foreign {
		for _, s := range w.entry.Selectors {
			for _, addr := range s.PCIAddresses {
				if f.couldTake(addr, m.node.Facts) {
					m.report(reason.ForeignSelectorMatches, w.entry, addr.String(), fmt.Sprintf(
						"entry %s of the device plugin config also matches %s, which is advertised as %s; narrow its selectors", clip(f.names()), addr, w.entry.Resource))
				}
			}
		}
	}
}

// report names every NodeENI of a shared resource, but none of several for one device: it is not known which declared
// that.
func (m *merge) report(why nodestate.Reason, e Entry, dev, message string) {
	names := e.NodeENIs
	if len(names) == 0 || len(names) > 1 && dev != "" {
		names = []string{""}
	}
	for _, name := range names {
		m.problems = append(m.problems, nodestate.Problem{Reason: why, NodeENI: name, Device: dev, Message: message})
	}
}

func (m *merge) leaveOut(l LeftOut) { m.leftOut = append(m.leftOut, l) }

// encodeEntry writes an entry as every release of the plugin reads it: one selector as an object, several as a list.
func encodeEntry(e Entry) json.RawMessage {
	prefix, name := e.Resource.Split()
	var selectors []string
	for _, s := range e.Selectors {
		selectors = append(selectors, fmt.Sprintf(`{"drivers":%s,"pciAddresses":%s}`, encodeStrings(s.Drivers), encodeStrings(s.PCIAddresses)))
	}
	list := strings.Join(selectors, ",")
	if len(selectors) > 1 {
		list = "[" + list + "]"
	}
	return json.RawMessage(fmt.Sprintf(`{"resourcePrefix":%s,"resourceName":%s,"selectors":%s}`, encodeString(prefix), encodeString(name), list))
}

func encodeStrings[T ~string](list []T) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = encodeString(string(s))
	}
	return "[" + strings.Join(quoted, ",") + "]"
}

func encodeString(s string) string {
	b, _ := json.Marshal(s) // a string always has an encoding
	return string(b)
}

// placeholder keeps the plugin alive on a node without devices. It matches none.
const placeholder = `{"resourcePrefix":"intel.com","resourceName":"sriov_placeholder",` +
	`"selectors":[{"drivers":["placeholder"],"pciAddresses":["0000:00:00.0"]}]}`

// isPlaceholder recognises our placeholder and the public controller's (intel.com/placeholder), without other fields.
func isPlaceholder(f foreignEntry) bool {
	if !f.plain() || len(f.selectors) != 1 || f.selectors[0] == nil {
		return false
	}
	prefix := f.prefix
	if prefix == "" {
		prefix = DefaultPrefix
	}
	switch prefix + "/" + f.name {
	case "intel.com/sriov_placeholder":
		return f.selectors[0].equal(foreignSelector{Drivers: []string{"placeholder"}, PCIAddresses: []string{"0000:00:00.0"}})
	case "intel.com/placeholder":
		return f.selectors[0].equal(foreignSelector{Vendors: []string{"8086"}, Devices: []string{"0000"}})
	}
	return false
}
