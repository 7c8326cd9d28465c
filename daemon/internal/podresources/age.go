package podresources

import (
	"os"
	"sync"
	"syscall"
	"time"
)

// freshFor is how long after a start the kubelet may not know all of its pods.
const freshFor = time.Minute

// socketAge tells since when a kubelet runs: each makes its socket anew
// (CreateListener in pkg/kubelet/util of Kubernetes). The process cannot be asked
// for its age, since it is in another PID namespace. It is safe for concurrent
// use.
type socketAge struct {
	now func() time.Time

	mu    sync.Mutex
	seen  socketID
	since time.Time
}

// socketID tells one socket from the next that has its name.
type socketID struct {
	dev, ino uint64
	ctime    syscall.Timespec
}

// fresh says whether the kubelet has started within freshFor. The first socket
// that is seen is as old as its ctime says; one that takes its place begins when
// it is seen.
func (a *socketAge) fresh(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	id := socketID{dev: st.Dev, ino: st.Ino, ctime: st.Ctim}
	if id != a.seen {
		first := a.seen == socketID{}
		a.seen, a.since = id, now
		if made := time.Unix(st.Ctim.Unix()); first && made.Before(now) {
			a.since = made
		}
	}
	return now.Sub(a.since) < freshFor
}
