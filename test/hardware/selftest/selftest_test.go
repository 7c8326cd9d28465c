// Package selftest shows that the machine has the properties on which the other packages rely.
package selftest

import (
	"os"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
	"github.com/multi-eni/multi-eni-cni/test/hardware/machine"
)

func TestMain(m *testing.M) { machine.Main(m, machine.Spec{DPDK: true}) }

func TestNICs(t *testing.T) {
	for _, n := range machine.DefaultNICs() {
		want := n.Model
		if want == "" {
			want = machine.E1000E
		}
		pci, name := guest.WaitNIC(t, n.MAC)
		if got := guest.Driver(pci); got != want {
			t.Errorf("%s is %s at %s with driver %q, want %q", n.ID, name, pci, got, want)
		}
	}
}

func TestHotPlug(t *testing.T) {
	const mac = "02:00:00:00:03:01"
	for range 2 {
		guest.Attach(t, "hot", "slot3", mac)
		pci, name := guest.WaitNIC(t, mac)
		t.Logf("%s at %s", name, pci)
		guest.Detach(t, "hot")
		if _, err := os.Stat(guest.Devices + pci); err == nil {
			t.Errorf("%s is still there after Detach", pci)
		}
	}
}

func TestVFs(t *testing.T) {
	_, vfs := guest.VFs(t, 7)
	if len(vfs) != 7 {
		t.Errorf("VFs %q, want 7", vfs)
	}
}

func TestReboot(t *testing.T) {
	const kept = "/var/lib/selftest/kept"
	if guest.Boot() == 1 {
		guest.Must(t, os.MkdirAll("/var/lib/selftest", 0o755))
		guest.Must(t, os.WriteFile(kept, []byte("kept"), 0o600))
		before, _ := guest.WaitNIC(t, "02:00:00:00:01:00")
		guest.Must(t, os.WriteFile("/var/lib/selftest/before", []byte(before), 0o600))
		guest.RebootMoved(t, map[string]string{"nic0": "slot7"}, "/var/lib/selftest")
	}
	if got, err := os.ReadFile(kept); err != nil || string(got) != "kept" {
		t.Errorf("kept file: %q, %v", got, err)
	}
	before := guest.ReadSys(t, "/var/lib/selftest/before")
	if after, _ := guest.WaitNIC(t, "02:00:00:00:01:00"); after == before {
		t.Errorf("nic0 is still at %s", after)
	}
}
