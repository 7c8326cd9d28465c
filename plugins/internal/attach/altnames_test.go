package attach_test

import (
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func addAltName(t *testing.T, args *skel.CmdArgs, name string) {
	t.Helper()
	must(t, nstest.In(args.Netns, func() error {
		l, err := netlink.LinkByName(args.IfName)
		if err != nil {
			return err
		}
		return netlink.LinkAddAltName(l, name)
	}))
}

// TestAltNamesOfThePod: a pod may give its interface any altname, even one that the host
// uses. The device returns without it.
func TestAltNamesOfThePod(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	for _, name := range []string{"eth2", "eth1", "podown"} {
		args := e.pod(e.selectA())
		e.add(args)
		addAltName(t, args, name)
		e.del(args)
		if left := e.podLinks(args); len(left) != 0 {
			t.Errorf("altname %s: left in the pod: %+v", name, left)
		}
		e.same(t, before, "altname "+name)
	}
}

func TestAltNameTakenMeanwhile(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	args := e.pod(e.selectA())
	e.add(args)
	squat(t, "ens6")
	e.del(args)
	if left := e.podLinks(args); len(left) != 0 {
		t.Fatalf("left in the pod: %+v", left)
	}
	unsquat(t, "ens6")
	next := e.pod(e.selectA())
	e.add(next)
	e.del(next)
	e.same(t, before, "once the altname is free")
}

// TestNameOwedAcrossPods: the device gets its name back even if further pods had it while
// another link used the name.
func TestNameOwedAcrossPods(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	args := e.pod(e.selectA())
	e.add(args)
	squat(t, "eth1")
	e.del(args)
	between := e.pod(e.selectA())
	e.add(between)
	e.del(between)
	unsquat(t, "eth1")
	next := e.pod(e.selectA())
	e.add(next)
	e.del(next)
	e.same(t, before, "once the name is free")
}
