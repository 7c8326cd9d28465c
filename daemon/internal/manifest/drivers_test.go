package manifest

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDrivers: only NodeENIs with DPDK ask for a driver, which is vfio-pci if none is named.
func TestDrivers(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", nodeENI("a")+"  enableDPDK: true\n")
	write(t, dir, "b.yaml", nodeENI("b")+"  enableDPDK: true\n  dpdkDriver: igb_uio\n")
	write(t, dir, "c.yaml", nodeENI("c")+"  enableDPDK: true\n")
	write(t, dir, "d.yaml", nodeENI("d"))
	got, err := New(dir).Drivers()
	if diff := cmp.Diff(map[string][]string{"vfio-pci": {"a", "c"}, "igb_uio": {"b"}}, got); diff != "" || err != nil {
		t.Errorf("error %v, drivers (-want +got):\n%s", err, diff)
	}
	if got, err := New(filepath.Join(dir, "none")).Drivers(); err == nil {
		t.Errorf("without the folder: %v", got)
	}
}
