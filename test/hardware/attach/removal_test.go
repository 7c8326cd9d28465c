package attach

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// prompt bounds a DEL that need not wait: the device is gone for good.
const prompt = 1500 * time.Millisecond

func kinds() map[string]conf {
	return map[string]conf{
		"exclusive":   {},
		"host-device": {"delegate": conf{"type": "host-device"}},
		"ipvlan":      {"delegate": conf{"type": "ipvlan", "mode": "l2"}},
		"macvlan":     {"delegate": conf{"type": "macvlan"}},
		"vlan":        {"delegate": conf{"type": "vlan", "vlanId": 5}},
	}
}

func pull(t *testing.T, pci string) {
	t.Helper()
	guest.WriteSys(t, filepath.Join(guest.Devices, pci, "remove"), "1")
	gone(t, pci)
}

func gone(t *testing.T, pci string) {
	t.Helper()
	guest.Eventually(t, pci+" is gone", returnTime, func() bool {
		_, err := os.Lstat(filepath.Join(guest.Devices, pci))
		return errors.Is(err, fs.ErrNotExist)
	})
}

func rescan(t *testing.T, mac string) {
	t.Helper()
	guest.WriteSys(t, "/sys/bus/pci/rescan", "1")
	guest.WaitNIC(t, mac)
}

func (p *pod) vanished() {
	p.Helper()
	p.in(func() error {
		if _, ok := guest.ByName(ifName); ok {
			p.Errorf("pod %s still has %s", p.id, ifName)
		}
		return nil
	})
}

func (p *pod) delOfNothing() {
	p.Helper()
	if r := guest.MustDel(p, p.cni("DEL", nil)); r.Took > prompt {
		p.Errorf("DEL of %s took %s", p.id, r.Took)
	}
	p.del()
}

// TestSurpriseRemoval: the device is removed under its pods, which lose their interface. Each pod's DEL
// succeeds at once, twice, and leaves nothing, also without the netns. A device that returns is new: DEL
// does not touch it, and pods can have it.
func TestSurpriseRemoval(t *testing.T) {
	for kind, c := range kinds() {
		for _, order := range []string{"del", "destroyed", "back"} {
			if order != "del" && (kind == "vlan" || kind == "macvlan") || order == "back" && kind == "ipvlan" {
				continue // nothing new: a plugin that shares the device does not move it
			}
			t.Run(kind+"/"+order, func(t *testing.T) {
				guest.Clean(t)
				pci := prepare(t, nic2, netdev{Name: "ens9", AltNames: []string{"eni-c"}, MTU: 1500, Up: true})
				c := c.with(conf{"deviceID": pci, "ipam": hostLocal("10.0.2.0/24")})
				p := newPod(t, "a", c)
				p.add()
				pull(t, pci)
				p.vanished()
				switch order {
				case "del":
					p.delOfNothing()
					rescan(t, nic2)
				case "destroyed":
					p.destroy()
					p.delOfNothing()
					rescan(t, nic2)
				case "back":
					rescan(t, nic2)
					found := device(pci)
					p.del()
					same(t, pci, found)
				}
				state := device(pci)
				state.Up = true // vlan wants that
				apply(t, state.Name, state)
				next := newPod(t, "next", c)
				next.add()
				next.del()
				same(t, pci, state)
			})
		}
	}
}

type hot struct {
	*testing.T
	plugged bool
}

func newHot(t *testing.T) *hot {
	h := &hot{T: t}
	t.Cleanup(func() {
		if h.plugged {
			h.unplug()
		}
	})
	return h
}

func (h *hot) plug(mac string) string {
	h.Helper()
	guest.Attach(h, "hot", "slot6", mac)
	h.plugged = true
	pci, name := guest.WaitNIC(h, mac)
	apply(h.T, name, netdev{Name: "ens11", AltNames: []string{"eni-h"}, MTU: 1500, Up: true})
	return pci
}

func (h *hot) unplug() {
	h.Helper()
	guest.Detach(h, "hot")
	h.plugged = false
}

func TestUnplugged(t *testing.T) {
	guest.Clean(t)
	h := newHot(t)
	c := kinds()["ipvlan"].with(conf{"deviceID": h.plug("02:00:00:00:03:01"), "ipam": hostLocal("10.0.2.0/24")})
	pods := []*pod{newPod(t, "a", c), newPod(t, "b", c), newPod(t, "c", c)}
	for _, p := range pods {
		p.add()
	}
	h.unplug()
	for _, p := range pods {
		p.vanished()
		p.delOfNothing()
	}
}

// TestReplaced: another NIC comes to the slot of a lost one. It is a new device that the old pod's DEL does not touch.
func TestReplaced(t *testing.T) {
	for name, tt := range map[string]struct {
		kind string
		late bool
	}{
		"exclusive, early DEL":  {"exclusive", false},
		"exclusive, late DEL":   {"exclusive", true},
		"host-device, late DEL": {"host-device", true},
	} {
		t.Run(name, func(t *testing.T) {
			guest.Clean(t)
			h := newHot(t)
			const first, second = "02:00:00:00:03:01", "02:00:00:00:03:02"
			pci := h.plug(first)
			c := kinds()[tt.kind].with(conf{"deviceID": pci, "ipam": hostLocal("10.0.2.0/24")})
			old := newPod(t, "old", c)
			old.add()
			h.unplug()
			if at := h.plug(second); at != pci {
				t.Fatalf("the second NIC is at %s, want %s", at, pci)
			}
			fresh := device(pci)
			if !tt.late {
				old.del()
				same(t, pci, fresh)
			}
			next := newPod(t, "next", c)
			next.add()
			if got := next.link(ifName).Attrs().HardwareAddr.String(); got != second {
				t.Errorf("the next pod's interface has MAC %s; want %s", got, second)
			}
			if tt.late {
				old.del()
			}
			next.check()
			next.del()
			same(t, pci, fresh)
		})
	}
}
