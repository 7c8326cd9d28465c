package guest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
)

// Common values of all ENIs of a Cloud.
const (
	// InstanceID is the machine's.
	InstanceID = "i-0123456789abcdef0"
	// CloudSubnet is the ENIs' subnet.
	CloudSubnet device.SubnetID = "subnet-0a1b2c3d4e5f60001"

	// CloudCIDR is CloudSubnet's network.
	CloudCIDR = "10.2.0.0/16"

	primarySubnet = "subnet-0a1b2c3d4e5f60000"
	primaryCIDR   = "10.0.0.0/24"
	primaryIP     = "10.0.0.5"
)

// Cloud acts as EC2 for the machine: it attaches ENIs to hot-plug slots and detaches them, and an instance
// metadata service reports both with a delay. It is strict: a call that EC2 would refuse fails the test, and so
// does an unknown request to the metadata service.
//
// Its methods are safe for concurrent use.
type Cloud struct {
	imds *fakeimds.Running
	// plugging is locked for writing while a device goes, for reading while devices come. If another came
	// or went meanwhile, QEMU would repeat the eject request, which hw/acpi/pcihp.c keeps until the guest
	// has ejected. The kernel would eject twice, and remove a new device in the slot.
	plugging sync.RWMutex
	// before is the number of functions at first, plugged the number added since. No others may come or go.
	before  int
	plugged atomic.Int64

	mu     sync.Mutex
	made   int
	ledger ledger
}

// ENI is an elastic network interface. ID, MAC and address never change.
type ENI struct {
	ID  device.ENIID
	MAC device.MAC
	// Index is the device index of its attachment; 1 or more.
	Index   int
	Address netip.Addr
	Lag     Lag
}

// Lag is the delay of the metadata service against the hardware. The zero value has none.
type Lag struct {
	// Listed is the time from plugging in a device until its ENI is listed; negative for earlier.
	Listed time.Duration
	// Indexed is the time from then until its device-number is right; it is 0 before.
	Indexed time.Duration
	// Stale is the time from unplugging a device until its ENI leaves the list; negative for earlier.
	Stale time.Duration
}

// Announced says when the metadata list the ENI without its device index, and with it.
type Announced struct{ Listed, Indexed time.Time }

// NewCloud returns the Cloud of a machine whose primary ENI is the cold-plugged NIC with that MAC. The
// metadata service runs until the test ends; ENIs that are still attached are then detached.
func NewCloud(t testing.TB, primary device.MAC) *Cloud {
	t.Helper()
	c := &Cloud{ledger: ledger{}, before: functions(t)}
	c.imds = fakeimds.Start(t, fakeimds.Config{State: fakeimds.State{
		InstanceID: InstanceID,
		ENIs: []fakeimds.ENI{{
			ID: "eni-0000000000000000f", MAC: primary.String(), Primary: true,
			SubnetID: primarySubnet, SubnetIPv4CIDR: primaryCIDR, IPv4s: []string{primaryIP},
		}},
	}})
	t.Cleanup(func() {
		for _, e := range c.ledger.all() {
			e.Lag.Stale = 0
			c.DetachENI(t, e)
		}
	})
	return c
}

// URL is the metadata service's, for DaemonOptions.IMDS.
func (c *Cloud) URL() string { return c.imds.URL }

// NewENI makes an unattached ENI.
func (c *Cloud) NewENI(index int, lag Lag) ENI {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made++
	n := c.made
	return ENI{
		ID:    device.ENIID(fmt.Sprintf("eni-%017x", 0xe0000+n)),
		MAC:   device.MAC(fmt.Sprintf("02:e2:00:00:%02x:%02x", n>>8, n&0xff)),
		Index: index, Address: netip.AddrFrom4([4]byte{10, 2, byte(0x80 + n>>8), byte(n)}), Lag: lag,
	}
}

// Attached is an ENI's entry of status.attachments.
func (e ENI) Attached() v1alpha1.ENIAttachment { return Attached(e.metadata()) }

func (e ENI) metadata() fakeimds.ENI {
	return fakeimds.ENI{
		ID: e.ID.String(), MAC: e.MAC.String(), DeviceIndex: e.Index,
		SubnetID: CloudSubnet.String(), SubnetIPv4CIDR: CloudCIDR, IPv4s: []string{e.Address.String()},
	}
}

