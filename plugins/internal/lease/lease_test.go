package lease_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/lease"
)

const eni = "eni-0000000a"

func dev(addresses, prefixes string) *nodestate.Device {
	d := &nodestate.Device{ENIID: eni, SubnetCIDR: netip.MustParsePrefix("10.0.1.0/24")}
	for _, a := range strings.Fields(addresses) {
		d.Addresses = append(d.Addresses, netip.MustParsePrefix(a))
	}
	for _, p := range strings.Fields(prefixes) {
		d.Prefixes = append(d.Prefixes, netip.MustParsePrefix(p))
	}
	return d
}

func ask(container string) lease.Request {
	return lease.Request{Holder: leases.Lease{
		AttachmentID: nodestate.AttachmentID{ContainerID: container, IfName: "net1"}, Network: "net", CoolDown: 30 * time.Second,
		Netns: nodestate.Netns{Path: "/" + container, Inode: 1},
	}}
}

func alive(nodestate.Netns) bool { return false }

func take(l *leases.Leases, d *nodestate.Device, r lease.Request, now time.Duration, gone func(nodestate.Netns) bool) string {
	got, err := lease.Take(l, d, r, now, gone)
	if err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(strings.Trim(fmt.Sprint(got), "[]")), " ")
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want && (!strings.HasSuffix(want, "…") || !strings.Contains(got, strings.TrimSuffix(want, "…"))) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestTake(t *testing.T) {
	d := dev("10.0.1.10/24 10.0.1.11/24 10.0.1.12/24", "")
	l := &leases.Leases{ENIID: eni}
	a, b, c := ask("a"), ask("b"), ask("c")
	want(t, "the first secondary", take(l, d, a, 0, alive), "10.0.1.11/24")
	want(t, "the same again", take(l, d, a, 0, alive), "10.0.1.11/24")
	want(t, "the second", take(l, d, b, 0, alive), "10.0.1.12/24")
	want(t, "none left", take(l, d, c, 0, alive), "all 2 ipv4 addresses that ENI eni-0000000a has for pods are taken: 2 leased, 0 cooling down; assign more…")
	if !lease.Give(l, a.Holder.AttachmentID, time.Second) || lease.Give(l, a.Holder.AttachmentID, time.Second) {
		t.Error("Give does not say whether there was anything")
	}
	want(t, "cooling", take(l, d, c, 2*time.Second, alive), "1 leased, 1 cooling down; the next is free in 30s…")
	want(t, "still", take(l, d, c, 31*time.Second-1, alive), "the next is free in…")
	want(t, "cooled down", take(l, d, c, 31*time.Second, alive), "10.0.1.11/24")
	lease.Give(l, b.Holder.AttachmentID, time.Minute)
	lease.Give(l, c.Holder.AttachmentID, time.Minute)
	want(t, "not the last one again, but the next around", take(l, d, a, 2*time.Minute, alive), "10.0.1.12/24")
	if len(l.Leases) != 1 && l.Leases[0].Holds(2*time.Minute) {
		t.Errorf("leases that have ended stay: %+v", l.Leases)
	}

	// A dead holder loses its address only when no other is free, and the address then
	// cools down.
	l = &leases.Leases{ENIID: eni}
	dead := func(n nodestate.Netns) bool { return n.Path == "/a" }
	take(l, d, a, 0, dead)
	want(t, "a free one first", take(l, d, b, 0, dead), "10.0.1.12/24")
	want(t, "then the dead one's cools", take(l, d, c, 0, dead), "1 leased, 1 cooling down; the next is free in 31s…")
	want(t, "and is free", take(l, d, c, 30*time.Second, dead), "10.0.1.11/24")

	l = &leases.Leases{ENIID: eni}
	a.Holder.CoolDown, b.Holder.CoolDown = 0, 0
	take(l, d, a, 0, dead)
	take(l, d, b, 0, dead)
	want(t, "at once", take(l, d, c, 0, dead), "10.0.1.11/24")
}

