package attach_test

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/test/adversary"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

var (
	adversaries = flag.Int("adversaries", 12, "how many pods TestAdversary has act at random")
	adversary1  = flag.Uint64("adversary", 1, "the seed of the first of them")
)

// device is the ENI as it is in the host, or as a pod has it.
func (e *env) describe(netns, name string) adversary.Description {
	e.t.Helper()
	var out adversary.Description
	must(e.t, nstest.In(netns, func() error {
		h, err := link.Open()
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.ByName(name)
		if err != nil {
			return err
		}
		out, err = adversary.Describe(l.Index)
		return err
	}))
	return out
}

// hostNetns is the netns of the test's node.
const hostNetns = "/proc/self/ns/net"

// mayRefuse are what no kernel, or not every one, lets a pod do to a veth; all else
// must be done at least once, so that nothing is shown by doing nothing.
func mayRefuse(a adversary.Act, err error) bool {
	return errors.Is(err, adversary.ErrCannot) || strings.HasPrefix(a.Name, "bond") || strings.HasPrefix(a.Name, "port of") ||
		strings.Contains(a.Name, "on top") || strings.HasPrefix(a.Name, "flag")
}

// TestAdversary: whatever a pod does to its interface, the host has the device as it
// was before, and the next pod gets it as the first one did. What the pod's
// processes hold open they still hold when DEL runs. Each act is tried alone, then
// some at random; -adversary repeats a seed.
func TestAdversary(t *testing.T) {
	if nstest.OutsideAsRoot(t) {
		return
	}
	e := newEnv(t)
	e.profile()
	before, whole := e.describe(hostNetns, "eth1"), e.snapshot()
	fresh := e.fresh()
	var acts []adversary.Act
	for _, act := range adversary.Acts() {
		args := e.pod(e.selectA())
		e.add(args)
		p := e.adversary(args, 1)
		err := p.Do(act)
		e.del(args)
		switch {
		case err == nil:
			acts = append(acts, act)
			e.asBefore(act.Name, before, whole, fresh)
		case mayRefuse(act, err):
			t.Logf("not tried: %s: %v", act.Name, err)
		default:
			t.Errorf("%s: %v", act.Name, err)
		}
		p.Kill()
	}
	acts = append(acts, adversary.Moves()...)
	for seed := *adversary1; seed < *adversary1+uint64(*adversaries); seed++ {
		args := e.pod(e.selectA())
		e.add(args)
		p := e.adversary(args, seed)
		done := []string{fmt.Sprintf("-adversary %d:", seed)}
		for _, act := range p.Some(acts, 8) {
			if p.Do(act) == nil {
				done = append(done, act.Name)
			}
		}
		for step := 1; seed%2 == 0 && e.kill("DEL", step, args); step++ {
			done = append(done, "kill of DEL")
		}
		e.del(args)
		if p.Away() { // the next ADD finishes what DEL could not
			if !e.owes(eniA.PCI) {
				t.Errorf("%s: nothing is known of the device in the nested netns", done)
			}
			must(t, p.Return("/proc/thread-self/ns/net", eniA.MAC))
			again := e.pod(e.selectA())
			e.add(again)
			e.del(again)
		}
		e.asBefore(strings.Join(done, ", "), before, whole, fresh)
		p.Kill()
	}
}

// profile has the inventory know the devices' settings, as the daemon does.
func (e *env) profile() {
	e.t.Helper()
	h, err := link.Open()
	must(e.t, err)
	defer h.Close()
	for i, d := range e.inv.Devices {
		e.inv.Devices[i].Ethtool, err = h.Ethtool(d.InterfaceName)
		must(e.t, err)
	}
	e.writeInventory()
}

// fresh is the device as a pod gets it that nobody has been before.
func (e *env) fresh() adversary.Description {
	e.t.Helper()
	args := e.pod(e.selectA())
	e.add(args)
	defer e.del(args)
	return e.describe(args.Netns, args.IfName)
}

func (e *env) adversary(args *skel.CmdArgs, seed uint64) *adversary.Pod {
	p := adversary.New(args.Netns, e.podLinks(args)[0].Index, seed)
	p.Host = []string{"eth1", "eth2"}
	return p
}

// asBefore demands that the host has the device as it was, and that the next pod
// gets it as the first did.
func (e *env) asBefore(done string, host adversary.Description, whole string, pod adversary.Description) {
	e.t.Helper()
	e.unchanged(whole, "after "+done)
	if diff := cmp.Diff(host, e.describe(hostNetns, "eth1")); diff != "" {
		e.t.Errorf("after %s: the device in the host (-before +after):\n%s", done, diff)
	}
	if diff := cmp.Diff(pod, e.fresh()); diff != "" {
		e.t.Errorf("after %s: the device in the next pod (-first +next):\n%s", done, diff)
	}
}

// TestAdversaryDeletes: a pod may delete an interface that has no hardware. DEL
// succeeds, and says in a restore record that the device is not back.
func TestAdversaryDeletes(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	args := e.pod(e.selectA())
	e.add(args)
	must(t, e.adversary(args, 1).Do(adversary.Delete()))
	e.del(args)
	if !e.owes(eniA.PCI) {
		t.Error("nothing tells that the device is not back")
	}
	e.refused("ADD", e.pod(e.selectA()), 104, eniA.PCI)
}
