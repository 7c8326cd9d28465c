package awsnode

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/time/rate"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
)

const thisInstance = "i-0a1b2c3d4e5f60718"

func ec2Of(t *testing.T, cfg fakeec2.Config) (*EC2, *fakeec2.Server) {
	t.Helper()
	cfg.Subnets = []fakeec2.Subnet{{ID: "subnet-00000001", IPv4: netip.MustParsePrefix("10.0.1.0/24"), IPv6: netip.MustParsePrefix("2001:db8:1::/64")}}
	imds := fakeimds.Start(t, fakeimds.Config{State: fakeimds.State{InstanceID: thisInstance, Region: "eu-central-1"}})
	s := fakeec2.Start(t, cfg)
	c := NewEC2(New(Config{Endpoint: imds.URL}))
	c.backOff = 10 * time.Millisecond
	c.limiter.SetLimit(rate.Inf)
	return c, s
}

func tagged(n int) fakeec2.ENI {
	return fakeec2.ENI{
		ID: fmt.Sprintf("eni-%08x", n), MAC: fmt.Sprintf("02:00:00:00:%02x:%02x", n>>8, n&255), SubnetID: "subnet-00000001", Instance: thisInstance, DeviceIndex: n,
		Tags: map[string]string{"NodeENI": "a", "Name": "x & y"},
		IPv4: []netip.Addr{netip.MustParseAddr("10.0.1.200")}, IPv6: []netip.Addr{netip.MustParseAddr("2001:db8:1::200")},
	}
}

func TestDescribe(t *testing.T) {
	one := tagged(1)
	one.IPv4 = append(one.IPv4, netip.MustParseAddr("10.0.1.201"))
	one.Prefixes = prefixes("10.0.1.16/28", "2001:db8:1:0:1::/80")
	foreign := tagged(2)
	foreign.Tags = nil
	elsewhere := tagged(3)
	elsewhere.Instance = "i-0ffffffffffffffff"
	c, _ := ec2Of(t, fakeec2.Config{ENIs: []fakeec2.ENI{foreign, one, elsewhere}})
	got, err := c.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []vpc.Attached{
		{
			ID: "eni-00000001", MAC: "02:00:00:00:00:01", SubnetID: "subnet-00000001", DeviceIndex: 1, NodeENI: "a",
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.1.200"), netip.MustParseAddr("10.0.1.201"),
				netip.MustParseAddr("2001:db8:1::200")}, Prefixes: one.Prefixes,
		},
		{
			ID: "eni-00000002", MAC: "02:00:00:00:00:02", SubnetID: "subnet-00000001", DeviceIndex: 2,
			Addresses: []netip.Addr{netip.MustParseAddr("10.0.1.200"), netip.MustParseAddr("2001:db8:1::200")},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("ENIs (-want +got):\n%s", diff)
	}
}

func TestDescribePages(t *testing.T) {
	var enis []fakeec2.ENI
	for n := range 230 {
		enis = append(enis, tagged(n+1))
	}
	c, s := ec2Of(t, fakeec2.Config{ENIs: enis})
	for range 50 { // an answer may come before the client has done with its request
		got, err := c.Describe(t.Context())
		if err != nil || len(got) != 230 {
			t.Fatalf("%d ENIs, %v", len(got), err)
		}
		if calls := s.Calls(); len(calls) != 3 {
			t.Fatalf("calls: %v", calls)
		}
	}
}

