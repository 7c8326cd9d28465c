package link_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/adversary"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// fate is the end of a change that a pod may have made to an attribute of a link (IFLA_*). An attribute that the kernel
// reports and that is not in fates fails TestEveryAttribute: look at it, and restore it if need be.
type fate string

const (
	restored  fate = "Restore gives it back"
	fixed     fate = "nobody can set it on a link that is there"
	moves     fate = "it ends, or is made anew, when the link changes netns"
	counts    fate = "a counter, or derived from others"
	elsewhere fate = "not of the link itself"
)

var fates = map[int]fate{
	unix.IFLA_ADDRESS: restored, unix.IFLA_BROADCAST: restored, unix.IFLA_IFNAME: restored, unix.IFLA_MTU: restored,
	unix.IFLA_TXQLEN: restored, unix.IFLA_LINKMODE: restored, unix.IFLA_IFALIAS: restored, unix.IFLA_GROUP: restored,
	unix.IFLA_PROTO_DOWN: restored, unix.IFLA_GSO_MAX_SEGS: restored, unix.IFLA_GSO_MAX_SIZE: restored, unix.IFLA_GRO_MAX_SIZE: restored,
	unix.IFLA_GSO_IPV4_MAX_SIZE: restored, unix.IFLA_GRO_IPV4_MAX_SIZE: restored, unix.IFLA_XDP: restored, unix.IFLA_PROP_LIST: restored,
	unix.IFLA_ALT_IFNAME: restored,

	unix.IFLA_LINK: fixed, unix.IFLA_NUM_TX_QUEUES: fixed, unix.IFLA_NUM_RX_QUEUES: fixed, unix.IFLA_MIN_MTU: fixed, unix.IFLA_MAX_MTU: fixed,
	unix.IFLA_PERM_ADDRESS: fixed, unix.IFLA_PARENT_DEV_NAME: fixed, unix.IFLA_PARENT_DEV_BUS_NAME: fixed, unix.IFLA_TSO_MAX_SIZE: fixed,
	unix.IFLA_TSO_MAX_SEGS: fixed, unix.IFLA_PHYS_PORT_ID: fixed, unix.IFLA_PHYS_PORT_NAME: fixed, unix.IFLA_PHYS_SWITCH_ID: fixed,
	unix.IFLA_LINKINFO: fixed,                       // the kinds that a device can have take no change; those on top of it are deleted
	unix.IFLA_MAP:      fixed,                       // of ISA cards
	62:                 fixed, 66: fixed, 67: fixed, // DEVLINK_PORT, MAX_PACING_OFFLOAD_HORIZON, NETNS_IMMUTABLE
	68: fixed, 69: fixed, // HEADROOM and TAILROOM of netkit

	unix.IFLA_MASTER: moves, unix.IFLA_QDISC: moves, unix.IFLA_AF_SPEC: moves, unix.IFLA_OPERSTATE: moves, unix.IFLA_LINK_NETNSID: moves,
	unix.IFLA_PROTINFO: moves, unix.IFLA_PROMISCUITY: moves, unix.IFLA_ALLMULTI: moves, unix.IFLA_EVENT: moves,
	unix.IFLA_PROTO_DOWN_REASON: moves, unix.IFLA_CARRIER: moves,

	unix.IFLA_STATS: counts, unix.IFLA_STATS64: counts, unix.IFLA_CARRIER_CHANGES: counts, unix.IFLA_CARRIER_UP_COUNT: counts,
	unix.IFLA_CARRIER_DOWN_COUNT: counts, unix.IFLA_PAD: counts, unix.IFLA_COST: counts, unix.IFLA_PRIORITY: counts, unix.IFLA_WIRELESS: counts,
	unix.IFLA_WEIGHT: counts,

	unix.IFLA_NUM_VF: elsewhere, unix.IFLA_VFINFO_LIST: elsewhere, unix.IFLA_VF_PORTS: elsewhere, unix.IFLA_PORT_SELF: elsewhere,
	unix.IFLA_NET_NS_PID: elsewhere, unix.IFLA_NET_NS_FD: elsewhere, unix.IFLA_EXT_MASK: elsewhere, unix.IFLA_NEW_NETNSID: elsewhere,
	unix.IFLA_TARGET_NETNSID: elsewhere, unix.IFLA_NEW_IFINDEX: elsewhere, 65: elsewhere, // DPLL_PIN
}

