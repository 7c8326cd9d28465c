package link_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// fate says what becomes of an attribute of a link (IFLA_*) that a pod may have
// changed. An attribute that the kernel tells and that is not here fails
// TestEveryAttribute: it is to be looked at, and restored if need be.
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

// rawLink are the attributes of RTM_GETLINK as the kernel writes them, and the
// flags under -1.
func rawLink(t *testing.T, index int) map[int]string {
	t.Helper()
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	out, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	must(t, err)
	attrs, err := nl.ParseRouteAttr(out[0][unix.SizeofIfInfomsg:])
	must(t, err)
	all := map[int]string{-1: fmt.Sprintf("%#x", nl.DeserializeIfInfomsg(out[0]).Flags)}
	for _, a := range attrs {
		typ := int(a.Attr.Type &^ unix.NLA_F_NESTED)
		if all[typ] = hex.EncodeToString(a.Value); typ == unix.IFLA_AF_SPEC {
			all[typ] = steadySpec(t, a.Value)
		}
	}
	return all
}

// steadySpec is IFLA_AF_SPEC without the counters and the random times of IPv6.
func steadySpec(t *testing.T, value []byte) (out string) {
	t.Helper()
	families, err := nl.ParseRouteAttr(value)
	must(t, err)
	for _, f := range families {
		attrs, err := nl.ParseRouteAttr(f.Value)
		must(t, err)
		for _, a := range attrs {
			if f.Attr.Type == unix.AF_INET || slices.Contains([]uint16{unix.IFLA_INET6_CONF, unix.IFLA_INET6_TOKEN, unix.IFLA_INET6_ADDR_GEN_MODE}, a.Attr.Type) {
				out += fmt.Sprintf("%d/%d %x ", f.Attr.Type, a.Attr.Type, a.Value)
			}
		}
	}
	return out
}

// candidates are values that an attribute may take, first those that look like its
// present one.
func candidates(now []byte) [][]byte {
	var all [][]byte
	if len(now) > 0 {
		other := bytes.Clone(now)
		other[0] ^= 1
		all = append(all, other)
		if len(now) == 4 {
			n := nl.NativeEndian().Uint32(now)
			all = append(all, nl.Uint32Attr(n-1), nl.Uint32Attr(n/2), nl.Uint32Attr(n+1))
		}
	}
	return append(all, []byte{1}, nl.Uint32Attr(1), nl.Uint32Attr(4096), []byte("x"), []byte{2, 1, 1, 1, 1, 1})
}

// setAll sets every attribute, and every flag, that the kernel lets the caller set
// on a link of this netns, to something else than it is, and returns those.
func setAll(t *testing.T, index int) (taken []int) {
	t.Helper()
	change := func(flags, mask uint32, attrs ...*nl.RtAttr) bool {
		before := rawLink(t, index)
		req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index, msg.Flags, msg.Change = int32(index), flags, mask
		req.AddData(msg)
		for _, a := range attrs {
			req.AddData(a)
		}
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err == nil && !maps.Equal(before, rawLink(t, index))
	}
	for attr := 1; attr < 128; attr++ {
		if attr == unix.IFLA_NET_NS_PID || attr == unix.IFLA_NET_NS_FD { // moves: others' tests
			continue
		}
		now, _ := hex.DecodeString(rawLink(t, index)[attr])
		for _, v := range candidates(now) {
			if change(0, 0, nl.NewRtAttr(attr, v)) {
				taken = append(taken, attr)
				break
			}
		}
	}
	for bit := range 32 {
		flag := uint32(1) << bit
		if now := uint32(0); flag != unix.IFF_UP {
			fmt.Sscanf(rawLink(t, index)[-1], "%v", &now)
			change(^now&flag, flag)
		}
	}
	return taken
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
	before, want := rawLink(t, l.Index), l.State()
	for attr := range before {
		if attr > 0 && fates[attr] == "" {
			t.Errorf("the kernel tells attribute %d of a link, which is not in the table", attr)
		}
	}

	must(t, h.Move(l.Index, ns, "net1"))
	moved, err := in.ByName("net1")
	must(t, err)
	var taken []int
	must(t, ns.Do(func() error { taken = setAll(t, moved.Index); return nil }))
	for _, attr := range taken {
		if f := fates[attr]; f == "" || f == fixed {
			t.Errorf("the kernel lets a pod set attribute %d, which is to be restored; the table says %q", attr, f)
		}
	}
	for _, attr := range []int{unix.IFLA_ADDRESS, unix.IFLA_BROADCAST, unix.IFLA_MTU, unix.IFLA_TXQLEN, unix.IFLA_IFALIAS, unix.IFLA_GROUP, unix.IFLA_GSO_MAX_SIZE} {
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
	after := rawLink(t, l.Index)
	for attr, f := range fates {
		if f == counts {
			delete(before, attr)
			delete(after, attr)
		}
	}
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
