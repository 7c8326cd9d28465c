package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/multi-eni/multi-eni-cni/test/bench/table"
)

// way is one way of giving a pod its interface and taking it back: a plugin and its source of addresses.
type way struct {
	kind, ipam string
	// devices is the size of the inventory; 0 is the least possible.
	devices int
}

// The kinds. A pod has an ENI to itself, but for sharedMacvlan and aloneMacvlan, whose pods share one.
const (
	exclusive     = "exclusive"
	dpdk          = "DPDK" // no link, so that nothing moves
	hostDevice    = "host-device"
	bareMove      = "the floor"
	sharedMacvlan = "shared macvlan"
	aloneMacvlan  = "macvlan alone"
)

const (
	eniIPAM   = "eni-ipam"
	hostLocal = "host-local"
	static    = "static"
	none      = "no addresses"
)

var (
	own       = way{kind: exclusive, ipam: eniIPAM}
	local     = way{kind: exclusive, ipam: hostLocal}
	reference = way{kind: hostDevice, ipam: hostLocal}
	floor     = way{kind: bareMove}
)

func (w way) String() string { return w.called("") }

func (w way) called(verb string) string {
	name := w.kind
	if verb != "" {
		name += " " + verb
	}
	if w.ipam != "" {
		name += ", " + w.ipam
	}
	return name
}

type comparison struct {
	item        string // heading of its tables, one pod at a time
	ours, other way
	// limit is the greatest ratio of ADD and DEL together, one pod at a time, loaded with many; 0 is no target.
	limit, loaded float64
	verbs         bool
}

var (
	macvlan     = way{kind: aloneMacvlan, ipam: hostLocal}
	comparisons = []comparison{
		{itemOwn, own, reference, ownTarget, ownTarget, true},
		{itemOwn, own, way{kind: hostDevice, ipam: static}, 0, 0, false},
		{itemOwn, local, reference, exclusiveTarget, exclusiveTarget, true},
		{itemFloor, own, floor, ownAboveFloorTarget, ownLoadedTarget, true},
		{itemFloor, local, floor, 0, 0, false},
		{itemFloor, way{kind: exclusive, ipam: none}, floor, floorTarget, floorTarget, false},
		{itemShared, way{kind: sharedMacvlan, ipam: eniIPAM}, macvlan, leasedTarget, leasedTarget, true},
		{itemShared, way{kind: sharedMacvlan, ipam: hostLocal}, macvlan, sharedTarget, sharedTarget, true},
	}
)

func waysOf(all []comparison) (ways []way) {
	for _, c := range all {
		for _, w := range []way{c.ours, c.other} {
			if !slices.Contains(ways, w) {
				ways = append(ways, w)
			}
		}
	}
	return ways
}

const (
	itemOwn       = "(a) One pod at a time, own ENI"
	itemFloor     = "(b) One pod at a time, own ENI, against the least that the kernel takes"
	itemShared    = "(c) One pod at a time, shared ENI"
	itemStart     = "(d) Start-up"
	itemInventory = "(e) Size of the inventory: 100 devices against 10"
	itemSync      = "(f) The daemon: one Sync of an unchanged node"
	itemMemory    = "(g) Peak memory, MiB"
	itemLoaded    = "(h) Eight pods at once"
	itemCrowd     = "(i) 100 pods at once, until the last has its interface"
	itemGrowth    = "(j) 1000 pods in a row on one device"
	itemCounts    = "(k) Requests to the kernel"
)

func (c comparison) rows(item string, got map[way]timed) []table.Row {
	ours, other := got[c.ours], got[c.other]
	row := func(verb string, ours, other table.Sample, limit float64) table.Row {
		return table.Ratio(c.ours.called(verb), ours, other, limit).About(item, c.other.String())
	}
	sum := row("ADD + DEL", ours.sum(), other.sum(), c.limit)
	if !c.verbs {
		return []table.Row{sum}
	}
	return []table.Row{row("ADD", ours.add, other.add, 0), row("DEL", ours.del, other.del, 0), sum}
}

func (n *node) quiet(ctx context.Context) ([]table.Row, error) {
	asked := slices.DeleteFunc(slices.Clone(comparisons), func(c comparison) bool { return !wanted(c.item) })
	got, err := n.compare(ctx, one, waysOf(asked)...)
	var rows []table.Row
	for _, c := range asked {
		rows = append(rows, c.rows(c.item, got)...)
	}
	return rows, err
}

func (n *node) loaded(ctx context.Context) ([]table.Row, error) {
	got, err := n.compare(ctx, side, waysOf(comparisons)...)
	var rows []table.Row
	for _, c := range comparisons {
		c.limit = c.loaded
		rows = append(rows, c.rows(itemLoaded, got)...)
	}
	return rows, err
}

func (n *node) contenders(w way, pods int) ([]contender, error) {
	inventory, all, err := n.inventory(max(w.devices, pods+len(baseENIs), fewDevices))
	if err != nil {
		return nil, err
	}
	out := make([]contender, pods)
	for i, p := range all[:pods] {
		if out[i], err = n.contender(w, p, inventory); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (n *node) contender(w way, p pod, inventory string) (contender, error) {
	switch w.kind {
	case exclusive:
		return n.plugin(w, p, "multi-eni", p.eni.Name, n.ours(p.eni.Name, inventory))
	case dpdk:
		return n.plugin(w, p, "multi-eni", "", n.ours(dpdkENI.Name, inventory))
	case sharedMacvlan:
		conf := n.ours(sharedENI.Name, inventory)
		conf["delegate"] = map[string]any{"type": "macvlan", "mode": "bridge"}
		return n.plugin(w, p, "multi-eni", sharedENI.Name, conf)
	case hostDevice:
		return n.plugin(w, p, "host-device", p.eni.Name, map[string]any{"device": p.eni.Name})
	case aloneMacvlan:
		return n.plugin(w, p, "macvlan", sharedENI.Name, map[string]any{"mode": "bridge", "master": sharedENI.Name})
	case bareMove:
		return n.floor(p), nil
	}
	return contender{}, fmt.Errorf("no way is called %q", w.kind)
}

// ipam is a way's address netconf, nil for none. IPv4 only: with IPv6 host-device waits for duplicate detection.
func (n *node) ipam(w way, p pod) map[string]any {
	store := filepath.Join(n.Dir, "ipam", dashed(w.String()))
	switch w.ipam {
	case eniIPAM:
		conf := map[string]any{"type": eniIPAM, "dataDir": store}
		if w.kind == sharedMacvlan {
			conf["coolDown"] = 0
		}
		return conf
	case hostLocal:
		return map[string]any{"type": hostLocal, "dataDir": store, "ranges": []any{[]any{
			map[string]any{"subnet": "10.0.2.0/24", "rangeStart": "10.0.2.10", "rangeEnd": "10.0.2.200"},
		}}}
	case static:
		return map[string]any{"type": static, "addresses": []any{map[string]any{"address": p.address.String()}}}
	}
	return nil
}
