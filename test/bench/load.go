package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/bench/table"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	// crowd is how many pods start at once at most, and side as many as a busy
	// runtime starts side by side.
	crowd, side = 100, 8
	// crowdRounds and sideRounds are how often.
	crowdRounds, sideRounds = 3, 10
	// cycles is how many attachments in a row must not grow dearer, and cycleShare
	// what of them is compared: the first and the last.
	cycles, cycleShare = 1000, 100
)

// member is one pod of the crowd, with an ENI of its own.
type member struct {
	eni    nstest.ENI
	netns  string
	device nodestate.Device
}

// crowd makes the pods and their ENIs, and an inventory of these.
func (n *node) crowd() ([]member, string, error) {
	boot, err := nodestate.BootID()
	if err != nil {
		return nil, "", err
	}
	inv := nodestate.Inventory{NodeName: "node", BootID: boot, UpdatedAt: time.Now().UTC()}
	var all []member
	for i := range crowd {
		m := member{
			eni: nstest.ENI{
				PCI: fmt.Sprintf("0002:%02x:%02x.0", i/16, i%16), Name: fmt.Sprintf("crowd%d", i), MAC: fmt.Sprintf("02:00:00:00:02:%02x", i), MTU: 1500,
			},
			netns: fmt.Sprintf("/run/netns/crowd%d", i),
		}
		if err := errors.Join(n.Attach(m.eni), nstest.NewNetns(m.netns)); err != nil {
			return nil, "", err
		}
		m.device = ready(m.eni, "ena")
		m.device.NodeENI = m.eni.Name
		m.device.ENIID, m.device.PCIAddress = device.ENIID(fmt.Sprintf("eni-%08x", 0x200+i)), device.PCIAddress(m.eni.PCI)
		m.device.Addresses = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 2, byte(100 + i)}), 24)}
		inv.Devices, all = append(inv.Devices, m.device), append(all, m)
	}
	path := filepath.Join(n.Dir, "inventory-crowd.json")
	return all, path, nodestate.WriteInventory(path, inv)
}

// way is one way of giving each member of the crowd its device.
type way struct {
	name string
	of   []contender
}

func (n *node) ways(all []member, inventory string) ([]way, error) {
	ours, theirs := way{name: "multi-eni, eni-ipam"}, way{name: "host-device, host-local"}
	for _, m := range all {
		c, err := n.plugin("multi-eni "+m.eni.Name, n.multiENI, m.eni.Name, n.multiENIConf(m.eni.Name, inventory, ownAddresses()))
		if err != nil {
			return nil, err
		}
		ours.of = append(ours.of, c.in(m.netns))
		c, err = n.plugin("host-device "+m.eni.Name, filepath.Join(n.cniPath, "host-device"), m.eni.Name, map[string]any{
			"cniVersion": "1.1.0", "name": "bench-crowd", "type": "host-device", "device": m.eni.Name, "ipam": n.hostLocal("crowd"),
		})
		if err != nil {
			return nil, err
		}
		theirs.of = append(theirs.of, c.in(m.netns))
	}
	return []way{ours, theirs}, nil
}

// atOnce runs a verb of the first so many members side by side, and returns how
// long each took and all together.
func (n *node) atOnce(ctx context.Context, all []contender, verb func(contender) program) (each table.Sample, wall time.Duration, err error) {
	for _, c := range all {
		if l, err := n.host.ByName(c.host); err == nil { // in the host before ADD
			if err := n.host.SetUp(l.Index); err != nil {
				return nil, 0, err
			}
		}
	}
	select {
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	case <-time.After(settle):
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	begin := time.Now()
	for _, c := range all {
		wg.Go(func() {
			took, err := verb(c).run(ctx)
			mu.Lock()
			defer mu.Unlock()
			each.Add(took)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", c.name, err))
			}
		})
	}
	wg.Wait()
	return each, time.Since(begin), errors.Join(errs...)
}

func adding(c contender) program   { return c.add }
func deleting(c contender) program { return c.del }

