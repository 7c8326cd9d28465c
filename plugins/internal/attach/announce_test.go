package attach_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

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
