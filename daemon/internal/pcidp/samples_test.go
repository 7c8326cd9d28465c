package pcidp

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Each file in conf/pcidp is as the daemon writes it on the test's machine, and the device plugin serves it.
func TestSamples(t *testing.T) {
	devices := map[string][]nodestate.Device{
		"placeholder.json": nil,
		"merged.json":      {row("dataplane-b", "intel.com/sriov_net_b", "0000:00:06.0", "ena"), row("dpdk-c", "intel.com/sriov_dpdk_c", "0000:00:08.0", "vfio-pci")},
	}
	const folder = "../../../conf/pcidp"
	files, err := os.ReadDir(folder)
	must(t, err)
	for _, f := range files {
		t.Run(f.Name(), func(t *testing.T) {
			rows, ok := devices[f.Name()]
			if !ok {
				t.Fatal("which devices is it for? add it to this test")
			}
			content, err := os.ReadFile(filepath.Join(folder, f.Name()))
			must(t, err)
			ours := Desired(rows)
			var owned []device.ResourceName
			for _, e := range ours {
				owned = append(owned, e.Resource)
			}
			r, err := Render(content, ours, owned, here)
			if err != nil || len(r.Problems) > 0 || r.SetAside() {
				t.Fatalf("Render: %+v, %v; want no problem", r, err)
			}
			if *update {
				must(t, os.WriteFile(filepath.Join(folder, f.Name()), r.Content, 0o644))
				content = r.Content
			}
			if diff := cmp.Diff(string(r.Content), string(content)); diff != "" {
				t.Errorf("%s (-as the daemon writes it +sample):\n%s", f.Name(), diff)
			}
			judge(t, content, ours, owned)
		})
	}
	if len(files) != len(devices) {
		t.Errorf("%d files in %s, want %d", len(files), folder, len(devices))
	}
}
