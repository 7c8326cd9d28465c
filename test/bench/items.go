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
	exclusiveTarget     = 0.60
	ownTarget           = 0.50 // with eni-ipam
	floorTarget         = 1.4
	ownAboveFloorTarget = 1.3
	sharedTarget        = 1.35
	leasedTarget        = 1.25 // with eni-ipam
	startTarget         = 1.1
	memoryTarget        = 1.0
	crowdTarget         = 1.0
	growthTarget        = 1.1
	inventoryTarget     = 1 // ms
)

// measure runs all items that need a node. A row of an item that failed says so.
func (n *node) measure(ctx context.Context) []table.Row {
	var rows []table.Row
	for _, item := range []struct {
		name string
		run  func(context.Context) ([]table.Row, error)
	}{
		{"(a) exclusive device", n.exclusive},
		{"(b) exclusive device above the floor", n.aboveFloor},
		{"(c) shared macvlan", n.shared},
		{"(d) start-up", n.start},
		{"(e) size of the inventory", n.sizes},
		{"(g) peak memory", n.memory},
		{"(k) counts", n.counts},
		{"(h) (i) (j) load", n.load},
	} {
		if !wanted(item.name) {
			continue
		}
		progress(item.name)
		got, err := item.run(ctx)
		if err != nil {
			got = []table.Row{table.Fault(item.name, err)}
		}
		rows = append(rows, got...)
	}
	return rows
}

// ours is multi-eni with the device of the tests, with more keys in its netconf.
func (n *node) ours(devices int, more map[string]any) (contender, error) {
	inv, err := n.inventory(devices)
	if err != nil {
		return contender{}, err
	}
	name := fmt.Sprintf("multi-eni %d", devices)
	if ipam, ok := more["ipam"].(map[string]any); ok {
		name += fmt.Sprintf(" %v", ipam["type"])
	}
	return n.plugin(name, n.multiENI, enaENI.Name, n.multiENIConf("ena", inv, more))
}

func (n *node) exclusive(ctx context.Context) ([]table.Row, error) {
	ours, err := n.ours(10, map[string]any{"ipam": n.hostLocal("ours")})
	if err != nil {
		return nil, err
	}
	theirs, err := n.hostDevice()
	if err != nil {
		return nil, err
	}
	own, err := n.ours(10, ownAddresses())
	if err != nil {
		return nil, err
	}
	static, err := n.plugin("host-device static", filepath.Join(n.cniPath, "host-device"), enaENI.Name, map[string]any{
		"cniVersion": "1.1.0", "name": "bench-static", "type": "host-device", "device": enaENI.Name,
		"ipam": map[string]any{"type": "static", "addresses": []any{map[string]any{"address": "10.0.2.15/24"}}},
	})
	if err != nil {
		return nil, err
	}
	got, err := n.compare(ctx, ours, theirs, own, static)
	if err != nil {
		return nil, err
	}
	return []table.Row{
		table.Ratio("(a) exclusive ADD, host-local; other: host-device", got[0].add, got[1].add, 0),
		table.Ratio("(a) exclusive DEL", got[0].del, got[1].del, 0),
		table.Ratio("(a) exclusive ADD + DEL", got[0].sum(), got[1].sum(), exclusiveTarget),
		table.Ratio("(a) exclusive ADD + DEL, eni-ipam", got[2].sum(), got[1].sum(), ownTarget),
		table.Ratio("(a) the same; other: host-device with static", got[2].sum(), got[3].sum(), 0),
	}, nil
}

// ownAddresses is the ipam that needs no other program.
func ownAddresses() map[string]any {
	return map[string]any{"ipam": map[string]any{"type": "eni-ipam"}}
}

func (n *node) aboveFloor(ctx context.Context) ([]table.Row, error) {
	bare, err := n.ours(10, nil)
	if err != nil {
		return nil, err
	}
	addressed, err := n.ours(10, map[string]any{"ipam": n.hostLocal("ours")})
	if err != nil {
		return nil, err
	}
	own, err := n.ours(10, ownAddresses())
	if err != nil {
		return nil, err
	}
	got, err := n.compare(ctx, bare, n.floor(enaENI.Name), addressed, own)
	if err != nil {
		return nil, err
	}
	floor := got[1]
	return []table.Row{
		table.Ratio("(b) exclusive ADD, no addresses; other: the floor", got[0].add, floor.add, 0),
		table.Ratio("(b) exclusive DEL, no addresses", got[0].del, floor.del, 0),
		table.Ratio("(b) exclusive ADD + DEL, no addresses", got[0].sum(), floor.sum(), floorTarget),
		table.Ratio("(b) exclusive ADD + DEL, host-local", got[2].sum(), floor.sum(), 0),
		table.Ratio("(b) exclusive ADD + DEL, eni-ipam", got[3].sum(), floor.sum(), ownAboveFloorTarget),
	}, nil
}

func (n *node) hostDevice() (contender, error) {
	return n.plugin("host-device", filepath.Join(n.cniPath, "host-device"), enaENI.Name, map[string]any{
		"cniVersion": "1.1.0", "name": "bench-reference", "type": "host-device", "device": enaENI.Name, "ipam": n.hostLocal("theirs"),
	})
}

