package attach_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// give makes a veth of the pod's own, of the same kind as the stand-ins of ENIs.
func give(t *testing.T, args *skel.CmdArgs, name string, altNames ...string) {
	t.Helper()
	must(t, nstest.In(args.Netns, func() error {
		la := netlink.NewLinkAttrs()
		la.Name = name
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: name + "-peer"}); err != nil {
			return err
		}
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkAddAltName(l, "alt-"+name); err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(l), netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 168, 7, 1), Mask: net.CIDRMask(24, 32)}}))
	}))
}

// belongings describes all links of the pod, as far as multi-eni could change them.
func (e *env) belongings(args *skel.CmdArgs) (out []string) {
	e.t.Helper()
	h := inNetns(e.t, args.Netns)
	defer h.Close()
	all, err := h.Links()
	must(e.t, err)
	for _, l := range all {
		have, err := h.Addresses(l.Index)
		must(e.t, err)
		have = slices.DeleteFunc(have, func(p netip.Prefix) bool { return p.Addr().Is6() }) // a link-local one comes in its own time
		out = append(out, fmt.Sprintf("%d %+v %v", l.Index, l.State(), have))
	}
	return out
}

func ways(e *env) map[string]map[string]any {
	leasing := e.sharing(map[string]any{"coolDown": 0}, "10.0.2.15/24", "10.0.2.16/24")
	hostDevice := e.selectA()
	hostDevice["delegate"] = map[string]any{"type": "host-device", "deviceField": "device"}
	macvlan := map[string]any{"select": leasing["select"], "delegate": leasing["delegate"], "ipam": map[string]any{
		"type": "host-local", "dataDir": e.file("ipam"), "subnet": "10.0.2.0/24",
	}}
	return map[string]map[string]any{"exclusive": e.selectA(), "host-device": hostDevice, "macvlan": macvlan, "macvlan, eni-ipam": leasing}
}

// TestOthersInterfaces: ADD, its undo and DEL leave the pod's other interfaces alone, even
// under the attachment's name.
func TestOthersInterfaces(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	confs := ways(e)
	node := e.snapshot()
	for way, conf := range confs {
		untouched := func(when string, args *skel.CmdArgs, do func()) {
			t.Helper()
			before := e.belongings(args)
			do()
			e.del(args)
			equal(t, before, e.belongings(args), "%s, %s: the pod's own interfaces", way, when)
			e.unchanged(node, way+", "+when)
		}
		for _, name := range []string{"net1", "alt-eth0"} {
			args := e.pod(conf)
			give(t, args, "eth0")
			if name == "net1" {
				give(t, args, "net1")
			}
			args.IfName = name
			untouched("it has "+name+" before ADD", args, func() { e.refused("ADD", args, 4, "already has an interface "+name) })
		}
		for i, step := range e.stepsOfADD(conf) {
			if step == "move" || step == "delegate" || step == "intent" || step == "ipam" { // later the name is the attachment's
				args := e.pod(conf)
				give(t, args, "eth0")
				n := 0
				p := &attach.Plugin{Before: func(string) error {
					if n++; n == i+1 {
						give(t, args, "net1")
					}
					return nil
				}}
				_, err := run(p, "ADD", args)
				if err == nil {
					t.Errorf("%s: ADD succeeded beside another net1 that came before %s", way, step)
				}
				before := e.belongings(args)
				untouched("it gets net1 before "+step, args, func() {})
				if len(before) != 5 {
					t.Errorf("%s: the undo took the pod's own away: %v", way, before)
				}
			}
		}
		args := e.pod(conf)
		give(t, args, "eth0")
		own := e.belongings(args)
		e.add(args)
		inPod(t, args, func(h *link.Handle, l link.Link) error {
			return errors.Join(h.SetDown(l.Index), h.Rename(l.Index, "mine"), h.SetUp(l.Index))
		})
		inPodNamed(t, args, "eth0", func(h *link.Handle, l link.Link) error {
			return errors.Join(h.SetDown(l.Index), h.Rename(l.Index, "net1"))
		})
		e.del(args)
		inPodNamed(t, args, "net1", func(h *link.Handle, l link.Link) error {
			return errors.Join(h.Rename(l.Index, "eth0"), h.SetUp(l.Index))
		})
		equal(t, own, e.belongings(args), "%s, names exchanged: the pod's own interfaces", way)
		e.unchanged(node, way+", names exchanged")
	}
}

