// Command floor only moves a link to another netns and renames it: the least cost of any plugin with this job.
//
//	floor in NETNS LINK NAME    from the own netns into NETNS
//	floor out NETNS LINK NAME   from NETNS into the own netns
package main

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

func main() {
	runtime.LockOSThread() // setns(2) is for one thread
	if err := run(os.Args[1:]); err != nil {
		os.Stderr.WriteString("floor: " + err.Error() + "\n") //nolint:errcheck,gosec // nowhere left to report
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 4 || args[0] != "in" && args[0] != "out" {
		return errors.New("want: in|out NETNS LINK NAME")
	}
	to, err := unix.Open(args[1], unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if args[0] == "out" {
		from := to
		if to, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.Setns(from, unix.CLONE_NEWNET); err != nil {
			return err
		}
	}
	sock, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	index, err := indexOf(args[2])
	if err != nil {
		return err
	}
	return request(sock, move(index, to, args[3]))
}

func indexOf(name string) (uint32, error) {
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(sock, unix.SIOCGIFINDEX, req); err != nil {
		return 0, err
	}
	return req.Uint32(), nil
}

// move composes the one RTM_NEWLINK: struct nlmsghdr, struct ifinfomsg, IFLA_NET_NS_FD and IFLA_IFNAME (rtnetlink(7)).
func move(index uint32, netns int, name string) []byte {
	e := binary.NativeEndian
	msg := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	e.PutUint16(msg[4:], unix.RTM_NEWLINK)
	e.PutUint16(msg[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	e.PutUint32(msg[unix.SizeofNlMsghdr+4:], index)
	msg = attribute(msg, unix.IFLA_NET_NS_FD, e.AppendUint32(nil, uint32(netns))) //nolint:gosec // a file descriptor
	msg = attribute(msg, unix.IFLA_IFNAME, append([]byte(name), 0))
	e.PutUint32(msg, uint32(len(msg))) //nolint:gosec // a few dozen octets
	return msg
}

func attribute(msg []byte, kind uint16, value []byte) []byte {
	e := binary.NativeEndian
	msg = e.AppendUint16(msg, uint16(unix.SizeofRtAttr+len(value))) //nolint:gosec // a few octets
	msg = append(e.AppendUint16(msg, kind), value...)
	for len(msg)%unix.NLMSG_ALIGNTO != 0 {
		msg = append(msg, 0)
	}
	return msg
}

func request(sock int, msg []byte) error {
	if err := unix.Sendto(sock, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, unix.Getpagesize())
	n, _, err := unix.Recvfrom(sock, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 {
		return errors.New("short answer from netlink")
	}
	// struct nlmsgerr begins with the negated errno; 0 is the acknowledgement.
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 { //nolint:gosec // signed in the ABI
		return unix.Errno(-code)
	}
	return nil
}
