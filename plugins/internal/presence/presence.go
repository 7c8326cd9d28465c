// Package presence tells whether an attachment's netns, device and interface still exist.
package presence

import (
	"errors"
	"fmt"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
)

// Prober looks for the parts of attachments.
type Prober struct {
	BootID string
	Host   *link.Handle
	Sys    sysfs.FS
	// Netns is CNI_NETNS, the second path under which a recorded netns is looked for.
	Netns string
	// Target is ADD's netns, open; its path may disappear meanwhile. Nil in other verbs.
	Target *link.Netns
}

// Stale reports whether an attachment's netns or device is certainly gone.
func (p *Prober) Stale(a nodestate.Attachment) bool {
	return a.BootID != p.BootID || link.Probe(a.Netns) == link.Gone || p.Replaced(a)
}

// Replaced reports whether another device is at the PCI address of an attachment's device.
func (p *Prober) Replaced(a nodestate.Attachment) bool {
	fn, err := p.Sys.PCI(a.Device.PCIAddress)
	if err != nil {
		return false
	}
	if a.Device.Replaced(fn.Instance) {
		return true
	}
	if a.Mode != nodestate.ModeExclusive && a.Mode != nodestate.ModeDelegateExclusive || a.Device.Link == nil {
		return false
	}
	_, err = p.Host.FindDevice(p.Sys, fn, a.Device)
	return errors.Is(err, link.ErrOtherDevice)
}

// Alive reports whether the attachment's netns is still at its path. Another boot may give the
// same cookie and inode number to another netns.
func (p *Prober) Alive(a nodestate.Attachment) bool {
	return a.BootID == p.BootID && link.Probe(a.Netns) == link.Alive
}

// FindDevice finds a device's link in the host. Errors: link.FindDevice's, and
// fs.ErrNotExist if the PCI function is gone.
func (p *Prober) FindDevice(d nodestate.AttachedDevice) (link.Link, error) {
	fn, err := p.Sys.PCI(d.PCIAddress)
	if err != nil {
		return link.Link{}, err
	}
	return p.Host.FindDevice(p.Sys, fn, d)
}

// Open opens the attachment's netns at its recorded path, at CNI_NETNS, or by Target.
// link.ErrNotFound if it is at none of them.
func (p *Prober) Open(a nodestate.Attachment) (*link.Netns, error) {
	if a.BootID != p.BootID {
		return nil, link.ErrNotFound
	}
	paths := []string{a.Netns.Path, p.Netns}
	if p.Target != nil {
		paths = append(paths, p.Target.FDPath())
	}
	for _, path := range paths {
		ns, err := link.OpenNetns(path)
		if err != nil {
			continue
		}
		if ns.Same(a.Netns) {
			return ns, nil
		}
		ns.Close()
	}
	return nil, link.ErrNotFound
}

// InPod calls f with the attachment's netns, a handle in it, and its interface there: only index
// and name, if the pod has not renamed it. link.ErrNotFound if the netns or the interface is gone.
func (p *Prober) InPod(a nodestate.Attachment, f func(*link.Netns, *link.Handle, link.Link) error) error {
	ns, err := p.Open(a)
	if err != nil {
		return err
	}
	defer ns.Close()
	in, err := ns.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	if keptName(in, a) {
		return f(ns, in, link.Link{Index: a.Interface.Index, Name: a.IfName})
	}
	all, err := in.Links()
	if err != nil {
		return err
	}
	l, err := FindInterface(all, a)
	if err != nil {
		return err
	}
	return f(ns, in, l)
}

// MayBeInPod reports whether the attachment's interface is, or may be, in its netns.
func (p *Prober) MayBeInPod(a nodestate.Attachment) bool {
	err := p.InPod(a, func(*link.Netns, *link.Handle, link.Link) error { return nil })
	return !errors.Is(err, link.ErrNotFound)
}

// FindInterface finds the attachment's interface, perhaps renamed, among all links of its netns.
// link.ErrNotFound.
func FindInterface(all []link.Link, a nodestate.Attachment) (link.Link, error) {
	if a.Mode != nodestate.ModeShared && a.Device.Link != nil {
		l, err := link.FindMoved(all, a.Device, a.Interface)
		if err == nil || a.Mode == nodestate.ModeExclusive || netconf.MovesDevice(a.Delegate.Type) {
			return l, err
		}
	}
	var seen nodestate.Interface
	switch {
	case a.Interface != nil:
		seen = *a.Interface
	case a.Mode == nodestate.ModeShared: // recorded by an older version
		seen.Kind = a.Delegate.Type
	}
	return link.FindMade(all, seen, a.IfName)
}

// keptName reports whether the interface still has its name. This lookup does not wait for the
// RTNL lock behind the moves of other links.
func keptName(in *link.Handle, a nodestate.Attachment) bool {
	if a.Interface == nil || a.Interface.Index == 0 {
		return false
	}
	index, err := in.Index(a.IfName)
	return err == nil && index == a.Interface.Index
}

// Describe names the pod of an attachment for messages.
func Describe(a nodestate.Attachment) string {
	if a.Pod != "" {
		return fmt.Sprintf("pod %s (container %s, interface %s)", a.Pod, a.ContainerID, a.IfName)
	}
	return fmt.Sprintf("container %s, interface %s", a.ContainerID, a.IfName)
}
