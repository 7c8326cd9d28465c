package awsnode

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
)

const (
	primaryMAC = "02:00:00:00:00:ff" // sorts behind the others
	firstMAC   = "02:00:00:00:00:01"
	secondMAC  = "02:00:00:00:00:02"
	macs       = "meta-data/network/interfaces/macs/"
)

func primaryENI() fakeimds.ENI {
	return fakeimds.ENI{
		ID: "eni-000000ff", MAC: primaryMAC, Primary: true, SubnetID: "subnet-000000ff",
		SubnetIPv4CIDR: "10.0.0.0/24", IPv4s: []string{"10.0.0.10"},
	}
}

func firstENI() fakeimds.ENI {
	return fakeimds.ENI{
		ID: "eni-00000001", MAC: firstMAC, DeviceIndex: 1, NetworkCard: 1, SubnetID: "subnet-00000001",
		SubnetIPv4CIDR: "10.0.1.0/24", IPv4s: []string{"10.0.1.20", "10.0.1.15"}, IPv4Prefixes: []string{"10.0.1.32/28"},
		SubnetIPv6CIDR: []string{"2001:db8:1::/64", "2001:db8:2::/64"}, IPv6s: []string{"2001:db8:2::5"}, IPv6Prefixes: []string{"2001:db8:1:0:8000::/80"},
	}
}

func secondENI() fakeimds.ENI {
	return fakeimds.ENI{
		ID: "eni-00000002", MAC: secondMAC, DeviceIndex: 2, SubnetID: "subnet-00000002",
		SubnetIPv6CIDR: []string{"2001:db8:3::/64"}, IPv6s: []string{"2001:db8:3::5"},
	}
}

// clock is a time that stands still but for add.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

type node struct {
	*fakeimds.Running
	clock  *clock
	client *Client
}

func start(t *testing.T, enis ...fakeimds.ENI) node {
	t.Helper()
	c := &clock{now: time.Unix(1_750_000_000, 0)}
	s := fakeimds.Start(t, fakeimds.Config{Now: c.Now, State: fakeimds.State{InstanceID: "i-0a1b2c3d4e5f60718", ENIs: enis}})
	return node{Running: s, clock: c, client: New(Config{Endpoint: s.URL, Now: c.Now})}
}

func (n node) enis(t *testing.T) []vpc.ENI {
	t.Helper()
	got, err := n.client.ENIs(t.Context())
	if err != nil {
		t.Fatalf("ENIs: %v", err)
	}
	return got
}

// indexes are "eni id: device index" lines, which is what most tests look at.
func indexes(t *testing.T, n node) map[device.ENIID]int {
	t.Helper()
	out := map[device.ENIID]int{}
	for _, e := range n.enis(t) {
		out[e.ID] = e.DeviceIndex
	}
	return out
}

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestENIs(t *testing.T) {
	n := start(t, primaryENI(), secondENI(), firstENI())
	want := []vpc.ENI{
		{
			ID: "eni-00000001", MAC: firstMAC, DeviceIndex: 1, NetworkCard: 1, SubnetID: "subnet-00000001",
			SubnetCIDR: netip.MustParsePrefix("10.0.1.0/24"),
			Addresses:  prefixes("10.0.1.20/24", "10.0.1.15/24", "2001:db8:2::5/64"),
			Prefixes:   prefixes("10.0.1.32/28", "2001:db8:1:0:8000::/80"),
		},
		{
			ID: "eni-00000002", MAC: secondMAC, DeviceIndex: 2, SubnetID: "subnet-00000002",
			SubnetCIDR: netip.MustParsePrefix("2001:db8:3::/64"), Addresses: prefixes("2001:db8:3::5/64"),
		},
		{
			ID: "eni-000000ff", MAC: primaryMAC, SubnetID: "subnet-000000ff", Primary: true,
			SubnetCIDR: netip.MustParsePrefix("10.0.0.0/24"), Addresses: prefixes("10.0.0.10/24"),
		},
	}
	got := n.enis(t)
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("ENIs (-want +got):\n%s", diff)
	}
	if got := n.TokensIssued(); got != 1 {
		t.Errorf("%d tokens issued for one call, want 1", got)
	}
}

func TestEndpointComesFromTheEnvironment(t *testing.T) {
	n := start(t, primaryENI())
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", n.URL)
	id, err := New(Config{}).InstanceID(t.Context())
	if id != "i-0a1b2c3d4e5f60718" || err != nil {
		t.Errorf("InstanceID = %q, %v", id, err)
	}
}

