package status

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func FuzzDecode(f *testing.F) {
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	seed, err := json.Marshal(Status{
		Inventory: nodestate.Inventory{NodeName: "node-a", Devices: []nodestate.Device{{ENIID: "eni-00000001", NodeENI: "fast", Phase: nodestate.PhaseReady}}},
		Holders:   []view.Holder{{PCIAddress: "0000:00:06.0", Pod: "default/web-0"}},
		Live:      &Live{Version: "v1", StartedAt: noon, SyncedAt: noon, API: &API{Reason: "Forbidden"}},
	})
	must(f, err)
	for _, b := range [][]byte{seed, seed[:len(seed)/2], []byte(`{}`), []byte(`null`), []byte(`{"inventory":{"nodeName":"a"},"live":{}}`)} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decode(b)
		if err != nil {
			return
		}
		if s.Live == nil || s.Inventory.NodeName == "" {
			t.Errorf("accepted %q", b)
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatalf("what was decoded cannot be encoded: %v", err)
		}
		if _, err := decode(again); err != nil {
			t.Errorf("decode %q: %v", again, err)
		}
	})
}