// load measures pods that start side by side, each with a device of its own.
func (n *node) load(ctx context.Context) ([]table.Row, error) {
	all, inventory, err := n.crowd()
	if err != nil {
		return nil, err
	}
	ways, err := n.ways(all, inventory)
	if err != nil {
		return nil, err
	}
	var rows []table.Row
	for _, item := range []struct {
		name          string
		pods, rounds  int
		total, target bool
	}{
		{fmt.Sprintf("(h) a pair of %d at once; other: host-device", side), side, sideRounds, false, false},
		{fmt.Sprintf("(i) %d pods started at once, until the last; other: host-device", crowd), crowd, crowdRounds, true, true},
	} {
		var took [2]table.Sample
		for round := range item.rounds + 1 {
			for k, w := range ways {
				add, wallAdd, err := n.atOnce(ctx, w.of[:item.pods], adding)
				if err != nil {
					return nil, err
				}
				del, _, err := n.atOnce(ctx, w.of[:item.pods], deleting)
				if err != nil {
					return nil, err
				}
				switch {
				case round == 0: // warms up
				case item.total:
					took[k].Add(wallAdd)
				default:
					took[k] = append(took[k], add.Plus(del)...)
				}
			}
		}
		limit := 0.0
		if item.target {
			limit = crowdTarget
		}
		rows = append(rows, table.Ratio(item.name, took[0], took[1], limit))
	}
	growth, err := n.growth(ctx, ways[0].of[0])
	return append(rows, growth...), err
}

// growth has one pod after the other on a device, and compares the last with the
// first, and what is left with what was there.
func (n *node) growth(ctx context.Context, c contender) ([]table.Row, error) {
	var first, last table.Sample
	var before string
	var memory table.Sample
	for i := range cycles {
		add, err := c.add.run(ctx)
		if err != nil {
			return nil, err
		}
		del, err := c.del.run(ctx)
		if err != nil {
			return nil, err
		}
		switch {
		case i < cycleShare:
			first.Add(add + del)
		case i == cycleShare:
			if memory, err = kernelMemory(); err != nil {
				return nil, err
			}
			if before, err = n.left(); err != nil {
				return nil, err
			}
		case i >= cycles-cycleShare:
			last.Add(add + del)
		}
	}
	kernel, err := kernelMemory()
	if err != nil {
		return nil, err
	}
	after, err := n.left()
	if err != nil {
		return nil, err
	}
	grown := table.Row{Name: fmt.Sprintf("(j) files, links, rules, routes after %d pairs; other: after %d", cycles, cycleShare), Ours: after, Other: before, Target: "the same", Met: table.Met(after == before)}
	return []table.Row{table.Ratio(fmt.Sprintf("(j) pairs %d to %d of one device; other: the first %d", cycles-cycleShare, cycles, cycleShare), last, first, growthTarget), grown,
		table.Ratio("(j) the kernel's memory (SUnreclaim), MiB", kernel, memory, growthTarget)}, nil
}

// kernelMemory is what the kernel has allocated for itself and cannot give back
// (proc_meminfo(5)), in MiB, after it has had a moment to destroy what is over.
func kernelMemory() (table.Sample, error) {
	time.Sleep(time.Second)
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "SUnreclaim: %f kB", &kib); err == nil {
			return table.Sample{kib / 1024}, nil
		}
	}
	return nil, errors.New("/proc/meminfo has no SUnreclaim")
}

// left counts what attachments could leave on the node.
func (n *node) left() (string, error) {
	files := 0
	err := filepath.WalkDir(n.Dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files++
		}
		return err
	})
	if err != nil {
		return "", err
	}
	links, err := n.host.Links()
	if err != nil {
		return "", err
	}
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		return "", fmt.Errorf("list rules: %w", err)
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return "", fmt.Errorf("list routes: %w", err)
	}
	return fmt.Sprintf("%d, %d, %d, %d", files, len(links), len(rules), len(routes)), nil
}

// in is the contender for another pod.
func (c contender) in(netns string) contender {
	set := func(p program) program {
		p.env = slices.Clone(p.env)
		for i, e := range p.env {
			if e == "CNI_NETNS="+podNetns {
				p.env[i] = "CNI_NETNS=" + netns
			}
		}
		return p
	}
	c.add, c.del = set(c.add), set(c.del)
	return c
}
