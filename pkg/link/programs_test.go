package link_test

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/test/adversary"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// programs loads the two programs, or skips the test.
func programs(t *testing.T) (xdp, tc adversary.Program) {
	t.Helper()
	xdp, err := adversary.LoadXDP()
	if errors.Is(err, adversary.ErrCannot) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(xdp.Close)
	tc, err = adversary.LoadTC()
	must(t, err)
	t.Cleanup(tc.Close)
	return xdp, tc
}

// TestNoProgramComesHome: Restore takes off every program that a pod has attached to its link, in any way, even while
// the pod's process lives. The host's own XDP program stays.
func TestNoProgramComesHome(t *testing.T) {
	if nstest.OutsideAsRoot(t) {
		return
	}
	node(t, eth1)
	xdp, tc := programs(t)
	h := open(t)
	ns, in := pod(t, "pod")
	host, err := link.CurrentNetns()
	must(t, err)
	defer host.Close()
	hold := func(hook uint32, p adversary.Program) func(index int) error {
		return func(index int) error {
			end, err := p.Link(index, hook)
			if err == nil {
				t.Cleanup(end)
			}
			return err
		}
	}
	for _, tt := range []struct {
		name   string
		attach []func(index int) error
	}{
		{"generic XDP", []func(int) error{func(i int) error { return xdp.XDP(i, unix.XDP_FLAGS_SKB_MODE) }}},
		{"native XDP", []func(int) error{func(i int) error { return xdp.XDP(i, unix.XDP_FLAGS_DRV_MODE) }}},
		{"XDP by bpf_link", []func(int) error{hold(adversary.HookXDP, xdp)}},
		{"tcx", []func(int) error{
			func(i int) error { return tc.TCX(i, unix.BPF_TCX_INGRESS) }, func(i int) error { return tc.TCX(i, unix.BPF_TCX_EGRESS) },
		}},
		{"tcx by bpf_link", []func(int) error{hold(unix.BPF_TCX_INGRESS, tc), hold(unix.BPF_TCX_EGRESS, tc)}},
		{"all", []func(int) error{
			hold(adversary.HookXDP, xdp), hold(unix.BPF_TCX_INGRESS, tc), func(i int) error { return tc.TCX(i, unix.BPF_TCX_EGRESS) },
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := h.ByName("eth1")
			must(t, err)
			want := l.State()
			must(t, h.Move(l.Index, ns, "net1"))
			l, err = in.ByName("net1")
			must(t, err)
			for _, attach := range tt.attach {
				must(t, ns.Do(func() error { return attach(l.Index) }))
			}
			must(t, in.Move(l.Index, host, "eth1"))
			l, err = h.ByName("eth1")
			must(t, err)
			if n, err := adversary.TCXPrograms(l.Index); err != nil || n == 0 && l.XDPMode == 0 {
				t.Fatalf("no program came with the link (%v): nothing to be shown", err)
			}
			must(t, h.Restore(l, want))
			l, err = h.ByName("eth1")
			must(t, err)
			if n, err := adversary.TCXPrograms(l.Index); err != nil || n != 0 || l.XDPMode != 0 {
				t.Errorf("after Restore: %d tcx programs (%v), XDP program %d in mode %d", n, err, l.XDP, l.XDPMode)
			}
		})
	}
	t.Run("the host's own", func(t *testing.T) {
		l, err := h.ByName("eth1")
		must(t, err)
		must(t, xdp.XDP(l.Index, unix.XDP_FLAGS_SKB_MODE))
		l, err = h.ByName("eth1")
		must(t, err)
		must(t, h.Restore(l, l.State()))
		if now, err := h.ByName("eth1"); err != nil || now.XDP != l.XDP || l.XDP == 0 {
			t.Errorf("XDP program %d is now %d (%v)", l.XDP, now.XDP, err)
		}
	})
}

// TestProgramThatCannotBeTold: two netns have an interface of one index with one
// program on it, each by a bpf_link. Neither is touched, and the link is unfit.
func TestProgramThatCannotBeTold(t *testing.T) {
	if nstest.OutsideAsRoot(t) {
		return
	}
	node(t, eth1)
	xdp, _ := programs(t)
	h := open(t)
	l, err := h.ByName("eth1")
	must(t, err)
	other, in := pod(t, "other")
	must(t, other.Do(func() error {
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "twin", Index: l.Index}})
	}))
	twin, err := in.ByIndex(l.Index)
	must(t, err)
	attach := func(index int) error {
		end, err := xdp.Link(index, adversary.HookXDP)
		if err == nil {
			t.Cleanup(end)
		}
		return err
	}
	must(t, other.Do(func() error { return attach(twin.Index) }))
	must(t, attach(l.Index))
	want := l.State()
	l, err = h.ByName("eth1")
	must(t, err)
	if err := h.Restore(l, want); !errors.Is(err, link.ErrUnfit) {
		t.Errorf("Restore: %v; want ErrUnfit", err)
	}
	if now, err := in.ByIndex(l.Index); err != nil || now.XDP == 0 {
		t.Errorf("the other netns's program was detached: %+v, %v", now, err)
	}
}