func TestAssignAndUnassign(t *testing.T) {
	c, s := ec2Of(t, fakeec2.Config{ENIs: []fakeec2.ENI{tagged(1)}})
	for _, tt := range []struct {
		family   vpc.Family
		prefixes bool
		n        int
		want     []netip.Prefix
	}{
		{vpc.IPv4, false, 2, prefixes("10.0.1.4/32", "10.0.1.5/32")},
		{vpc.IPv4, true, 2, prefixes("10.0.1.16/28", "10.0.1.32/28")},
		{vpc.IPv6, false, 1, prefixes("2001:db8:1::4/128")},
		{vpc.IPv6, true, 1, prefixes("2001:db8:1:0:1::/80")},
	} {
		got, err := c.Assign(t.Context(), "eni-00000001", tt.family, tt.prefixes, tt.n)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("assign: %v, %v; want %v", got, err, tt.want)
		}
	}
	if err := c.Unassign(t.Context(), "eni-00000001", vpc.IPv4, prefixes("10.0.1.5/32", "10.0.1.16/28")); err != nil {
		t.Error(err)
	}
	if err := c.Unassign(t.Context(), "eni-00000001", vpc.IPv6, prefixes("2001:db8:1::4/128", "2001:db8:1:0:1::/80")); err != nil {
		t.Error(err)
	}
	e := s.ENI("eni-00000001")
	if got := fmt.Sprint(e.IPv4, e.IPv6, e.Prefixes); got != "[10.0.1.200 10.0.1.4] [2001:db8:1::200] [10.0.1.32/28]" {
		t.Errorf("left: %s", got)
	}
}

func TestEC2Errors(t *testing.T) {
	untagged := tagged(2)
	untagged.Tags = nil
	c, s := ec2Of(t, fakeec2.Config{
		ENIs: []fakeec2.ENI{tagged(1), untagged}, PerENI: 30,
		May: func(action string, e fakeec2.ENI) bool {
			return action == "DescribeNetworkInterfaces" || e.Tags[vpc.NodeENITag] != ""
		},
	})
	fails := func(what string, err error, kind vpc.EC2Kind, words ...string) {
		t.Helper()
		var e *vpc.EC2Error
		if !errors.As(err, &e) || e.Kind != kind {
			t.Errorf("%s: %v; want kind %d", what, err, kind)
			return
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v does not say %q", what, err, w)
			}
		}
	}
	_, err := c.Assign(t.Context(), "eni-00000002", vpc.IPv4, false, 1)
	fails("another's ENI", err, vpc.EC2Forbidden, "eni-00000002", "UnauthorizedOperation")
	_, err = c.Assign(t.Context(), "eni-00000001", vpc.IPv4, false, 30)
	fails("too many for the ENI", err, vpc.EC2Limit)
	_, err = c.Assign(t.Context(), "eni-00000001", vpc.IPv6, false, 30)
	fails("too many of IPv6 for the ENI", err, vpc.EC2Limit, "PrivateIpAddressLimitExceeded")
	_, err = c.Assign(t.Context(), "eni-00000001", vpc.IPv4, true, 16)
	fails("too many for the subnet", err, vpc.EC2SubnetFull, "InsufficientCidrBlocks")
	fails("not assigned", c.Unassign(t.Context(), "eni-00000001", vpc.IPv4, prefixes("10.0.1.99/32")), vpc.EC2Refused)
	_, err = c.Assign(t.Context(), "eni-0000000f", vpc.IPv4, false, 1)
	fails("no such ENI", err, vpc.EC2Refused, "NotFound")

	s.Fail("DescribeNetworkInterfaces", "RequestLimitExceeded", "InternalError", "drop")
	if _, err := c.Describe(t.Context()); err != nil {
		t.Errorf("faults that pass: %v", err)
	}
	s.Fail("UnassignPrivateIpAddresses", slices.Repeat([]string{"RequestLimitExceeded"}, 10)...)
	fails("throttled for long", c.Unassign(t.Context(), "eni-00000001", vpc.IPv4, prefixes("10.0.1.99/32")), vpc.EC2Throttled)
}