// The first seconds of a hot-plugged ENI, and the last of a detached one.
func TestLags(t *testing.T) {
	n := start(t, primaryENI())
	check := func(when string, want map[device.ENIID]int) {
		t.Helper()
		if diff := cmp.Diff(want, indexes(t, n)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	alone := map[device.ENIID]int{"eni-000000ff": 0}
	check("at first", alone)

	e := firstENI()
	e.AppearsAfter, e.IndexAfter, e.StaleFor = fakeimds.Duration(2*time.Second), fakeimds.Duration(5*time.Second), fakeimds.Duration(30*time.Second)
	n.Attach(e)
	check("attached, not listed", alone)
	n.clock.add(2 * time.Second)
	check("listed, index not known", map[device.ENIID]int{"eni-000000ff": 0, "eni-00000001": -1})
	n.clock.add(3 * time.Second)
	check("index known", map[device.ENIID]int{"eni-000000ff": 0, "eni-00000001": 1})
	n.Detach(firstMAC)
	check("detached, still listed", map[device.ENIID]int{"eni-000000ff": 0, "eni-00000001": 1})
	n.clock.add(30 * time.Second)
	check("gone", alone)
}

// Whichever key is missing first: an ENI of which only a part can be read is
// left out, and the others are not.
func TestENIGoesHalfWay(t *testing.T) {
	for _, tt := range []struct {
		key   string
		after int
		want  bool
	}{
		{key: "interface-id"},
		{key: "interface-id", after: 1}, // when it is read for the second time
		{key: "device-number"},
		{key: "subnet-id"},
		{key: "subnet-ipv4-cidr-block"}, // with addresses of it
		{key: "network-card", want: true},
		{key: "local-ipv4s", want: true},
		{key: "ipv4-prefix", want: true},
		{key: "ipv6s", want: true},
	} {
		t.Run(tt.key, func(t *testing.T) {
			t.Parallel()
			n := start(t, primaryENI(), firstENI(), secondENI())
			n.Fault(macs+firstMAC+"/"+tt.key, fakeimds.Fault{Status: http.StatusNotFound, After: tt.after})
			got := indexes(t, n)
			if _, ok := got["eni-00000001"]; ok != tt.want {
				t.Errorf("ENIs = %v; the ENI is there: %v, want %v", got, ok, tt.want)
			}
			if len(got) < 2 {
				t.Errorf("ENIs = %v lacks the others", got)
			}
		})
	}
}

func TestNetworkCardDefaultsToZero(t *testing.T) {
	e := firstENI()
	e.NetworkCard = 0 // then the key does not exist
	if got := start(t, primaryENI(), e).enis(t)[0].NetworkCard; got != 0 {
		t.Errorf("NetworkCard = %d", got)
	}
}

// None of these may look like an instance that has lost its ENIs.
func TestFailureIsUnknown(t *testing.T) {
	all := ""
	tests := []struct {
		name  string
		path  string
		fault fakeimds.Fault
		names string // what the error must name
	}{
		{name: "server error", path: macs, fault: fakeimds.Fault{Status: http.StatusInternalServerError}, names: "metadata key network/interfaces/macs/"},
		{name: "unavailable", path: all, fault: fakeimds.Fault{Status: http.StatusServiceUnavailable}, names: "metadata key mac"},
		{name: "never authorized", path: macs, fault: fakeimds.Fault{Status: http.StatusUnauthorized}, names: "metadata key network/interfaces/macs/"},
		{name: "forbidden", path: fakeimds.Token, fault: fakeimds.Fault{Status: http.StatusForbidden}, names: "token"},
		{name: "no token call", path: fakeimds.Token, fault: fakeimds.Fault{Status: http.StatusNotFound}, names: "token"},
		{name: "bad token call", path: fakeimds.Token, fault: fakeimds.Fault{Status: http.StatusBadRequest}, names: "getToken"},
		{name: "no listing", path: macs, fault: fakeimds.Fault{Status: http.StatusNotFound}, names: "metadata key network/interfaces/macs/"},
		{name: "no primary", path: "meta-data/mac", fault: fakeimds.Fault{Status: http.StatusNotFound}, names: "metadata key mac"},
		{name: "connection lost", path: macs, fault: fakeimds.Fault{Drop: true}, names: "metadata key network/interfaces/macs/"},
		{name: "one ENI's key fails", path: macs + firstMAC + "/subnet-id", fault: fakeimds.Fault{Status: http.StatusInternalServerError}, names: firstMAC + "/subnet-id"},
		{name: "one ENI's optional key fails", path: macs + firstMAC + "/ipv6s", fault: fakeimds.Fault{Status: http.StatusInternalServerError}, names: firstMAC + "/ipv6s"},
		{name: "truncated", path: macs, fault: fakeimds.Fault{Truncate: true, Body: primaryMAC + "/\n"}, names: "metadata key network/interfaces/macs/"},
		{name: "redirected", path: macs, fault: fakeimds.Fault{Status: http.StatusFound, Location: "http://127.0.0.1:1/"}, names: "metadata key network/interfaces/macs/"},
		{name: "page of a proxy", path: macs, fault: fakeimds.Fault{Status: http.StatusBadGateway, Body: "<html>02:00:00:00:00:01/</html>"}, names: "metadata key network/interfaces/macs/"},
		{name: "slow", path: macs, fault: fakeimds.Fault{Delay: time.Minute}, names: "metadata key network/interfaces/macs/"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := start(t, primaryENI(), firstENI())
			n.Fault(tt.path, tt.fault)
			got, err := n.client.ENIs(t.Context())
			if err == nil || got != nil {
				t.Fatalf("ENIs = %v, %v; want an error only", got, err)
			}
			if !strings.Contains(err.Error(), tt.names) {
				t.Errorf("error %q does not name %q", err, tt.names)
			}
			if strings.Contains(err.Error(), "token-") {
				t.Errorf("error %q shows the token", err)
			}
			n.Fault(tt.path, fakeimds.Fault{})
			for _, e := range n.enis(t) { // a failed ENI is not asked for again at once
				if e.ID == "" && e.MAC != firstMAC {
					t.Errorf("right after the fault: %+v", e)
				}
			}
			n.clock.add(againFirst)
			if got := indexes(t, n); got["eni-000000ff"] != 0 || got["eni-00000001"] != 1 || len(got) != 2 {
				t.Errorf("ENIs after the fault = %v, want both", got)
			}
		})
	}
}

func TestPassingFailuresAreRetried(t *testing.T) {
	for name, f := range map[string]fakeimds.Fault{
		"server error":    {Status: http.StatusInternalServerError, Times: 2},
		"connection lost": {Drop: true, Times: 1},
		"slow":            {Delay: time.Minute, Times: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := start(t, primaryENI())
			n.Fault(macs, f)
			if got := n.enis(t); len(got) != 1 {
				t.Errorf("ENIs = %v, want the primary one", got)
			}
		})
	}
}