// TestScarce: while no other address is free, the one that has cooled longest is leased
// early. A coolDown of the netconf applies in full.
func TestScarce(t *testing.T) {
	d := dev("10.0.1.10/24 10.0.1.11/24 10.0.1.12/24 10.0.1.13/24", "")
	l := &leases.Leases{ENIID: eni}
	a, b, c, next := ask("a"), ask("b"), ask("c"), ask("next")
	a.Holder.ScarceCoolDown, b.Holder.ScarceCoolDown = 5*time.Second, 5*time.Second
	for _, r := range []lease.Request{a, b, c} {
		take(l, d, r, 0, alive)
	}
	lease.Give(l, c.Holder.AttachmentID, 0) // which is to cool in any case
	lease.Give(l, b.Holder.AttachmentID, time.Second)
	lease.Give(l, a.Holder.AttachmentID, 2*time.Second)
	want(t, "too early", take(l, d, next, 3*time.Second, alive), "0 leased, 3 cooling down; the next is free in 4s…")
	want(t, "at the end of the scarce cool-down", take(clone(l), d, next, 6*time.Second, alive), "10.0.1.12/24")
	want(t, "the longest", take(l, d, next, 20*time.Second, alive), "10.0.1.12/24")
	want(t, "the other", take(l, d, ask("more"), 20*time.Second, alive), "10.0.1.11/24")
	want(t, "the full cool-down", take(l, d, ask("third"), 20*time.Second, alive), "2 leased, 1 cooling down; the next is free in 11s…")
	l.Retiring = []netip.Prefix{netip.MustParsePrefix("10.0.1.13/32")}
	want(t, "on its way to the subnet", take(l, d, ask("third"), 31*time.Second, alive), "all 3 ipv4 addresses…")
}

// TestStartedAnew: the interface of a restarted pod gets its cooling addresses back.
func TestStartedAnew(t *testing.T) {
	d := dev("10.0.1.10/24", "10.0.1.16/28")
	l := &leases.Leases{ENIID: eni}
	of := func(container, ifname, pod string) lease.Request {
		r := ask(container)
		r.Holder.IfName, r.Holder.Pod = ifname, pod
		return r
	}
	for _, r := range []lease.Request{of("old", "net1", "shop/db-0"), of("old", "net2", "shop/db-0"), of("old", "net1", "")} {
		take(l, d, r, 0, alive)
		lease.Give(l, r.Holder.AttachmentID, time.Second)
	}
	want(t, "another pod", take(l, d, of("x", "net1", "shop/web-0"), 2*time.Second, alive), "10.0.1.19/24")
	want(t, "a pod without a name", take(l, d, of("y", "net1", ""), 2*time.Second, alive), "10.0.1.20/24")
	want(t, "the other interface", take(l, d, of("new", "net2", "shop/db-0"), 2*time.Second, alive), "10.0.1.17/24")
	asked := of("new", "net1", "shop/db-0")
	asked.Addresses = []netip.Addr{netip.MustParseAddr("10.0.1.18")}
	want(t, "of another, by name", take(l, d, asked, 2*time.Second, alive), "address 10.0.1.18 was released recently…")
	asked.Addresses[0] = netip.MustParseAddr("10.0.1.16")
	want(t, "its own, by name", take(l, d, asked, 2*time.Second, alive), "10.0.1.16/24")
}

// TestRollingUpdate measures the replacement of six pods on six addresses, two at a time.
// The kubelet retries a pod every 10 to 15 s (back-off and jitter). docs/addresses.md has
// the figures.
func TestRollingUpdate(t *testing.T) {
	d := dev("10.0.1.10/24", "")
	for i := range 6 {
		d.Addresses = append(d.Addresses, netip.MustParsePrefix(fmt.Sprintf("10.0.1.%d/24", 11+i)))
	}
	update := func(scarce time.Duration) time.Duration {
		l := &leases.Leases{ENIID: eni}
		pod := func(n int) lease.Request {
			r := ask(fmt.Sprint("pod-", n))
			r.Holder.Pod, r.Holder.ScarceCoolDown = fmt.Sprint("shop/web-", n), scarce
			return r
		}
		for n := range 6 {
			take(l, d, pod(n), 0, alive)
		}
		random := rand.New(rand.NewPCG(1, 2))
		at := map[int]time.Duration{6: 0, 7: 0} // when the new pods that are there try (again)
		now, old := time.Duration(0), 0
		end := func() { lease.Give(l, pod(old).Holder.AttachmentID, now); old++ }
		for end(); len(at) > 0; {
			next := -1
			for n, when := range at {
				if next < 0 || when < at[next] || when == at[next] && n < next {
					next = n
				}
			}
			now = at[next]
			if _, err := lease.Take(l, d, pod(next), now, alive); err != nil {
				at[next] = now + 10*time.Second + time.Duration(random.Int64N(int64(5*time.Second)))
				continue
			}
			delete(at, next) // it is ready: an old one ends, and a new one is begun
			if now += time.Second; old < 6 {
				end()
			}
			if last := next + 2; last < 12 {
				at[last] = now
			}
		}
		return now
	}
	before, after := update(0), update(lease.DefaultScarceCoolDown)
	t.Logf("a rolling update takes %s with the whole cool-down, and %s with the short one", before.Round(time.Second), after.Round(time.Second))
	if before < 100*time.Second || after > 2*before/3 {
		t.Errorf("a rolling update takes %s with the whole cool-down, and %s with the short one", before, after)
	}
}