// TestEveryAttribute tries all that there is to set on a link, known to us or not,
// and demands that Restore leaves nothing of it.
func TestEveryAttribute(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	node(t, eth1)
	h := open(t)
	ns, in := pod(t, "pod")
	l, err := h.ByName("eth1")
	must(t, err)
	must(t, h.SetUp(l.Index))
	l, err = h.ByName("eth1")
	must(t, err)
	before, err := adversary.Describe(l.Index)
	must(t, err)
	want := l.State()
	for what := range before {
		var attr int
		if _, err := fmt.Sscanf(what, "attribute %d", &attr); err == nil && fates[attr] == "" {
			t.Errorf("the kernel tells attribute %d of a link, which is not in the table", attr)
		}
	}

	must(t, h.Move(l.Index, ns, "net1"))
	moved, err := in.ByName("net1")
	must(t, err)
	var taken []int
	must(t, ns.Do(func() (err error) { taken, err = adversary.SetAttributes(moved.Index); return err }))
	p := adversary.New("/run/netns/pod", moved.Index, 1)
	for _, act := range adversary.Acts() {
		if strings.HasPrefix(act.Name, "flag ") {
			if err := p.Do(act); err != nil && !errors.Is(err, adversary.ErrCannot) {
				t.Errorf("%s: %v", act.Name, err)
			}
		}
	}
	for _, attr := range taken {
		if f := fates[attr]; f == "" || f == fixed {
			t.Errorf("the kernel lets a pod set attribute %d, which is to be restored; the table says %q", attr, f)
		}
	}
	for _, attr := range []int{
		unix.IFLA_ADDRESS, unix.IFLA_BROADCAST, unix.IFLA_MTU, unix.IFLA_TXQLEN, unix.IFLA_IFALIAS, unix.IFLA_GROUP, unix.IFLA_GSO_MAX_SIZE,
	} {
		if !slices.Contains(taken, attr) {
			t.Errorf("attribute %d was not set: the test has lost its teeth", attr)
		}
	}
	host, err := link.CurrentNetns()
	must(t, err)
	defer host.Close()
	moved, err = in.ByIndex(moved.Index)
	must(t, err)
	must(t, in.Leave(moved, want))
	must(t, in.Move(moved.Index, host, "eth1"))
	back, err := h.ByName("eth1")
	must(t, err)
	if changed := want.Settings.Differing(back.Settings); len(changed) < 6 {
		t.Errorf("changed after the pod: %q; want more", changed)
	}
	must(t, h.Restore(back, want))
	after, err := adversary.Describe(l.Index)
	must(t, err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("after the round trip (-before +after):\n%s", diff)
	}
}

// TestRestoreSaysWhatItCannot: each setting that the kernel refuses is named, and
// the others are given back all the same.
func TestRestoreSaysWhatItCannot(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	node(t, eth1)
	h := open(t)
	l, err := h.ByName("eth1")
	must(t, err)
	want := l.State()
	want.MTU, want.Up = 1<<20, true
	want.Settings["gso_max_size"], want.Settings["alias"], want.Settings["group"] = "4000000000", "ours", "nonsense"
	err = h.Restore(l, want)
	var failed link.Unrestored
	if !errors.As(err, &failed) || errors.Is(err, link.ErrUnfit) {
		t.Fatalf("Restore: %v; want an Unrestored that is no ErrUnfit", err)
	}
	var names []string
	for _, f := range failed {
		names = append(names, f.Setting)
	}
	if got := strings.Join(names, " "); got != "MTU group gso_max_size" {
		t.Errorf("not restored: %s", got)
	}
	l, err = h.ByName("eth1")
	must(t, err)
	if !l.Up || l.Settings["alias"] != "ours" {
		t.Errorf("the rest is not restored: %+v", l)
	}
	want.MAC = "01:00:00:00:00:01"
	if err := h.Restore(l, want); !errors.Is(err, link.ErrUnfit) {
		t.Errorf("a MAC that cannot be restored: %v; want ErrUnfit", err)
	}
}

// TestRestoreOfOldRecord: a record that does not tell the settings leaves them alone.
func TestRestoreOfOldRecord(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	node(t, eth1)
	h := open(t)
	l, err := h.ByName("eth1")
	must(t, err)
	want := l.State()
	want.Settings = nodestate.Settings{"group": "7"}
	must(t, h.Restore(l, want))
	l, err = h.ByName("eth1")
	must(t, err)
	want.Settings = nil
	must(t, h.Restore(l, want))
	again, err := h.ByName("eth1")
	must(t, err)
	if diff := cmp.Diff(l, again); diff != "" || l.Settings["group"] != "7" {
		t.Errorf("an old record changed the link (-before +after):\n%s", diff)
	}
}
