package attach_test

import (
	"bytes"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func listen(t *testing.T, netns string) <-chan string {
	t.Helper()
	const all = 0x0300 // ETH_P_ALL in network byte order
	fd := -1
	must(t, nstest.In(netns, func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		return err
	}))
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}))
	mac, err := net.ParseMAC(eniA.MAC)
	must(t, err)
	heard := make(chan string, 64)
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		defer unix.Close(fd)
		buf := make([]byte, 2048)
		for {
			select {
			case <-done:
				return
			default:
			}
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil || n < 14 || !bytes.Equal(buf[6:12], mac) {
				continue
			}
			if what := announcement(buf[:n]); what != "" {
				heard <- what
			}
		}
	}()
	return heard
}

// announcement names a frame: sender and target address of an ARP are equal in
// a gratuitous one (RFC 5227); a neighbour advertisement to all nodes is
// unsolicited (RFC 4861 section 7.2.6).
func announcement(frame []byte) string {
	etherType, body := int(frame[12])<<8|int(frame[13]), frame[14:]
	switch {
	case etherType == unix.ETH_P_ARP && len(body) >= 28 && bytes.Equal(body[14:18], body[24:28]):
		return "gratuitous ARP"
	case etherType == unix.ETH_P_IPV6 && len(body) > 40 && body[6] == unix.IPPROTO_ICMPV6 && body[40] == 136 && body[24] == 0xff:
		return "unsolicited NA"
	}
	return ""
}
