package attach

import (
	"errors"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
)

// expected describes the interface that an attachment is about to have, as far as
// that is certain before its first effect; nil when it is not.
func (c *call) expected(a nodestate.Attachment, l link.Link) *nodestate.Interface {
	switch {
	case l.Index == 0:
		return nil
	case a.Mode == nodestate.ModeShared: // known types only, and their kinds have their names
		return &nodestate.Interface{Kind: c.cfg.Delegate.Type, Over: l.Index}
	case a.Mode == nodestate.ModeExclusive:
		return &nodestate.Interface{Kind: l.Kind}
	}
	return nil
}

// ours finds the attachment's interface among all links of its netns, whatever the
// pod has named it. link.ErrNotFound.
func ours(all []link.Link, a nodestate.Attachment) (link.Link, error) {
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
	case a.Mode == nodestate.ModeShared: // of an older version
		seen.Kind = a.Delegate.Type
	}
	return link.FindMade(all, seen, a.IfName)
}

// unrenamed says whether the interface that ADD has seen still has its name. Names are
// looked up without RTNL, for which DEL would wait behind the moves of others.
func unrenamed(in *link.Handle, a nodestate.Attachment) bool {
	if a.Interface == nil || a.Interface.Index == 0 {
		return false
	}
	index, err := in.Index(a.IfName)
	return err == nil && index == a.Interface.Index
}

// lookInPod calls f with the attachment's netns, a handle in it, and its interface
// there; link.ErrNotFound when the netns, or the interface in it, is gone. Of an
// interface that has its name still, f gets index and name only.
func (c *call) lookInPod(a nodestate.Attachment, f func(*link.Netns, *link.Handle, link.Link) error) error {
	ns, err := c.openRecorded(a)
	if err != nil {
		return err
	}
	defer ns.Close()
	in, err := ns.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	if unrenamed(in, a) {
		return f(ns, in, link.Link{Index: a.Interface.Index, Name: a.IfName})
	}
	all, err := in.Links()
	if err != nil {
		return err
	}
	l, err := ours(all, a)
	if err != nil {
		return err
	}
	return f(ns, in, l)
}

// inPod says whether the attachment's interface is, or may be, in its netns.
func (c *call) inPod(a nodestate.Attachment) bool {
	err := c.lookInPod(a, func(*link.Netns, *link.Handle, link.Link) error { return nil })
	return !errors.Is(err, link.ErrNotFound)
}

// netnsForDelegate returns a path of the netns for a delegate's DEL, or "". DEL takes
// the interface CNI_IFNAME for its own, so that must be the attachment's: one that the
// pod has renamed gets its name back. If another interface has the name, or the netns
// has no path any more, an interface on a shared device is deleted here. Any other is
// brought home by returnLink.
func (c *call) netnsForDelegate(a nodestate.Attachment) (path string, err error) {
	if a.Device.Link == nil { // a userspace device has no interface to be taken for another
		if c.alive(a) {
			path = a.Netns.Path
		}
		return path, nil
	}
	err = c.lookInPod(a, func(ns *link.Netns, in *link.Handle, l link.Link) error {
		var renamed error
		if l.Name != a.IfName {
			renamed = in.Rename(l.Index, a.IfName)
		}
		switch pathless := c.target != nil && ns.Path == c.target.FDPath(); {
		case renamed != nil && !errors.Is(renamed, link.ErrNameTaken):
			return renamed
		case renamed == nil && !pathless:
			path = ns.Path
		case a.Mode == nodestate.ModeShared:
			return in.Delete(l.Index)
		}
		return nil
	})
	if errors.Is(err, link.ErrNotFound) {
		return "", nil
	}
	return path, err
}
