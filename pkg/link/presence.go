package link

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Presence says whether a recorded netns is still there.
type Presence int

// The results of Probe. The zero value is Unknown.
const (
	// Unknown: not to be told from here. Nothing may be concluded.
	Unknown Presence = iota
	// Alive: the path leads to the same netns, or a process is in it.
	Alive
	// Gone: the path is missing or leads to another netns; of a path in /proc, no process is in the netns either.
	Gone
)

// Probe says whether want's netns is still there. A path that is not nsfs or cannot
// be read is Unknown: a bind mount may not have reached this mount namespace.
//
// A path in /proc that is missing or leads elsewhere says nothing by itself. PIDs are reused, and a netns lasts as long
// as any process of the pod, not only the one that its path names. So Probe looks at all processes. It can do so only
// in the PID namespace in which the path was recorded; from another one the result is Unknown.
func Probe(want nodestate.Netns) Presence {
	if want.Path == "" {
		return Unknown
	}
	n, err := OpenNetns(want.Path)
	if err == nil {
		defer n.Close()
		if n.Same(want) {
			return Alive
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Unknown
	}
	if byPID(want.Path) {
		return inProcesses(want)
	}
	return Gone
}

// byPID says whether a netns is named by a process that is in it.
func byPID(path string) bool { return strings.HasPrefix(path, "/proc/") }

// inProcesses looks for a process in the netns, twice: a process that is forked behind the first look's back is there
// for the second. Unknown when any process's netns cannot be read. PID 1's must be readable too: if it is not, /proc
// may hide other processes (hidepid in proc(5)).
func inProcesses(want nodestate.Netns) Presence {
	var st unix.Stat_t
	if want.PIDNamespace == 0 || want.PIDNamespace != nodestate.PIDNamespace() || unix.Stat("/proc/1/ns/net", &st) != nil {
		return Unknown
	}
	for range 2 {
		if p := inProcessesOnce(want); p != Gone {
			return p
		}
	}
	return Gone
}

func inProcessesOnce(want nodestate.Netns) Presence {
	proc, err := os.Open("/proc")
	if err != nil {
		return Unknown
	}
	defer proc.Close() //nolint:errcheck // opened for reading only
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return Unknown
	}
	found := Gone
	for _, name := range names {
		if _, err := strconv.Atoi(name); err != nil {
			continue
		}
		path := "/proc/" + name + "/ns/net"
		var st unix.Stat_t
		switch err := unix.Stat(path, &st); {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH): // it has ended
		case err != nil:
			found = Unknown
		case st.Ino == want.Inode:
			if n, err := OpenNetns(path); err == nil {
				same := n.Same(want)
				n.Close()
				if same {
					return Alive
				}
			}
		}
	}
	return found
}
