package attach

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// returnTime is how long the kernel may take to end a netns and return its devices.
const returnTime = 30 * time.Second

func restoreRecord(pci string) string {
	return filepath.Join("/var/lib/cni/multi-eni/restore", pci+".json")
}

func settle(t *testing.T, pci string) {
	t.Helper()
	guest.Eventually(t, "the device "+pci+" is in the host", returnTime, func() bool { return guest.Netdev(pci) != "" })
	p := newPod(t, "settle-"+digits(pci), conf{"deviceID": pci})
	p.add()
	p.del()
	p.destroy()
	if _, err := os.Lstat(restoreRecord(pci)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the restore record of %s is left: %v", pci, err)
	}
}

func inBothEnds(t *testing.T, f func(t *testing.T, destroyed bool)) {
	t.Run("del", func(t *testing.T) { f(t, false) })
	t.Run("destroyed", func(t *testing.T) { f(t, true) })
}

// TestDyingNetns: DEL follows the end of the netns at once, when the kernel may not have returned the device yet.
func TestDyingNetns(t *testing.T) {
	guest.Clean(t)
	pci := prepare(t, nic0, netdev{Name: "ens7", AltNames: []string{"eni-a"}, MTU: 1600, Up: true})
	before := device(pci)
	p := newPod(t, "dying", conf{"deviceID": pci, "mtu": 1450, "ipam": hostLocal("10.0.2.0/24")})
	p.add()
	p.disfigure("eth0")
	p.destroy()
	p.del()
	settle(t, pci)
	same(t, pci, before)
}

// TestTwoDying: two netns end at once, and each device gets a name from the kernel, perhaps the other's.
func TestTwoDying(t *testing.T) {
	guest.Clean(t)
	before := map[string]netdev{}
	var pods []*pod
	for mac, state := range map[string]netdev{
		nic0: {Name: "ens7", MTU: 1600, Up: true},
		nic2: {Name: "ens9", AltNames: []string{"eni-b"}, MTU: 1500},
	} {
		pci := prepare(t, mac, state)
		before[pci] = device(pci)
		p := newPod(t, "dying-"+state.Name, conf{"deviceID": pci})
		p.add()
		pods = append(pods, p)
	}
	for _, p := range pods {
		p.destroy()
	}
	for pci := range before {
		guest.Eventually(t, pci+" is back", returnTime, func() bool { return guest.Netdev(pci) != "" })
	}
	for _, p := range pods {
		p.del()
	}
	for pci, want := range before {
		same(t, pci, want)
	}
}

// TestLimbo: a process holds the netns. DEL succeeds within its bound; the device is restored once the process lets go.
func TestLimbo(t *testing.T) {
	guest.Clean(t)
	pci := prepare(t, nic0, netdev{Name: "ens7", AltNames: []string{"eni-a"}, MTU: 1600, Up: true})
	before := device(pci)
	c := conf{"deviceID": pci, "ipam": hostLocal("10.0.2.0/24")}
	p := newPod(t, "limbo", c)
	p.add()
	p.disfigure("eth0")
	held, err := os.Open(p.netns)
	guest.Must(t, err)
	defer held.Close()
	p.destroy()
	if r := guest.MustDel(t, p.cni("DEL", nil)); r.Took > 6*time.Second {
		t.Errorf("DEL took %s; want 2 s for the device and little else", r.Took)
	}
	if _, err := os.Lstat(restoreRecord(pci)); err != nil {
		t.Errorf("DEL has left no restore record: %v", err)
	}
	newPod(t, "too-early", c).refused(104, pci)
	guest.Must(t, held.Close())
	settle(t, pci)
	same(t, pci, before)
}

// TestNameTaken: another link has the device's name at DEL; the device uses a fallback name until its own is free.
func TestNameTaken(t *testing.T) {
	guest.Clean(t)
	pci := prepare(t, nic0, netdev{Name: "ens7", AltNames: []string{"eni-a"}, MTU: 1600, Up: true})
	before := device(pci)
	p := newPod(t, "named", conf{"deviceID": pci})
	p.add()
	thief := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "ens7"}}
	guest.Must(t, netlink.LinkAdd(thief))
	p.del()
	home := before
	home.Name = "eni" + digits(pci)
	same(t, pci, home)
	guest.Must(t, netlink.LinkDel(thief))
	settle(t, pci)
	same(t, pci, before)
}

func digits(pci string) string {
	var out []rune
	for _, r := range pci {
		if r != ':' && r != '.' {
			out = append(out, r)
		}
	}
	return string(out)
}

// TestAltNameClash: the interface has an altname that is another link's name in the host, and returns nevertheless.
func TestAltNameClash(t *testing.T) {
	inBothEnds(t, func(t *testing.T, destroyed bool) {
		guest.Clean(t)
		pci := prepare(t, nic0, netdev{Name: "ens7", AltNames: []string{"eni-a"}, MTU: 1500, Up: true})
		before := device(pci)
		p := newPod(t, "clash", conf{"deviceID": pci})
		p.add()
		l := p.link(ifName)
		_, taken := guest.WaitNIC(t, nic1)
		p.in(func() error { return netlink.LinkAddAltName(l, taken) })
		if destroyed {
			p.destroy()
		}
		p.del()
		settle(t, pci)
		same(t, pci, before)
	})
}

// TestStackedByPod: links that the pod stacked on its device end with DEL, or they would be on the wire beside the next pod.
func TestStackedByPod(t *testing.T) {
	inBothEnds(t, func(t *testing.T, destroyed bool) {
		guest.Clean(t)
		pci := prepare(t, nic0, netdev{Name: "ens7", MTU: 1500, Up: true})
		before := device(pci)
		p := newPod(t, "stacked", conf{"deviceID": pci})
		p.add()
		p.disfigure("eth0")
		parent := p.link("eth0").Attrs().Index
		p.in(func() error {
			for _, l := range []netlink.Link{
				&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: ifName, ParentIndex: parent}, VlanId: 5},
				&netlink.IPVlan{LinkAttrs: netlink.LinkAttrs{Name: "child", ParentIndex: parent}, Mode: netlink.IPVLAN_MODE_L2},
			} {
				if err := netlink.LinkAdd(l); err != nil {
					return err
				}
			}
			return nil
		})
		if destroyed {
			p.destroy()
		}
		p.del()
		if !destroyed {
			p.in(func() error {
				var names []string
				for _, l := range guest.Links(t) {
					names = append(names, l.Attrs().Name)
				}
				if d := cmp.Diff([]string{"lo"}, names); d != "" {
					t.Errorf("links of the pod after DEL (-want +got):\n%s", d)
				}
				return nil
			})
		}
		settle(t, pci)
		same(t, pci, before)
	})
}
