package nodestate

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

func TestRestore(t *testing.T) {
	d := AttachmentDir(filepath.Join(t.TempDir(), "records"))
	const pci = device.PCIAddress("0000:00:07.0")
	path := filepath.Join(string(d), "restore", "0000:00:07.0.json")
	if all, err := d.Restores(); len(all) > 0 || err != nil {
		t.Fatalf("Restores without a folder = %v, %v; want none", all, err)
	}
	if _, err := d.LoadRestore(pci); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("LoadRestore without a record: %v; want ErrNotExist", err)
	}
	want := Restore{BootID: "boot", Device: AttachedDevice{
		PCIAddress: pci, MAC: "02:00:00:00:00:07", VF: true,
		Link: &LinkState{Name: "ens7", AltNames: []string{"enp0s7"}, MAC: "02:00:00:00:00:07", MTU: 9001, Up: true},
	}}
	for range 2 {
		if err := d.SaveRestore(want); err != nil {
			t.Fatal(err)
		}
	}
	want.SchemaVersion = SchemaVersion
	got, err := d.LoadRestore(pci)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("LoadRestore: %v (-want +got):\n%s", err, diff)
	}
	put(t, filepath.Join(string(d), "restore", "README.json"), "", 0o600)
	all, err := d.Restores()
	if diff := cmp.Diff([]device.PCIAddress{pci}, all); diff != "" || err != nil {
		t.Errorf("Restores: %v (-want +got):\n%s", err, diff)
	}
	for name, content := range map[string]string{
		"empty":             "",
		"of another device": `{"schemaVersion":1,"device":{"pciAddress":"0000:00:08.0"}}`,
	} {
		put(t, path, content, 0o600)
		if got, err := d.LoadRestore(pci); !errors.Is(err, ErrCorrupt) {
			t.Errorf("LoadRestore of a record %s = %v, %v; want ErrCorrupt", name, got, err)
		}
	}
	for range 2 {
		if err := d.RemoveRestore(pci); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := d.Restores(); len(all) > 0 || err != nil {
		t.Errorf("Restores after RemoveRestore = %v, %v; want none", all, err)
	}
}

// TestReturned: a driver that the daemon has to undo outlives the link's return, and everything else does not.
func TestReturned(t *testing.T) {
	d := AttachmentDir(t.TempDir())
	const late, taken = device.PCIAddress("0000:00:07.0"), device.PCIAddress("0000:00:08.0")
	for pci, driver := range map[device.PCIAddress]string{late: "", taken: "ena"} {
		if err := d.SaveRestore(Restore{BootID: "boot", Driver: driver, Device: AttachedDevice{PCIAddress: pci}}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time there may be none
			if err := d.Returned(pci); err != nil {
				t.Fatal(err)
			}
		}
	}
	if left, err := d.Restores(); err != nil || len(left) != 1 || left[0] != taken {
		t.Errorf("left are %v, %v; want %s", left, err, taken)
	}
}
