package addresses

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
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

// world is a node with one ENI, EC2, and metadata that show what EC2 has done only
// when told to. The inventory is what the Manager's ENIs say, as the reconciler
// would write it.
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
	// kept is what the inventory has besides, because pods have leased it.
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
	primary := fakeec2.ENI{ID: "eni-0000000f", MAC: "02:00:00:00:00:ff", SubnetID: "subnet-0000000f", Instance: instance, IPv4: []netip.Addr{netip.MustParseAddr("10.0.9.9")}}
	detached := fakeec2.ENI{ID: spare, MAC: "02:00:00:00:00:02", SubnetID: "subnet-00000001", IPv4: []netip.Addr{netip.MustParseAddr("10.0.1.60")}}
	cfg.ENIs, cfg.Now = []fakeec2.ENI{primary, e, detached}, func() time.Time { return w.now }
	w.ec2 = fakeec2.Start(t, cfg)
	w.imds = fakeimds.Start(t, fakeimds.Config{State: w.metadata()})
	w.client = awsnode.New(awsnode.Config{Endpoint: w.imds.URL})
	log := logrus.New()
	log.SetOutput(t.Output())
	w.Manager = New(Options{
		EC2: awsnode.NewEC2(w.client), Leases: leases.Dir(filepath.Join(w.dir, "leases")), Attachments: nodestate.AttachmentDir(filepath.Join(w.dir, "records")),
		BootID: bootID, Prefixes: prefixes, Marks: Marks{Low: 3, High: 8}, Wake: func() { w.woken++ }, Now: func() time.Time { return w.now },
		Uptime: func() (time.Duration, error) { return w.uptime, nil }, Jitter: func(time.Duration) time.Duration { return 0 }, Log: log,
	})
	return w
}

// metadata is EC2's state as the metadata service shows it.
func (w *world) metadata() fakeimds.State {
	e := w.ec2.ENI(eni)
	out := fakeimds.ENI{ID: e.ID, MAC: e.MAC, DeviceIndex: e.DeviceIndex, SubnetID: e.SubnetID, SubnetIPv4CIDR: "10.0.1.0/24", SubnetIPv6CIDR: []string{"2001:db8:1::/64"}}
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
	primary := fakeimds.ENI{ID: "eni-0000000f", MAC: "02:00:00:00:00:ff", Primary: true, SubnetID: "subnet-0000000f", SubnetIPv4CIDR: "10.0.9.0/24", IPv4s: []string{"10.0.9.9"}}
	return fakeimds.State{InstanceID: instance, Region: "eu-central-1", ENIs: []fakeimds.ENI{primary, out}}
}

// catchUp lets the metadata show what EC2 has.
func (w *world) catchUp() { w.imds.Apply(w.metadata()) }

// sync is one look at the node: ENIs, inventory, and what is due then.
func (w *world) sync() {
	w.Helper()
	all := w.enis()
	var devices []nodestate.Device
	for _, e := range all {
		if e.ID == eni {
			devices = append(devices, nodestate.Device{
				ENIID: e.ID, NodeENI: "a", MAC: e.MAC, PCIAddress: "0000:00:06.0", Driver: "ena", SubnetCIDR: e.SubnetCIDR, Addresses: slices.Concat(e.Addresses, w.kept), Prefixes: e.Prefixes, Phase: nodestate.PhaseReady,
			})
		}
	}
	w.Observe(devices)
	w.step(w.Context())
}

// step does the due work and waits for its end.
func (w *world) step(ctx context.Context) {
	w.look(ctx)
	w.jobs.all.Wait()
	w.tendAll(ctx)
	w.jobs.all.Wait()
}

// enis are those of the metadata, corrected.
func (w *world) enis() []vpc.ENI {
	w.Helper()
	all, err := awsnode.New(awsnode.Config{Endpoint: w.imds.URL}).ENIs(w.Context()) // one that remembers nothing
	if err != nil {
		w.Fatal(err)
	}
	return w.Correct(all)
}

// leases edits the leases under their lock.
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
				Address: netip.MustParseAddr(a), State: state, AttachmentID: nodestate.AttachmentID{ContainerID: fmt.Sprint("c", i), IfName: "net1"}, FreeAt: w.uptime + time.Minute,
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

// TestDemand: nothing is done before a pod has asked; then the pool is filled, and
// what the metadata do not show yet is known from EC2.
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

