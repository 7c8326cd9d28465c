package attach

import (
	"errors"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// moveBack moves the link out of the recorded netns and returns it as it is in
// the host; ErrNotFound when the netns is gone or does not have it. Where its
// name is taken in the host the link comes home under its fallback name.
func (c *call) moveBack(a nodestate.Attachment) (link.Link, error) {
	ns, err := c.openRecorded(a)
	if err != nil {
		return link.Link{}, err
	}
	defer ns.Close()
	in, err := ns.Open()
	if err != nil {
		return link.Link{}, err
	}
	defer in.Close()
	all, err := in.Links()
	if err != nil {
		return link.Link{}, err
	}
	l, err := link.FindMoved(all, a.Device, a.Interface)
	if err != nil {
		return link.Link{}, err
	}
	name, err := c.homeName(a)
	if err != nil {
		return link.Link{}, err
	}
	host, err := link.CurrentNetns()
	if err != nil {
		return link.Link{}, err
	}
	defer host.Close()
	if err := in.DeleteStacked(all, l.Index); err != nil { // else the pod would still be on the wire
		return link.Link{}, err
	}
	if err := in.Leave(l, *a.Device.Link); err != nil { // tried again at home
		c.log.WithError(err).WithField("interface", l.Name).Warn("the pod's interface keeps its flags on its way")
	}
	l, moved := c.carry(in, l, a.Device, host, name)
	if moved == nil && !a.Device.VF { // which its move has reset
		l.Index, err = c.host.Index(l.Name)
		l.AltNames = slices.DeleteFunc(l.AltNames, func(alt string) bool { // the kernel drops altnames that the host has in use
			index, err := c.host.Index(alt)
			return err != nil || index != l.Index
		})
		return l, err
	}
	home, err := c.arrived(l, l.Name)
	if errors.Is(err, link.ErrNotFound) && moved != nil {
		return link.Link{}, moved // still in the pod: the record must stay
	}
	return home, err
}

// carry moves the link from the pod into the host and returns it with its name there: name,
// or its fallback name if another link has taken name meanwhile.
//
// Udev hears of a link by the name with which it arrives (__dev_change_net_namespace), so
// carry renames it in the pod already. If it cannot, because the pod uses the name or the
// kernel is older than 6.2, the move renames the link in the host.
func (c *call) carry(in *link.Handle, l link.Link, d nodestate.AttachedDevice, host *link.Netns, name string) (link.Link, error) {
	move := in.Move
	want := d.Link
	l.Up = want.Up && name == want.Name && l.MAC == want.MAC && !d.VF && !l.MayRunPrograms() && c.acceptsBy(want.AcceptRA)
	if l.Up {
		move = in.MoveUp
	}
	if in.TryRename(l.Index, name) == nil {
		l.Name = name
	}
	moved := c.steps.Do("home", func() error { return move(l.Index, host, name) })
	if errors.Is(moved, link.ErrNameTaken) {
		if still, err := in.ByName(l.Name); err == nil && still.Index == l.Index {
			// Since Linux 6.6 an altname that the host has in use keeps the link, and so does the
			// name of a link that needs no other.
			if err := in.DropAltNames(l.Index, still.AltNames...); err != nil {
				return l, err
			}
			l.AltNames = nil // one of them may be the name that it gets
			if _, err := c.host.Index(name); err == nil {
				name = link.FallbackName(d.PCIAddress)
			}
			moved = move(l.Index, host, name)
		}
	}
	l.Name = name
	return l, moved
}

// acceptsBy says whether a link that comes up as it arrives in the host has the right
// accept_ra. The kernel gives it the host's default (ipv6_add_dev). Any other value must be
// set before the link is up.
func (c *call) acceptsBy(acceptRA string) bool {
	byDefault, err := c.host.IPv6Conf.AcceptRA("default")
	return acceptRA == "" || err == nil && acceptRA == byDefault
}

// arrived finds a link that has just been moved to the host: under its name,
// or, when another process took that at the same moment, by its MAC.
func (c *call) arrived(l link.Link, name string) (link.Link, error) {
	home, err := c.host.ByName(name)
	if err == nil && home.MAC == l.MAC && home.Kind == l.Kind {
		return home, nil
	}
	if err != nil && !errors.Is(err, link.ErrNotFound) {
		return link.Link{}, err
	}
	found, err := c.host.ByMAC(l.MAC)
	if err != nil {
		return link.Link{}, err
	}
	for _, f := range found {
		if f.Kind == l.Kind && f.Parent == l.Parent {
			return f, nil
		}
	}
	return link.Link{}, link.ErrNotFound
}

func (c *call) homeName(a nodestate.Attachment) (string, error) {
	_, err := c.host.Index(a.Device.Link.Name)
	switch {
	case errors.Is(err, link.ErrNotFound):
		return a.Device.Link.Name, nil
	case err != nil:
		return "", err
	}
	return link.FallbackName(a.Device.PCIAddress), nil
}

// awaitLink finds the device's link in the host, waiting for it only when the
// netns that had it is dying.
func (c *call) awaitLink(a nodestate.Attachment) (link.Link, error) {
	deadline := time.Now().Add(returnWait)
	for {
		l, err := c.findDevice(a.Device)
		if !errors.Is(err, link.ErrNotFound) || c.alive(a) || time.Now().After(deadline) {
			return l, err
		}
		select {
		case <-c.ctx.Done():
			return l, err
		case <-time.After(returnPoll):
		}
	}
}

// findDevice is link.FindDevice of a function that has not been read; fs.ErrNotExist
// when the function itself is gone.
func (c *call) findDevice(d nodestate.AttachedDevice) (link.Link, error) {
	fn, err := c.sys.PCI(d.PCIAddress)
	if err != nil {
		return link.Link{}, err
	}
	return c.host.FindDevice(c.sys, fn, d)
}

// returnPoll is how often awaitLink looks.
const returnPoll = 20 * time.Millisecond
