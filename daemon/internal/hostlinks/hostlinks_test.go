package hostlinks

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/devicelock"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// eth1 is the link of the only ENI, which a NodeENI declares.
var (
	eth1 = link.Link{Index: 7, Name: "eth1", MAC: "02:00:00:00:00:01", MTU: 1500, Up: true, Parent: "0000:00:07.0"}
	row  = nodestate.Device{
		ENIID: "eni-00000000000000001", NodeENI: "a", MAC: eth1.MAC, PCIAddress: eth1.Parent, InterfaceName: "eth1", Phase: nodestate.PhaseReady,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/24")},
	}
)

// netns is a host's netns with one link.
type netns struct {
	link    link.Link
	clutter routing.Clutter
	err     error // of changes
	changes []string
	sources [][]routing.Source
}

// host has the Links that keep the netns.
type host struct {
	*testing.T
	*Links
	*netns
	now time.Time
}

func newHost(t *testing.T, edit func(*Options)) *host {
	log, _ := logtest.NewNullLogger()
	log.SetLevel(logrus.PanicLevel)
	h := &host{T: t, netns: &netns{link: eth1}, now: time.Unix(1000, 0)}
	records := nodestate.AttachmentDir(t.TempDir())
	o := Options{
		BootID: "boot", Attachments: records, Leases: leases.Dir(t.TempDir()), Host: h.netns, Log: log,
		Locks: devicelock.Locker{BootID: "boot", Attachments: records, PCI: h.netns},
	}
	edit(&o)
	h.Links = New(o)
	return h
}

func (h *netns) PCI(addr device.PCIAddress) (sysfs.PCIFunction, error) {
	return sysfs.PCIFunction{Address: addr}, nil
}

func (h *netns) did(what string, then func()) error {
	h.changes = append(h.changes, what)
	if h.err == nil {
		then()
	}
	return h.err
}

func (h *netns) SetUp(int) error                   { return h.did("up", func() { h.link.Up = true }) }
func (h *netns) SetDown(int) error                 { return h.did("down", func() { h.link.Up = false }) }
func (h *netns) SetMTU(_, mtu int) error           { return h.did("mtu", func() { h.link.MTU = mtu }) }
func (h *netns) Clutter() (routing.Clutter, error) { return h.clutter, nil }

func (h *netns) ClearRoutes(index int) (done routing.Cleared, err error) {
	var clearable bool
	if clearable, done.Only, done.Shared = h.clutter.Routes(index); !clearable {
		return done, nil
	}
	done.Protocols = []string{"dhcp"}
	return done, h.did("unroute", func() { h.clutter.Defaults = nil })
}

func (h *netns) ClearAddress(_ int, p netip.Prefix) error {
	return h.did("unaddress "+p.String(), func() { h.clutter.Addresses = nil })
}

func (h *netns) GiveBack(link.Functions, link.Link, nodestate.AttachedDevice) error { return nil }
func (h *netns) Ethtool(string) (nodestate.Settings, error) {
	return nodestate.Settings{"rings": "1"}, nil
}
func (h *netns) ForeignUse() (map[int]string, error) { return nil, nil }

func (h *netns) EnsureSources(want []routing.Source) (bool, error) {
	h.sources = append(h.sources, want)
	return true, nil
}

func (h *netns) Links() ([]link.Link, error) { return []link.Link{h.link}, nil }

// step sweeps and steps, and returns the reasons to retry, then the Problems.
func (h *host) step() (retry, lasting []nodestate.Reason, after time.Duration) {
	src := inventory.Sources{Now: h.now, Links: inventory.Known([]link.Link{h.link}), Complete: true}
	res := inventory.Result{Devices: []nodestate.Device{row}, Idle: []inventory.IdleLink{{Device: row, Link: h.link}}}
	h.Sweep(h.Context(), &src)
	found, after := h.Step(h.Context(), &src, &res, func() { src.Links = inventory.Known([]link.Link{h.link}) })
	for _, f := range found {
		retry = append(retry, f.Reason)
	}
	for _, f := range h.Problems() {
		lasting = append(lasting, f.Reason)
	}
	return retry, lasting, after
}

// hold makes a record of a pod that owns the device.
func (h *host) hold() {
	rec, err := h.Attachments.Begin(nodestate.Attachment{
		AttachmentID: nodestate.AttachmentID{ContainerID: "c", IfName: "net1"}, BootID: "boot", Mode: nodestate.ModeExclusive,
		Device: nodestate.AttachedDevice{PCIAddress: row.PCIAddress, MAC: row.MAC, ENIID: row.ENIID},
	})
	if err != nil {
		h.Fatal(err)
	}
	rec.Close()
}

func (h *host) want(changes ...string) {
	h.Helper()
	if diff := cmp.Diff(changes, h.changes); diff != "" {
		h.Errorf("changes (-want +got):\n%s", diff)
	}
	h.changes = nil
}

