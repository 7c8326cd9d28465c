package addresses

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

// watched is EC2 that may lose or refuse answers. It must not be asked to take an address that is held or not retiring.
type watched struct {
	w *world
	// lose: the next change's answer is lost. throttle: the next change is refused.
	lose, throttle bool
	// drop: the next change silently does not reach EC2.
	drop bool
	// last is when the last change was asked for. A Manager started soon after is blind to it until a certain Describe.
	last  time.Time
	blind bool
}

// client is new each time, since the rate limit does not follow the model's clock.
func (e *watched) client() EC2 { return awsnode.NewEC2(e.w.client) }

func (e *watched) Describe(ctx context.Context) ([]vpc.Attached, error) {
	if e.w.now.Sub(e.last) >= consistent {
		e.blind = false
	}
	return e.client().Describe(ctx)
}

func (e *watched) change(do func() error) error {
	e.last = e.w.now
	if e.throttle {
		e.throttle = false
		return &vpc.EC2Error{Kind: vpc.EC2Throttled, Code: "RequestLimitExceeded", Err: errors.New("RequestLimitExceeded")}
	}
	if e.drop {
		e.drop = false
		return &vpc.EC2Error{Err: errors.New("connection reset")}
	}
	err := do()
	if e.lose {
		e.lose, err = false, &vpc.EC2Error{Err: errors.New("connection reset")}
	}
	return err
}

func (e *watched) Assign(ctx context.Context, eni device.ENIID, family vpc.Family, prefixes bool, n int) (got []netip.Prefix, err error) {
	if free := e.w.free(); family == vpc.IPv4 && !e.blind && (free >= e.w.Marks.Low || !prefixes && free+n > e.w.Marks.middle()) {
		e.w.Errorf("%d more are asked for, while EC2 has %d free ones", n, free)
	}
	err = e.change(func() (err error) {
		got, err = e.client().Assign(ctx, eni, family, prefixes, n)
		return err
	})
	if err != nil {
		got = nil
	}
	return got, err
}

func (e *watched) Unassign(ctx context.Context, id device.ENIID, family vpc.Family, what []netip.Prefix) error {
	l, err := e.w.Leases.Read(bootID, id)
	if err != nil {
		e.w.Fatal(err)
	}
	for _, p := range what {
		if !slices.Contains(l.Retiring, p) || holds(&l, p, e.w.uptime) {
			e.w.Errorf("%s is to be unassigned; leases %+v", p, l)
		}
	}
	return e.change(func() error { return e.client().Unassign(ctx, id, family, what) })
}

func (w *world) free() (n int) {
	w.Helper()
	l, err := w.Leases.Read(bootID, eni)
	if err != nil {
		w.Fatal(err)
	}
	e := w.ec2.ENI(eni)
	spans := slices.Clone(e.Prefixes)
	for _, a := range e.IPv4[1:] {
		spans = append(spans, netip.PrefixFrom(a, 32))
	}
	for _, p := range spans {
		for a := p.Addr(); p.Contains(a); a = a.Next() {
			i, found := l.Find(a)
			if !l.Retires(a) && (!found || !l.Leases[i].Holds(w.uptime)) {
				n++
			}
		}
	}
	return n
}

func (w *world) lease(r *rand.Rand) {
	w.leases(func(l *leases.Leases) {
		l.Asked = []string{leases.IPv4}
		var free []netip.Addr
		for a := range leases.Pools(&w.devices[0])[0].Behind(netip.Addr{}) {
			i, found := l.Find(a.Addr())
			if !l.Retires(a.Addr()) && (!found || !l.Leases[i].Holds(w.uptime)) {
				free = append(free, a.Addr())
			}
		}
		if len(free) == 0 {
			return
		}
		lease := leases.Lease{Address: free[r.IntN(len(free))], State: leases.Held,
			AttachmentID: nodestate.AttachmentID{ContainerID: fmt.Sprint("c", r.Int()), IfName: "net1"}}
		l.Leases = append(slices.DeleteFunc(l.Leases, func(o leases.Lease) bool { return o.Address == lease.Address }), lease)
	})
}

func (w *world) release(r *rand.Rand) {
	w.leases(func(l *leases.Leases) {
		if len(l.Leases) > 0 {
			lease := &l.Leases[r.IntN(len(l.Leases))]
			if lease.State == leases.Held {
				lease.State, lease.FreeAt = leases.Cooling, w.uptime+30*time.Second
			}
		}
	})
}

func (w *world) pass(d time.Duration) { w.now, w.uptime = w.now.Add(d), w.uptime+d }

// TestModel: pods come and go, the daemon dies, EC2 loses answers, throttles and lags, and the metadata lag more.
// No pod has an address that the ENI lacks. In peace the pool is between the marks, and nothing retires.
func TestModel(t *testing.T) {
	// With 56 it dies while Describe still lists addresses just given back; with 230 Describe lags behind the metadata.
	seeds := []uint64{0, 1, 2, 3, 4, 56, 230, rand.Uint64()}
	if testing.Short() {
		seeds = seeds[len(seeds)-2:]
	}
	for _, seed := range seeds {
		for _, prefixes := range []bool{false, true} {
			t.Run(fmt.Sprint(seed, " prefixes ", prefixes), func(t *testing.T) { walk(t, seed, prefixes) })
		}
	}
}

func walk(t *testing.T, seed uint64, prefixes bool) {
	r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // to be the same again
	w := newWorld(t, prefixes, fakeec2.Config{Lag: 20 * time.Second, ListAll: seed%2 == 0, Shuffle: r.Shuffle})
	e := &watched{w: w}
	w.EC2 = e
	w.sync()
	var done []string
	for range 120 {
		step := r.IntN(13)
		done = append(done, fmt.Sprint(step))
		switch step {
		case 0, 1, 2, 3:
			w.lease(r)
		case 4, 5, 6:
			w.release(r)
		case 7:
			w.catchUp()
		case 8:
			w.Manager, e.blind = New(w.Options), e.blind || w.now.Sub(e.last) < consistent
		case 9:
			e.lose = true
		case 10:
			e.throttle = true
		case 12:
			e.drop = true
		case 11:
			w.pass(time.Duration(r.IntN(90)) * time.Second)
		}
		w.sync()
		w.pass(time.Second)
		l, err := w.Leases.Read(bootID, eni)
		if err != nil {
			t.Fatal(err)
		}
		now := w.ec2.ENI(eni)
		for _, lease := range l.Leases {
			if lease.State == leases.Held && !slices.Contains(now.IPv4, lease.Address) &&
				!slices.ContainsFunc(now.Prefixes, func(p netip.Prefix) bool { return p.Contains(lease.Address) }) {
				t.Fatalf("after %v: %s is leased, and the ENI has %v %v", done, lease.Address, now.IPv4, now.Prefixes)
			}
		}
	}
	e.lose, e.throttle, e.drop = false, false, false
	for range 30 {
		w.catchUp()
		w.pass(time.Minute)
		w.sync()
	}
	l, err := w.Leases.Read(bootID, eni)
	if err != nil {
		t.Fatal(err)
	}
	count, _ := l.Count(leases.Pools(&w.devices[0])[0], w.uptime)
	// A prefix with one held address does not go.
	if free := count.Free(); free < w.Marks.Low || !prefixes && free > w.Marks.High || len(l.Retiring) > 0 || len(w.Problems()) > 0 {
		t.Errorf("in the end %+v, retiring %v, problems %v", count, l.Retiring, w.Problems())
	}
}
