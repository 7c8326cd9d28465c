package status

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestRecordOfOtherVersion: the status names the holder of a record that is not understood.
func TestRecordOfOtherVersion(t *testing.T) {
	root := t.TempDir()
	boot, err := nodestate.BootID()
	must(t, err)
	inventory, records := filepath.Join(root, "inventory.json"), filepath.Join(root, "records")
	must(t, nodestate.WriteInventory(inventory, nodestate.Inventory{BootID: boot}))
	must(t, os.Mkdir(records, 0o700))
	record := `{"schemaVersion":2,"bootID":"` + boot + `","device":{"pciAddress":"0000:00:07.0"}}`
	must(t, os.WriteFile(filepath.Join(records, "c1-net1.json"), []byte(record), 0o600))
	s, err := Read(inventory, nodestate.AttachmentDir(records), leases.Dir(filepath.Join(root, "leases")))
	must(t, err)
	if len(s.Holders) != 1 || s.Holders[0].PCIAddress != "0000:00:07.0" || showHolder(s.Holders[0]).Name != "c1" {
		t.Errorf("holders %+v", s.Holders)
	}
	if len(s.Unreadable) != 1 || !strings.Contains(s.Unreadable[0], "schemaVersion 2, this version reads 1; install that version") {
		t.Errorf("unreadable %q", s.Unreadable)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

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
