package giveback

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// moveBack moves the link out of the recorded netns and returns it as it is in the host, under its
// fallback name if another link has its name. link.ErrNotFound if the netns or the link is gone.
func (d *Devices) moveBack(a nodestate.Attachment) (link.Link, error) {
	ns, err := d.Open(a)
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
	name, err := d.homeName(a)
	if err != nil {
		return link.Link{}, err
	}
	host, err := link.CurrentNetns()
	if err != nil {
		return link.Link{}, err
	}
	defer host.Close()
	if err := in.DeleteStacked(all, l.Index); err != nil { // they would keep the pod on the wire
		return link.Link{}, err
	}
	if err := in.Leave(l, *a.Device.Link); err != nil { // GiveBack tries again
		d.Log.WithError(err).WithField("interface", l.Name).Warn("the pod's interface keeps its flags on its way")
	}
	l, moved := d.carry(in, l, a.Device, host, name)
	if moved == nil && !a.Device.VF { // a move resets a VF
		l.Index, err = d.Host.Index(l.Name)
		l.AltNames = slices.DeleteFunc(l.AltNames, func(alt string) bool { // the kernel drops altnames that the host uses
			index, err := d.Host.Index(alt)
			return err != nil || index != l.Index
		})
		return l, err
	}
	home, err := d.arrived(l, l.Name)
	if errors.Is(err, link.ErrNotFound) && moved != nil {
		return link.Link{}, moved // still in the pod: the record must stay
	}
	return home, err
}

// carry moves the link from the pod into the host under a name, or under its fallback name if
// another link takes the name meanwhile. It returns the link with its new name.
//
// Udev sees the name with which a link arrives (__dev_change_net_namespace), so carry renames it
// in the pod; if the pod uses that name, or before Linux 6.2, the move does.
func (d *Devices) carry(in *link.Handle, l link.Link, dev nodestate.AttachedDevice, host *link.Netns, name string) (link.Link, error) {
	move := in.Move
	want := dev.Link
	l.Up = want.Up && name == want.Name && l.MAC == want.MAC && !dev.VF && !l.MayRunPrograms() && d.defaultAcceptRA(want.AcceptRA)
	if l.Up {
		move = in.MoveUp
	}
	if in.TryRename(l.Index, name) == nil {
		l.Name = name
	}
	moved := d.Steps.Do("home", func() error { return move(l.Index, host, name) })
	if errors.Is(moved, link.ErrNameTaken) {
		if still, err := in.ByName(l.Name); err == nil && still.Index == l.Index {
			// Since Linux 6.6 the move fails if the host uses an altname of the link, or its name
			// when the move does not rename it.
			if err := in.DropAltNames(l.Index, still.AltNames...); err != nil {
				return l, err
			}
			l.AltNames = nil // its new name may be one of them
			if _, err := d.Host.Index(name); err == nil {
				name = link.FallbackName(dev.PCIAddress)
			}
			moved = move(l.Index, host, name)
		}
	}
	l.Name = name
	return l, moved
}

// defaultAcceptRA reports whether the kernel gives acceptRA to an arriving link (ipv6_add_dev). Any
// other value must be set before the link is up.
func (d *Devices) defaultAcceptRA(acceptRA string) bool {
	byDefault, err := d.Host.IPv6Conf.AcceptRA("default")
	return acceptRA == "" || err == nil && acceptRA == byDefault
}

// arrived finds a moved link in the host, by its MAC if another process took its name.
func (d *Devices) arrived(l link.Link, name string) (link.Link, error) {
	home, err := d.Host.ByName(name)
	if err == nil && home.MAC == l.MAC && home.Kind == l.Kind {
		return home, nil
	}
	if err != nil && !errors.Is(err, link.ErrNotFound) {
		return link.Link{}, err
	}
	found, err := d.Host.ByMAC(l.MAC)
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

func (d *Devices) homeName(a nodestate.Attachment) (string, error) {
	_, err := d.Host.Index(a.Device.Link.Name)
	switch {
	case errors.Is(err, link.ErrNotFound):
		return a.Device.Link.Name, nil
	case err != nil:
		return "", err
	}
	return link.FallbackName(a.Device.PCIAddress), nil
}

// awaitLink finds the device's link in the host. It waits up to returnWait for a dying netns.
func (d *Devices) awaitLink(ctx context.Context, a nodestate.Attachment) (link.Link, error) {
	deadline := time.Now().Add(returnWait)
	for {
		l, err := d.FindDevice(a.Device)
		if !errors.Is(err, link.ErrNotFound) || d.Alive(a) || time.Now().After(deadline) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return l, err
		case <-time.After(returnPoll):
		}
	}
}

const (
	returnWait = 2 * time.Second
	returnPoll = 20 * time.Millisecond
)
