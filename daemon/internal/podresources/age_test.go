package podresources

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestSocketAge: a kubelet is fresh for a minute after it made its socket, whether the daemon is older or younger.
func TestSocketAge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kubelet.sock")
	listen := func() {
		t.Helper()
		os.Remove(path) //nolint:errcheck // there is none at first
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	offset := time.Duration(0)
	a := &socketAge{now: func() time.Time { return time.Now().Add(offset) }}
	check := func(when string, want bool) {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.fresh(info); got != want {
			t.Errorf("%s: fresh is %v", when, got)
		}
	}
	listen()
	check("both have just started", true)
	offset = freshFor
	check("a minute later", false)
	a = &socketAge{now: a.now}
	check("to a daemon that comes a minute later", false)
	listen()
	check("after a restart of the kubelet", true)
	offset += freshFor - time.Second
	check("nearly a minute later", true)
	offset += time.Second
	check("and after that", false)
	offset = -time.Hour
	a = &socketAge{now: a.now}
	check("with a ctime in the future", true)
	offset += freshFor
	check("which does not last", false)
}