// TestStep: an idle link comes up without foreign routes, and is left alone at rest.
func TestStep(t *testing.T) {
	h := newHost(t, func(o *Options) { o.SourceRouting = true })
	h.link.Up = false
	h.clutter.Defaults = routing.DefaultRoutes{{Index: 7, Family: unix.AF_INET}, {Index: 2, Family: unix.AF_INET}}
	if retry, lasting, after := h.step(); len(retry)+len(lasting) > 0 || after != 0 {
		t.Errorf("retry %v after %v, lasting %v", retry, after, lasting)
	}
	h.want("up", "unroute")
	if last := h.sources[len(h.sources)-1]; len(last) != 1 || last[0].Index != 7 {
		t.Errorf("sources %+v, want the link's", last)
	}
	h.step()
	h.want()
}

// TestStepFails: a change that fails is retried.
func TestStepFails(t *testing.T) {
	h := newHost(t, func(*Options) {})
	h.link.Up, h.err = false, errors.New("refused")
	for range 2 {
		if retry, _, _ := h.step(); !slices.Equal(retry, []nodestate.Reason{"LinkNotConfigured"}) {
			t.Errorf("retry %v", retry)
		}
		h.want("up")
	}
}

// TestStepLeavesPodsAlone: nothing changes while a pod owns the device, and a plugin's lock asks for a retry.
func TestStepLeavesPodsAlone(t *testing.T) {
	h := newHost(t, func(*Options) {})
	h.clutter.Defaults = routing.DefaultRoutes{{Index: 7, Family: unix.AF_INET}, {Index: 2, Family: unix.AF_INET}}
	lock, err := h.Locks.Lock(t.Context(), row.PCIAddress)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, after := h.step(); after != retryBusy {
		t.Errorf("again after %v, want %v", after, retryBusy)
	}
	lock.Close()
	h.hold()
	h.link.Up = false
	if retry, lasting, after := h.step(); len(retry)+len(lasting) > 0 || after != 0 {
		t.Errorf("retry %v after %v, lasting %v", retry, after, lasting)
	}
	h.want()
}

// TestOnlyWayOut: the only default route stays and is a finding, before a bind too.
func TestOnlyWayOut(t *testing.T) {
	h := newHost(t, func(*Options) {})
	h.clutter.Defaults = routing.DefaultRoutes{{Index: 7, Family: unix.AF_INET}}
	if retry, _, _ := h.step(); !slices.Equal(retry, []nodestate.Reason{"OnlyDefaultRoute"}) {
		t.Errorf("retry %v", retry)
	}
	if _, found, err := h.ClearForDriver(row, h.link); err != nil || len(found) != 1 || found[0].Reason != "OnlyDefaultRoute" {
		t.Errorf("found %+v, error %v", found, err)
	}
	other := h.link
	other.MAC = "02:00:00:00:00:09"
	if _, _, err := h.ClearForDriver(row, other); !errors.Is(err, devicelock.ErrNotOurs) {
		t.Errorf("error %v for another link, want %v", err, devicelock.ErrNotOurs)
	}
	h.want()
}

// TestHostAddress: an address of the host is a lasting Problem, with the manager's advice, until
// the link has been without it for addressGone.
func TestHostAddress(t *testing.T) {
	h := newHost(t, func(o *Options) { o.Advice = func(string) string { return "advice" } })
	h.clutter.Addresses = []routing.HostAddress{{Index: 7, Prefix: netip.MustParsePrefix("10.0.0.7/24")}}
	if _, lasting, _ := h.step(); !slices.Equal(lasting, []nodestate.Reason{"HostAddress"}) {
		t.Errorf("lasting %v", lasting)
	}
	h.clutter.Addresses = nil
	for range 2 {
		if _, lasting, _ := h.step(); len(lasting) != 1 {
			t.Errorf("lasting %v, want the Problem for %v more", lasting, addressGone)
		}
	}
	h.now = h.now.Add(addressGone)
	if _, lasting, _ := h.step(); len(lasting) > 0 {
		t.Errorf("lasting %v after %v", lasting, addressGone)
	}
}

// TestLeasedAddress: the host does not keep an address that a pod leases.
func TestLeasedAddress(t *testing.T) {
	own := leases.Lease{Address: netip.MustParseAddr("10.0.0.7"), State: leases.Held}
	l := &leases.Leases{Leases: []leases.Lease{own}}
	for prefix, want := range map[string]bool{"10.0.0.7/32": true, "10.0.0.8/32": false} {
		if got := leased(l, routing.HostAddress{Prefix: netip.MustParsePrefix(prefix)}); got != want {
			t.Errorf("%s: leased %v, want %v", prefix, got, want)
		}
	}
}
