package addresses

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

// TestFirstDescribeFails: the retry comes after 5 s, not a minute, and a second failure is a Problem.
func TestFirstDescribeFails(t *testing.T) {
	for fault, says := range map[string]string{
		"InternalError": "EC2Failing: the ENIs cannot be looked up in EC2", fakeec2.HTML: "see AWS_ENDPOINT_URL_EC2, HTTPS_PROXY",
		fakeec2.Nothing: "see AWS_ENDPOINT_URL_EC2, HTTPS_PROXY",
		"AuthFailure":   "EC2Unauthenticated: the ENIs cannot be looked up", "RequestExpired": "clock",
	} {
		w := newWorld(t, false, fakeec2.Config{})
		w.EC2 = &watched{w: w}
		w.ask("ipv4")
		w.ec2.Fail("DescribeNetworkInterfaces", slices.Repeat([]string{fault}, 8)...)
		w.sync()
		w.problem(fault+", once", "")
		if wait := w.next(); wait != firstRetry {
			t.Errorf("%s: next after %s", fault, wait)
		}
		w.now = w.now.Add(firstRetry)
		w.sync()
		w.problem(fault+", twice", says)
		for w.ec2.Pending("DescribeNetworkInterfaces") {
			w.now = w.now.Add(w.next())
			w.sync()
		}
		w.now = w.now.Add(w.next())
		w.sync()
		w.problem(fault+" is over", "")
		if got := w.ec2.ENI(eni).IPv4; len(got) != 7 {
			t.Errorf("%s is over: %v", fault, got)
		}
	}
}

// TestUnknownToEC2: an ENI that EC2 does not know is a Problem once a lag is excluded, and EC2 is asked again until it knows it.
func TestUnknownToEC2(t *testing.T) {
	for name, elsewhere := range map[string]func(w *world, there bool){
		"one ENI": func(w *world, there bool) {
			w.ec2.Change(eni, func(e *fakeec2.ENI) {
				e.Instance = map[bool]string{true: instance, false: "i-0ffffffffffffffff"}[there]
			})
		},
		"none at all": func(w *world, there bool) {
			for _, id := range []string{eni, "eni-0000000f"} {
				w.ec2.Change(id, func(e *fakeec2.ENI) {
					e.Instance = map[bool]string{true: instance, false: "i-0ffffffffffffffff"}[there]
				})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, false, fakeec2.Config{})
			w.EC2 = &watched{w: w}
			elsewhere(w, false)
			w.ask("ipv4")
			w.sync()
			w.problem("at first", "")
			pass := func(d time.Duration) {
				for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(max(w.next(), 5*time.Second)) {
					w.sync()
				}
			}
			pass(consistent + 20*time.Second)
			w.problem("for long", "check AWS_REGION, AWS_ENDPOINT_URL_EC2 and the account of the role")
			w.ec2.Calls()
			pass(time.Hour)
			if calls := w.ec2.Calls(); len(calls) < 10 || len(calls) > 65 || slices.Contains(calls, assignCall) {
				t.Errorf("in an hour: %q", calls)
			}
			elsewhere(w, true)
			pass(6 * time.Minute)
			w.problem("known again", "")
			w.has("known again", "[10.0.1.4 10.0.1.5 10.0.1.6 10.0.1.7 10.0.1.8 10.0.1.9] [] []")
		})
	}
}

// TestAnswerListsAll: an answer may list old addresses in any order; only new ones are added, and the ENI's own stay first.
func TestAnswerListsAll(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // to be the same again
	w := newWorld(t, false, fakeec2.Config{ListAll: true, Shuffle: r.Shuffle}, func(e *fakeec2.ENI) {
		e.IPv4 = append(e.IPv4, netip.MustParseAddr("10.0.1.20"))
		e.IPv6 = append(e.IPv6, netip.MustParseAddr("2001:db8:1::300"), netip.MustParseAddr("2001:db8:1::301"))
	})
	w.EC2 = &watched{w: w}
	w.ask("ipv4", "ipv6")
	for range 30 {
		w.sync()
		w.catchUp()
		w.now, w.describe = w.now.Add(2*time.Minute), true
		addresses := w.devices[0].Addresses
		own6 := slices.IndexFunc(addresses, func(p netip.Prefix) bool { return p.Addr().Is6() })
		if addresses[0].String() != "10.0.1.200/24" || addresses[own6].String() != "2001:db8:1::200/64" {
			t.Fatalf("the ENI's own addresses are not the first: %v", addresses)
		}
		slices.SortFunc(addresses, netip.Prefix.Compare)
		if len(slices.Compact(slices.Clone(addresses))) != len(addresses) {
			t.Fatalf("twice: %v", addresses)
		}
	}
	if e := w.ec2.ENI(eni); len(e.IPv4) != 7 || len(e.IPv6) != 7 {
		t.Errorf("EC2: %v %v", e.IPv4, e.IPv6)
	}
}

