// Package events wakes its callers when the links, routes, addresses and rules of a netns
// change, or the devices of the node.
package events

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// routeGroups are the multicast groups of rtnetlink(7) that Subscribe joins, as a mask.
const routeGroups = 1<<(unix.RTNLGRP_LINK-1) |
	1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) |
	1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1) |
	1<<(unix.RTNLGRP_IPV4_RULE-1) | 1<<(unix.RTNLGRP_IPV6_RULE-1)

// eventBuffer is the receive buffer of Subscribe's socket, in bytes: a router's routes
// change by the ten thousand, and each change takes about 1 KiB until it is read.
const eventBuffer = 16 << 20

// Subscribe returns a channel that receives a value after a change of links of the current
// netns, or of routes, addresses and rules that concern the links of interest. Changes that
// nobody has received yet are one value. The channel is closed when ctx ends or the socket
// fails. Then subscribe again and look at everything anew, since events may have been lost.
//
// An overflow is such a failure: the socket's buffer is full, and the kernel says so once
// (ENOBUFS, netlink(7)). One socket serves all kinds of events, so there is one overflow.
func (i *Interest) Subscribe(ctx context.Context) (<-chan struct{}, error) {
	return i.subscribe(ctx, eventBuffer)
}

// subscribe is Subscribe with a receive buffer of buffer bytes.
func (i *Interest) subscribe(ctx context.Context, buffer int) (<-chan struct{}, error) {
	return follow(ctx, "rtnetlink", unix.NETLINK_ROUTE, routeGroups, buffer, i.concerned)
}

// follow wakes the channel's reader after each message of the groups that relevant accepts.
// buffer is the receive buffer in bytes: an overflow closes the channel. With 0 the socket
// has the kernel's default, and an overflow is an event.
func follow(ctx context.Context, name string, protocol int, groups uint32, buffer int, relevant func(msg []byte) bool) (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open %s socket: %w", name, err)
	}
	if buffer > 0 {
		err = resize(fd, buffer)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bind %s socket: %w", name, err), unix.Close(fd))
	}
	f := os.NewFile(uintptr(fd), name+" socket") // not blocking: a read waits in Go's poller
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("use %s socket: %w", name, err), f.Close())
	}
	out := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { f.Close() }) //nolint:errcheck,gosec // never written to; ends the read
	go func() {
		defer close(out)
		defer f.Close() //nolint:errcheck // never written to
		defer stop()
		readEvents(conn, out, buffer > 0, relevant)
	}()
	return out, nil
}

// resize sets the receive buffer. Without CAP_NET_ADMIN the kernel gives no more than
// net.core.rmem_max (socket(7)); then an overflow comes sooner.
func resize(fd, bytes int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes); !errors.Is(err, unix.EPERM) {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
}

// readEvents returns when the socket is closed or fails.
func readEvents(conn syscall.RawConn, out chan<- struct{}, overflowEnds bool, relevant func(msg []byte) bool) {
	buf := make([]byte, 32<<10) // a dump's part is no larger (NLMSG_GOODSIZE), nor is an event
	var failed error
	for failed == nil {
		err := conn.Read(func(fd uintptr) (done bool) {
			n, from, err := unix.Recvfrom(int(fd), buf, 0)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return false
			case errors.Is(err, unix.ENOBUFS) && !overflowEnds: // events were lost: look at everything
				wake(out)
			case errors.Is(err, unix.EINTR):
			case err != nil:
				failed = err
			case fromKernel(from) && relevant(buf[:n]):
				wake(out)
			}
			return true
		})
		if err != nil {
			return
		}
	}
}

// fromKernel refuses messages that another process sent to the group.
func fromKernel(from unix.Sockaddr) bool {
	a, ok := from.(*unix.SockaddrNetlink)
	return ok && a.Pid == 0
}

func wake(out chan<- struct{}) {
	select {
	case out <- struct{}{}:
	default:
	}
}
