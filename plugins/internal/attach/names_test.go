package attach_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// uevents returns the link events that udev receives while f runs, such as "add net1".
func uevents(t *testing.T, f func()) (heard []string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}))
	f()
	buf := make([]byte, 1<<16)
	for quiet := 0; quiet < 5; {
		n, err := unix.Read(fd, buf)
		if err != nil {
			quiet++
			time.Sleep(10 * time.Millisecond)
			continue
		}
		fields := strings.Split(string(buf[:n]), "\x00")
		name := ""
		for _, field := range fields[1:] {
			if v, ok := strings.CutPrefix(field, "INTERFACE="); ok {
				name = v
			}
		}
		action, path, _ := strings.Cut(fields[0], "@")
		if !strings.Contains(path, "/queues/") {
			heard = append(heard, action+" "+name)
		}
	}
	return heard
}

// TestUdevHearsTheName: a link returns under its name. If the pod has another interface of
// that name, udev gets two events.
func TestUdevHearsTheName(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	args := e.pod(e.selectA())
	e.add(args)
	inPod(t, args, func(in *link.Handle, l link.Link) error {
		if err := in.TryRename(l.Index, "other"); errors.Is(err, unix.EBUSY) {
			t.Skip("this kernel renames no link that is up")
		}
		return in.TryRename(l.Index, l.Name)
	})
	for _, tt := range []struct {
		name string
		pod  func(*link.Handle, link.Link) error
		want []string
	}{
		{"as the pod had it", func(*link.Handle, link.Link) error { return nil }, []string{"add eth1"}},
		{"renamed by the pod", func(in *link.Handle, l link.Link) error { return in.TryRename(l.Index, "mine") }, []string{"add eth1"}},
		{"named so by the pod", func(in *link.Handle, l link.Link) error { return in.TryRename(l.Index, "eth1") }, []string{"add eth1"}},
		{"beside another of the name", func(*link.Handle, link.Link) error {
			return nstest.In(args.Netns, func() error {
				return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth1"}, PeerName: "peer"})
			})
		}, []string{"add net1", "move eth1"}},
	} {
		if tt.name != "as the pod had it" {
			args = e.pod(e.selectA())
			e.add(args)
		}
		inPod(t, args, tt.pod)
		if got := uevents(t, func() { e.del(args) }); !slices.Equal(got, tt.want) {
			t.Errorf("%s: udev hears %q, want %q", tt.name, got, tt.want)
		}
		e.unchanged(before, tt.name)
	}
}

// TestNameTakenOnTheWay: another link of the host takes the name after DEL has looked. The
// device returns under its fallback name, and gets its own later.
func TestNameTakenOnTheWay(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	args := e.pod(e.selectA())
	e.add(args)
	_, err := run(&attach.Plugin{Before: func(step string) error {
		if step == "home" {
			squat(t, "eth1")
		}
		return nil
	}}, "DEL", args)
	must(t, err)
	e.holdsNone(args)
	if !e.owes(eniA.PCI) {
		t.Error("nothing tells that the name is still owed")
	}
	unsquat(t, "eth1")
	e.roundTrip(e.selectA())
	e.unchanged(before, "once the name is free")
}

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
		e.holdsNone(args, name)
		e.unchanged(before, "altname "+name)
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
	e.holdsNone(args)
	unsquat(t, "ens6")
	e.roundTrip(e.selectA())
	e.unchanged(before, "once the altname is free")
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
	e.roundTrip(e.selectA())
	unsquat(t, "eth1")
	e.roundTrip(e.selectA())
	e.unchanged(before, "once the name is free")
}
