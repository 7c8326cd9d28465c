package addresses

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
)

// TestDescribeIsRare: EC2 is asked at most once a minute, and only when the metadata have news.
func TestDescribeIsRare(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{})
	for range 100 {
		w.sync()
		w.now = w.now.Add(time.Second)
	}
	w.calls("quiet", describeCall)
	w.ec2.Change(eni, func(e *fakeec2.ENI) { e.IPv4 = append(e.IPv4, netip.MustParseAddr("10.0.1.50")) })
	w.catchUp()
	for range 100 {
		w.sync()
		w.now = w.now.Add(time.Second)
	}
	w.calls("news", describeCall)
	if got := fmt.Sprint(w.devices[0].Addresses); got != "[10.0.1.200/24 10.0.1.50/24 2001:db8:1::200/64]" {
		t.Errorf("inventory: %s", got)
	}
	for n := range 120 {
		w.ec2.Change(eni, func(e *fakeec2.ENI) { e.IPv4[1] = netip.AddrFrom4([4]byte{10, 0, 1, byte(51 + n)}) })
		w.catchUp()
		w.sync()
		w.now = w.now.Add(time.Second)
	}
	w.calls("unrest", describeCall, describeCall)
}

// TestDescribeAfterPlugging: a change of ENIs has EC2 asked after the least time and its jitter,
// and once more if EC2 contradicts the metadata, since it may lag.
func TestDescribeAfterPlugging(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{})
	w.Jitter = func(most time.Duration) time.Duration { return most }
	w.sync()
	w.calls("start", describeCall)
	without := w.metadata()
	with := w.metadata()
	with.ENIs = append(with.ENIs, fakeimds.ENI{ID: spare, MAC: "02:00:00:00:00:02", DeviceIndex: 2, SubnetID: "subnet-00000001", SubnetIPv4CIDR: "10.0.1.0/24",
		IPv4s: []string{"10.0.1.60"}})
	for _, tt := range []struct {
		what     string
		metadata fakeimds.State
		instance string // of the ENI, as EC2 has it; "" is the one before
		calls    []string
	}{
		{"plugged", with, instance, []string{describeCall}},
		{"unplugged", without, "none", []string{describeCall}},
		{"listed, EC2 does not know it", with, "", []string{describeCall, describeCall}},
		{"listed no more", without, "", nil},
		{"EC2 knows it, not listed", without, instance, nil},
	} {
		if tt.instance != "" {
			w.ec2.Change(spare, func(e *fakeec2.ENI) { e.Instance = tt.instance })
		}
		w.imds.Apply(tt.metadata)
		w.describeAt = w.now.Add(75 * time.Second)
		w.now = w.now.Add(74 * time.Second)
		w.sync()
		w.calls(tt.what + ", too early")
		var calls []string
		for range 20 {
			w.now = w.now.Add(time.Second)
			w.sync()
			calls = append(calls, w.ec2.Calls()...)
			w.now = w.now.Add(74 * time.Second)
		}
		if !slices.Equal(calls, tt.calls) {
			t.Errorf("%s: calls %q, want %q", tt.what, calls, tt.calls)
		}
	}
}

// TestDescribeLagsBehind: another look finds a change that the metadata show before Describe does.
func TestDescribeLagsBehind(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{Lag: 20 * time.Second})
	w.sync()
	w.calls("start", describeCall)
	w.now = w.now.Add(2 * time.Minute)
	if _, err := w.EC2.Assign(t.Context(), eni, vpc.IPv4, false, 1); err != nil { // the Manager does not learn of it
		t.Fatal(err)
	}
	w.ec2.Calls()
	w.catchUp()
	for range 4 {
		w.sync()
		w.now = w.now.Add(30 * time.Second)
	}
	w.calls("lag", describeCall, describeCall)
	if got := fmt.Sprint(w.devices[0].Addresses); got != "[10.0.1.200/24 10.0.1.4/24 2001:db8:1::200/64]" {
		t.Errorf("inventory: %s", got)
	}
}

// TestAnswerLost: a call without answer is not repeated before Describe shows its effect, which reaches the inventory within seconds.
func TestAnswerLost(t *testing.T) {
	for _, fault := range []string{fakeec2.Lose, fakeec2.Truncate} {
		w := newWorld(t, false, fakeec2.Config{})
		w.sync()
		w.now = w.now.Add(2 * time.Minute)
		w.ask("ipv4")
		w.ec2.Fail("AssignPrivateIpAddresses", fault)
		w.sync()
		for range 3 {
			w.now = w.now.Add(time.Second)
			w.sync()
		}
		w.calls(fault, describeCall, assignCall, describeCall)
		w.sync()
		if n := len(w.devices[0].Addresses); n != 8 { // the primary one, six, and one of IPv6
			t.Errorf("%s: inventory after 3 s: %v", fault, w.devices[0].Addresses)
		}
		for range 8 {
			w.catchUp()
			w.now = w.now.Add(time.Minute)
			w.sync()
		}
		w.calls(fault + ", and nothing more")
		w.has(fault, "[10.0.1.4 10.0.1.5 10.0.1.6 10.0.1.7 10.0.1.8 10.0.1.9] [] []")
		w.problem("after all", "")
	}
}