// TestLeasedAddressGone: an address that somebody has taken from the ENI, and that
// stays in the inventory for the pod that has leased it, does not keep others from
// theirs.
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

// TestPrefixes: prefixes of both families.
func TestPrefixes(t *testing.T) {
	w := newWorld(t, true, fakeec2.Config{})
	w.ask("ipv4", "ipv6")
	w.sync()
	w.has("asked", "[] [] [10.0.1.16/28 2001:db8:1:0:1::/80]")
	w.sync()
	w.catchUp()
	w.sync()
	w.calls("all", describeCall, assignCall, "AssignIpv6Addresses "+eni)
	w.hold(leases.Held, "10.0.1.16", "10.0.1.17", "10.0.1.18", "10.0.1.19", "10.0.1.20", "10.0.1.21", "10.0.1.22", "10.0.1.23", "10.0.1.24", "10.0.1.25", "10.0.1.26", "10.0.1.27", "10.0.1.28", "10.0.1.29")
	w.sync()
	w.has("nearly used up", "[] [] [10.0.1.16/28 2001:db8:1:0:1::/80 10.0.1.32/28]")
	w.leases(func(l *leases.Leases) { l.Leases = nil })
	w.catchUp()
	for range 3 {
		w.sync()
	}
	w.has("not needed any more", "[] [] [10.0.1.16/28 2001:db8:1:0:1::/80]")
}

// TestGiveBack: surplus goes back in steps; what anybody holds never does.
func TestGiveBack(t *testing.T) {
	many := func(e *fakeec2.ENI) {
		for n := range 12 {
			e.IPv4 = append(e.IPv4, netip.AddrFrom4([4]byte{10, 0, 1, byte(20 + n)}))
		}
	}
	w := newWorld(t, false, fakeec2.Config{}, many)
	w.hold(leases.Held, "10.0.1.31")
	w.hold(leases.Cooling, "10.0.1.30")
	w.ask("ipv4")
	w.sync()
	w.calls("surplus", describeCall, unassignCall)
	w.has("surplus", "[10.0.1.20 10.0.1.21 10.0.1.22 10.0.1.23 10.0.1.24 10.0.1.25 10.0.1.30 10.0.1.31] [] []")
	retiring := func(want int) {
		t.Helper()
		if l, err := w.Leases.Read(bootID, eni); err != nil || len(l.Retiring) != want {
			t.Errorf("retiring: %v, %v; want %d", l.Retiring, err, want)
		}
	}
	retiring(4)
	w.sync()
	retiring(4) // the metadata still list them, and a restarted daemon would believe that
	w.catchUp()
	w.sync()
	retiring(4) // or EC2, which may not show yet what it has done
	w.now = w.now.Add(consistent)
	w.sync()
	retiring(0)
	w.sync()
	w.calls("nothing is due")
	w.problem("all along", "")
}

// TestGiveBackBoth: both families have surplus. What of the one still retires is
// not forgotten over the other, and pods are given what they need meanwhile.
func TestGiveBackBoth(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{}, func(e *fakeec2.ENI) {
		for n := range 12 {
			e.IPv4 = append(e.IPv4, netip.AddrFrom4([4]byte{10, 0, 1, byte(20 + n)}))
			e.IPv6 = append(e.IPv6, netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%x", 0x300+n)))
		}
	})
	retiring := func() string {
		t.Helper()
		l, err := w.Leases.Read(bootID, eni)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(l.Retiring)
	}
	w.ask("ipv4", "ipv6")
	w.sync()
	w.calls("surplus", describeCall, unassignCall)
	const four = "[10.0.1.26/32 10.0.1.27/32 10.0.1.28/32 10.0.1.29/32 10.0.1.30/32 10.0.1.31/32]"
	if got := retiring(); got != four {
		t.Errorf("retiring: %s, want %s", got, four)
	}
	w.hold(leases.Held, "10.0.1.20", "10.0.1.21", "10.0.1.22", "10.0.1.23")
	w.sync() // the metadata lag, and pods go on
	w.calls("below the low mark", assignCall)
	if got := retiring(); got != four {
		t.Errorf("retiring: %s, want %s", got, four)
	}
	for range 4 {
		w.catchUp()
		w.now = w.now.Add(consistent)
		w.sync()
	}
	w.calls("then the other", "UnassignIpv6Addresses "+eni)
	if got := retiring(); got != "[]" {
		t.Errorf("retiring: %s", got)
	}
	if e := w.ec2.ENI(eni); len(e.IPv6) != 7 {
		t.Errorf("IPv6: %v", e.IPv6)
	}
}

