package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Subscribe returns a channel that receives a value after links of the current
// netns have changed. Changes that nobody has taken yet are one value. The
// channel is closed when ctx ends or the socket fails; subscribe again then and
// look at everything anew, since events may have been lost.
//
// One way to fail is an overflow: the kernel had more to say than the socket's
// buffer takes, and says so once (ENOBUFS, netlink(7)).
func Subscribe(ctx context.Context) (<-chan struct{}, error) {
	return subscribe(ctx, 0)
}

// subscribe is Subscribe with a receive buffer of that many bytes; 0 for the
// kernel's default.
func subscribe(ctx context.Context, buffer int) (<-chan struct{}, error) {
	updates := make(chan netlink.LinkUpdate)
	done := make(chan struct{})
	if err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{ReceiveBufferSize: buffer}); err != nil {
		return nil, fmt.Errorf("subscribe to link changes: %w", err)
	}
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		defer drain(updates)
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case _, ok := <-updates:
				if !ok {
					return
				}
				wake(out)
			}
		}
	}()
	return out, nil
}

// drain lets the subscription's sender see that it was stopped.
func drain(updates <-chan netlink.LinkUpdate) {
	go func() {
		for range updates {
		}
	}()
}

func wake(out chan<- struct{}) {
	select {
	case out <- struct{}{}:
	default:
	}
}

// SubscribeUevents is Subscribe for the kernel's own uevents of PCI functions
// and network devices (NETLINK_KOBJECT_UEVENT, group 1): hot-plug, bind and
// unbind. The kernel sends them to the initial network namespace and to those
// of the same user namespace.
func SubscribeUevents(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open uevent socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind uevent socket: %w", err), unix.Close(fd))
	}
	f := os.NewFile(uintptr(fd), "uevent socket") // not blocking: a read waits in Go's poller
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("use uevent socket: %w", err), f.Close())
	}
	out := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { f.Close() }) //nolint:errcheck,gosec // never written to; ends the read
	go func() {
		defer close(out)
		defer f.Close() //nolint:errcheck // never written to
		defer stop()
		readUevents(conn, out)
	}()
	return out, nil
}

// readUevents returns when the socket is closed or fails.
func readUevents(conn syscall.RawConn, out chan<- struct{}) {
	buf := make([]byte, os.Getpagesize()*4) // the kernel's UEVENT_BUFFER_SIZE is 2048
	var failed error
	for failed == nil {
		err := conn.Read(func(fd uintptr) (done bool) {
			n, from, err := unix.Recvfrom(int(fd), buf, 0)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return false
			case errors.Is(err, unix.ENOBUFS): // events were lost: look at everything
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

// fromKernel refuses what another process sent to the group.
func fromKernel(from unix.Sockaddr) bool {
	a, ok := from.(*unix.SockaddrNetlink)
	return ok && a.Pid == 0
}

// relevant says whether a uevent (ACTION@DEVPATH and KEY=VALUE strings, each
// ended by a NUL) concerns a PCI function or a network device.
func relevant(msg []byte) bool {
	for field := range bytes.SplitSeq(msg, []byte{0}) {
		if subsystem, ok := bytes.CutPrefix(field, []byte("SUBSYSTEM=")); ok {
			return string(subsystem) == "pci" || string(subsystem) == "net"
		}
	}
	return false
}
