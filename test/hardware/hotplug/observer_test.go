package hotplug

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

const (
	observeEvery = 10 * time.Millisecond
	// withdrawWithin also covers the daemon's start on a busy host. Each start has the whole time once more: a kill between inventory and config
	// leaves the device advertised.
	withdrawWithin = 10 * time.Second
	mostFaults     = 20
)

// observer reads every version of the inventory and the device plugin's config that it can catch, and checks it.
type observer struct {
	mu        sync.Mutex
	inventory nodestate.Inventory
	config    []byte
	versions  int
	// ready is when each ENI was first seen ready since it was last forgotten.
	ready map[device.ENIID]time.Time
	// drivers holds every device's driver, by its last address.
	drivers map[device.PCIAddress]string
	// wrongly holds devices advertised without a ready row, and since when; longest is the longest time.
	wrongly map[device.PCIAddress]time.Time
	longest time.Duration
	started time.Time // the daemon's last start
	faults  []string
	changed chan struct{} // closed at the next change
}

func observe(t *testing.T) *observer {
	o := &observer{
		ready: map[device.ENIID]time.Time{}, drivers: map[device.PCIAddress]string{},
		wrongly: map[device.PCIAddress]time.Time{}, changed: make(chan struct{}),
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		o.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		t.Logf("%d versions of inventory and config; no longer than %v advertised without a ready row", o.versions, o.longest.Round(time.Millisecond))
		for _, f := range o.faults {
			t.Error(f)
		}
	})
	return o
}

func (o *observer) run(ctx context.Context) {
	tick := time.NewTicker(observeEvery)
	defer tick.Stop()
	var inventory, config os.FileInfo
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// The inventory is read before the config, in the order of writing.
		i, newer := changedFile(nodestate.DefaultInventoryPath, inventory)
		c, other := changedFile(guest.DPConfigPath, config)
		inventory, config = i, c
		o.mu.Lock()
		if newer {
			o.readInventory()
		}
		if other {
			o.readConfig()
		}
		if newer || other {
			o.versions++
			o.judge()
			close(o.changed)
			o.changed = make(chan struct{})
		}
		o.overdue(time.Now())
		o.mu.Unlock()
	}
}

func changedFile(path string, was os.FileInfo) (os.FileInfo, bool) {
	now, err := os.Stat(path)
	if err != nil {
		return was, false
	}
	return now, was == nil || !os.SameFile(was, now) || !was.ModTime().Equal(now.ModTime())
}

func (o *observer) fault(format string, args ...any) {
	if f := fmt.Sprintf(format, args...); len(o.faults) < mostFaults && !slices.Contains(o.faults, f) {
		o.faults = append(o.faults, f)
	}
}

func (o *observer) readInventory() {
	inv, err := nodestate.ReadInventory(nodestate.DefaultInventoryPath)
	if err != nil {
		o.fault("inventory: %v", err)
		return
	}
	o.inventory = inv
	at := map[device.PCIAddress]device.ENIID{}
	now := time.Now()
	there := map[device.ENIID]bool{}
	for _, d := range inv.Devices {
		there[d.ENIID] = d.Phase == nodestate.PhaseReady
		if d.Phase == nodestate.PhaseReady && o.ready[d.ENIID].IsZero() {
			o.ready[d.ENIID] = now
		}
		if d.PCIAddress == "" {
			continue
		}
		if other, taken := at[d.PCIAddress]; taken {
			o.fault("inventory: %s and %s are both at %s", other, d.ENIID, d.PCIAddress)
		}
		at[d.PCIAddress] = d.ENIID
		o.drivers[d.PCIAddress] = d.Driver
	}
	maps.DeleteFunc(o.ready, func(e device.ENIID, _ time.Time) bool { return !there[e] })
}

func (o *observer) readConfig() {
	content, err := os.ReadFile(guest.DPConfigPath)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			o.fault("config: %v", err)
		}
		return
	}
	o.config = content
}

func (o *observer) advertised() map[device.PCIAddress]string {
	if o.config == nil {
		return nil
	}
	devices := []dpmodel.Device{{Address: "0000:00:00.0", Class: 0x060000}}
	for pci, driver := range o.drivers {
		devices = append(devices, dpmodel.Device{Address: pci, Class: 0x020000, Driver: driver, VFID: -1})
	}
	v := dpmodel.Judge(o.config, devices)
	if !v.Runs() || len(v.Skipped) > 0 {
		o.fault("config: the device plugin would not serve it: %+v\n%s", v, o.config)
	}
	pools := map[device.PCIAddress]string{}
	for name, members := range v.Resources {
		for _, pci := range members {
			pools[pci] = name
		}
	}
	return pools
}

func (o *observer) judge() {
	pools, now := o.advertised(), time.Now()
	for _, d := range o.inventory.Devices {
		if d.Phase == nodestate.PhaseReady && pools[d.PCIAddress] == d.ResourceName.String() {
			delete(pools, d.PCIAddress)
		}
	}
	for pci := range o.wrongly {
		if _, still := pools[pci]; !still {
			delete(o.wrongly, pci)
		}
	}
	for pci := range pools {
		if o.wrongly[pci].IsZero() {
			o.wrongly[pci] = now
		}
	}
}

func (o *observer) restarted() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.started = time.Now()
}

func (o *observer) overdue(now time.Time) {
	for pci, since := range o.wrongly {
		o.longest = max(o.longest, now.Sub(since))
		if now.Sub(since) > withdrawWithin && now.Sub(o.started) > withdrawWithin {
			o.fault("%s is advertised, but has had no ready row for more than %v since, and since the daemon's last start", pci, withdrawWithin)
		}
	}
}

// await waits until cond accepts the inventory and the config.
func (o *observer) await(t testing.TB, what string, within time.Duration, cond func(nodestate.Inventory, string) bool) {
	t.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		o.mu.Lock()
		ok, changed := cond(o.inventory, string(o.config)), o.changed
		o.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			o.mu.Lock()
			defer o.mu.Unlock()
			t.Fatalf("not within %v: %s; inventory:\n%s\nconfig: %s", within, what, describe(o.inventory), o.config)
		}
	}
}

func (o *observer) awaitReady(t testing.TB, eni device.ENIID, within time.Duration) (nodestate.Device, time.Time) {
	t.Helper()
	var row nodestate.Device
	o.await(t, eni.String()+" is ready", within, func(inv nodestate.Inventory, _ string) bool {
		row = find(inv, eni)
		return row.Phase == nodestate.PhaseReady
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	return row, o.ready[eni]
}

func find(inv nodestate.Inventory, eni device.ENIID) nodestate.Device {
	i := slices.IndexFunc(inv.Devices, func(d nodestate.Device) bool { return d.ENIID == eni })
	if i < 0 {
		return nodestate.Device{}
	}
	return inv.Devices[i]
}

func describe(inv nodestate.Inventory) string {
	s := ""
	for _, d := range inv.Devices {
		s += fmt.Sprintf("  %s %s %s %s %s %s %s\n", d.NodeENI, d.ENIID, d.MAC, d.PCIAddress, d.InterfaceName, d.Driver, d.Phase)
	}
	for _, p := range inv.Problems {
		s += fmt.Sprintf("  %s %s %s: %s\n", p.Reason, p.NodeENI, p.Device, p.Message)
	}
	return s
}
