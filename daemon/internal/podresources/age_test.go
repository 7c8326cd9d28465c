package podresources

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
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

// TestNoPods: a list without pods is the truth only of an old kubelet, and never where the asking process is a pod of it.
func TestNoPods(t *testing.T) {
	for _, tt := range []struct {
		name, own string
		age       time.Duration
		pods      []*podresourcesv1.PodResources
		unknown   bool
		fresh     bool
	}{
		{"new", "", time.Second, nil, true, false},
		{"old", "", freshFor + time.Second, nil, false, false},
		{"old, and we are its pod", "kube-system/daemon", freshFor + time.Second, nil, true, false},
		{"it lists static pods only", "kube-system/daemon", freshFor + time.Second, []*podresourcesv1.PodResources{pod("kube-system", "static")}, false, true},
		{"it lists ours", "kube-system/daemon", freshFor + time.Second, []*podresourcesv1.PodResources{pod("kube-system", "daemon")}, false, false},
		{"new, and it lists ours", "kube-system/daemon", time.Second, []*podresourcesv1.PodResources{pod("kube-system", "daemon")}, false, true},
	} {
		k := &kubelet{t: t, pods: tt.pods}
		socket := filepath.Join(t.TempDir(), "kubelet.sock")
		stop := k.listen(socket)
		made := time.Now()
		got, err := New(socket, tt.own, func() time.Time { return made.Add(tt.age) }).Devices(t.Context())
		stop()
		if errors.Is(err, inventory.ErrNoPods) != tt.unknown || err != nil && !tt.unknown || got.Fresh != tt.fresh {
			t.Errorf("%s: %+v, error %v; want no pods known %t, fresh %t", tt.name, got, err, !tt.unknown, tt.fresh)
		}
	}
}
