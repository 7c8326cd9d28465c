package reconcile

import (
	"context"
	"slices"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// TestUnended: a change of a driver that has ended, or ends in time, does not
// outlast the daemon, though no Sync has come for it; one that hangs does.
func TestUnended(t *testing.T) {
	hangs, ended, ends := &drivingJob{done: make(chan error, 1)}, &drivingJob{done: make(chan error, 1)}, &drivingJob{done: make(chan error)}
	ended.done <- nil
	r := &Reconciler{driving: driving{jobs: map[device.PCIAddress]*drivingJob{pci(1): ends, pci(2): hangs, pci(3): ended}}}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		ends.done <- nil
		cancel()
	}()
	if got := r.Unended(ctx); !slices.Equal(got, []device.PCIAddress{pci(2)}) {
		t.Errorf("outlast the daemon: %v", got)
	}
	if got := (&Reconciler{}).Unended(ctx); len(got) != 0 {
		t.Errorf("without any: %v", got)
	}
}
