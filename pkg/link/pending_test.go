package link_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/linktest"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// functions are PCI functions by address; each other one is missing.
type functions map[device.PCIAddress]sysfs.PCIFunction

func (f functions) PCI(addr device.PCIAddress) (sysfs.PCIFunction, error) {
	fn, ok := f[addr]
	if !ok {
		return fn, fs.ErrNotExist
	}
	if fn.Driver == "unreadable" {
		return fn, unix.EIO
	}
	return fn, nil
}

const (
	pfAddr = device.PCIAddress("0000:00:06.0")
	vfAddr = device.PCIAddress("0000:00:06.2")
)

// TestRestorePending: a restore record is used for its device and boot only, and ends when nothing is owed any more.
func TestRestorePending(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	node(t, eth1)
	h := open(t)
	boot, err := nodestate.BootID()
	must(t, err)
	l, err := h.ByName("eth1")
	must(t, err)
	want := l.State()
	want.Name, want.MTU = "ens6", 1400
	record := nodestate.Restore{BootID: boot, Device: nodestate.AttachedDevice{PCIAddress: pfAddr, MAC: l.MAC, Link: &want}}
	for name, tt := range map[string]struct {
		edit    func(r *nodestate.Restore)
		changed bool
		err     error
		kept    bool
	}{
		"as it should be":        {func(*nodestate.Restore) {}, true, nil, false},
		"of another boot":        {func(r *nodestate.Restore) { r.BootID = "another" }, false, nil, false},
		"of another device":      {func(r *nodestate.Restore) { r.Device.MAC = "02:00:00:00:00:99" }, false, nil, false},
		"of no link":             {func(r *nodestate.Restore) { r.Device.Link = nil }, false, nil, false},
		"of a VF with other MAC": {func(r *nodestate.Restore) { r.Device.MAC, r.Device.VF = "02:00:00:00:00:99", true }, true, nil, false},
		"of a changed driver":    {func(r *nodestate.Restore) { r.Driver = "ena" }, true, nil, true},
		"with a bad MTU": {func(r *nodestate.Restore) {
			state := want
			state.MTU = 1 << 20
			r.Device.Link = &state
		}, true, nil, true}, // the rest is given back, and the MTU is tried again
		"of a VF that cannot be asked": {func(r *nodestate.Restore) { r.Device.Assigned = &nodestate.VFState{VLAN: 7} }, true, link.ErrUnfit, true},
	} {
		dir := nodestate.AttachmentDir(t.TempDir())
		r := record
		tt.edit(&r)
		must(t, dir.SaveRestore(r))
		must(t, h.Restore(now(t, h, l.Index), l.State()))
		changed, err := h.RestorePending(dir, functions{pfAddr: {Driver: "unreadable"}}, pfAddr, now(t, h, l.Index))
		if changed != tt.changed || !errors.Is(err, tt.err) {
			t.Errorf("%s: changed %v, %v; want %v, %v", name, changed, err, tt.changed, tt.err)
		}
		if _, err := dir.LoadRestore(pfAddr); (err == nil) != tt.kept {
			t.Errorf("%s: the record is kept: %v (%v); want %v", name, err == nil, err, tt.kept)
		}
		if got := now(t, h, l.Index).Name == "ens6"; got != tt.changed {
			t.Errorf("%s: renamed %v", name, got)
		}
	}

	dir := nodestate.AttachmentDir(t.TempDir())
	path := filepath.Join(string(dir), "restore", pfAddr.String()+".json")
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(t, os.WriteFile(path, []byte("torn"), 0o600))
	if changed, err := h.RestorePending(dir, functions{}, pfAddr, l); changed || err != nil {
		t.Errorf("a corrupt record: %v, %v; want it removed", changed, err)
	}
	if changed, err := h.RestorePending(dir, functions{}, pfAddr, l); changed || err != nil {
		t.Errorf("no record: %v, %v", changed, err)
	}
	must(t, os.WriteFile(path, []byte(`{"schemaVersion":9}`), 0o600))
	if changed, err := h.RestorePending(dir, functions{}, pfAddr, l); changed || !errors.Is(err, nodestate.ErrOtherVersion) {
		t.Errorf("another version's record: %v, %v; want ErrOtherVersion", changed, err)
	}
}

func now(t *testing.T, h *link.Handle, index int) link.Link {
	t.Helper()
	l, err := h.ByIndex(index)
	must(t, err)
	return l
}

