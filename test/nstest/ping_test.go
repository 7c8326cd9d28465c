package nstest_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestPing pings an address that answers, one that does not, and one without a route.
func TestPing(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	n, err := nstest.NewNode(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := n.AddPeerAddress("10.0.1.1/24"); err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]string{"10.0.1.1": "", "10.0.1.2": "no reply within", "10.0.2.1": "network is unreachable", "::1": "want an IPv4 address"} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if want == "no reply within" {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
		}
		_, err := nstest.Ping(ctx, n.VPC, netip.MustParseAddr(to))
		cancel()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("Ping(%s) = %v, want %q", to, err, want)
		}
	}
}