func TestFamiliesAndPrefixes(t *testing.T) {
	for name, tt := range map[string]struct {
		device *nodestate.Device
		change func(*lease.Request)
		want   string
	}{
		"prefix":           {dev("10.0.1.10/24", "10.0.1.16/28"), nil, "10.0.1.16/24"},
		"secondary first":  {dev("10.0.1.10/24 10.0.1.9/24", "10.0.1.16/28"), nil, "10.0.1.9/24"},
		"IPv6 where no v4": {dev("10.0.1.10/24 2001:db8::9/64", "2001:db8:0:0:1::/80"), nil, "2001:db8:0:0:1::/64"},
		"both": {dev("10.0.1.10/24 10.0.1.11/24 2001:db8::9/64 2001:db8::a/64", ""), func(r *lease.Request) { r.Families = []string{"ipv4", "ipv6"} },
			"10.0.1.11/24 2001:db8::a/64"},
		"no v6": {dev("10.0.1.10/24 10.0.1.11/24 2001:db8::9/64", ""), func(r *lease.Request) { r.Families = []string{"ipv4", "ipv6"} },
			"eni-0000000a has no ipv6 address for pods…"},
		"an IPv6 subnet":   {dev("2001:db8::9/64", ""), nil, "has no ipv6 address for pods that share it…"},
		"nothing for pods": {dev("10.0.1.10/24", ""), nil, "has no ipv4 address for pods that share it…"},
		"asked for": {dev("10.0.1.10/24", "10.0.1.16/28"), func(r *lease.Request) { r.Addresses = []netip.Addr{netip.MustParseAddr("10.0.1.20")} },
			"10.0.1.20/24"},
		"asked for primary": {dev("10.0.1.10/24 10.0.1.11/24", "10.0.1.16/28"),
			func(r *lease.Request) { r.Addresses = []netip.Addr{netip.MustParseAddr("10.0.1.10")} },
			"has only 10.0.1.11, 10.0.1.16/28 (ipv4) and none (ipv6) for pods that share it…"},
	} {
		r := ask("x")
		if tt.change != nil {
			tt.change(&r)
		}
		l := &leases.Leases{ENIID: eni}
		got := take(l, tt.device, r, 0, alive)
		want(t, name, got, tt.want)
		if strings.Contains(got, "ENI") && len(l.Leases) > 0 {
			t.Errorf("%s: a refusal has left leases: %+v", name, l.Leases)
		}
	}

	d, l := dev("10.0.1.10/24 10.0.1.11/24", ""), &leases.Leases{ENIID: eni}
	mine, other := ask("mine"), ask("other")
	mine.Holder.Pod = "ns/first"
	mine.Addresses = []netip.Addr{netip.MustParseAddr("10.0.1.11")}
	other.Addresses = mine.Addresses
	want(t, "mine", take(l, d, mine, 0, alive), "10.0.1.11/24")
	want(t, "mine again", take(l, d, mine, 0, alive), "10.0.1.11/24")
	twin := mine
	twin.Holder.IfName = "net2"
	want(t, "its other interface", take(l, d, twin, 0, alive), "address 10.0.1.11 is held by this pod already, on interface net1")
	want(t, "other", take(l, d, other, 0, alive), "address 10.0.1.11 is held by pod ns/first (container mine, interface net1)")
	lease.Give(l, mine.Holder.AttachmentID, 0)
	want(t, "other", take(l, d, other, time.Second, alive), "address 10.0.1.11 was released recently and is free again in 30s")
	l.Retiring = []netip.Prefix{netip.MustParsePrefix("10.0.1.11/32")}
	want(t, "other", take(l, d, other, time.Hour, alive), "address 10.0.1.11 is being returned to its subnet; request another")
}

func TestHugePrefix(t *testing.T) {
	d, l := dev("2001:db8::9/64", "2001:db8:0:0:1::/80"), &leases.Leases{ENIID: eni}
	var last string
	for i := range 1000 {
		now := time.Duration(i) * time.Minute
		r := ask(fmt.Sprint(i))
		last = take(l, d, r, now, alive)
		lease.Give(l, r.Holder.AttachmentID, now)
	}
	want(t, "the thousandth", last, "2001:db8::1:0:0:3e7/64")
	if len(l.Leases) > 1 || len(l.Last) != 1 {
		t.Errorf("leases grow: %d, %v", len(l.Leases), l.Last)
	}
}