// TestPhysical: a VF's PF is found by sysfs alone.
func TestPhysical(t *testing.T) {
	pf := sysfs.PCIFunction{Address: pfAddr, VirtFns: []device.PCIAddress{"0000:00:06.1", vfAddr}, Interfaces: []string{"eth1"}}
	vf := sysfs.PCIFunction{Address: vfAddr, PhysFn: pfAddr}
	for name, tt := range map[string]struct {
		sys functions
		fn  sysfs.PCIFunction
		err error
	}{
		"a VF":                    {functions{pfAddr: pf}, vf, nil},
		"no VF":                   {functions{pfAddr: pf}, pf, link.ErrNotFound},
		"of a PF in a pod":        {functions{pfAddr: {Address: pfAddr, VirtFns: pf.VirtFns}}, vf, link.ErrNotFound},
		"of a PF that has others": {functions{pfAddr: {Address: pfAddr, Interfaces: pf.Interfaces}}, vf, link.ErrNotFound},
		"of a PF that is gone":    {functions{}, vf, link.ErrNotFound},
		"of an unreadable PF":     {functions{pfAddr: {Driver: "unreadable"}}, vf, unix.EIO},
	} {
		name0, number, err := link.Physical(tt.sys, tt.fn)
		if !errors.Is(err, tt.err) || err == nil && (name0 != "eth1" || number != 1) {
			t.Errorf("%s: VF %d of %q, %v; want %v", name, number, name0, err, tt.err)
		}
	}
}

// TestGiveBackVF: without its PF, or with another function in its place, nothing is assigned
// to a VF. A PF that does not tell of it makes it unfit.
func TestGiveBackVF(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	h, l := linktest.OpenENI1(t)
	state := l.State()
	d := nodestate.AttachedDevice{PCIAddress: vfAddr, VF: true, Instance: 5, Link: &state, Assigned: &nodestate.VFState{MAC: l.MAC, VLAN: 7}}
	pf := sysfs.PCIFunction{Address: pfAddr, VirtFns: []device.PCIAddress{vfAddr}, Interfaces: []string{"eth1"}}
	vf := sysfs.PCIFunction{Address: vfAddr, PhysFn: pfAddr, Instance: 5}
	replaced := vf
	replaced.Instance = 6
	unassigned := d
	unassigned.Assigned = nil
	for name, tt := range map[string]struct {
		sys functions
		d   nodestate.AttachedDevice
		err error
	}{
		"the PF is the pod's":        {functions{vfAddr: vf}, d, nil},
		"the VF is gone":             {functions{}, d, nil},
		"the VF is another":          {functions{vfAddr: replaced, pfAddr: pf}, d, nil},
		"nothing was assigned":       {functions{vfAddr: vf, pfAddr: pf}, unassigned, nil},
		"the VF is unreadable":       {functions{vfAddr: {Driver: "unreadable"}}, d, unix.EIO},
		"the PF is unreadable":       {functions{vfAddr: vf, pfAddr: {Driver: "unreadable"}}, d, unix.EIO},
		"the PF does not tell of it": {functions{vfAddr: vf, pfAddr: pf}, d, link.ErrNotFound},
	} {
		err := h.GiveBack(tt.sys, l, tt.d)
		if !errors.Is(err, tt.err) || errors.Is(err, link.ErrUnfit) != (tt.err != nil) {
			t.Errorf("%s: %v; want %v, and then ErrUnfit", name, err, tt.err)
		}
		var unrestored link.Unrestored
		if err != nil && (!errors.As(err, &unrestored) || unrestored[0].Setting != "VF" || !strings.HasPrefix(err.Error(), "VF: ")) {
			t.Errorf("%s: %v; want the setting VF", name, err)
		}
	}
}

// TestRestoreNames: a name that another link has taken is reported, and the rest is given
// back; altnames that the pod has set make way, even for the name itself.
func TestRestoreNames(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	h, l := linktest.OpenENI1(t)
	self := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.Index}}
	must(t, netlink.LinkAddAltName(self, "mine"))
	want := now(t, h, l.Index).State()

	must(t, h.Rename(l.Index, "pod0"))
	must(t, h.DropAltNames(l.Index, "mine"))
	must(t, netlink.LinkAddAltName(self, "eth1"))
	must(t, netlink.LinkAddAltName(self, "theirs"))
	must(t, h.Restore(now(t, h, l.Index), want))
	if got := now(t, h, l.Index); got.Name != "eth1" || strings.Join(got.AltNames, " ") != "mine" {
		t.Errorf("names %q and %q; want eth1 and mine", got.Name, got.AltNames)
	}

	must(t, h.Rename(l.Index, "pod0"))
	must(t, h.DropAltNames(l.Index, "mine"))
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth1"}}))
	other, err := h.ByName("eth1")
	must(t, err)
	must(t, netlink.LinkAddAltName(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: other.Index}}, "mine"))
	want.MTU = 1300
	err = h.Restore(now(t, h, l.Index), want)
	var unrestored link.Unrestored
	if !errors.Is(err, link.ErrNameTaken) || !errors.As(err, &unrestored) || len(unrestored) != 2 || errors.Is(err, link.ErrUnfit) {
		t.Errorf("both names taken: %v; want two settings, ErrNameTaken, and a link that is fit", err)
	}
	if got := now(t, h, l.Index); got.MTU != 1300 || got.Name != "pod0" {
		t.Errorf("MTU %d, name %q; want 1300 and pod0", got.MTU, got.Name)
	}
}
