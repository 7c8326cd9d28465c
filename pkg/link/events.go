package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Subscribe returns a channel that receives a value after links of the current
// netns have changed. Changes that nobody has taken yet are one value. The
// channel is closed when ctx ends or the socket fails; subscribe again then and
// look at everything anew, since events may have been lost.
func Subscribe(ctx context.Context) (<-chan struct{}, error) {
	updates := make(chan netlink.LinkUpdate)
	done := make(chan struct{})
	if err := netlink.LinkSubscribe(updates, done); err != nil {
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

// ueventPoll bounds how long a blocked read outlives its context.
const ueventPoll = 500 * time.Millisecond

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
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		defer unix.Close(fd) //nolint:errcheck // never written to
		readUevents(ctx, fd, out)
	}()
	return out, nil
}

func readUevents(ctx context.Context, fd int, out chan<- struct{}) {
	buf := make([]byte, os.Getpagesize()*4) // the kernel's UEVENT_BUFFER_SIZE is 2048
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, int(ueventPoll.Milliseconds())); n == 0 || errors.Is(err, unix.EINTR) {
			continue
		}
		n, from, err := unix.Recvfrom(fd, buf, 0)
		switch {
		case errors.Is(err, unix.ENOBUFS): // events were lost: look at everything
			wake(out)
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		case err != nil:
			return
		case fromKernel(from) && relevant(buf[:n]):
			wake(out)
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
