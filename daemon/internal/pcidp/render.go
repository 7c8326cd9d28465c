package pcidp

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Reasons of this package's Problems.
const (
	// ReasonResourceClash: people have an entry of the name that a NodeENI asks
	// for. Theirs stays, ours is not written.
	ReasonResourceClash = "ResourceClash"
	// ReasonForeignSelector: people's entry could take a device of ours.
	ReasonForeignSelector = "ForeignSelectorMatches"
	// ReasonDuplicateEntry: a second entry of one resource was left out.
	ReasonDuplicateEntry = "DuplicateEntry"
	// ReasonFatalEntry: an entry that stops the device plugin was left out.
	ReasonFatalEntry = "FatalEntry"
	// ReasonInvalidResource: a NodeENI asks for a name that cannot be served.
	ReasonInvalidResource = "InvalidResourceName"
	// ReasonAdvertisedTwice: a device is asked for under two names.
	ReasonAdvertisedTwice = "AdvertisedTwice"
)

// Rendering is the content that the config should have.
type Rendering struct {
	// Content is canonical: rendering it again changes no octet.
	Content []byte
	// Owned are the resources of our entries in Content, sorted.
	Owned []device.ResourceName
	// Offered are the addresses that our entries in Content select.
	Offered map[device.ResourceName][]device.PCIAddress
	// Foreign are the resources of people's entries in Content, in its order.
	Foreign []device.ResourceName
	// Problems come in the order of the file.
	Problems []nodestate.Problem
	// SetAside says that Content lacks something that people wrote, so that the
	// file must be copied before it is replaced.
	SetAside bool
}

// Render merges our entries, at most one for each resource, into the current
// content; nil means that there is no file. Entries of owned resources are replaced or removed, and ours come first:
// the plugin gives a device to the first entry that matches it. Where the plugin
// would be left without any entry, and exit, a placeholder stands in. The only
// error is *SyntaxError.
func Render(current []byte, ours []Entry, owned []device.ResourceName, facts Facts) (Rendering, error) {
	doc, err := parseDocument(current)
	if err != nil {
		return Rendering{}, err
	}
	m := merge{owned: owned, seen: map[device.ResourceName]bool{}}
	wanted := m.encodeOurs(ours)
	if doc.shadowed > 0 {
		m.leaveOut(ReasonDuplicateEntry, fmt.Sprintf("%s is in the device plugin config more than once; the last one is kept", listKey))
	}
	for i, raw := range doc.entries {
		m.add(i, raw, wanted)
	}
	r := Rendering{Offered: map[device.ResourceName][]device.PCIAddress{}}
	var entries []json.RawMessage
	for _, w := range wanted {
		if m.clashes(w) {
			continue
		}
		entries = append(entries, w.raw)
		r.Owned = append(r.Owned, w.entry.Resource)
		r.Offered[w.entry.Resource] = w.entry.addresses()
		m.compare(w, facts)
	}
	for _, f := range m.foreign {
		entries = append(entries, f.raw)
		r.Foreign = append(r.Foreign, f.resource)
	}
	if len(r.Owned) == 0 && !slices.ContainsFunc(m.foreign, func(f foreignEntry) bool { return !f.skipped() }) {
		entries = slices.Insert(entries, 0, json.RawMessage(placeholder))
	}
	slices.Sort(r.Owned)
	r.Problems, r.SetAside = m.problems, m.setAside
	r.Content, err = doc.format(entries)
	return r, err
}

// merge collects what becomes of the entries of one config.
type merge struct {
	owned    []device.ResourceName
	seen     map[device.ResourceName]bool
	foreign  []foreignEntry
	problems []nodestate.Problem
	setAside bool
}

// wantedEntry is one of ours that can be written.
type wantedEntry struct {
	entry Entry
	raw   json.RawMessage
}

// encodeOurs leaves out what the plugin cannot serve, each with a Problem.
func (m *merge) encodeOurs(ours []Entry) []wantedEntry {
	var wanted []wantedEntry
	advertised := map[device.PCIAddress]device.ResourceName{}
	for _, e := range ours {
		if _, err := device.ParseResourceName(e.Resource.String()); err != nil {
			m.report(ReasonInvalidResource, e, "", fmt.Sprintf("%v; correct dpdkResourceName", err))
			continue
		}
		if len(e.Resource) > maxResourceName {
			m.report(ReasonInvalidResource, e, "", fmt.Sprintf(
				"resource name %q has %d characters, the device plugin can serve %d; choose a shorter dpdkResourceName", e.Resource, len(e.Resource), maxResourceName))
			continue
		}
		e.Selectors = m.unadvertised(e, advertised)
		if len(e.Selectors) > 0 {
			wanted = append(wanted, wantedEntry{e, encodeEntry(e)})
		}
	}
	return wanted
}

