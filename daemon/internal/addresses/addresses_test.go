package addresses

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
)

const (
	bootID   = "boot-1"
	eni      = "eni-00000001"
	spare    = "eni-00000002" // not attached
	instance = "i-0a1b2c3d4e5f60718"
)

// world is a node with one ENI, EC2, and metadata that follow EC2 only at catchUp. sync writes the inventory like the reconciler.
type world struct {
	*testing.T
	*Manager
	ec2    *fakeec2.Server
	imds   *fakeimds.Running
	client *awsnode.Client
	now    time.Time
	uptime time.Duration
	woken  int
	dir    string
	// kept are leased addresses that the inventory has besides.
	kept []netip.Prefix
}

func newWorld(t *testing.T, prefixes bool, cfg fakeec2.Config, edit ...func(*fakeec2.ENI)) *world {
	t.Helper()
	w := &world{T: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), uptime: time.Hour, dir: t.TempDir()}
	e := fakeec2.ENI{
		ID: eni, MAC: "02:00:00:00:00:01", SubnetID: "subnet-00000001", Instance: instance, DeviceIndex: 1,
		Tags: map[string]string{"NodeENI": "a"}, IPv4: []netip.Addr{netip.MustParseAddr("10.0.1.200")}, IPv6: []netip.Addr{netip.MustParseAddr("2001:db8:1::200")},
	}
	for _, f := range edit {
		f(&e)
	}
	cfg.Subnets = []fakeec2.Subnet{{ID: "subnet-00000001", IPv4: netip.MustParsePrefix("10.0.1.0/24"), IPv6: netip.MustParsePrefix("2001:db8:1::/64")}}
	primary := fakeec2.ENI{ID: "eni-0000000f", MAC: "02:00:00:00:00:ff", SubnetID: "subnet-0000000f", Instance: instance,
		IPv4: []netip.Addr{netip.MustParseAddr("10.0.9.9")}}
	detached := fakeec2.ENI{ID: spare, MAC: "02:00:00:00:00:02", SubnetID: "subnet-00000001", IPv4: []netip.Addr{netip.MustParseAddr("10.0.1.60")}}
	cfg.ENIs, cfg.Now = []fakeec2.ENI{primary, e, detached}, func() time.Time { return w.now }
	w.ec2 = fakeec2.Start(t, cfg)
	w.imds = fakeimds.Start(t, fakeimds.Config{State: w.metadata()})
	w.client = awsnode.New(awsnode.Config{Endpoint: w.imds.URL})
	log := logrus.New()
	log.SetOutput(t.Output())
	w.Manager = New(Options{
		EC2: awsnode.NewEC2(w.client), Leases: leases.Dir(filepath.Join(w.dir, "leases")),
		Attachments: nodestate.AttachmentDir(filepath.Join(w.dir, "records")),
		BootID:      bootID, Prefixes: prefixes, Marks: Marks{Low: 3, High: 8}, Wake: func() { w.woken++ }, Now: func() time.Time { return w.now },
		Uptime: func() (time.Duration, error) { return w.uptime, nil }, Jitter: func(time.Duration) time.Duration { return 0 }, Log: log,
	})
	return w
}

func (w *world) metadata() fakeimds.State {
	e := w.ec2.ENI(eni)
	out := fakeimds.ENI{ID: e.ID, MAC: e.MAC, DeviceIndex: e.DeviceIndex, SubnetID: e.SubnetID, SubnetIPv4CIDR: "10.0.1.0/24",
		SubnetIPv6CIDR: []string{"2001:db8:1::/64"}}
	for _, a := range e.IPv4 {
		out.IPv4s = append(out.IPv4s, a.String())
	}
	for _, a := range e.IPv6 {
		out.IPv6s = append(out.IPv6s, a.String())
	}
	for _, p := range e.Prefixes {
		if p.Addr().Is4() {
			out.IPv4Prefixes = append(out.IPv4Prefixes, p.String())
		} else {
			out.IPv6Prefixes = append(out.IPv6Prefixes, p.String())
		}
	}
	primary := fakeimds.ENI{ID: "eni-0000000f", MAC: "02:00:00:00:00:ff", Primary: true, SubnetID: "subnet-0000000f", SubnetIPv4CIDR: "10.0.9.0/24",
		IPv4s: []string{"10.0.9.9"}}
	return fakeimds.State{InstanceID: instance, Region: "eu-central-1", ENIs: []fakeimds.ENI{primary, out}}
}