// TestUnknownOutcome: an answer that is not from EC2 leaves the outcome open. Assign is sent once.
func TestUnknownOutcome(t *testing.T) {
	c, s := ec2Of(t, fakeec2.Config{ENIs: []fakeec2.ENI{tagged(1)}})
	if _, err := c.Describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, fault := range []string{
		fakeec2.Drop, fakeec2.Lose, fakeec2.HTML, fakeec2.HTML503, fakeec2.Empty500, fakeec2.Nothing, fakeec2.Redirect, fakeec2.Truncate,
		"InternalError", "Unavailable",
	} {
		for action, call := range map[string]func() error{
			"AssignPrivateIpAddresses": func() error { _, err := c.Assign(t.Context(), "eni-00000001", vpc.IPv4, false, 1); return err },
			"AssignIpv6Addresses":      func() error { _, err := c.Assign(t.Context(), "eni-00000001", vpc.IPv6, false, 1); return err },
			"DescribeNetworkInterfaces": func() error {
				all, err := c.Describe(t.Context())
				if all != nil {
					t.Errorf("%s: ENIs %v", fault, all)
				}
				return err
			},
			"UnassignPrivateIpAddresses": func() error { return c.Unassign(t.Context(), "eni-00000001", vpc.IPv4, prefixes("10.0.1.201/32")) },
		} {
			s.Change("eni-00000001", func(e *fakeec2.ENI) {
				e.IPv4, e.IPv6 = append(e.IPv4[:1:1], netip.MustParseAddr("10.0.1.201")), e.IPv6[:1]
			})
			s.Calls()
			times := ec2Attempts
			if strings.HasPrefix(action, "Assign") {
				times = 1
			}
			s.Fail(action, slices.Repeat([]string{fault}, times)...)
			err := call()
			var e *vpc.EC2Error
			if !errors.As(err, &e) || e.Kind != vpc.EC2Unknown && (e.Kind != vpc.EC2Refused || action != "UnassignPrivateIpAddresses") || e.Code == "UnknownError" {
				t.Errorf("%s, %s: %v (kind %d, code %q)", action, fault, err, e.Kind, e.Code)
			}
			if calls := s.Calls(); times == 1 && len(calls) != 1 {
				t.Errorf("%s, %s: sent %d times", action, fault, len(calls))
			}
			for s.Pending(action) { // faults that no repetition has met
				call() //nolint:errcheck // it fails
			}
		}
	}
}

func TestNotSent(t *testing.T) {
	c, _ := ec2Of(t, fakeec2.Config{ENIs: []fakeec2.ENI{tagged(1)}})
	t.Setenv("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:1")
	_, err := c.Assign(t.Context(), "eni-00000001", vpc.IPv4, false, 1)
	var e *vpc.EC2Error
	if !errors.As(err, &e) || e.Kind != vpc.EC2NotSent || !strings.Contains(e.Remedy(), "NAT gateway") {
		t.Errorf("%v, %+v", err, e)
	}
}

