package attach_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestAddSeesARemovalMeanwhile: an ADD has selected a ready device and waits for its lock, and the inventory changes.
func TestAddSeesARemovalMeanwhile(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	was := slices.Clone(e.inv.Devices)
	for name, tt := range map[string]struct {
		allocated bool
		change    func(*nodestate.Inventory)
		code      uint
		words     []string
	}{
		"it drains": {change: func(i *nodestate.Inventory) {
			i.Devices[0].Phase, i.Devices[0].Cause = nodestate.PhaseDraining, "NodeENI a is being deleted"
		}, code: refusal.NoDevice, words: []string{"draining", "NodeENI a is being deleted"}},
		"it is pending": {change: func(i *nodestate.Inventory) { i.Devices[0].Phase = nodestate.PhasePending }, code: refusal.TryAgain, words: []string{"not ready"}},
		"its row is gone": {change: func(i *nodestate.Inventory) { i.Devices = i.Devices[1:] }, code: refusal.NoDevice,
			words: []string{"no device of this node matches"}},
		"its row is gone, and the kubelet gave it": {allocated: true, change: func(i *nodestate.Inventory) { i.Devices = i.Devices[1:] },
			code: refusal.TryAgain, words: []string{"the inventory has changed"}},
		"another ENI is there": {allocated: true, change: func(i *nodestate.Inventory) { i.Devices[0].ENIID = "eni-0123456789abcdef0" },
			code: refusal.TryAgain, words: []string{"the inventory has changed"}},
		"nothing of it changes": {change: func(i *nodestate.Inventory) { i.Devices = i.Devices[:1] }},
	} {
		t.Run(name, func(t *testing.T) {
			e.t, e.inv.Devices = t, slices.Clone(was)
			e.writeInventory()
			conf := map[string]any{"select": map[string]any{"nodeENI": "a"}}
			if tt.allocated {
				conf = map[string]any{"deviceID": eniA.PCI}
			}
			args := e.pod(conf)
			before := e.snapshot()
			unlock, err := e.records().LockDevice(t.Context(), device.PCIAddress(eniA.PCI))
			must(t, err)
			ended := make(chan error, 1)
			go func() {
				_, err := run(&attach.Plugin{}, "ADD", args)
				ended <- err
			}()
			e.awaitOpen(filepath.Join(string(e.records()), "locks", eniA.PCI+".lock"), ended)
			tt.change(&e.inv)
			e.writeInventory()
			unlock()
			err = <-ended
			if tt.code == 0 {
				must(t, err)
				e.del(args)
				return
			}
			wantCode(t, err, tt.code, tt.words...)
			e.holdsNone(args, name)
			e.unchanged(before, name)
		})
	}
}

// awaitOpen waits until this process has a file open twice.
func (e *env) awaitOpen(path string, ended <-chan error) {
	e.t.Helper()
	for {
		n := 0
		all, err := os.ReadDir("/proc/self/fd")
		must(e.t, err)
		for _, fd := range all {
			if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && to == path {
				n++
			}
		}
		if n >= 2 {
			return
		}
		select {
		case err := <-ended:
			e.t.Fatalf("ADD has ended without a wait for the lock: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
}
