package link

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link/internal/rtnl"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// ErrOtherDevice is returned when the PCI function's link has another MAC than it should.
var ErrOtherDevice = errors.New("link belongs to another device")

// FindDevice returns the link of a device in the host netns, which is the one that sys shows: the own interface of fn,
// which is the device's function as sys has it, else, for a link that was renamed since sysfs was read, the link with
// its PCI parent or its MAC. A VF is known by its PCI address alone. Errors: ErrNotFound, ErrOtherDevice.
func (h *Handle) FindDevice(sys sysfs.FS, fn sysfs.PCIFunction, d nodestate.AttachedDevice) (Link, error) {
	var other error
	for _, name := range fn.Interfaces {
		l, err := h.ByName(name)
		switch {
		case errors.Is(err, ErrNotFound) || err == nil && l.Parent != "" && l.Parent != d.PCIAddress:
			continue
		case err != nil:
			return Link{}, err
		case d.VF || d.MAC == "" || l.HasMAC(d.MAC):
			return l, nil
		}
		other = fmt.Errorf("%s has MAC %s, not %s: %w", l.Name, l.MAC, d.MAC, ErrOtherDevice)
	}
	l, err := h.searchDevice(sys, d)
	if errors.Is(err, ErrNotFound) && other != nil {
		return Link{}, other
	}
	return l, err
}

func (h *Handle) searchDevice(sys sysfs.FS, d nodestate.AttachedDevice) (Link, error) {
	all, err := h.Links()
	if err != nil {
		return Link{}, err
	}
	for _, l := range all {
		if l.Parent != "" && l.Parent == d.PCIAddress && (d.VF || d.MAC == "" || l.HasMAC(d.MAC)) {
			return l, nil
		}
		if d.VF || !l.HasMAC(d.MAC) || l.Parent != "" || rtnl.Stacked(l.Kind) {
			continue
		}
		pci, err := sys.NetPCI(l.Name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && pci == d.PCIAddress {
			return l, nil
		}
	}
	return Link{}, fmt.Errorf("find the link of %s: %w", d.PCIAddress, ErrNotFound)
}

// Movable says whether the link is a device of its own rather than one stacked on another, whose MAC it may share.
func (l Link) Movable() bool { return !rtnl.Stacked(l.Kind) }

// FindMoved returns the link of a device among all of a container netns: by PCI parent, else by the index that ADD has
// seen there, else by MAC. There is no sysfs to ask, and the pod may have renamed the link, changed its MAC or stacked
// other links on it. A link of another kind, or of another PCI function, never is it. ErrNotFound.
func FindMoved(all []Link, d nodestate.AttachedDevice, seen *nodestate.Interface) (Link, error) {
	kind := ""
	if d.Link != nil {
		kind = d.Link.Kind
	}
	tests := []func(Link) bool{
		func(l Link) bool { return l.Parent == d.PCIAddress },
		func(l Link) bool { return l.Parent == "" && seen != nil && seen.Index != 0 && l.Index == seen.Index },
		func(l Link) bool { return l.Parent == "" && l.HasMAC(d.MAC) },
	}
	for _, matches := range tests {
		for _, l := range all {
			if l.Kind == kind && matches(l) {
				return l, nil
			}
		}
	}
	return Link{}, fmt.Errorf("find the link of %s: %w", d.PCIAddress, ErrNotFound)
}

// FindMade returns the link that a delegate has made among all of a container netns: the one that seen describes, and
// by name only where ADD has not seen it. ErrNotFound.
func FindMade(all []Link, seen nodestate.Interface, name string) (Link, error) {
	for _, l := range all {
		known := l.Index == seen.Index
		if seen.Index == 0 {
			known = l.Name == name
		}
		if known && (seen.Kind == "" || l.Kind == seen.Kind) && (seen.Over == 0 || l.Over == seen.Over) {
			return l, nil
		}
	}
	return Link{}, fmt.Errorf("find interface %s: %w", name, ErrNotFound)
}

// FallbackName is the name that a device gets when the one it should have is taken: unique per PCI address.
func FallbackName(pci device.PCIAddress) string {
	var digits []byte
	for _, c := range []byte(pci) {
		if c != ':' && c != '.' {
			digits = append(digits, c)
		}
	}
	return "eni" + string(digits[max(0, len(digits)-12):])
}