func (w *world) catchUp() { w.imds.Apply(w.metadata()) }

func (w *world) sync() {
	w.Helper()
	all := w.enis()
	var devices []nodestate.Device
	for _, e := range all {
		if e.ID == eni {
			devices = append(devices, nodestate.Device{
				ENIID: e.ID, NodeENI: "a", MAC: e.MAC, PCIAddress: "0000:00:06.0", Driver: "ena", SubnetCIDR: e.SubnetCIDR, Addresses: slices.Concat(e.Addresses,
					w.kept), Prefixes: e.Prefixes, Phase: nodestate.PhaseReady,
			})
		}
	}
	w.Observe(devices)
	w.step(w.Context())
	w.ec2.Pending("") // the fake has read the clock, also for a call whose answer is lost
}

// step does the due work and waits for its end.
func (w *world) step(ctx context.Context) {
	w.look(ctx)
	w.jobs.all.Wait()
	w.adjustAll(ctx)
	w.jobs.all.Wait()
}

func (w *world) enis() []vpc.ENI {
	w.Helper()
	all, err := awsnode.New(awsnode.Config{Endpoint: w.imds.URL}).ENIs(w.Context()) // one that remembers nothing
	if err != nil {
		w.Fatal(err)
	}
	return w.Correct(all)
}

func (w *world) leases(edit func(*leases.Leases)) {
	w.Helper()
	l, err := w.Leases.Lock(w.Context(), bootID, eni)
	if err != nil {
		w.Fatal(err)
	}
	defer l.Close()
	edit(&l.Leases)
	slices.SortFunc(l.Leases.Leases, func(a, b leases.Lease) int { return a.Address.Compare(b.Address) })
	if err := l.Save(); err != nil {
		w.Fatal(err)
	}
}

func (w *world) ask(families ...string) {
	w.leases(func(l *leases.Leases) { l.Asked = families })
}

func (w *world) hold(state leases.State, addresses ...string) {
	w.leases(func(l *leases.Leases) {
		for i, a := range addresses {
			l.Leases = append(l.Leases, leases.Lease{
				Address: netip.MustParseAddr(a), State: state, AttachmentID: nodestate.AttachmentID{ContainerID: fmt.Sprint("c", i),
					IfName: "net1"}, FreeAt: w.uptime + time.Minute,
			})
		}
	})
}

func (w *world) has(what, want string) {
	w.Helper()
	e := w.ec2.ENI(eni)
	if got := fmt.Sprint(e.IPv4[1:], e.IPv6[1:], e.Prefixes); got != want {
		w.Errorf("%s: the ENI has %s, want %s", what, got, want)
	}
}

func (w *world) calls(what string, want ...string) {
	w.Helper()
	if got := w.ec2.Calls(); !slices.Equal(got, want) {
		w.Errorf("%s: calls %q, want %q", what, got, want)
	}
}

func (w *world) problem(what, want string) {
	w.Helper()
	got := ""
	for _, p := range w.Problems() {
		got += string(p.Reason) + ": " + p.Message
	}
	if (want == "") != (got == "") || !strings.Contains(got, want) {
		w.Errorf("%s: problems %q, want %q", what, got, want)
	}
}

const (
	describeCall = "DescribeNetworkInterfaces"
	assignCall   = "AssignPrivateIpAddresses " + eni
	unassignCall = "UnassignPrivateIpAddresses " + eni
)

