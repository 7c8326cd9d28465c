package addresses

import (
	"net/netip"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// prefixSize is the number of addresses of a delegated IPv4 prefix (/28).
const prefixSize = 16

// Marks bound the free addresses of an ENI's pool.
type Marks struct {
	// Low is the least; below it more are asked for.
	Low int
	// High is the most; above it some are given back.
	High int
}

func (m Marks) middle() int { return (m.Low + m.High + 1) / 2 }

// order is an EC2 call for one family of an ENI: Assign more, or take back the addresses in retire.
type order struct {
	family   vpc.Family
	prefixes bool
	assign   int
	retire   []netip.Prefix
}

// plan compares an ENI's pools with the marks, for the families that pods asked for in this boot. It retires only addresses without lease
// or cool-down, from the pool's end, and never a part of a prefix.
func plan(d *nodestate.Device, l *leases.Leases, now time.Duration, marks Marks, prefixes bool) (orders []order) {
	for _, pool := range leases.Pools(d) {
		if !slices.Contains(l.Asked, pool.Family) {
			continue
		}
		count, _ := l.Count(pool, now)
		free := count.Free()
		o := order{family: vpc.Family(pool.Family == leases.IPv6), prefixes: prefixes}
		switch {
		case free < marks.Low:
			o.assign = marks.middle() - free
			if prefixes && o.family == vpc.IPv6 {
				o.assign = 1 // of 2^48 addresses
			} else if prefixes {
				o.assign = (o.assign + prefixSize - 1) / prefixSize
			}
		case free > marks.High && len(l.Retiring) == 0:
			o.retire = surplus(pool, l, now, free-marks.middle())
		}
		if o.assign > 0 || o.retire != nil {
			orders = append(orders, o)
		}
	}
	return orders
}

// surplus are spans of the pool that hold nothing, n addresses at most.
func surplus(pool leases.Pool, l *leases.Leases, now time.Duration, n int) (out []netip.Prefix) {
	for _, span := range slices.Backward(pool.Spans()) {
		size := leases.Size(span)
		if size <= n && !holds(l, span, now) {
			out, n = append(out, span), n-size
		}
	}
	return out
}

func holds(l *leases.Leases, span netip.Prefix, now time.Duration) bool {
	return slices.ContainsFunc(l.Leases, func(lease leases.Lease) bool { return span.Contains(lease.Address) && lease.Holds(now) })
}