func inPodNamed(t *testing.T, args *skel.CmdArgs, name string, f func(*link.Handle, link.Link) error) {
	t.Helper()
	other := *args
	other.IfName = name
	inPod(t, &other, f)
}

// TestRenamedByThePod: DEL removes an interface that the pod has renamed, and its address.
// The next pod gets one that no other has.
func TestRenamedByThePod(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	confs := ways(e)
	node := e.snapshot()
	for way, conf := range confs {
		for _, old := range []bool{false, true} { // the record of an older version does not describe the interface
			args := e.pod(conf)
			e.add(args)
			if old {
				forget(t, e, args)
			} else {
				inPod(t, args, func(h *link.Handle, l link.Link) error {
					return errors.Join(h.SetDown(l.Index), h.Rename(l.Index, "mine"))
				})
			}
			e.del(args)
			e.holdsNone(args, way)
			e.unchanged(node, way)
		}
	}
}

// TestNetnsUnderAnotherPath: a netns whose recorded path is gone is found by the runtime's
// path, and during ADD without a path.
func TestNetnsUnderAnotherPath(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	confs := ways(e)
	node := e.snapshot()
	for way, conf := range confs {
		args := e.pod(conf)
		e.add(args)
		other := *args
		other.Netns += "-moved"
		must(t, os.WriteFile(other.Netns, nil, 0o600))
		must(t, unix.Mount(args.Netns, other.Netns, "", unix.MS_BIND, ""))
		must(t, nstest.DeleteNetns(args.Netns))
		e.del(&other)
		e.holdsNone(&other, way)
		e.unchanged(node, way)

		args = e.pod(conf)
		other.Netns = args.Netns + "-moved"
		must(t, os.WriteFile(other.Netns, nil, 0o600))
		must(t, unix.Mount(args.Netns, other.Netns, "", unix.MS_BIND, ""))
		lost := at("complete", func() { must(t, nstest.DeleteNetns(args.Netns)) })
		e.fails(&attach.Plugin{Before: failAt("complete", lost)}, "ADD", args, 999, "injected")
		e.holdsNone(&other, way)
		e.unchanged(node, way+", undone")
	}
}

func forget(t *testing.T, e *env, args *skel.CmdArgs) {
	t.Helper()
	r, err := e.records().Lock(t.Context(), nodestate.AttachmentID{ContainerID: args.ContainerID, IfName: args.IfName})
	must(t, err)
	defer r.Close()
	r.Interface = nil
	must(t, r.Save())
}

// TestReusedNetnsPath: another pod now has the netns path, and this pod's record is
// missing. Its DEL takes nothing from the other pod.
func TestReusedNetnsPath(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	node := e.snapshot()
	living := e.pod(e.selectA())
	result := e.add(living)
	own := e.belongings(living)
	lost := e.pod(e.selectA())
	lost.Netns = living.Netns
	e.del(lost)
	equal(t, own, e.belongings(living), "the living pod's interfaces")
	e.succeeds("CHECK", withPrev(t, living, result))

	// An unreadable record may be the owner's; a missing one is not.
	record := e.file("records", living.ContainerID+"-net1.json")
	whole, err := os.ReadFile(record)
	must(t, err)
	must(t, os.WriteFile(record, whole[:40], 0o600))
	e.refused("DEL", lost, 999, "may be its owner's", record)
	equal(t, own, e.belongings(living), "beside a torn record")
	must(t, os.WriteFile(record, whole, 0o600))
	e.del(living)
	e.unchanged(node, "after the living pod's DEL")
}

// TestTwinOfTheDevice: a pod gives its own interface the MAC of an idle device. DEL
// without a record leaves that interface.
func TestTwinOfTheDevice(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	node := e.snapshot()
	args := e.pod(e.selectA())
	give(t, args, "net1")
	inPod(t, args, func(h *link.Handle, l link.Link) error {
		state := l.State()
		state.MAC = device.MAC(eniA.MAC)
		return h.Restore(l, state)
	})
	own := e.belongings(args)
	e.del(args)
	equal(t, own, e.belongings(args), "the pod's own interfaces")
	e.unchanged(node, "after DEL")
}