// TestDemand: nothing happens before a pod asks. Then the pool fills, and EC2 shows changes before the metadata.
func TestDemand(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{})
	w.sync()
	w.calls("at the start", describeCall)
	w.sync()
	w.calls("without demand")
	w.has("without demand", "[] [] []")
	w.ask("ipv4")
	w.sync()
	w.calls("a pod has asked", assignCall)
	w.has("a pod has asked", "[10.0.1.4 10.0.1.5 10.0.1.6 10.0.1.7 10.0.1.8 10.0.1.9] [] []")
	if w.woken == 0 {
		t.Error("nobody was told")
	}
	w.sync() // the metadata still lag: the inventory has it from EC2
	if n := len(w.devices[0].Addresses); n != 8 || w.devices[0].Addresses[1].String() != "10.0.1.4/24" {
		t.Errorf("inventory: %v", w.devices[0].Addresses)
	}
	for range 5 {
		w.now = w.now.Add(2 * time.Minute)
		w.sync()
	}
	w.catchUp()
	w.sync()
	w.calls("nothing is due")
	w.hold(leases.Held, "10.0.1.4", "10.0.1.5", "10.0.1.6")
	w.sync()
	w.calls("at the low mark")
	w.hold(leases.Cooling, "10.0.1.7")
	w.sync()
	w.calls("below the low mark", assignCall)
	w.has("below the low mark", "[10.0.1.4 10.0.1.5 10.0.1.6 10.0.1.7 10.0.1.8 10.0.1.9 10.0.1.10 10.0.1.11 10.0.1.12 10.0.1.13] [] []")
	w.problem("all along", "")
}

// TestLeasedAddressGone: the inventory keeps a leased address that somebody took from the ENI. Others still get theirs.
func TestLeasedAddressGone(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{})
	w.ask("ipv4")
	w.sync()
	w.hold(leases.Held, "10.0.1.4", "10.0.1.5", "10.0.1.6")
	w.ec2.Change(eni, func(e *fakeec2.ENI) {
		e.IPv4 = slices.DeleteFunc(e.IPv4, func(a netip.Addr) bool { return a.String() == "10.0.1.4" })
	})
	w.kept = []netip.Prefix{netip.MustParsePrefix("10.0.1.4/24")}
	w.catchUp()
	for range 3 { // until EC2 has been asked again
		w.now = w.now.Add(2 * time.Minute)
		w.sync()
	}
	w.calls("all still free that the pods need", describeCall, assignCall, describeCall)
	w.hold(leases.Held, "10.0.1.7")
	w.sync()
	w.calls("below the low mark", assignCall)
	w.kept = []netip.Prefix{netip.MustParsePrefix("10.0.1.99/24")}
	w.hold(leases.Held, "10.0.1.8", "10.0.1.9")
	w.sync()
	w.calls("what nobody has leased is not in the inventory for a pod's sake")
}

func TestPrefixes(t *testing.T) {
	w := newWorld(t, true, fakeec2.Config{})
	w.ask("ipv4", "ipv6")
	w.sync()
	w.has("asked", "[] [] [10.0.1.16/28 2001:db8:1:0:1::/80]")
	w.sync()
	w.catchUp()
	w.sync()
	w.calls("all", describeCall, assignCall, "AssignIpv6Addresses "+eni)
	w.hold(leases.Held, "10.0.1.16", "10.0.1.17", "10.0.1.18", "10.0.1.19", "10.0.1.20", "10.0.1.21", "10.0.1.22", "10.0.1.23", "10.0.1.24", "10.0.1.25",
		"10.0.1.26", "10.0.1.27", "10.0.1.28", "10.0.1.29")
	w.sync()
	w.has("nearly used up", "[] [] [10.0.1.16/28 2001:db8:1:0:1::/80 10.0.1.32/28]")
	w.leases(func(l *leases.Leases) { l.Leases = nil })
	w.catchUp()
	for range 3 {
		w.sync()
	}
	w.has("not needed any more", "[] [] [10.0.1.16/28 2001:db8:1:0:1::/80]")
}

