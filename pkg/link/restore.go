package link

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link/ethtool"
	"github.com/multi-eni/multi-eni-cni/pkg/link/internal/rtnl"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Unrestored are the settings that Restore could not give back.
type Unrestored []SettingError

// SettingError says why one setting was not given back.
type SettingError struct {
	// Setting is a word for people: name, MAC, MTU, program, or one of Settings.
	Setting string
	Err     error
}

func (e SettingError) Error() string { return e.Setting + ": " + e.Err.Error() }

func (e SettingError) Unwrap() error { return e.Err }

func (u Unrestored) Error() string {
	parts := make([]string, 0, len(u))
	for _, e := range u {
		parts = append(parts, e.Error())
	}
	return strings.Join(parts, "; ")
}

// Unwrap makes errors.Is and errors.As see each of them.
func (u Unrestored) Unwrap() []error {
	errs := make([]error, 0, len(u))
	for _, e := range u {
		errs = append(errs, e)
	}
	return errs
}

// restoration collects the settings that a Restore could not give back.
type restoration struct{ failed Unrestored }

func (r *restoration) note(setting string, err error) {
	if err != nil {
		r.failed = append(r.failed, SettingError{Setting: setting, Err: err})
	}
}

func (r *restoration) err() error {
	if len(r.failed) == 0 {
		return nil
	}
	return r.failed
}

// GiveBack restores the link of a device, which is in the host netns, to its state before the pod. It restores the PF's
// assignments first, and the rest as Restore, whose errors it returns.
func (h *Handle) GiveBack(sys Functions, l Link, d nodestate.AttachedDevice) error {
	var r restoration
	want := *d.Link
	otherMAC, err := h.reassign(sys, d)
	if err != nil {
		r.note("VF", fmt.Errorf("%w: %w", ErrUnfit, err))
	}
	if otherMAC {
		want.MAC, err = h.ownMAC(l, d)
		l.Up = false
		r.note("MAC", err)
	}
	r.restore(h, l, want)
	return r.err()
}

// Restore brings the link to the state want, in the netns it is in, which is the calling thread's. It does all it can;
// its error is an Unrestored. That holds ErrUnfit when no pod should get the link as it is, and ErrNameTaken when
// another link has taken a wanted name meanwhile.
//
// Programs go first, since they forbid some MTUs. The link comes up last, so that no packet meets an earlier pod's
// settings. Unwanted altnames go before the rest: a pod may have given its link any, even the name that it should get.
//
// AcceptRA goes after the MTU: a link with an MTU below 1280 has no IPv6 and so no such
// setting. A failure to write it is no error. The link then keeps the kernel's default, and
// the daemon removes the routes that routers put on an idle link.
func (h *Handle) Restore(l Link, want nodestate.LinkState) error {
	var r restoration
	r.restore(h, l, want)
	return r.err()
}

func (r *restoration) restore(h *Handle, l Link, want nodestate.LinkState) {
	if err := h.dropPrograms(l, want.XDP); err != nil {
		r.note("program", fmt.Errorf("take the programs off link %d: %w: %w", l.Index, ErrUnfit, err))
	}
	for _, name := range l.AltNames {
		if !slices.Contains(want.AltNames, name) {
			r.note("altnames", h.DropAltNames(l.Index, name))
		}
	}
	name := l.Name
	if err := r.rename(h, l, want.Name); err == nil {
		name = want.Name
	}
	if want.MAC != "" && l.MAC != want.MAC {
		if err := h.nl.LinkSetHardwareAddr(rtnl.Ref(l.Index), want.MAC.HardwareAddr()); err != nil {
			r.note("MAC", fmt.Errorf("set MAC of link %d to %s: %w: %w", l.Index, want.MAC, ErrUnfit, rtnl.NotFound(err)))
		}
	}
	if want.MTU != 0 && l.MTU != want.MTU {
		r.note("MTU", h.SetMTU(l.Index, want.MTU))
	}
	if want.AcceptRA != "" {
		_ = h.IPv6Conf.SetAcceptRA(name, want.AcceptRA)
	}
	r.settings(h, l, want.Settings)
	if len(want.Ethtool) > 0 {
		failed := h.device(name).Restore(want.Ethtool)
		for _, setting := range slices.Sorted(maps.Keys(failed)) {
			r.note("ethtool "+setting, failed[setting])
		}
	}
	for _, name := range want.AltNames {
		if !slices.Contains(l.AltNames, name) {
			r.note("altnames", nameError("add altname to", l.Index, name, h.nl.LinkAddAltName(rtnl.Ref(l.Index), name)))
		}
	}
	switch renamed := l.Name != want.Name; {
	case want.Up && (!l.Up || renamed): // Rename may have taken it down
		r.note("up", h.SetUp(l.Index))
	case !want.Up && l.Up:
		r.note("down", h.SetDown(l.Index))
	}
}