// TestUnlisted: an ENI that the metadata do not list is known from EC2, with the
// MAC that EC2 gives it.
func TestUnlisted(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{})
	w.sync()
	w.ec2.Change(eni, func(e *fakeec2.ENI) { e.MAC = "02:00:00:00:00:aa" })
	other := w.metadata()
	other.ENIs[1].MAC = "02:00:00:00:00:01"
	w.imds.Apply(other)
	w.now = w.now.Add(2 * time.Minute)
	w.describe = true
	w.sync()
	if all := w.enis(); len(all) != 2 || all[0].ID != eni || all[0].MAC != "02:00:00:00:00:aa" {
		t.Errorf("EC2 knows the MAC: %+v", all)
	}
	other.ENIs = other.ENIs[:1]
	w.imds.Apply(other)
	if all := w.enis(); len(all) != 2 || all[0].ID != eni || all[0].MAC != "02:00:00:00:00:aa" || all[0].DeviceIndex != 1 || all[0].Addresses != nil {
		t.Errorf("EC2 knows the ENI: %+v", all)
	}
}

// TestGiveBackRefused: what cannot be known to be free is not given back.
func TestGiveBackRefused(t *testing.T) {
	for name, arrange := range map[string]func(w *world){
		"an exclusive pod": func(w *world) {
			r, err := w.Attachments.Begin(nodestate.Attachment{AttachmentID: nodestate.AttachmentID{ContainerID: "c1", IfName: "net1"}, BootID: bootID, Mode: nodestate.ModeExclusive, Device: nodestate.AttachedDevice{PCIAddress: "0000:00:06.0"}})
			if err != nil {
				w.Fatal(err)
			}
			w.Cleanup(r.Close)
		},
		"a record that cannot be read": func(w *world) {
			if err := errors.Join(os.MkdirAll(string(w.Attachments), 0o700), os.WriteFile(filepath.Join(string(w.Attachments), "c1-net1.json"), []byte("{"), 0o600)); err != nil {
				w.Fatal(err)
			}
		},
		"a pod is claiming the device": func(w *world) {
			unlock, err := w.Attachments.LockDevice(w.Context(), "0000:00:06.0")
			if err != nil {
				w.Fatal(err)
			}
			w.Cleanup(unlock)
		},
		"leases that cannot be read": func(w *world) {
			if err := os.WriteFile(filepath.Join(string(w.Leases), bootID, eni+".json"), []byte("{"), 0o600); err != nil {
				w.Fatal(err)
			}
		},
		"a lease is being made": func(w *world) {
			l, err := w.Leases.Lock(w.Context(), bootID, eni)
			if err != nil {
				w.Fatal(err)
			}
			w.Cleanup(l.Close)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, false, fakeec2.Config{}, func(e *fakeec2.ENI) {
				for n := range 12 {
					e.IPv4 = append(e.IPv4, netip.AddrFrom4([4]byte{10, 0, 1, byte(20 + n)}))
				}
			})
			w.ask("ipv4")
			arrange(w)
			w.sync()
			w.calls("surplus", describeCall)
		})
	}
}

// record has a pod share the ENI, by another address plugin than eni-ipam.
func (w *world) record(id string, edit func(*nodestate.Attachment)) {
	w.Helper()
	a := nodestate.Attachment{
		AttachmentID: nodestate.AttachmentID{ContainerID: id, IfName: "net1"}, State: nodestate.StateComplete, BootID: bootID, Mode: nodestate.ModeShared,
		Device: nodestate.AttachedDevice{PCIAddress: "0000:00:06.0"},
	}
	edit(&a)
	data, err := json.Marshal(a)
	if err != nil {
		w.Fatal(err)
	}
	data = bytes.Replace(data, []byte(`"schemaVersion":0`), []byte(`"schemaVersion":1`), 1)
	if err := errors.Join(os.MkdirAll(string(w.Attachments), 0o700), os.WriteFile(filepath.Join(string(w.Attachments), id+"-net1.json"), data, 0o600)); err != nil {
		w.Fatal(err)
	}
}

