package binding

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// soon bounds unhindered work of the daemon. A bind takes half a second here; a failed one is retried after two.
const soon = 60 * time.Second

func eniA() fakeimds.ENI { return newENI(macA, 1) }
func eniB() fakeimds.ENI { return newENI(macB, 2) }
func eniC() fakeimds.ENI { return newENI(macC, 3) }

func newENI(mac string, index int) fakeimds.ENI {
	n := string(rune('0' + index))
	return fakeimds.ENI{
		ID: "eni-0a1b2c3d4e5f6000" + n, MAC: mac, DeviceIndex: index,
		SubnetID: "subnet-0a1b2c3d4e5f6000" + n, SubnetIPv4CIDR: "10.0." + n + ".0/24", IPv4s: []string{"10.0." + n + ".15"},
	}
}

type node struct {
	*guest.Daemon
	t    *testing.T
	imds *fakeimds.Running
}

func start(t *testing.T, flags []string, enis ...fakeimds.ENI) *node {
	t.Helper()
	forget(t)
	return resume(t, flags, enis...)
}

func resume(t *testing.T, flags []string, enis ...fakeimds.ENI) *node {
	t.Helper()
	n := &node{t: t, imds: serve(t, enis...)}
	n.Daemon = guest.StartDaemon(t, guest.DaemonOptions{IMDS: n.imds.URL, Flags: flags})
	return n
}

func serve(t *testing.T, enis ...fakeimds.ENI) *fakeimds.Running {
	t.Helper()
	primary := newENI(macPrimary, 0)
	primary.Primary = true
	return fakeimds.Start(t, fakeimds.Config{State: fakeimds.State{InstanceID: "i-0123456789abcdef0", ENIs: append([]fakeimds.ENI{primary}, enis...)}})
}

func forget(t *testing.T) {
	t.Helper()
	for _, path := range []string{guest.NodeENIDir, filepath.Dir(guest.DPConfigPath), nodestate.DefaultStateDir, nodestate.DefaultInventoryPath} {
		guest.Must(t, os.RemoveAll(path))
	}
}

type nic struct {
	pci    string
	before state
	index  int // of the link, which is another one after each change of drivers
}

type state struct {
	Driver, Override string
	Name, MAC        string
	AltNames         []string
	MTU              int
	Up               bool
}

// prepare gives the NIC's link a name, altname and MTU that no kernel driver would choose, until the test's end.
func prepare(t *testing.T, mac, name string, up bool) nic {
	t.Helper()
	pci, was := guest.WaitNIC(t, mac)
	return dress(t, pci, was, name, up)
}

func dress(t *testing.T, pci, was, name string, up bool) nic {
	t.Helper()
	l, ok := guest.ByName(was)
	if !ok {
		t.Fatalf("no link %s", was)
	}
	mtu := l.Attrs().MTU
	try(t, netlink.LinkSetDown(l), netlink.LinkSetName(l, name), netlink.LinkAddAltName(l, "alt-"+name), netlink.LinkSetMTU(l, 1600))
	if up {
		try(t, netlink.LinkSetUp(l))
	}
	t.Cleanup(func() {
		l, ok := guest.ByName(name)
		if !ok {
			return // the test says why, or Clean does
		}
		try(t, netlink.LinkSetDown(l), netlink.LinkSetMTU(l, mtu), netlink.LinkDelAltName(l, "alt-"+name), netlink.LinkSetName(l, was))
	})
	n := nic{pci: pci, index: l.Attrs().Index}
	n.before = n.state(t)
	return n
}

func try(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

func (n nic) state(t *testing.T) state {
	t.Helper()
	override, err := os.ReadFile(guest.Devices + n.pci + "/driver_override")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	s := state{Driver: guest.Driver(n.pci), Override: strings.TrimSpace(string(override))}
	l, ok := guest.ByName(guest.Netdev(n.pci))
	if !ok {
		return s
	}
	a := l.Attrs()
	s.Name, s.MAC, s.AltNames, s.MTU, s.Up = a.Name, a.HardwareAddr.String(), a.AltNames, a.MTU, a.Flags&1 != 0
	slices.Sort(s.AltNames)
	return s
}

func (n nic) restored(t *testing.T) { t.Helper(); n.becomes(t, n.before) }

func (n nic) becomes(t *testing.T, want state) {
	t.Helper()
	var got state
	for began := time.Now(); time.Since(began) < soon; time.Sleep(20 * time.Millisecond) {
		if got = n.state(t); cmp.Equal(want, got) {
			return
		}
	}
	t.Fatalf("%s is not as wanted within %v (-want +got):\n%s\nproblems: %+v", n.pci, soon, cmp.Diff(want, got), guest.Inventory(t).Problems)
}

// untouched fails the test if the device's driver was ever changed, or its link since prepare.
func (n nic) untouched(t *testing.T) {
	t.Helper()
	if diff := cmp.Diff(n.before, n.state(t)); diff != "" {
		t.Errorf("%s was touched (-want +got):\n%s", n.pci, diff)
	}
	n.kept(t)
}

// kept fails the test if the device ever lost its kernel driver: it would have another link now.
func (n nic) kept(t *testing.T) {
	t.Helper()
	if l, ok := guest.ByName(guest.Netdev(n.pci)); !ok || l.Attrs().Index != n.index {
		t.Errorf("%s was taken from its driver, it has not the link with index %d any more", n.pci, n.index)
	}
}

func (s state) up() state {
	s.Up = true
	return s
}

func (n nic) bound(t *testing.T, eni fakeimds.ENI, driver string) {
	t.Helper()
	guest.Eventually(t, eni.ID+" is ready with "+driver, soon, func() bool {
		row := guest.Row(t, eni.ID)
		return row.Phase == nodestate.PhaseReady && row.Driver == driver
	})
	guest.Eventually(t, n.pci+" is advertised", soon, func() bool { return guest.Advertised(t, n.pci) })
	if diff := cmp.Diff(state{Driver: driver, Override: driver}, n.state(t)); diff != "" {
		t.Errorf("%s is advertised (-want +got):\n%s", n.pci, diff)
	}
}

func (n nic) withdrawn(t *testing.T, eni fakeimds.ENI) {
	t.Helper()
	guest.Eventually(t, eni.ID+" out of the inventory", soon, func() bool { return guest.Row(t, eni.ID).Phase == "" })
	if guest.Advertised(t, n.pci) {
		t.Errorf("%s is still advertised", n.pci)
	}
}

func problem(t *testing.T, reason string, parts ...string) {
	t.Helper()
	guest.Eventually(t, fmt.Sprintf("a problem %s with %q", reason, parts), soon, func() bool {
		return slices.ContainsFunc(guest.Inventory(t).Problems, func(p nodestate.Problem) bool {
			return string(p.Reason) == reason && !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(p.Message, part) })
		})
	})
}

func noProblem(t *testing.T, reason string) {
	t.Helper()
	guest.Eventually(t, "no problem "+reason, soon, func() bool {
		return !slices.ContainsFunc(guest.Inventory(t).Problems, func(p nodestate.Problem) bool { return string(p.Reason) == reason })
	})
}
