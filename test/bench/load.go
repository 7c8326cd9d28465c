package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/test/bench/table"
)

// cycles is the number of attachments that must not grow dearer; cycleShare is the share at each end that is compared.
const cycles, cycleShare = 1000, 100

func (n *node) crowded(ctx context.Context) ([]table.Row, error) {
	got, err := n.compare(ctx, crowd, own, reference)
	if err != nil {
		return nil, err
	}
	return []table.Row{table.Ratio(own.String(), got[own].allAdded, got[reference].allAdded, crowdTarget).About(itemCrowd, reference.String())}, nil
}

func (n *node) growth(ctx context.Context) ([]table.Row, error) {
	all, err := n.contenders(own, 1)
	if err != nil {
		return nil, err
	}
	c := all[0]
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
	early := fmt.Sprintf("after %d", cycleShare)
	grown := table.Row{Name: fmt.Sprintf("files, links, rules, routes after %d", cycles), Ours: after, Other: before, Target: "the same",
		Met: table.Met(after == before)}
	return []table.Row{
		table.Ratio(fmt.Sprintf("ADD + DEL, the last %d", cycleShare), last, first, growthTarget).About(itemGrowth, fmt.Sprintf("the first %d", cycleShare)),
		grown.About(itemGrowth, early),
		table.Ratio("the kernel's memory (SUnreclaim), MiB", kernel, memory, growthTarget).About(itemGrowth, early),
	}, nil
}

// kernelMemory is the kernel's unreclaimable memory (proc_meminfo(5)) in MiB, after a pause for its cleanup.
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
