package attach_test

import (
	"bytes"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"os"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
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

// TestAnnouncements listens on the wire for the kernel's announcements when the pod's
// interface comes up.
func TestAnnouncements(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	heard := listen(t, e.node.VPC)
	args := e.pod(e.selectA())
	e.add(args)
	want := map[string]bool{"gratuitous ARP": false, "unsolicited NA": false}
	deadline := time.After(10 * time.Second)
	for !want["gratuitous ARP"] || !want["unsolicited NA"] {
		select {
		case what := <-heard:
			want[what] = true
		case <-deadline:
			t.Fatalf("heard %v", want)
		}
	}
	inPod(t, args, func(*link.Handle, link.Link) error { return nil })
	for name, value := range map[string]string{"ipv4/conf/net1/rp_filter": "2", "ipv4/conf/net1/arp_ignore": "1", "ipv4/conf/net1/arp_announce": "2"} {
		var got []byte
		must(t, nstest.In(args.Netns, func() (err error) { got, err = os.ReadFile("/proc/sys/net/" + name); return err }))
		if strings.TrimSpace(string(got)) != value {
			t.Errorf("%s = %s; want %s", name, got, value)
		}
	}
	e.del(args)
}