func (r *restoration) rename(h *Handle, l Link, name string) (err error) {
	if l.Name != name {
		err = h.Rename(l.Index, name)
	}
	r.note("name", err)
	return err
}

// settings gives the link its settings back, and looks whether it has them: to set
// one may change another, and a driver may take a value and use its own.
func (r *restoration) settings(h *Handle, l Link, want nodestate.Settings) {
	failed := map[string]error{}
	for range 2 {
		changed, errs := h.restoreSettings(l, want)
		if !changed {
			break
		}
		failed = errs
		now, err := h.ByIndex(l.Index)
		if err != nil {
			r.note("settings", err)
			return
		}
		l = now
	}
	for _, name := range want.Differing(l.Settings) {
		err := failed[name]
		if err == nil {
			err = ethtool.ErrNotKept
		}
		r.note(name, fmt.Errorf("set it of link %d from %q to %q: %w", l.Index, l.Settings[name], want[name], err))
	}
}

// Ethtool reads the device settings of a link in this netns: as far as its driver has any. Whoever has CAP_NET_ADMIN in
// the link's netns can change them, and they stay when it changes netns.
func (h *Handle) Ethtool(name string) (nodestate.Settings, error) {
	settings, err := h.device(name).Settings()
	return settings, rtnl.NotFound(err)
}

func (h *Handle) device(name string) ethtool.Device { return ethtool.Device{FD: h.nl.FD(), Name: name} }

// Leave prepares a link for leaving its pod: it gives the flags back there. A link that arrives in the host with NOARP
// has other IPv6 settings for good (accept_dad). All else is for Restore, in the host, where the pod cannot undo it.
func (h *Handle) Leave(l Link, want nodestate.LinkState) error {
	_, failed := h.restoreSettings(l, want.Settings.Only(flagsName))
	return failed[flagsName]
}

// RestorePending gives a link in the host netns its state back when a DEL could not, and a restore record waits for its
// PCI address, and ends the record (nodestate.AttachmentDir.Returned). It says whether the link was changed. A record
// of another boot or of another device at that address is removed without effect. One that cannot be given all back
// stays for later; that is an error only when no pod should get the link as it is (ErrUnfit). Hold the device lock.
func (h *Handle) RestorePending(dir nodestate.AttachmentDir, sys Functions, pci device.PCIAddress, l Link) (bool, error) {
	r, err := dir.LoadRestore(pci)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, nodestate.ErrCorrupt):
		return false, dir.RemoveRestore(pci)
	case err != nil:
		return false, err
	}
	boot, err := nodestate.BootID()
	if err != nil {
		return false, err
	}
	d := r.Device
	if r.BootID != boot || d.Link == nil || !d.VF && d.MAC != "" && !l.HasMAC(d.MAC) {
		return false, dir.RemoveRestore(pci)
	}
	err = h.GiveBack(sys, l, d)
	if err == nil {
		return true, dir.Returned(pci)
	}
	if errors.Is(err, ErrUnfit) {
		return true, err
	}
	return true, nil // it is owed still, and tried again
}
