package nstest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Parts of ICMP (RFC 792).
const (
	icmpEcho      = 8
	icmpEchoReply = 0
	icmpHeader    = 8 // bytes of an echo before its data: type, code, checksum, identifier, sequence
)

// pingTimeout bounds a Ping whose context has no earlier deadline.
const pingTimeout = 5 * time.Second

// Ping sends one ICMP echo request from the netns at a path to an IPv4 address and returns how long the reply took. The
// caller needs CAP_NET_RAW there, as root of a Command has it.
func Ping(ctx context.Context, netns string, to netip.Addr) (took time.Duration, err error) {
	if !to.Is4() {
		return 0, fmt.Errorf("ping %s: want an IPv4 address", to)
	}
	err = In(netns, func() (err error) {
		took, err = ping(ctx, to)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("ping %s: %w", to, err)
	}
	return took, nil
}

// ping stays on the calling thread, and so in its netns.
func ping(ctx context.Context, to netip.Addr) (took time.Duration, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return 0, fmt.Errorf("open a raw socket: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	sent := time.Now()
	end := sent.Add(pingTimeout)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(end) {
		end = deadline
	}
	const id, seq = 0x6d65, 1
	if err := unix.Sendto(fd, echo(id, seq), 0, sockaddr(to, 0)); err != nil {
		return 0, fmt.Errorf("send: %w", err)
	}
	buf := make([]byte, 1500)
	for {
		tv := unix.NsecToTimeval(max(time.Until(end), time.Microsecond).Nanoseconds()) // 0 would wait for ever
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			return 0, err
		}
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return 0, fmt.Errorf("no reply within %s", end.Sub(sent).Round(time.Millisecond))
		case err != nil:
			return 0, fmt.Errorf("receive: %w", err)
		case isReply(buf[:n], to, id, seq):
			return time.Since(sent), nil
		}
	}
}

// echo is an echo request without data.
func echo(id, seq uint16) []byte {
	b := make([]byte, icmpHeader)
	b[0] = icmpEcho
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum+sum>>16))
	return b
}

// isReply says whether a packet, from its IPv4 header on, is the reply of that
// address to the echo. A raw socket gets every ICMP packet of its netns.
func isReply(p []byte, from netip.Addr, id, seq uint16) bool {
	const source, shortest = 12, 20 // offset of the source address, and length, in an IPv4 header
	if len(p) < shortest {
		return false
	}
	header := int(p[0]&0xf) * 4
	if header < shortest || len(p) < header+icmpHeader || netip.AddrFrom4([4]byte(p[source:source+4])) != from {
		return false
	}
	icmp := p[header:]
	return icmp[0] == icmpEchoReply && binary.BigEndian.Uint16(icmp[4:]) == id && binary.BigEndian.Uint16(icmp[6:]) == seq
}