// unadvertised returns the entry's selectors without addresses that an earlier
// entry has, and without selectors that would match any driver or address.
func (m *merge) unadvertised(e Entry, advertised map[device.PCIAddress]device.ResourceName) []Selector {
	var selectors []Selector
	for _, s := range e.Selectors {
		var addrs []device.PCIAddress
		for _, a := range s.PCIAddresses {
			if first, ok := advertised[a]; ok && first != e.Resource {
				m.report(ReasonAdvertisedTwice, e, a.String(), fmt.Sprintf(
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

// add decides about one entry of the file.
func (m *merge) add(index int, raw json.RawMessage, wanted []wantedEntry) {
	f, err := parseForeign(raw)
	label := fmt.Sprintf("entry %d of the device plugin config (%s)", index, f.resource)
	ours := slices.Contains(m.owned, f.resource) || isWanted(f, wanted)
	switch {
	case isPlaceholder(f):
	case ours && !m.seen[f.resource]:
		m.seen[f.resource] = true
	case err != nil:
		m.leaveOut(ReasonFatalEntry, fmt.Sprintf("%s would stop the device plugin: %v", label, err))
	case ours || m.seen[f.resource] && !f.skipped():
		m.leaveOut(ReasonDuplicateEntry, label+" is the second of its name, on which the device plugin exits; the first is kept")
	default:
		m.seen[f.resource] = m.seen[f.resource] || !f.skipped()
		m.foreign = append(m.foreign, f)
	}
}

// isWanted says whether an entry says nothing but what one of ours says: the same
// resource, and devices of it by driver and PCI address. Such are those that the
// public controller's eni-manager has left, in which nobody loses anything.
func isWanted(f foreignEntry, wanted []wantedEntry) bool {
	return slices.ContainsFunc(wanted, func(w wantedEntry) bool { return w.entry.Resource == f.resource && f.onlySelects(w.entry.addresses()) })
}

// clashes says whether people have an entry of the name.
func (m *merge) clashes(w wantedEntry) bool {
	if !slices.ContainsFunc(m.foreign, func(f foreignEntry) bool { return f.resource == w.entry.Resource }) {
		return false
	}
	m.report(ReasonResourceClash, w.entry, "", fmt.Sprintf(
		"resource %s has an entry in the device plugin config that is not ours, so its devices are not advertised; give the NodeENI another dpdkResourceName or delete that entry", w.entry.Resource))
	return true
}

// compare reports the foreign entries that could take a device of w.
func (m *merge) compare(w wantedEntry, facts Facts) {
	for _, f := range m.foreign {
		for _, s := range w.entry.Selectors {
			for _, addr := range s.PCIAddresses {
				if f.couldTake(addr, facts) {
					m.report(ReasonForeignSelector, w.entry, addr.String(), fmt.Sprintf(
						"entry %s of the device plugin config also matches %s, which is advertised as %s; narrow its selectors", f.resource, addr, w.entry.Resource))
				}
			}
		}
	}
}

// report names every NodeENI of a shared resource, but none of several when it
// is about one device: which of them has declared that is not known here.
func (m *merge) report(reason string, e Entry, dev, message string) {
	names := e.NodeENIs
	if len(names) == 0 || len(names) > 1 && dev != "" {
		names = []string{""}
	}
	for _, name := range names {
		m.problems = append(m.problems, nodestate.Problem{Reason: reason, NodeENI: name, Device: dev, Message: message})
	}
}

func (m *merge) leaveOut(reason, message string) {
	m.setAside = true
	m.problems = append(m.problems, nodestate.Problem{Reason: reason, Message: message + "; the file as it was is kept beside it"})
}

// encodeEntry writes an entry in the form that every release of the plugin reads:
// one selector as an object, several as a list.
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
const placeholder = `{"resourcePrefix":"intel.com","resourceName":"sriov_placeholder","selectors":[{"drivers":["placeholder"],"pciAddresses":["0000:00:00.0"]}]}`

// isPlaceholder recognises our placeholder and the public controller's
// (intel.com/placeholder), each without any field beyond those it is made of.
func isPlaceholder(f foreignEntry) bool {
	if !f.plain() || len(f.selectors) != 1 || f.selectors[0] == nil {
		return false
	}
	switch f.resource {
	case "intel.com/sriov_placeholder":
		return f.selectors[0].equal(foreignSelector{Drivers: []string{"placeholder"}, PCIAddresses: []string{"0000:00:00.0"}})
	case "intel.com/placeholder":
		return f.selectors[0].equal(foreignSelector{Vendors: []string{"8086"}, Devices: []string{"0000"}})
	}
	return false
}
