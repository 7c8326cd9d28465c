package selftest

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// DPDK has its hugepages, finds its plugins, and would use VFIO.
func TestDPDK(t *testing.T) {
	if got := guest.ReadSys(t, "/proc/sys/vm/nr_hugepages"); got != "64" {
		t.Errorf("%s hugepages, want 64", got)
	}
	out, err := exec.Command("dpdk-testpmd", "--lcores", "0@0,1@0", "--no-telemetry", "--", "--help").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "VFIO support initialized") {
		t.Errorf("dpdk-testpmd: %v\n%s", err, out)
	}
}