// AttachENI plugs an ENI in. It returns when its PCI function is there and the metadata's times are set.
func (c *Cloud) AttachENI(t testing.TB, e ENI, slot string) Announced {
	t.Helper()
	c.note(t, "attach "+e.ID.String(), func(l ledger) error { return l.attach(e, slot) })
	announced := c.announce(e)
	wait(t, -e.Lag.Listed)
	c.plugging.RLock()
	defer c.plugging.RUnlock()
	c.plugIn(t, e, slot)
	return announced
}

// DetachENI pulls an ENI out, also from a pod, and returns when it has left the machine.
func (c *Cloud) DetachENI(t testing.TB, e ENI) {
	t.Helper()
	c.note(t, "detach "+e.ID.String(), func(l ledger) error { return l.detach(e.ID) })
	c.imds.Detach(e.MAC.String())
	wait(t, -e.Lag.Stale)
	c.plugging.Lock()
	defer c.plugging.Unlock()
	c.pullOut(t, e)
	c.note(t, "detach "+e.ID.String(), func(l ledger) error { delete(l, e.ID); return nil })
}

// ReplaceENI swaps the ENI in a slot with nothing in between. The metadata service reports it afterwards.
func (c *Cloud) ReplaceENI(t testing.TB, old, next ENI) Announced {
	t.Helper()
	var slot string
	c.note(t, "replace "+old.ID.String(), func(l ledger) error {
		if err := l.detach(old.ID); err != nil {
			return err
		}
		slot = l[old.ID].slot
		delete(l, old.ID)
		return l.attach(next, slot)
	})
	c.plugging.Lock()
	defer c.plugging.Unlock()
	c.imds.Detach(old.MAC.String())
	c.pullOut(t, old)
	announced := c.announce(next)
	c.plugIn(t, next, slot)
	return announced
}

func (c *Cloud) note(t testing.TB, what string, change func(ledger) error) {
	t.Helper()
	c.mu.Lock()
	err := change(c.ledger)
	c.mu.Unlock()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func (c *Cloud) announce(e ENI) Announced {
	listed, now := max(0, e.Lag.Listed), time.Now()
	m := e.metadata()
	m.AppearsAfter, m.IndexAfter = fakeimds.Duration(listed), fakeimds.Duration(listed+e.Lag.Indexed)
	m.StaleFor = fakeimds.Duration(max(0, e.Lag.Stale))
	c.imds.Attach(m)
	return Announced{Listed: now.Add(listed), Indexed: now.Add(listed + e.Lag.Indexed)}
}

func (c *Cloud) plugIn(t testing.TB, e ENI, slot string) {
	t.Helper()
	c.plugged.Add(1)
	Attach(t, e.ID.String(), slot, e.MAC.String())
	Eventually(t, "PCI function of "+e.ID.String(), settleTime, func() bool { return functions(t) >= c.before+int(c.plugged.Load()) })
}

func (c *Cloud) pullOut(t testing.TB, e ENI) {
	t.Helper()
	Detach(t, e.ID.String())
	c.plugged.Add(-1)
}

func functions(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir(Devices)
	Must(t, err)
	return len(entries)
}

func wait(t testing.TB, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

type ledger map[device.ENIID]*attachment

type attachment struct {
	ENI
	slot      string
	detaching bool
}

func (l ledger) attach(e ENI, slot string) error {
	if e.Index < 1 {
		return fmt.Errorf("device index %d: want 1 or more, 0 is the primary ENI's", e.Index)
	}
	for id, a := range l {
		switch {
		case id == e.ID:
			return fmt.Errorf("it is in slot %s already", a.slot)
		case a.slot == slot:
			return fmt.Errorf("slot %s has %s", slot, id)
		case a.Index == e.Index:
			return fmt.Errorf("device index %d is that of %s", e.Index, id)
		}
	}
	l[e.ID] = &attachment{ENI: e, slot: slot}
	return nil
}

func (l ledger) detach(id device.ENIID) error {
	a, ok := l[id]
	switch {
	case !ok:
		return errors.New("it is not attached")
	case a.detaching:
		return errors.New("it is being detached already")
	}
	a.detaching = true
	return nil
}

// all lists the attachments that are not being detached.
func (l ledger) all() []ENI {
	var enis []ENI
	for _, a := range l {
		if !a.detaching {
			enis = append(enis, a.ENI)
		}
	}
	return enis
}
