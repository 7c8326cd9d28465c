package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/multi-eni/multi-eni-cni/test/bench/table"
)

// The targets, as ratios or in milliseconds.
const (
	ownTarget           = 0.50 // with eni-ipam
	exclusiveTarget     = 0.60
	ownAboveFloorTarget = 1.2 // with eni-ipam, one at a time
	ownLoadedTarget     = 1.4 // with eni-ipam, eight at once
	floorTarget         = 1.4
	leasedTarget        = 1.25 // with eni-ipam
	sharedTarget        = 1.35
	startTarget         = 1.1
	memoryTarget        = 1.0
	crowdTarget         = 1.0
	growthTarget        = 1.1
	inventoryTarget     = 1 // ms
)

func (n *node) measure(ctx context.Context) []table.Row {
	var rows []table.Row
	for _, item := range []struct {
		name string
		run  func(context.Context) ([]table.Row, error)
	}{
		{"(a) (b) (c) One pod at a time", n.quiet},
		{itemStart, n.start},
		{itemInventory, n.sizes},
		{itemMemory, n.memory},
		{itemCounts, n.counts},
		{itemLoaded, n.loaded}, // after the quiet items: the kernel destroys the leftovers of many pods for long
		{itemCrowd, n.crowded},
		{itemGrowth, n.growth},
	} {
		if !wanted(item.name) {
			continue
		}
		progress(item.name)
		got, err := item.run(ctx)
		if err != nil {
			got = []table.Row{table.Fault("all", err).About(item.name, "")}
		}
		rows = append(rows, got...)
	}
	return rows
}

func (n *node) start(ctx context.Context) ([]table.Row, error) {
	var took [2]table.Sample
	for i := range one.warmUp + 2*one.rounds {
		for k, binary := range []string{n.multiENI, filepath.Join(n.cniPath, "host-device")} {
			p := program{argv: []string{binary}, env: []string{"CNI_COMMAND=VERSION"}, stdin: []byte(`{"cniVersion":"1.1.0"}`)}
			d, err := p.run(ctx)
			if err != nil {
				return nil, err
			}
			if i >= one.warmUp {
				took[k].Add(d)
			}
		}
	}
	return []table.Row{table.Ratio("VERSION", took[0], took[1], startTarget).About(itemStart, hostDevice)}, nil
}

// sizes compares inventories. The target holds for a device that is not moved: a move's time varies more than a read's.
func (n *node) sizes(ctx context.Context) (rows []table.Row, err error) {
	for _, item := range []struct {
		name  string
		kind  way
		limit float64
	}{
		{own.called("ADD"), own, 0},
		{"the same, of a device that is not moved (DPDK)", way{kind: dpdk}, inventoryTarget},
	} {
		few, most := item.kind, item.kind
		few.devices, most.devices = fewDevices, mostDevices
		got, err := n.compare(ctx, one, most, few)
		if err != nil {
			return nil, err
		}
		rows = append(rows, table.Difference(item.name, got[most].add, got[few].add, item.limit).About(itemInventory, ""))
	}
	return rows, nil
}

// memory compares the peak resident sets of one ADD, in MiB.
func (n *node) memory(ctx context.Context) ([]table.Row, error) {
	peaks := map[way]table.Sample{}
	for range one.rounds {
		for _, w := range []way{own, local, reference} {
			peak, err := n.peak(ctx, w)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w, err)
			}
			peaks[w] = append(peaks[w], peak)
		}
	}
	var rows []table.Row
	for _, w := range []way{own, local} {
		rows = append(rows, table.Ratio(w.called("ADD"), peaks[w], peaks[reference], memoryTarget).About(itemMemory, reference.String()))
	}
	return rows, nil
}

// peak returns the peak resident set of one ADD in MiB: the plugin's or its address plugin's, whichever is greater.
func (n *node) peak(ctx context.Context, w way) (float64, error) {
	all, err := n.contenders(w, 1)
	if err != nil {
		return 0, err
	}
	c := all[0]
	report, err := os.CreateTemp(n.Dir, "peak")
	if err != nil {
		return 0, err
	}
	defer os.Remove(report.Name()) //nolint:errcheck // the whole folder goes at the end
	defer report.Close()
	c.add.argv, c.add.extra = append([]string{n.tools.launch}, c.add.argv...), report
	if _, err := pairs(ctx, c); err != nil {
		return 0, err
	}
	data, err := os.ReadFile(report.Name())
	if err != nil {
		return 0, err
	}
	return parsePeak(string(data))
}

// parsePeak reads launch's report. launch hides a child that seems no bigger than itself.
func parsePeak(report string) (float64, error) {
	child, own, _ := strings.Cut(strings.TrimSpace(report), " ")
	c, err := strconv.Atoi(child)
	if err != nil {
		return 0, fmt.Errorf("report of the launcher %q: %w", report, err)
	}
	l, err := strconv.Atoi(own)
	if err != nil {
		return 0, fmt.Errorf("report of the launcher %q: %w", report, err)
	}
	if c <= l {
		return 0, fmt.Errorf("peak of %d KiB is hidden by the launcher's own, %d KiB", c, l)
	}
	return float64(c) / 1024, nil
}