// TestSlowAnswer: a caller that gives up does not know the outcome.
func TestSlowAnswer(t *testing.T) {
	proceed := make(chan struct{})
	c, s := ec2Of(t, fakeec2.Config{ENIs: []fakeec2.ENI{tagged(1)}, Slow: proceed})
	if _, err := c.Describe(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Fail("AssignPrivateIpAddresses", fakeec2.Slow)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Assign(ctx, "eni-00000001", vpc.IPv4, false, 1)
	var e *vpc.EC2Error
	if !errors.As(err, &e) || e.Kind != vpc.EC2Unknown {
		t.Errorf("given up: %v, %+v", err, e)
	}
	s.Fail("AssignPrivateIpAddresses", fakeec2.Slow)
	close(proceed)
	if got, err := c.Assign(t.Context(), "eni-00000001", vpc.IPv4, false, 1); err != nil || len(got) != 1 {
		t.Errorf("waited: %v, %v", got, err)
	}
}

// TestNoENIs: an instance has an ENI, so an empty answer comes from another region or account.
func TestNoENIs(t *testing.T) {
	c, _ := ec2Of(t, fakeec2.Config{})
	all, err := c.Describe(t.Context())
	var e *vpc.EC2Error
	if all != nil || !errors.As(err, &e) || e.Kind != vpc.EC2Unknown || !strings.Contains(e.Remedy(), "AWS_REGION") {
		t.Errorf("%v, %v", all, err)
	}
}

// TestRemedies: each cause has its own remedy; only a missing right is called one.
func TestRemedies(t *testing.T) {
	c, s := ec2Of(t, fakeec2.Config{ENIs: []fakeec2.ENI{tagged(1)}})
	for fault, tt := range map[string]struct {
		kind vpc.EC2Kind
		says string
	}{
		"RequestExpired":        {vpc.EC2Unauthenticated, "clock"},
		"SignatureDoesNotMatch": {vpc.EC2Unauthenticated, "secret key"},
		"AuthFailure":           {vpc.EC2Unauthenticated, "access key"},
		"InvalidClientTokenId":  {vpc.EC2Unauthenticated, "access key"},
		"ExpiredToken":          {vpc.EC2Unauthenticated, "session has ended"},
		"OptInRequired":         {vpc.EC2Forbidden, "signed up"},
		"UnauthorizedOperation": {vpc.EC2Forbidden, "deploy/iam/multi-enid.json"},
		"OperationNotPermitted": {vpc.EC2Refused, "later"},
		fakeec2.Redirect:        {vpc.EC2Unknown, "elsewhere: see AWS_REGION"},
		fakeec2.HTML:            {vpc.EC2Unknown, "proxy"},
		fakeec2.Nothing:         {vpc.EC2Unknown, "proxy"},
		fakeec2.HTML503:         {vpc.EC2Unknown, "proxy"},
		fakeec2.Empty500:        {vpc.EC2Unknown, "may also pass"},
	} {
		s.Fail("DescribeNetworkInterfaces", slices.Repeat([]string{fault}, ec2Attempts)...)
		_, err := c.Describe(t.Context())
		var e *vpc.EC2Error
		if !errors.As(err, &e) || e.Kind != tt.kind || !strings.Contains(e.Remedy(), tt.says) {
			t.Errorf("%s: %v, kind %d, remedy %q; want %d, %q", fault, err, e.Kind, e.Remedy(), tt.kind, tt.says)
		}
		for s.Pending("DescribeNetworkInterfaces") {
			c.Describe(t.Context()) //nolint:errcheck,gosec // it fails
		}
	}
}

// TestRateLimit: every call and every page counts. A call that cannot be made in time is not sent.
func TestRateLimit(t *testing.T) {
	var enis []fakeec2.ENI
	for n := range 130 {
		enis = append(enis, tagged(n+1))
	}
	c, s := ec2Of(t, fakeec2.Config{ENIs: enis})
	if own := NewEC2(nil).limiter; own.Limit() != 1 || own.Burst() != ec2Burst {
		t.Errorf("%v calls a second, %d at once", own.Limit(), own.Burst())
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, call := range map[string]func() error{
		"Describe":    func() error { _, err := c.Describe(ctx); return err }, // two pages
		"Assign":      func() error { _, err := c.Assign(ctx, "eni-00000001", vpc.IPv4, false, 1); return err },
		"Assign6":     func() error { _, err := c.Assign(ctx, "eni-00000001", vpc.IPv6, false, 1); return err },
		"Unassign":    func() error { return c.Unassign(ctx, "eni-00000001", vpc.IPv4, prefixes("10.0.1.99/32")) },
		"Unassign6":   func() error { return c.Unassign(ctx, "eni-00000001", vpc.IPv6, prefixes("2001:db8:1::99/128")) },
		"Permissions": func() error { return c.Permissions(ctx, "eni-00000001")[3].Err },
	} {
		c.limiter = rate.NewLimiter(rate.Every(time.Hour), 3)
		for range 3 {
			call() //nolint:errcheck // shown elsewhere
		}
		if sent := len(s.Calls()); sent != 3 {
			t.Errorf("%s: %d calls sent, want 3", name, sent)
		}
		var e *vpc.EC2Error
		if err := call(); !errors.As(err, &e) || e.Kind != vpc.EC2NotSent || !strings.Contains(err.Error(), "wait for the next EC2 call") {
			t.Errorf("%s: %v", name, err)
		}
		if sent := s.Calls(); sent != nil {
			t.Errorf("%s: sent %q", name, sent)
		}
	}
}
