// Package adversary changes a network interface in every way that the kernel allows
// with CAP_NET_ADMIN in its netns, which a pod may have. It also describes the result.
package adversary

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// ErrCannot is returned by acts that this kernel, user or device does not permit.
var ErrCannot = errors.New("not possible here")

// Pod is a pod at work on an interface.
type Pod struct {
	// Netns is the path of the interface's netns, and Index its index there. A move changes both.
	Netns string
	Index int
	// Host are names of the host's links, which the pod tries to take.
	Host []string

	home   string
	rand   *rand.Rand
	nested int
	ends   []func()
}

// New returns a pod whose netns is at path, with the interface of that index. Equal seeds give equal acts.
func New(path string, index int, seed uint64) *Pod {
	return &Pod{Netns: path, Index: index, home: path, rand: rand.New(rand.NewPCG(seed, 1))} //nolint:gosec // to be repeated
}

// Act is one action of a pod.
type Act struct {
	Name string
	do   func(p *Pod) error
}

// Do acts in the interface's netns. The error is the kernel's, or ErrCannot if there was nothing to try.
func (p *Pod) Do(a Act) error {
	return nstest.In(p.Netns, func() error { return a.do(p) })
}

// Some returns that many of all acts, in a random order of the pod's own.
func (p *Pod) Some(all []Act, n int) []Act {
	out := make([]Act, 0, n)
	for range n {
		out = append(out, all[p.rand.IntN(len(all))])
	}
	return out
}

// Kill ends the pod's processes, and so their open files and their namespaces.
func (p *Pod) Kill() {
	for i := len(p.ends) - 1; i >= 0; i-- {
		p.ends[i]()
	}
	p.ends = nil
}

// Away says whether the interface has left the pod's netns.
func (p *Pod) Away() bool { return p.Netns != p.home }

func (p *Pod) link() (netlink.Link, error) { return netlink.LinkByIndex(p.Index) }

func (p *Pod) name() string {
	if l, err := p.link(); err == nil {
		return l.Attrs().Name
	}
	return ""
}

// nest makes another netns that the pod's processes hold.
func (p *Pod) nest() (path string, err error) {
	p.nested++
	path = filepath.Join("/run/netns", fmt.Sprintf("%s-nested%d", filepath.Base(p.home), p.nested))
	if err := nstest.NewNetns(path); err != nil {
		return "", err
	}
	p.ends = append(p.ends, func() { nstest.DeleteNetns(path) }) //nolint:errcheck // it may be gone
	return path, nil
}

// move moves a link to another netns, and returns its index there.
func move(l netlink.Link, to string) (int, error) {
	f, err := os.Open(to)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	name := l.Attrs().Name
	if err := netlink.LinkSetNsFd(l, int(f.Fd())); err != nil {
		return 0, err
	}
	index := 0
	err = nstest.In(to, func() error {
		there, err := netlink.LinkByName(name)
		if err == nil {
			index = there.Attrs().Index
		}
		return err
	})
	return index, err
}

// Return moves an interface back to a netns, as the kernel does with a device when its netns dies. The MAC
// identifies a link without hardware.
func (p *Pod) Return(to, mac string) error {
	f, err := os.Open(to)
	if err != nil {
		return err
	}
	defer f.Close()
	to = fmt.Sprintf("/proc/self/fd/%d", f.Fd()) // the path may be of the calling thread
	return nstest.In(p.Netns, func() error {
		l, err := p.link()
		if err != nil {
			return err
		}
		if addr, err := net.ParseMAC(mac); err != nil {
			return err
		} else if err := netlink.LinkSetHardwareAddr(l, addr); err != nil {
			return err
		}
		_, err = move(l, to)
		return err
	})
}

// onLink makes an act of an action on the link.
func onLink(name string, do func(p *Pod, l netlink.Link) error) Act {
	return Act{name, func(p *Pod) error {
		l, err := p.link()
		if err != nil {
			return err
		}
		return do(p, l)
	}}
}

// notSupported wraps errors of features that this kernel lacks in ErrCannot.
func notSupported(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return fmt.Errorf("%w: %w", ErrCannot, err)
	}
	return err
}
