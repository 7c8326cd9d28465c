package nstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	reachPort    = 7000
	reachTimeout = 5 * time.Second
)

// Reach opens a TCP connection from an address in the netns at one path to a listener at an address in that at another.
func Reach(ctx context.Context, fromNetns string, from netip.Addr, toNetns string, to netip.Addr) error {
	var l net.Listener
	if err := In(toNetns, func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", netip.AddrPortFrom(to, reachPort).String())
		return err
	}); err != nil {
		return err
	}
	defer l.Close()
	return In(fromNetns, func() error {
		ctx, cancel := context.WithTimeout(ctx, reachTimeout)
		defer cancel()
		conn, err := dial(ctx, from, to)
		if err != nil {
			return fmt.Errorf("dial %s from %s: %w", to, from, err)
		}
		return conn.Close()
	})
}

// dial connects on the calling thread, whose netns net.Dialer might leave.
func dial(ctx context.Context, from, to netip.Addr) (*os.File, error) {
	family := unix.AF_INET
	if to.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		tv := unix.NsecToTimeval(time.Until(deadline).Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
			return nil, errors.Join(err, unix.Close(fd))
		}
	}
	if err := errors.Join(unix.Bind(fd, sockaddr(from, 0)), unix.Connect(fd, sockaddr(to, reachPort))); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), to.String()), nil
}

func sockaddr(ip netip.Addr, port int) unix.Sockaddr {
	if ip.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: ip.As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: ip.As16()}
}
