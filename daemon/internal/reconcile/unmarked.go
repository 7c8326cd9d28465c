package reconcile

import (
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
)

// unmarked is since when each link of the host has been seen without a sign of another
// owner. A link that was not seen, or with a sign, begins anew.
type unmarked map[linkKey]time.Time

// linkKey tells a link from another one that has its index later.
type linkKey struct {
	index  int
	mac    device.MAC
	parent device.PCIAddress
}

// see takes a look at all links and returns, by index, how long each has been without
// a sign.
func (u *unmarked) see(links []link.Link, foreign map[int]string, now time.Time) map[int]time.Duration {
	since, ages := make(unmarked, len(links)), make(map[int]time.Duration, len(links))
	for _, l := range links {
		if foreign[l.Index] != "" {
			continue
		}
		key := linkKey{l.Index, l.MAC, l.Parent}
		begun, known := (*u)[key]
		if !known {
			begun = now
		}
		since[key], ages[l.Index] = begun, now.Sub(begun)
	}
	*u = since
	return ages
}
