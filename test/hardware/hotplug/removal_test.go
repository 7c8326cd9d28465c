package hotplug

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// testRemoval: a device is pulled out under its pods. It is withdrawn at once; record and address go with the pod.
func (s *stage) testRemoval(t *testing.T) {
	for i, tt := range []struct {
		name     string
		delegate string
		pods     int
		kind     kind
		stale    time.Duration
		noDEL    bool
	}{
		{"exclusive, no DEL", exclusive, 1, advertised, 0, true},
		{"ipvlan", ipvlan, 2, kernel, 3 * time.Second, false},
		{"DPDK", exclusive, 1, dpdk, -time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := s.cloud.NewENI(i+1, guest.Lag{Stale: tt.stale})
			name := fmt.Sprintf("removal-%d", i)
			declare(t, name, e, tt.kind, i%2 == 0)
			s.cloud.AttachENI(t, e, fmt.Sprintf("slot%d", i))
			row, _ := s.awaitReady(t, e.ID, soon)
			var pods []pod
			for n := range tt.pods {
				p := newPod(t, fmt.Sprintf("%s-%d", name, n), e, tt.delegate)
				p.add(t)
				pods = append(pods, p)
			}
			pulled := time.Now()
			s.cloud.DetachENI(t, e)
			s.await(t, "neither ready nor advertised", soon, func(inv nodestate.Inventory, config string) bool {
				return find(inv, e.ID).Phase != nodestate.PhaseReady && !strings.Contains(config, row.PCIAddress.String())
			})
			t.Logf("not ready and not advertised %v after it was pulled out", time.Since(pulled).Round(time.Millisecond))
			for _, p := range pods {
				if tt.noDEL {
					guest.DeleteNetns(t, p.netns)
				} else {
					p.end(t)
				}
			}
			guest.Eventually(t, "no record and no lease", orphanSoon, func() bool {
				return len(records(t, e)) == 0 && len(leases(t, pods...)) == 0
			})
			guest.RemoveNodeENI(t, name)
			s.await(t, "no row and no problem", soon, func(inv nodestate.Inventory, _ string) bool {
				for _, p := range inv.Problems {
					if p.NodeENI == name || p.Device == e.ID.String() {
						return false
					}
				}
				return find(inv, e.ID).ENIID == ""
			})
		})
	}
}