// TestModel checks two rules in a long random life: no address has two holders, and none
// is leased before its cool-down ends.
func TestModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // repeatable on purpose
	d := dev("10.0.1.10/24 10.0.1.11/24 10.0.1.12/24 2001:db8::9/64 2001:db8::a/64", "10.0.1.16/28")
	l := &leases.Leases{ENIID: eni}
	holders, freed := map[netip.Addr]string{}, map[netip.Addr]time.Duration{}
	var now time.Duration
	given := 0
	for range 20000 {
		now += time.Duration(rnd.IntN(4000)) * time.Millisecond
		name := fmt.Sprint("c", rnd.IntN(40))
		r := ask(name)
		if rnd.IntN(2) == 0 {
			lease.Give(l, r.Holder.AttachmentID, now)
			for a, who := range holders {
				if who == name {
					freed[a] = now
					delete(holders, a)
				}
			}
			continue
		}
		got, err := lease.Take(l, d, r, now, alive)
		var exhausted *lease.ExhaustedError
		if err != nil && !errors.As(err, &exhausted) {
			t.Fatal(err)
		}
		if exhausted != nil && (exhausted.Size != 18 || exhausted.Leased != len(holders) || exhausted.Free() != 0) {
			t.Fatalf("%v with %d holders", err, len(holders))
		}
		for _, p := range got {
			a := p.Addr()
			if who, ok := holders[a]; ok && who != name {
				t.Fatalf("%s is given to %s and to %s", a, who, name)
			}
			if at, ok := freed[a]; ok && holders[a] == "" && now < at+30*time.Second {
				t.Fatalf("%s is given %s after its release", a, now-at)
			}
			holders[a] = name
			given++
		}
		if !slices.IsSortedFunc(l.Leases, func(a, b leases.Lease) int { return a.Address.Compare(b.Address) }) {
			t.Fatal("leases are not sorted")
		}
	}
	if given < 1000 {
		t.Errorf("only %d leases", given)
	}
}

func TestCollect(t *testing.T) {
	d, l := dev("10.0.1.10/24 10.0.1.11/24 10.0.1.12/24 10.0.1.13/24", ""), &leases.Leases{ENIID: eni}
	other := ask("other")
	other.Holder.Network = "another"
	for _, r := range []lease.Request{ask("keep"), ask("lost"), other} {
		take(l, d, r, 0, alive)
	}
	if !lease.Collect(l, "net", time.Second, func(l *leases.Lease) bool { return l.ContainerID == "keep" }) {
		t.Error("nothing collected")
	}
	got := map[string]leases.State{}
	for _, lease := range l.Leases {
		got[lease.ContainerID] = lease.State
	}
	if diff := cmp.Diff(map[string]leases.State{"keep": "leased", "lost": "cooling", "other": "leased"}, got); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
}

// clone is a copy that Take may change.
func clone(l *leases.Leases) *leases.Leases {
	c := *l
	c.Leases = slices.Clone(l.Leases)
	return &c
}

// TestCooledEquallyLong: of addresses that have cooled equally long, the first is given.
func TestCooledEquallyLong(t *testing.T) {
	d := dev("10.0.1.10/24 10.0.1.11/24 10.0.1.12/24", "")
	l := &leases.Leases{ENIID: eni}
	for _, name := range []string{"a", "b"} {
		r := ask(name)
		r.Holder.ScarceCoolDown = 5 * time.Second
		take(l, d, r, 0, alive)
	}
	lease.Collect(l, "net", 0, func(*leases.Lease) bool { return false })
	want(t, "the first", take(l, d, ask("c"), 10*time.Second, alive), "10.0.1.11/24")
}

// TestDropSays: Drop says whether there was any address, and frees it at once.
func TestDropSays(t *testing.T) {
	d := dev("10.0.1.10/24 10.0.1.11/24", "")
	l := &leases.Leases{ENIID: eni}
	a, b := ask("a"), ask("b")
	take(l, d, a, 0, alive)
	if lease.Drop(l, b.Holder.AttachmentID) || !lease.Drop(l, a.Holder.AttachmentID) || lease.Drop(l, a.Holder.AttachmentID) {
		t.Error("Drop does not say whether there was anything")
	}
	want(t, "free at once", take(l, d, b, 0, alive), "10.0.1.11/24")
}

// TestNothingToLease: an ENI whose addresses are not known has none for a pod.
func TestNothingToLease(t *testing.T) {
	l := &leases.Leases{ENIID: eni}
	want(t, "without addresses", take(l, dev("", ""), ask("a"), 0, alive), "ENI eni-0000000a has no ipv4 address for pods…")
}
