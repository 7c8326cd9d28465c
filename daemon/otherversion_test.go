package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestOtherVersionInStatusAndUninstall: status names the holder of a record that is not
// understood, and uninstall leaves a node with such a file as it is.
func TestOtherVersionInStatusAndUninstall(t *testing.T) {
	root := t.TempDir()
	boot, err := nodestate.BootID()
	if err != nil {
		t.Fatal(err)
	}
	write := func(path, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	inventory := filepath.Join(root, "inventory.json")
	if err := nodestate.WriteInventory(inventory, nodestate.Inventory{BootID: boot}); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(root, "records", "c1-net1.json")
	write(record, `{"schemaVersion":2,"bootID":"`+boot+`","device":{"pciAddress":"0000:00:07.0"}}`)
	s, err := readStatus(inventory, nodestate.AttachmentDir(filepath.Dir(record)), nodestate.LeaseDir(filepath.Join(root, "leases")))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Holders) != 1 || s.Holders[0].PCIAddress != "0000:00:07.0" || viewHolder(s.Holders[0]).Name != "c1" {
		t.Errorf("holders %+v", s.Holders)
	}
	if len(s.Unreadable) != 1 || !strings.Contains(s.Unreadable[0], "schemaVersion 2, this version reads 1; install that version") {
		t.Errorf("unreadable %q", s.Unreadable)
	}

	for name, path := range map[string]string{
		"record":     record,
		"restore":    filepath.Join(root, "records", "restore", "0000:00:07.0.json"),
		"leases":     filepath.Join(root, "leases", boot, "eni-0a1b2c3d4e5f60001.json"),
		"checkpoint": filepath.Join(root, "state", "checkpoint.json"),
	} {
		if err := os.RemoveAll(filepath.Dir(record)); err != nil {
			t.Fatal(err)
		}
		write(path, `{"schemaVersion":2}`)
		r := removal{attachmentsDir: filepath.Join(root, "records"), leaseDir: filepath.Join(root, "leases"), stateDir: filepath.Join(root, "state"), inventory: inventory}
		if uses, err := r.uses(); len(uses) == 0 && err == nil {
			t.Errorf("%s of another version is no use", name)
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if uses, err := r.uses(); len(uses) > 0 || err != nil {
			t.Errorf("without it: %q, %v", uses, err)
		}
	}
}
