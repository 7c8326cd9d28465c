package attach_test

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/test/adversary"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

var (
	adversaries = flag.Int("adversaries", 12, "how many pods TestAdversary has act at random")
	adversary1  = flag.Uint64("adversary", 1, "the seed of the first of them")
)

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

const hostNetns = "/proc/self/ns/net"

// mayRefuse lists acts that some kernels refuse on a veth. Every other act must succeed at
// least once, since failed acts would prove nothing.
func mayRefuse(a adversary.Act, err error) bool {
	return errors.Is(err, adversary.ErrCannot) || strings.HasPrefix(a.Name, "bond") || strings.HasPrefix(a.Name, "port of") ||
		strings.Contains(a.Name, "on top") || strings.HasPrefix(a.Name, "flag")
}

func manyAdversaries() uint64 {
	if testing.Short() {
		return 4
	}
	return uint64(*adversaries)
}

// TestAdversary: after any act of a pod on its interface, the host gets the device back
// unchanged, and so does the next pod. The pod's processes keep everything open during
// DEL. Each act is tried alone, then some at random; -adversary repeats a seed.
func TestAdversary(t *testing.T) {
	if nstest.OutsideAsRoot(t) {
		return
	}
	e := newEnv(t)
	v := e.victim(e.selectA())
	acts := v.each()
	for seed := *adversary1; seed < *adversary1+manyAdversaries(); seed++ {
		v.random(append(acts, adversary.Moves()...), seed, seed%2 == 0)
	}
}

// TestAdversaryDelegate is TestAdversary for a pod that got the device from host-device,
// which trusts settings that the pod can change.
func TestAdversaryDelegate(t *testing.T) {
	if nstest.OutsideAsRoot(t) {
		return
	}
	e := newEnv(t)
	conf := e.selectA()
	conf["delegate"] = map[string]any{"type": "host-device", "deviceField": "device"}
	v := e.victim(conf)
	acts := slices.DeleteFunc(adversary.Acts(), func(a adversary.Act) bool { // a veth under another name is known by its MAC alone
		return a.Name == "MAC" || a.Name == "every attribute"
	})
	for seed := *adversary1; seed < *adversary1+manyAdversaries()/2; seed++ {
		v.random(acts, seed, false) // a killed host-device lets a veth die with the netns through which it moves it
	}
}

type victim struct {
	*env
	conf map[string]any
	// host describes the device before the first pod, and whole the node.
	host, fresh adversary.Description
	whole       string
}

func (e *env) victim(conf map[string]any) *victim {
	e.t.Helper()
	e.profile()
	v := &victim{env: e, conf: conf, host: e.describe(hostNetns, "eth1"), whole: e.snapshot()}
	v.fresh = v.next()
	return v
}

func (v *victim) each() (done []adversary.Act) {
	v.t.Helper()
	for _, act := range adversary.Acts() {
		args := v.pod(v.conf)
		v.add(args)
		p := v.adversary(args, 1)
		err := p.Do(act)
		v.del(args)
		switch {
		case err == nil:
			done = append(done, act)
			v.asBefore(act.Name)
		case mayRefuse(act, err):
			v.t.Logf("not tried: %s: %v", act.Name, err)
		default:
			v.t.Errorf("%s: %v", act.Name, err)
		}
		p.Kill()
	}
	return done
}

// random has a pod act at random, and end, perhaps by DELs that are killed.
func (v *victim) random(acts []adversary.Act, seed uint64, kills bool) {
	v.t.Helper()
	args := v.pod(v.conf)
	v.add(args)
	p := v.adversary(args, seed)
	done := []string{fmt.Sprintf("-adversary %d:", seed)}
	for _, act := range p.Some(acts, 8) {
		if p.Do(act) == nil {
			done = append(done, act.Name)
		}
	}
	for step := 1; kills && v.kill("DEL", step, args); step++ {
		done = append(done, "kill of DEL")
	}
	v.del(args)
	if p.Away() { // the next ADD finishes the work of DEL
		if !v.owes(eniA.PCI) {
			v.t.Errorf("%s: nothing is known of the device in the nested netns", done)
		}
		must(v.t, p.Return("/proc/thread-self/ns/net", eniA.MAC))
		again := v.pod(v.conf)
		v.add(again)
		v.del(again)
	}
	v.asBefore(strings.Join(done, ", "))
	p.Kill()
}

func (v *victim) next() adversary.Description {
	v.t.Helper()
	args := v.pod(v.conf)
	v.add(args)
	defer v.del(args)
	return v.describe(args.Netns, args.IfName)
}

// asBefore requires the host's and the next pod's device to be as at first.
func (v *victim) asBefore(done string) {
	v.t.Helper()
	v.unchanged(v.whole, "after "+done)
	equal(v.t, v.host, v.describe(hostNetns, "eth1"), "after %s: the device in the host", done)
	equal(v.t, v.fresh, v.next(), "after %s: the device in the next pod", done)
}

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

func (e *env) adversary(args *skel.CmdArgs, seed uint64) *adversary.Pod {
	p := adversary.New(args.Netns, e.podLinks(args)[0].Index, seed)
	p.Host = []string{"eth1", "eth2"}
	return p
}

// TestAdversaryDeletes: a pod can delete an interface without hardware. DEL succeeds, and
// leaves a restore record.
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
