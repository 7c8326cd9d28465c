package hotplug

import (
	"fmt"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

const (
	// readyWithin is the promise, from when the netdev and, from IMDS, the ENI's MAC are known.
	readyWithin = time.Second
	emulated    = 5
)

// testReady: in whichever order metadata and hardware change, a device is ready within a second after both have.
func (s *stage) testReady(t *testing.T) {
	for i, tt := range []struct {
		name string
		lag  guest.Lag
		// byStatus: the NodeENI names the ENI; otherwise its device index decides.
		byStatus bool
	}{
		{"in step", guest.Lag{}, true},
		{"metadata 2 s ahead", guest.Lag{Listed: -2 * time.Second, Stale: -time.Second}, false},
		{"metadata 1 s behind", guest.Lag{Listed: time.Second, Stale: 2 * time.Second}, true},
		{"metadata 6 s behind", guest.Lag{Listed: 6 * time.Second, Stale: 6 * time.Second}, true},
		{"index 3 s behind", guest.Lag{Indexed: 3 * time.Second, Stale: time.Second}, false},
		{"metadata 3 s behind, index 6 s", guest.Lag{Listed: 3 * time.Second, Indexed: 3 * time.Second}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := s.cloud.NewENI(i+1, tt.lag)
			name := fmt.Sprintf("ready-%d", i)
			declare(t, name, e, advertised, tt.byStatus)
			defer guest.RemoveNodeENI(t, name)
			announced := s.cloud.AttachENI(t, e, fmt.Sprintf("slot%d", i))
			defer s.cloud.DetachENI(t, e)
			known, by := s.arrivals.of(t, e.MAC), "the netdev"
			metadata := announced.Listed
			if !tt.byStatus {
				metadata = announced.Indexed
			}
			if metadata.After(known) {
				known, by = metadata, "the metadata"
			}
			row, ready := s.awaitReady(t, e.ID, soon)
			t.Logf("ready %v after %s (netdev %v after it was plugged in)", ready.Sub(known).Round(time.Millisecond), by,
				s.arrivals.of(t, e.MAC).Sub(announced.Listed.Add(-max(0, tt.lag.Listed))).Round(time.Millisecond))
			if took := ready.Sub(known); took > emulated*readyWithin {
				t.Errorf("ready %v after all was known, want %v, or %d times that", took, readyWithin, emulated)
			}
			if row.MAC != e.MAC || row.DeviceIndex != e.Index || row.PCIAddress == "" {
				t.Errorf("row %+v of %+v", row, e)
			}
		})
	}
}
