package hotplug

import (
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// testAtRest: without ENI, pod and manifest nothing is left, once the daemon has restarted from its files.
func (s *stage) testAtRest(t *testing.T) {
	s.daemon.Kill()
	s.daemon.Restart()
	s.restarted()
	s.daemon.AwaitReady()
	s.await(t, "an empty inventory", orphanSoon, func(inv nodestate.Inventory, _ string) bool {
		return len(inv.Devices) == 0 && len(inv.Problems) == 0
	})
	guest.Eventually(t, "no record, restore record and lease", orphanSoon, func() bool {
		return len(leftovers(t)) == 0
	})
	if pools := guest.DPConfig(t); len(pools) != 1 || pools[0].Resource != "intel.com/sriov_placeholder" {
		t.Errorf("config %+v, want the placeholder alone", pools)
	}
	cp, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(nodestate.DefaultStateDir))
	if err != nil || len(cp.Devices) > 0 || len(cp.OwnedResources) > 0 {
		t.Errorf("checkpoint %+v, %v, want no device and no resource", cp, err)
	}
}
