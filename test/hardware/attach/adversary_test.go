package attach

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/test/adversary"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

const adversaries = 6

type target struct {
	*testing.T
	pci    string
	c      conf
	pods   int
	host   adversary.Description // the device in the host
	fresh  adversary.Description // and in the first pod
	ignore []string
}

// TestAdversary: whatever a pod does to a NIC or VF, host and next pod get it unchanged, however the pod ends.
func TestAdversary(t *testing.T) {
	t.Run("e1000e", func(t *testing.T) {
		guest.Clean(t)
		pci := prepare(t, nic0, netdev{Name: "ens7", AltNames: []string{"eni-a"}, MTU: 1500, Up: true})
		adverse(t, pci)
	})
	t.Run("VF", func(t *testing.T) {
		guest.Clean(t)
		_, vfs := newVFs(t, 1)
		adverse(t, vfs[0])
	})
}

// TestAdversaryShared: a pod's changes to its ipvlan end with the ipvlan. The exception is IFLA_ALLMULTI:
// an ipvlan that is deleted with the flag ALLMULTI leaves its parent receiving all multicast (Linux 6.1),
// and nothing can undo that.
func TestAdversaryShared(t *testing.T) {
	guest.Clean(t)
	pci := prepare(t, nic0, netdev{Name: "ens7", MTU: 1500, Up: true})
	a := newTarget(t, pci, conf{"delegate": conf{"type": "ipvlan", "mode": "l2"}, "ipam": hostLocal("10.0.2.0/24")})
	a.ignore = []string{"attribute 61"}
	a.each(adversary.Acts())
}

func adverse(t *testing.T, pci string) {
	a := newTarget(t, pci, conf{"ipam": hostLocal("10.0.2.0/24")})
	acts := a.each(adversary.Acts())
	for seed := range uint64(adversaries) {
		a.random(append(acts, adversary.Moves()...), seed)
	}
}

func newTarget(t *testing.T, pci string, c conf) *target {
	t.Helper()
	guest.DeclareSettings(t, pci)
	a := &target{T: t, pci: pci, c: c.with(conf{"deviceID": pci})}
	a.host = a.inHost()
	p := a.pod()
	a.fresh = guest.Describe(t, p.netns, ifName)
	a.end(p)
	return a
}

func (a *target) pod() *pod {
	a.Helper()
	a.pods++
	p := newPod(a.T, fmt.Sprintf("adv%d", a.pods), a.c)
	p.add()
	return p
}

func (a *target) end(p *pod) {
	a.Helper()
	p.del()
	if _, err := os.Lstat(p.netns); err == nil {
		p.destroy()
	}
}

func (a *target) adversary(p *pod, seed uint64) *adversary.Pod {
	a.Helper()
	adv := adversary.New(p.netns, p.link(ifName).Attrs().Index, seed)
	adv.Host = []string{"ens7", "lo"}
	return adv
}

func (a *target) inHost() adversary.Description {
	a.Helper()
	return guest.Describe(a.T, guest.HostNetns, guest.Netdev(a.pci))
}

// together is how many acts each tries on one pod: under emulation a pod takes a second.
const together = 5

// each tries all acts, and returns those that the kernel permits a pod.
func (a *target) each(all []adversary.Act) (done []adversary.Act) {
	a.Helper()
	var not []string
	for some := range slices.Chunk(all, together) {
		p := a.pod()
		adv := a.adversary(p, 1)
		var names []string
		for _, act := range some {
			if err := adv.Do(act); err != nil {
				not = append(not, fmt.Sprintf("%s (%v)", act.Name, err))
				continue
			}
			done, names = append(done, act), append(names, act.Name)
		}
		a.end(p)
		if len(names) > 0 {
			a.asBefore(strings.Join(names, ", "))
		}
		adv.Kill()
	}
	a.Logf("not done: %s", strings.Join(not, ", "))
	return done
}

// random lets a pod act at random, and ends it in one of the ways that pods end.
func (a *target) random(acts []adversary.Act, seed uint64) {
	a.Helper()
	p := a.pod()
	adv := a.adversary(p, seed)
	done := []string{fmt.Sprintf("seed %d:", seed)}
	for _, act := range adv.Some(acts, 10) {
		if adv.Do(act) == nil {
			done = append(done, act.Name)
		}
	}
	if seed%3 == 1 {
		done = append(done, "end of the netns")
		adv.Kill()
		p.destroy()
	}
	p.del()
	adv.Kill()
	a.end(p)
	if _, err := os.Lstat(restoreRecord(a.pci)); err == nil {
		settle(a.T, a.pci)
	} else if !errors.Is(err, os.ErrNotExist) {
		a.Error(err)
	}
	a.asBefore(strings.Join(done, ", "))
}

// ipv6OfTheHost is IFLA_AF_SPEC, the host's sysctls of the link, which change when a netns ends with a NOARP link.
const ipv6OfTheHost = "attribute 26"

func (a *target) asBefore(done string) {
	a.Helper()
	if _, err := os.Lstat(restoreRecord(a.pci)); err == nil {
		r, _ := os.ReadFile(restoreRecord(a.pci))
		a.Errorf("after %s: a restore record is left: %s", done, r)
	}
	now, want := a.inHost(), maps.Clone(a.host)
	ignore := a.ignore
	if strings.Contains(done, "end of the netns") {
		ignore = append(slices.Clone(ignore), ipv6OfTheHost)
	}
	for _, key := range ignore {
		delete(now, key)
		delete(want, key)
	}
	if diff := cmp.Diff(want, now); diff != "" {
		a.Errorf("after %s: the device in the host (-before +after):\n%s", done, diff)
	}
	p := a.pod()
	if diff := cmp.Diff(a.fresh, guest.Describe(a.T, p.netns, ifName)); diff != "" {
		a.Errorf("after %s: the device in the next pod (-first +next):\n%s", done, diff)
	}
	a.end(p)
}