// TestGiveBackSparesRecords: what a pod's record says that it has is not given back
// either, whichever plugin gave it; nor is anything while a record does not say.
func TestGiveBackSparesRecords(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{}, func(e *fakeec2.ENI) {
		for n := range 12 {
			e.IPv4 = append(e.IPv4, netip.AddrFrom4([4]byte{10, 0, 1, byte(20 + n)}))
		}
	})
	w.record("c1", func(a *nodestate.Attachment) {
		a.Result = json.RawMessage(`{"cniVersion":"1.1.0","interfaces":[{"name":"net1"}],"ips":[{"address":"10.0.1.31/24","interface":0},{"address":"2001:db8:1::31/64","interface":0}]}`)
	})
	w.record("c2", func(a *nodestate.Attachment) { a.State = nodestate.StateIntent })
	w.ask("ipv4")
	w.sync()
	w.calls("one does not say", describeCall)
	w.record("c2", func(a *nodestate.Attachment) {
		a.State, a.Result = nodestate.StateComplete, json.RawMessage(`{"ips":"none"}`)
	})
	w.sync()
	w.calls("one cannot be read")
	w.record("c2", func(a *nodestate.Attachment) { a.Device.PCIAddress, a.State = "0000:00:07.0", nodestate.StateIntent })
	w.record("c3", func(a *nodestate.Attachment) {
		a.BootID, a.Result = "boot-0", json.RawMessage(`{"cniVersion":"1.1.0","ips":[{"address":"10.0.1.30/24"}]}`)
	})
	w.sync()
	w.calls("surplus", unassignCall)
	w.has("surplus", "[10.0.1.20 10.0.1.21 10.0.1.22 10.0.1.23 10.0.1.24 10.0.1.25 10.0.1.31] [] []")
}

// TestRetireLooksAgain: what was free when it was planned, and is leased by the
// time the locks are held, does not retire.
func TestRetireLooksAgain(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{}, func(e *fakeec2.ENI) {
		e.IPv4 = append(e.IPv4, netip.MustParseAddr("10.0.1.20"), netip.MustParseAddr("10.0.1.21"), netip.MustParseAddr("10.0.1.22"))
	})
	w.sync()
	w.hold(leases.Held, "10.0.1.20")
	w.hold(leases.Cooling, "10.0.1.21")
	planned := []netip.Prefix{netip.MustParsePrefix("10.0.1.20/32"), netip.MustParsePrefix("10.0.1.21/32"), netip.MustParsePrefix("10.0.1.22/32")}
	if got, ok := w.retire(t.Context(), &w.devices[0], planned); !ok || !slices.Equal(got, planned[2:]) {
		t.Errorf("retired %v, %v; want the one that is free", got, ok)
	}
	if l, err := w.Leases.Read(bootID, eni); err != nil || !slices.Equal(l.Retiring, planned[2:]) {
		t.Errorf("retiring: %v, %v", l.Retiring, err)
	}
}

