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
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
)

// No failure may look like an instance that lost its ENIs.
func TestFailureIsUnknown(t *testing.T) {
	all := ""
	tests := []struct {
		name  string
		path  string
		fault fakeimds.Fault
		names string // must be in the error
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
		{name: "one ENI's key fails", path: macs + firstMAC + "/subnet-id", fault: fakeimds.Fault{Status: http.StatusInternalServerError},
			names: firstMAC + "/subnet-id"},
		{name: "one ENI's optional key fails", path: macs + firstMAC + "/ipv6s", fault: fakeimds.Fault{Status: http.StatusInternalServerError},
			names: firstMAC + "/ipv6s"},
		{name: "truncated", path: macs, fault: fakeimds.Fault{Truncate: true, Body: primaryMAC + "/\n"}, names: "metadata key network/interfaces/macs/"},
		{name: "redirected", path: macs, fault: fakeimds.Fault{Status: http.StatusFound, Location: "http://127.0.0.1:1/"},
			names: "metadata key network/interfaces/macs/"},
		{name: "page of a proxy", path: macs, fault: fakeimds.Fault{Status: http.StatusBadGateway, Body: "<html>02:00:00:00:00:01/</html>"},
			names: "metadata key network/interfaces/macs/"},
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

// The token expires at the service before the client expects it.
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

// TestSenselessValues: a bad value concerns its own ENI; only a key that all ENIs depend on makes all unknown.
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

// TestSenselessLater: an ENI keeps its last readable state until all its values make sense again.
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
