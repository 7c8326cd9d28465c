package doctor

import (
	"context"
	"errors"
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func TestSlots(t *testing.T) {
	w := newWorld(t)
	w.says(slots)
	var snap inventory.Snapshot
	var err error
	w.o.Slots = func(context.Context) (inventory.Snapshot, error) { return snap, err }
	w.says(slots, "ok controller's list: --attachments-from=controller: 0 slots on this node: none")
	snap.Entries = []inventory.Entry{{Slot: "1", Phase: "Attached"}, {Slot: "2", Phase: "Attached"}, {Slot: "3", Phase: "Creating"}}
	w.says(slots, "ok controller's list: --attachments-from=controller: 3 slots on this node: 2 Attached, 1 Creating")
	snap.Entries = append(snap.Entries, inventory.Entry{Slot: "4", NodeENI: "a", Phase: "Blocked", Reason: "SubnetFull", Message: "no free address"})
	snap.Problems = []nodestate.Problem{{Message: "the entry for slot 5 cannot be read"}}
	w.says(slots, "warn controller's list: slot 4 of NodeENI a is Blocked, SubnetFull: no free address; mend that",
		"FAIL controller's list: the entry for slot 5 cannot be read; run controller")
	snap.Silent = "the controller has not written spec"
	w.says(slots, "FAIL controller's list: --attachments-from=controller: the controller has not written spec; run: multi-enid doctor --controller")
	err = errors.New("etcdserver: request timed out")
	w.says(slots, "FAIL controller's list: it cannot be read: etcdserver: request timed out")

	w.server.denied = []string{"watch nodeenis"} // the own ENINodeState is enough
	if all := access(t.Context(), w.o); Failed(all) != 0 {
		t.Errorf("access: %v", all)
	}
}
