package doctor

import (
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestRouting: with the capability, and on a thread that has given it up.
func TestRouting(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	runtime.LockOSThread() // and never unlocked: the thread is lost
	o := Options{SourceRouting: true}
	says := func(want string) {
		t.Helper()
		if got := routing(t.Context(), o); len(got) != 1 || !strings.HasPrefix(got[0].String(), want) {
			t.Errorf("%v, want %s", got, want)
		}
	}
	says("ok    source routing: rules and routes may be made")
	header, data := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	if err := unix.Capset(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	says("FAIL  source routing: rules and routes cannot be made: NET_ADMIN is missing; give the daemon's container the capability NET_ADMIN")
	o.SourceRouting = false
	says("ok    source routing: not asked for")
}