// slow delays the calls about one ENI until release.
type slow struct {
	release chan struct{}
	slow    device.ENIID
	asked   chan device.ENIID
}

func (l *slow) Describe(context.Context) (found []vpc.Attached, err error) {
	for n := range 8 {
		found = append(found, vpc.Attached{ID: numbered(n), NodeENI: "a", Addresses: []netip.Addr{netip.MustParseAddr("10.0.1.200")}})
	}
	return found, nil
}

func numbered(n int) device.ENIID { return device.ENIID(fmt.Sprintf("eni-%08x", n)) }

func (l *slow) Assign(_ context.Context, eni device.ENIID, _ vpc.Family, _ bool, n int) (got []netip.Prefix, err error) {
	if eni == l.slow {
		<-l.release
	}
	for i := range n {
		got = append(got, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(i + 4)}), 32))
	}
	l.asked <- eni
	return got, nil
}

func (l *slow) Unassign(context.Context, device.ENIID, vpc.Family, []netip.Prefix) error {
	return errors.New("not asked for")
}

// TestSlowAssign: a late answer delays only its own ENI, also for later demands.
func TestSlowAssign(t *testing.T) {
	l := &slow{release: make(chan struct{}), slow: numbered(0), asked: make(chan device.ENIID, 100)}
	w := newWorld(t, false, fakeec2.Config{})
	w.EC2 = l
	var devices []nodestate.Device
	ask := func(n int) {
		l, err := w.Leases.Lock(t.Context(), bootID, numbered(n))
		if err != nil {
			t.Fatal(err)
		}
		l.Asked = []string{leases.IPv4}
		if err := l.Save(); err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	for n := range 8 {
		devices = append(devices, nodestate.Device{ENIID: numbered(n), NodeENI: "a", Driver: "ena",
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.200/24")}, Phase: nodestate.PhaseReady})
		if n < 4 {
			ask(n)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		w.Manager.Run(ctx)
		close(ended)
	}()
	w.Observe(devices)
	expect := func(from, to int) {
		t.Helper()
		seen := map[device.ENIID]bool{}
		for n := from; n < to; n++ {
			seen[<-l.asked] = true
		}
		for n := from; n < to; n++ {
			if !seen[numbered(n)] {
				t.Errorf("%s was not asked for: %v", numbered(n), seen)
			}
		}
	}
	expect(1, 4)
	for n := 4; n < 8; n++ {
		ask(n)
	}
	w.Observe(devices)
	expect(4, 8)
	close(l.release)
	if got := <-l.asked; got != numbered(0) {
		t.Errorf("at last: %s", got)
	}
	cancel()
	<-ended
	if len(l.asked) != 0 || strings.Contains(fmt.Sprint(w.Problems()), "EC2") {
		t.Errorf("%d more calls, problems %v", len(l.asked), w.Problems())
	}
}

// TestThrottled: RequestLimitExceeded lengthens the waits, and is a Problem only if it lasts.
func TestThrottled(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{})
	w.EC2 = &failing{EC2: w.EC2, err: &vpc.EC2Error{Kind: vpc.EC2Throttled, Code: "RequestLimitExceeded", Err: errors.New("RequestLimitExceeded")}}
	w.ask("ipv4")
	var waits []time.Duration
	for range 8 {
		w.sync()
		wait := w.next()
		waits = append(waits, wait)
		if len(waits) == 1 {
			w.problem("at first", "")
		}
		w.now = w.now.Add(wait)
	}
	if got := fmt.Sprint(waits); got != "[5s 10s 20s 40s 1m20s 2m40s 5m0s 5m0s]" {
		t.Errorf("waits %s", got)
	}
	w.problem("for long", "EC2Failing")
}

type failing struct {
	EC2
	err error
}

func (f *failing) Assign(context.Context, device.ENIID, vpc.Family, bool, int) ([]netip.Prefix, error) {
	return nil, f.err
}