func TestAbsentServiceIsUnknown(t *testing.T) {
	n := start(t, primaryENI())
	n.Stop()
	if got, err := n.client.ENIs(t.Context()); err == nil || got != nil {
		t.Errorf("ENIs = %v, %v; want an error only", got, err)
	}
	if id, err := n.client.InstanceID(t.Context()); err == nil || id != "" {
		t.Errorf("InstanceID = %q, %v; want an error only", id, err)
	}
}

func TestCallerGivesUp(t *testing.T) {
	n := start(t, primaryENI(), firstENI())
	n.Fault(macs+firstMAC+"/interface-id", fakeimds.Fault{Delay: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if got, err := n.client.ENIs(ctx); !errors.Is(err, context.DeadlineExceeded) || got != nil {
		t.Errorf("ENIs = %v, %v; want DeadlineExceeded", got, err)
	}
}

// The token runs out on the service's side before the client thinks so.
func TestTokenIsRenewed(t *testing.T) {
	n := start(t, primaryENI())
	n.enis(t)
	n.RevokeTokens()
	if got := n.enis(t); len(got) != 1 {
		t.Errorf("ENIs after the token was revoked = %v", got)
	}
	if got := n.TokensIssued(); got != 2 {
		t.Errorf("%d tokens issued, want 2", got)
	}
	n.clock.add(6 * time.Hour)
	n.enis(t)
	if got := n.TokensIssued(); got != 3 {
		t.Errorf("%d tokens issued after they ran out, want 3", got)
	}
}

// TestSenselessValues: a bad value concerns its own ENI; only a key that all of them
// depend on makes all unknown.
func TestSenselessValues(t *testing.T) {
	first := macs + firstMAC + "/"
	tests := []struct {
		path, body string
		value      string // that the error must carry
		all        bool   // nothing else is known either
	}{
		{path: "meta-data/mac", body: "eth0", value: "eth0", all: true},
		{path: macs, body: firstMAC + "/\n" + primaryMAC + "/\nlo/", value: "lo"},
		{path: macs, body: "<html> <body>", value: "<html> <body>", all: true},
		{path: macs, body: " \n", value: "", all: true},
		{path: first + "interface-id", body: "eni-1", value: "eni-1"},
		{path: first + "device-number", body: "-1", value: "-1"},
		{path: first + "device-number", body: "4096", value: "4096"},
		{path: first + "network-card", body: "one", value: "one"},
		{path: first + "subnet-id", body: "<html>", value: "<html>"},
		{path: first + "subnet-ipv4-cidr-block", body: "10.0.1.0", value: "10.0.1.0"},
		{path: first + "subnet-ipv4-cidr-block", body: "10.0.1.7/24", value: "10.0.1.7/24"},
		{path: first + "local-ipv4s", body: "10.0.1.20\n10.0.1.256", value: "10.0.1.256"},
		{path: first + "ipv6s", body: "2001:db8:::", value: "2001:db8:::"},
		{path: first + "ipv4-prefix", body: "10.0.1.33/28", value: "10.0.1.33/28"},
		{path: first + "ipv6-prefix", body: "/80", value: "/80"},
	}
	for _, tt := range tests {
		t.Run(tt.path+" "+tt.body, func(t *testing.T) {
			n := start(t, primaryENI(), firstENI())
			n.Fault(tt.path, fakeimds.Fault{Body: tt.body})
			got, err := n.client.ENIs(t.Context())
			var bad *vpc.ValueError
			if errors.As(err, &bad) != tt.all || (got == nil) != tt.all {
				t.Fatalf("ENIs = %v, %v", got, err)
			}
			for _, e := range got {
				if e.Unreadable != nil {
					bad = e.Unreadable
				}
			}
			if bad == nil || "meta-data/"+bad.Key != tt.path || bad.Value != tt.value {
				t.Fatalf("bad value %v; want %q, %q", bad, tt.path, tt.value)
			}
			if !strings.Contains(bad.Error(), bad.Key) || !strings.Contains(bad.Error(), tt.value) {
				t.Errorf("error %q names not both key and value", bad)
			}
			if !tt.all && !slices.ContainsFunc(got, func(e vpc.ENI) bool { return e.Primary && e.Unreadable == nil && e.Addresses != nil }) {
				t.Errorf("ENIs = %v; the primary one is not as it was", got)
			}
		})
	}
}

// TestSenselessLater: an ENI of which a value ceases to make sense stays as it was
// read last, until all of it can be read.
func TestSenselessLater(t *testing.T) {
	for _, key := range []string{"device-number", "local-ipv4s", "ipv4-prefix"} {
		n := start(t, primaryENI(), firstENI())
		before := n.enis(t)
		n.Fault(macs+firstMAC+"/"+key, fakeimds.Fault{Body: "<html>"})
		n.clock.add(refreshEvery)
		got := n.enis(t)
		if len(got) != 2 || got[0].Unreadable == nil || got[0].Unreadable.Key != macsKey+firstMAC+"/"+key {
			t.Fatalf("%s: %+v", key, got)
		}
		got[0].Unreadable = nil
		if diff := cmp.Diff(before, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("%s (-before +after):\n%s", key, diff)
		}
		n.Fault(macs+firstMAC+"/"+key, fakeimds.Fault{})
		n.clock.add(againMost)
		if diff := cmp.Diff(before, n.enis(t), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("%s is over (-before +after):\n%s", key, diff)
		}
	}
}

func TestSenselessInstanceID(t *testing.T) {
	n := start(t, primaryENI())
	n.Fault("meta-data/instance-id", fakeimds.Fault{Body: "node-1"})
	var bad *vpc.ValueError
	if id, err := n.client.InstanceID(t.Context()); !errors.As(err, &bad) || bad.Value != "node-1" || id != "" {
		t.Errorf("InstanceID = %q, %v; want a ValueError with node-1", id, err)
	}
}

func TestOversizedValue(t *testing.T) {
	n := start(t, primaryENI())
	n.Fault(macs, fakeimds.Fault{Body: strings.Repeat("02:00:00:00:00:01/\n", maxValue/19+1)})
	if got, err := n.client.ENIs(t.Context()); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("ENIs = %v, %v; want an error about the size", got, err)
	}
}

// A large instance, read by several goroutines at once.
func TestManyENIsConcurrently(t *testing.T) {
	enis := []fakeimds.ENI{primaryENI()}
	for i := range 40 {
		e := firstENI()
		e.MAC = "02:00:00:00:01:" + string("0123456789abcdef"[i/16]) + string("0123456789abcdef"[i%16])
		e.DeviceIndex = i + 1
		enis = append(enis, e)
	}
	n := start(t, enis...)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			got, err := n.client.ENIs(t.Context())
			if err != nil || len(got) != len(enis) {
				t.Errorf("ENIs = %d of %d, %v", len(got), len(enis), err)
			}
		})
	}
	wg.Wait()
}