// TestRestart: a daemon that has died between two steps goes on where it was.
func TestRestart(t *testing.T) {
	start := func(t *testing.T) *world {
		w := newWorld(t, false, fakeec2.Config{}, func(e *fakeec2.ENI) {
			for n := range 6 {
				e.IPv4 = append(e.IPv4, netip.AddrFrom4([4]byte{10, 0, 1, byte(20 + n)}))
			}
		})
		w.leases(func(l *leases.Leases) {
			l.Asked, l.Retiring = []string{"ipv4"}, []netip.Prefix{netip.MustParsePrefix("10.0.1.24/32"), netip.MustParsePrefix("10.0.1.25/32")}
		})
		return w
	}
	t.Run("before EC2 was asked", func(t *testing.T) {
		w := start(t)
		w.sync()
		w.calls("restart", describeCall, unassignCall)
		w.has("restart", "[10.0.1.20 10.0.1.21 10.0.1.22 10.0.1.23] [] []")
	})
	t.Run("after EC2 has done it", func(t *testing.T) {
		w := start(t)
		w.ec2.Change(eni, func(e *fakeec2.ENI) { e.IPv4 = e.IPv4[:5] })
		w.sync() // believes the metadata, but they are retiring
		w.sync()
		w.catchUp()
		w.sync()
		w.calls("restart", describeCall)
		if l, err := w.Leases.Read(bootID, eni); err != nil || l.Retiring != nil {
			t.Errorf("retiring: %v, %v", l.Retiring, err)
		}
	})
	t.Run("after the metadata know of it", func(t *testing.T) {
		w := start(t)
		w.ec2.Change(eni, func(e *fakeec2.ENI) { e.IPv4 = e.IPv4[:5] })
		w.catchUp()
		w.sync() // asks EC2
		w.sync()
		w.calls("restart", describeCall)
		if l, err := w.Leases.Read(bootID, eni); err != nil || l.Retiring != nil {
			t.Errorf("retiring: %v, %v", l.Retiring, err)
		}
	})
	t.Run("between the families", func(t *testing.T) {
		w := start(t)
		w.ec2.Change(eni, func(e *fakeec2.ENI) {
			e.IPv4, e.IPv6 = e.IPv4[:5], append(e.IPv6, netip.MustParseAddr("2001:db8:1::300"))
		})
		w.leases(func(l *leases.Leases) {
			l.Retiring = append(l.Retiring, netip.MustParsePrefix("2001:db8:1::300/128"))
		})
		w.catchUp()
		w.sync()
		w.calls("restart", describeCall, "UnassignIpv6Addresses "+eni)
		w.has("restart", "[10.0.1.20 10.0.1.21 10.0.1.22 10.0.1.23] [] []")
	})
	t.Run("the answer was lost", func(t *testing.T) {
		w := start(t)
		w.ec2.Fail("UnassignPrivateIpAddresses", "lose", "lose", "lose", "lose")
		w.sync()
		w.has("lost", "[10.0.1.20 10.0.1.21 10.0.1.22 10.0.1.23] [] []")
		w.now = w.now.Add(2 * time.Minute)
		for range 3 { // EC2 tells that it was done
			w.sync()
			w.catchUp()
			w.now = w.now.Add(2 * time.Minute)
		}
		if l, err := w.Leases.Read(bootID, eni); err != nil || l.Retiring != nil {
			t.Errorf("retiring: %v, %v", l.Retiring, err)
		}
		w.problem("after all", "")
	})
}

// TestLimits: what the instance type or the subnet does not have is a Problem once
// half, and half of that, was asked for in vain.
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

// TestRights: without the right, or without the tag, it says so once, and pods go
// on with what there is.
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

// TestDescribeIsRare: at most once a minute, and only when the metadata have news
// that EC2 has not told.
func TestDescribeIsRare(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{})
	for range 100 {
		w.sync()
		w.now = w.now.Add(time.Second)
	}
	w.calls("quiet", describeCall)
	// Somebody else assigns an address: the metadata have it, and EC2 is asked.
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
	// The metadata change every second: EC2 is asked once a minute.
	for n := range 120 {
		w.ec2.Change(eni, func(e *fakeec2.ENI) { e.IPv4[1] = netip.AddrFrom4([4]byte{10, 0, 1, byte(51 + n)}) })
		w.catchUp()
		w.sync()
		w.now = w.now.Add(time.Second)
	}
	w.calls("unrest", describeCall, describeCall)
}

// TestDescribeAfterPlugging: an ENI that comes or goes has EC2 asked, once the least
// time has passed, and what chance adds to it; and once more when EC2 says otherwise
// than the metadata, for it may have lagged behind.
func TestDescribeAfterPlugging(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{})
	w.Jitter = func(most time.Duration) time.Duration { return most }
	w.sync()
	w.calls("start", describeCall)
	without := w.metadata()
	with := w.metadata()
	with.ENIs = append(with.ENIs, fakeimds.ENI{ID: spare, MAC: "02:00:00:00:00:02", DeviceIndex: 2, SubnetID: "subnet-00000001", SubnetIPv4CIDR: "10.0.1.0/24", IPv4s: []string{"10.0.1.60"}})
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

// TestDescribeLagsBehind: what the metadata show before Describe does is found by
// another look.
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

// TestAnswerLost: a call whose answer was lost is not made again before Describe shows
// its effect, and the inventory has that within seconds.
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

// TestIPv6: single addresses of the family that was asked for, and of no other.
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

// TestEventualConsistency: an answer of EC2 that does not show what it has just
// done takes nothing from the inventory.
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

// TestThrottled: RequestLimitExceeded makes it wait longer and longer, and is a
// Problem only when it does not pass.
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
