package addresses

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

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
	retiring(4) // or EC2, which may not show its change yet
	w.now = w.now.Add(consistent)
	w.sync()
	retiring(0)
	w.sync()
	w.calls("nothing is due")
	w.problem("all along", "")
}

// TestGiveBackBoth: with surplus in both families, a retiring address of one is kept in mind, and pods still get addresses.
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

// TestUnlisted: EC2 tells an ENI that the metadata do not list, with its MAC.
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

func TestGiveBackRefused(t *testing.T) {
	for name, arrange := range map[string]func(w *world){
		"an exclusive pod": func(w *world) {
			r, err := w.Attachments.Begin(nodestate.Attachment{AttachmentID: nodestate.AttachmentID{ContainerID: "c1", IfName: "net1"}, BootID: bootID,
				Mode: nodestate.ModeExclusive, Device: nodestate.AttachedDevice{PCIAddress: "0000:00:06.0"}})
			if err != nil {
				w.Fatal(err)
			}
			w.Cleanup(r.Close)
		},
		"a record that cannot be read": func(w *world) {
			if err := errors.Join(os.MkdirAll(string(w.Attachments), 0o700), os.WriteFile(filepath.Join(string(w.Attachments), "c1-net1.json"), []byte("{"),
				0o600)); err != nil {
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

// record has a pod share the ENI by another address plugin than eni-ipam.
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
	if err := errors.Join(os.MkdirAll(string(w.Attachments), 0o700), os.WriteFile(filepath.Join(string(w.Attachments), id+"-net1.json"), data,
		0o600)); err != nil {
		w.Fatal(err)
	}
}

// TestGiveBackSparesRecords: an address in a pod's record stays, whichever plugin gave it. An unclear record keeps all.
func TestGiveBackSparesRecords(t *testing.T) {
	w := newWorld(t, false, fakeec2.Config{}, func(e *fakeec2.ENI) {
		for n := range 12 {
			e.IPv4 = append(e.IPv4, netip.AddrFrom4([4]byte{10, 0, 1, byte(20 + n)}))
		}
	})
	w.record("c1", func(a *nodestate.Attachment) {
		a.Result = json.RawMessage(`{"cniVersion":"1.1.0","interfaces":[{"name":"net1"}],"ips":[` +
			`{"address":"10.0.1.31/24","interface":0},{"address":"2001:db8:1::31/64","interface":0}]}`)
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

// TestRetireLooksAgain: a planned address that is leased by the time the locks are held does not retire.
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

// TestRestart: a daemon that died between two steps goes on from there.
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
