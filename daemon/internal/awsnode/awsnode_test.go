package awsnode

import (
	"net/http"
	"net/netip"
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

// clock stands still except for add.
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

// A partly readable ENI is left out, whichever key is missing first; the others stay.
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