// TestLimits: a limit of the instance type or subnet is a Problem after half, and a quarter, was refused too.
func TestLimits(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{PerENI: 4})
	w.ask("ipv4")
	for range 8 {
		w.sync()
		w.catchUp()
		w.now = w.now.Add(time.Second)
	}
	w.has("limit", "[10.0.1.4 10.0.1.5 10.0.1.6] [] []")
	w.problem("limit", "") // three are free: the low mark
	w.hold(leases.Held, "10.0.1.4")
	for range 4 {
		w.sync()
		w.now = w.now.Add(time.Second)
	}
	w.problem("limit", "ENIAddressLimit: EC2 gives this ENI no more addresses for pods")
	w.ec2.Calls()
	for range 10 {
		w.sync()
		w.now = w.now.Add(time.Second)
	}
	w.calls("limit")
	w.leases(func(l *leases.Leases) { l.Leases = nil })
	w.now = w.now.Add(time.Hour)
	w.sync()
	w.problem("over", "")
}

// TestRights: a missing right or tag is reported once, and pods go on with the present addresses.
func TestRights(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{May: func(action string, e fakeec2.ENI) bool { return action == describeCall || e.Tags["allowed"] != "" }})
	w.ask("ipv4")
	w.sync()
	w.problem("forbidden", "EC2Forbidden: EC2 gives this ENI no more addresses for pods")
	w.ec2.Calls()
	for range 4 {
		w.now = w.now.Add(time.Minute)
		w.sync()
	}
	w.calls("forbidden")
	w.ec2.Change(eni, func(e *fakeec2.ENI) { e.Tags = map[string]string{"NodeENI": "a", "allowed": "x"} })
	w.now = w.now.Add(2 * time.Minute)
	w.sync()
	w.problem("allowed", "")

	w = newWorld(t, false, fakeec2.Config{}, func(e *fakeec2.ENI) { e.Tags = map[string]string{"NodeENI": "b"} })
	w.ask("ipv4")
	w.sync()
	w.problem("another's tag", `ENINotTagged: addresses of this ENI are neither assigned nor given back: its tag NodeENI is "b"; tag it NodeENI=a`)
	w.calls("another's tag", describeCall)
	w.sync()
	w.calls("another's tag")
	w.ec2.Change(eni, func(e *fakeec2.ENI) { e.Tags = map[string]string{"NodeENI": "a"} })
	w.now = w.now.Add(6 * time.Minute)
	w.sync()
	w.calls("tagged", describeCall, assignCall)
	w.problem("tagged", "")

	w = newWorld(t, false, fakeec2.Config{})
	w.ec2.Fail("DescribeNetworkInterfaces", "UnauthorizedOperation")
	w.ask("ipv4")
	w.sync()
	w.problem("may not even look", "EC2Forbidden: the ENIs cannot be looked up in EC2")
	if all := w.enis(); len(all) != 2 {
		t.Errorf("metadata: %v", all)
	}
	w.has("may not even look", "[] [] []")
}

func TestIPv6(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{})
	w.ask("ipv6")
	w.sync()
	w.calls("asked", describeCall, "AssignIpv6Addresses "+eni)
	w.has("asked", "[] [2001:db8:1::4 2001:db8:1::5 2001:db8:1::6 2001:db8:1::7 2001:db8:1::8 2001:db8:1::9] []")
	w.sync()
	w.catchUp()
	w.hold(leases.Held, "2001:db8:1::4", "2001:db8:1::5", "2001:db8:1::6", "2001:db8:1::7")
	w.sync()
	w.calls("below the low mark", "AssignIpv6Addresses "+eni)
}

// TestEventualConsistency: an EC2 answer that lacks its own latest change takes nothing from the inventory.
func TestEventualConsistency(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{Lag: 20 * time.Second})
	w.sync()
	w.now = w.now.Add(2 * time.Minute)
	w.ask("ipv4")
	w.sync()
	w.ec2.Calls()
	w.imds.Apply(func() fakeimds.State { // news of something else has EC2 asked at once
		s := w.metadata()
		s.ENIs[1].IPv4s = append(s.ENIs[1].IPv4s[:1:1], "10.0.1.99")
		return s
	}())
	w.sync()
	w.sync()
	w.calls("news", describeCall)
	if n := len(w.devices[0].Addresses); n != 8 {
		t.Errorf("inventory: %v", w.devices[0].Addresses)
	}
}
