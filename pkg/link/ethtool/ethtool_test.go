package ethtool

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// settingsOf reads the settings of a nic.
func settingsOf(t *testing.T, d Device) nodestate.Settings {
	t.Helper()
	s, err := d.Settings()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// pods are changes that a pod may make, by the settings that they change.
func pods() map[string]func(n *nic) {
	all := map[string]func(n *nic){
		"link mode": func(n *nic) {
			n.mode[modeSpeed], n.mode[modeDuplex], n.mode[modeHeader+nicMasks] = 10, 0, 1
			n.mode[modeMDIX] |= 2 << mdixShift
		},
		"features":   func(n *nic) { n.features = []uint32{1, 2} },
		"flow hash":  func(n *nic) { n.flows[1], n.flows[5] = 0x10, 0x20 },
		"timestamps": func(n *nic) { n.stamps = []uint32{0, 0, 1} },
		"rules": func(n *nic) {
			n.rules = map[uint32]flowRule{7: {flow: 2, location: 7}, 9: {flow: 1, location: 9}}
		},
		"rss": func(n *nic) { n.table, n.key, n.hash = make([]uint32, 8), make([]byte, 6), 2 },
	}
	for _, g := range groups {
		all[g.name] = func(n *nic) { n.groups[n.groupKey(g.get, g.ask)][g.from+g.n-1]++ }
	}
	return all
}

// TestRoundTrip: each change of a pod is undone, and nothing else is written.
func TestRoundTrip(t *testing.T) {
	names := pods()
	for name, change := range names {
		n := newNIC(t)
		d := n.device()
		before := settingsOf(t, d)
		if failed := d.Restore(before); len(failed) > 0 || len(n.writes) > 0 {
			t.Errorf("%s: nothing had changed; failed %v, wrote %#x", name, failed, n.writes)
		}
		change(n)
		if differing := before.Differing(settingsOf(t, d)); !slices.Equal(differing, []string{name}) {
			t.Errorf("%s: the pod has changed %q", name, differing)
		}
		if failed := d.Restore(before); len(failed) > 0 {
			t.Errorf("%s: %v", name, failed)
		}
		if diff := cmp.Diff(before, settingsOf(t, d)); diff != "" {
			t.Errorf("%s (-before +after):\n%s", name, diff)
		}
	}
	n := newNIC(t)
	d := n.device()
	before := settingsOf(t, d)
	if got := slices.Sorted(maps.Keys(before)); !slices.Equal(got, slices.Sorted(maps.Keys(names))) {
		t.Errorf("a setting without a test: %q", got)
	}
	for _, change := range names {
		change(n)
	}
	if failed := d.Restore(before); len(failed) > 0 {
		t.Error(failed)
	}
	if diff := cmp.Diff(before, settingsOf(t, d)); diff != "" {
		t.Errorf("all at once (-before +after):\n%s", diff)
	}
}

// TestOneChangesAnother: a driver makes its rings anew for another number of channels, and its table for other rings.
func TestOneChangesAnother(t *testing.T) {
	n := newNIC(t)
	d := n.device()
	before := settingsOf(t, d)
	n.onSet = func(cmd uint32) {
		if cmd == unix.ETHTOOL_SCOALESCE {
			n.groups[unix.ETHTOOL_GRINGPARAM][5] = 64
		}
	}
	pods()["coalesce"](n)
	if failed := d.Restore(before); len(failed) > 0 {
		t.Error(failed)
	}
	if diff := cmp.Diff(before, settingsOf(t, d)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// TestDriverLacks: a setting that the driver does not have is not recorded, and is no
// failure when an older record has it. A refusal is a failure of that setting alone.
func TestDriverLacks(t *testing.T) {
	n := newNIC(t)
	d := n.device()
	before := settingsOf(t, d)
	for _, cmd := range []uint32{
		unix.ETHTOOL_GWOL, unix.ETHTOOL_GRSSH, unix.ETHTOOL_GRXFH, unix.ETHTOOL_GFEATURES, unix.ETHTOOL_GLINKSETTINGS, unix.ETHTOOL_GRXCLSRLCNT,
	} {
		n.refuse[cmd] = unix.EOPNOTSUPP
	}
	lacking := []string{"wake-on-lan", "rss", "flow hash", "features", "link mode", "rules"}
	now := settingsOf(t, d)
	for _, name := range lacking {
		if value, ok := now[name]; ok {
			t.Errorf("%s without a driver for it: %q", name, value)
		}
	}
	if len(now) != len(before)-len(lacking) {
		t.Errorf("%d settings, want %d less %d", len(now), len(before), len(lacking))
	}
	n.refuse[unix.ETHTOOL_SCHANNELS] = unix.EPERM
	n.ignore[unix.ETHTOOL_SRINGPARAM] = true
	pods()["channels"](n)
	pods()["rings"](n)
	pods()["pause"](n)
	failed := d.Restore(before)
	if len(failed) != 2 || !errors.Is(failed["channels"], unix.EPERM) || !errors.Is(failed["rings"], ErrNotKept) {
		t.Errorf("failed: %v; want channels (EPERM) and rings (not kept)", failed)
	}
	for name, err := range failed {
		if !strings.Contains(err.Error(), "eth1") || !strings.Contains(err.Error(), before[name]) {
			t.Errorf("%s: %v; want the link and the value", name, err)
		}
	}
	if got := settingsOf(t, d)["pause"]; got != before["pause"] {
		t.Errorf("pause is %q, want %q", got, before["pause"])
	}
}

// TestGoneDevice: a link that ends while its settings are read is no device without settings.
func TestGoneDevice(t *testing.T) {
	for _, cmd := range []uint32{unix.ETHTOOL_GPFLAGS, unix.ETHTOOL_GFEATURES, unix.ETHTOOL_GRSSH, unix.ETHTOOL_GRXFH} {
		n := newNIC(t)
		n.refuse[cmd] = unix.ENODEV
		if s, err := n.device().Settings(); s != nil && cmd != unix.ETHTOOL_GRXFH || !errors.Is(err, unix.ENODEV) && cmd != unix.ETHTOOL_GRXFH {
			t.Errorf("command %#x: %v, %v; want ENODEV", cmd, s, err)
		}
	}
}

// TestNegotiated: values that both sides have agreed on are nobody's setting.
func TestNegotiated(t *testing.T) {
	n := newNIC(t)
	d := n.device()
	pause := n.groups[unix.ETHTOOL_GPAUSEPARAM]
	pause[1], pause[2], pause[3] = 1, 1, 1
	if got := settingsOf(t, d)["pause"]; got != "1 0 0" {
		t.Errorf("negotiated pause: %q", got)
	}
	mode := settingsOf(t, d)["link mode"]
	if mode != "1 0 0 0 32 0" {
		t.Errorf("negotiated link mode: %q", mode)
	}
	n.mode[modeSpeed] = 100 // the partner has changed its mind
	if got := settingsOf(t, d)["link mode"]; got != mode {
		t.Errorf("another negotiated speed is another setting: %q, was %q", got, mode)
	}
	n.mode[modeDuplex] = 1
	fixed := settingsOf(t, d)["link mode"]
	if fixed != "0 100 1 0 32 0" {
		t.Errorf("fixed link mode: %q", fixed)
	}
	n.mode[modeSpeed], n.mode[modeDuplex] = 10, 0|1<<modeAutoneg
	if failed := d.Restore(nodestate.Settings{"link mode": fixed}); len(failed) > 0 || n.mode[modeSpeed] != 100 || n.mode[modeDuplex] != 1 {
		t.Errorf("fixed again: %v, speed %d, duplex %#x", failed, n.mode[modeSpeed], n.mode[modeDuplex])
	}
}

// TestRSS: only a value that differs is written, since a driver may refuse its present one.
func TestRSS(t *testing.T) {
	const even = "1/even 4/010203040506"
	for want, change := range map[string]func(n *nic){
		even:                             func(n *nic) { n.table = make([]uint32, 8) },
		"1/even 2/010203040506":          func(n *nic) { n.table = make([]uint32, 8) }, // not the kernel's own for 4 channels
		"1/0 0 0 0 1 1 1 1/010203040506": func(*nic) {},
		"2/even 4/010203040506":          func(*nic) {},
		"1/even 4/0000000000ff":          func(*nic) {},
	} {
		n := newNIC(t)
		d := n.device()
		if got := settingsOf(t, d)["rss"]; got != even {
			t.Fatalf("rss = %q", got)
		}
		change(n)
		if failed := d.Restore(nodestate.Settings{"rss": want}); len(failed) > 0 || settingsOf(t, d)["rss"] != want {
			t.Errorf("%s: %v, it is %s", want, failed, settingsOf(t, d)["rss"])
		}
	}
	n := newNIC(t)
	n.table, n.key = nil, nil
	if got, ok := settingsOf(t, n.device())["rss"]; ok {
		t.Errorf("a driver without table and key: %q", got)
	}
}

// TestOddRecords: a record of another form fails its setting, with a word about it.
func TestOddRecords(t *testing.T) {
	for name, values := range map[string][]string{
		"rings":      {"", "1 2 3", "1 2 3 x", "1 2 3 4294967296"},
		"link mode":  {"1", "1 0 0 0 32"},
		"features":   {"1", "1 2 3"},
		"timestamps": {"1", "a b c"},
		"flow hash":  {"1 x"},
		"rss":        {"1", "x/even 4/", "1/even x/010203040506", "1/even 4/0g", "1/y/010203040506"},
		"rules":      {"00", "zz", strings.Repeat("00", 200)},
	} {
		for _, value := range values {
			n := newNIC(t)
			if failed := n.device().Restore(nodestate.Settings{name: value}); failed[name] == nil {
				t.Errorf("%s %q is taken: %#x", name, value, n.writes)
			}
		}
	}
}

// TestRules: a pod's receive rules go and the host's come back, also after a refusal.
func TestRules(t *testing.T) {
	n := newNIC(t)
	d := n.device()
	before := settingsOf(t, d)
	pods()["rules"](n)
	n.refuse[unix.ETHTOOL_SRXCLSRLDEL] = unix.EBUSY
	failed := d.Restore(before)
	if !errors.Is(failed["rules"], unix.EBUSY) || len(n.rules) != 2 {
		t.Errorf("rules that cannot be deleted: %v, %d rules", failed, len(n.rules))
	}
	delete(n.refuse, unix.ETHTOOL_SRXCLSRLDEL)
	n.refuse[unix.ETHTOOL_GRXCLSRULE] = unix.EIO
	if _, ok := settingsOf(t, d)["rules"]; ok {
		t.Error("rules that cannot be read are recorded")
	}
	delete(n.refuse, unix.ETHTOOL_GRXCLSRULE)
	n.refuse[unix.ETHTOOL_GRXCLSRLALL] = unix.EIO
	if _, ok := settingsOf(t, d)["rules"]; ok {
		t.Error("rules that cannot be listed are recorded")
	}
	n.refuse = map[uint32]error{}
	n.rules = map[uint32]flowRule{}
	if got, ok := settingsOf(t, d)["rules"]; got != "" || !ok {
		t.Errorf("no rules: %q, %v; want that there are none", got, ok)
	}
	if failed := d.Restore(before); len(failed) > 0 || len(n.rules) != 1 {
		t.Errorf("%v, %d rules; want the host's own", failed, len(n.rules))
	}
}