func (n *node) shared(ctx context.Context) ([]table.Row, error) {
	inv, err := n.inventory(10)
	if err != nil {
		return nil, err
	}
	ours, err := n.plugin("multi-eni macvlan", n.multiENI, e1000eENI.Name, n.multiENIConf("e1000e", inv, map[string]any{
		"delegate": map[string]any{"type": "macvlan", "mode": "bridge"}, "ipam": n.hostLocal("ours-shared"),
	}))
	if err != nil {
		return nil, err
	}
	leased, theirs, err := n.leased()
	if err != nil {
		return nil, err
	}
	got, err := n.compare(ctx, ours, theirs, leased)
	if err != nil {
		return nil, err
	}
	return []table.Row{
		table.Ratio("(c) shared macvlan ADD; other: macvlan alone", got[0].add, got[1].add, 0),
		table.Ratio("(c) shared macvlan DEL", got[0].del, got[1].del, 0),
		table.Ratio("(c) shared macvlan ADD + DEL", got[0].sum(), got[1].sum(), sharedTarget),
		table.Ratio("(c) shared macvlan ADD, eni-ipam", got[2].add, got[1].add, 0),
		table.Ratio("(c) shared macvlan DEL, eni-ipam", got[2].del, got[1].del, 0),
		table.Ratio("(c) shared macvlan ADD + DEL, eni-ipam", got[2].sum(), got[1].sum(), leasedTarget),
	}, nil
}

// leased is macvlan through multi-eni with a leased address, and alone with
// host-local.
func (n *node) leased() (ours, theirs contender, err error) {
	inv, err := n.inventory(10)
	if err != nil {
		return ours, theirs, err
	}
	ours, err = n.plugin("multi-eni macvlan eni-ipam", n.multiENI, e1000eENI.Name, n.multiENIConf("e1000e", inv, map[string]any{
		"delegate": map[string]any{"type": "macvlan", "mode": "bridge"}, "ipam": map[string]any{"type": "eni-ipam", "dataDir": filepath.Join(n.Dir, "leases"), "coolDown": 0},
	}))
	if err != nil {
		return ours, theirs, err
	}
	theirs, err = n.plugin("macvlan", filepath.Join(n.cniPath, "macvlan"), e1000eENI.Name, map[string]any{
		"cniVersion": "1.1.0", "name": "bench-macvlan", "type": "macvlan", "mode": "bridge", "master": e1000eENI.Name, "ipam": n.hostLocal("theirs-shared"),
	})
	return ours, theirs, err
}

// start compares the plugins when they have nothing to do.
func (n *node) start(ctx context.Context) ([]table.Row, error) {
	var took [2]table.Sample
	for i := range warmUp + 2*rounds {
		for k, binary := range []string{n.multiENI, filepath.Join(n.cniPath, "host-device")} {
			p := program{argv: []string{binary}, env: []string{"CNI_COMMAND=VERSION"}, stdin: []byte(`{"cniVersion":"1.1.0"}`)}
			d, err := p.run(ctx)
			if err != nil {
				return nil, err
			}
			if i >= warmUp {
				took[k].Add(d)
			}
		}
	}
	return []table.Row{table.Ratio("(d) start-up (VERSION); other: host-device", took[0], took[1], startTarget)}, nil
}

// sizes compares inventories. The wait for a link's move is the kernel's, and
// varies by more than reading a file takes: the target is judged on a device
// that is not moved, whose ADD is the same but for that.
func (n *node) sizes(ctx context.Context) ([]table.Row, error) {
	var moved, unmoved []contender
	for _, size := range []int{mostDevices, 10} {
		c, err := n.ours(size, map[string]any{"ipam": n.hostLocal("ours")})
		if err != nil {
			return nil, err
		}
		moved = append(moved, c)
		inv, err := n.inventory(size)
		if err != nil {
			return nil, err
		}
		if c, err = n.plugin(fmt.Sprintf("multi-eni dpdk %d", size), n.multiENI, "", n.multiENIConf("vfio-pci", inv, nil)); err != nil {
			return nil, err
		}
		unmoved = append(unmoved, c)
	}
	links, err := n.compare(ctx, moved...)
	if err != nil {
		return nil, err
	}
	dpdk, err := n.compare(ctx, unmoved...)
	if err != nil {
		return nil, err
	}
	return []table.Row{
		table.Difference("(e) exclusive ADD, 100 devices in the inventory; other: 10", links[0].add, links[1].add, 0),
		table.Difference("(e) the same, of a device that is not moved (DPDK)", dpdk[0].add, dpdk[1].add, inventoryTarget),
	}, nil
}

// memory compares the peak resident sets of one ADD, in MiB.
func (n *node) memory(ctx context.Context) ([]table.Row, error) {
	ours, err := n.ours(10, map[string]any{"ipam": n.hostLocal("ours")})
	if err != nil {
		return nil, err
	}
	theirs, err := n.hostDevice()
	if err != nil {
		return nil, err
	}
	var peaks [2]table.Sample
	for range rounds {
		for k, c := range []contender{ours, theirs} {
			peak, err := n.peak(ctx, c)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			peaks[k] = append(peaks[k], peak)
		}
	}
	return []table.Row{table.Ratio("(g) peak memory of ADD, MiB; other: host-device", peaks[0], peaks[1], memoryTarget)}, nil
}

// peak runs one ADD below the launcher and returns its peak resident set in
// MiB. It is that of the plugin or of the address plugin it ran, whichever is more.
func (n *node) peak(ctx context.Context, c contender) (float64, error) {
	report, err := os.CreateTemp(n.Dir, "peak")
	if err != nil {
		return 0, err
	}
	defer os.Remove(report.Name()) //nolint:errcheck // the whole folder goes at the end
	defer report.Close()
	c.add.argv, c.add.extra = append([]string{n.tools.launch}, c.add.argv...), report
	if _, _, err := n.once(ctx, c); err != nil {
		return 0, err
	}
	data, err := os.ReadFile(report.Name())
	if err != nil {
		return 0, err
	}
	return parsePeak(string(data))
}

// parsePeak reads launch's report. A child that seems no bigger than launch
// itself was hidden by it.
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
