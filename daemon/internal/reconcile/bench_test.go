package reconcile

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/manifest"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

type listed struct{ snap inventory.Snapshot }

func (l listed) List() (inventory.Snapshot, error) { return l.snap, nil }

// BenchmarkSync is one Sync of a steady node with every tenth device in a pod; it must write nothing. sysfs and records
// are on disk.
func BenchmarkSync(b *testing.B) {
	for _, size := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("devices=%d", size), func(b *testing.B) {
			var enis []int
			for e := range size {
				enis = append(enis, e+1)
			}
			n := newNode(b, enis...)
			for _, e := range enis {
				n.declare(fmt.Sprintf("eni-%04d", e), e, fmt.Sprintf("dpdkResourceName: intel.com/pool_%d", e%8))
			}
			snap, err := manifest.New(n.path("nodeenis")).List()
			n.must(err)
			n.daemon.NodeENIs = listed{snap}
			n.settle()
			for e := 10; e <= size; e += 10 {
				n.hold(e).Close()
			}
			n.settle()
			before := n.files()
			for b.Loop() {
				n.daemon.Sync(b.Context())
			}
			b.StopTimer()
			if diff := cmp.Diff(before, n.files()); diff != "" {
				b.Errorf("files were written (-before +after):\n%s", diff)
			}
			inv := n.inventory()
			for _, d := range inv.Devices {
				if d.Phase != nodestate.PhaseReady {
					b.Fatalf("%s is %s", d.ENIID, d.Phase)
				}
			}
			if len(inv.Devices) != size {
				b.Errorf("%d devices, want %d", len(inv.Devices), size)
			}
		})
	}
}
