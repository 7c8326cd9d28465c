package orphan

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// watch knows which folders this process sees as the host does: a path missing there is missing in the host too.
//
// In the mount namespace of the machine's first process that is every existing folder. Elsewhere, such as in a container, two conditions must
// both hold. The folder's mount belongs to a peer group ("shared:" or "master:" in mountinfo); otherwise new namespaces do not show up.
// And a network namespace was seen mounted in the folder, now or earlier in the same mount: a container's root may be in a peer group too,
// with an empty /run/netns of its own.
type watch struct {
	mountInfo string
	// first: this is the mount namespace of the machine's first process.
	first bool
	// seen has, by folder without symbolic links, the id of the mount in which a netns was seen.
	seen map[string]int
	// mounts is the content of mountInfo since the last forget; nil for not read.
	mounts []*mountinfo.Info
	// answers of this sweep, by folder.
	answers map[string]bool
}

func newWatch(mountInfo string) *watch {
	return &watch{mountInfo: mountInfo, first: inFirstMountNamespace("/proc"), seen: map[string]int{}, answers: map[string]bool{}}
}

// forget makes the next question read the mounts anew.
func (w *watch) forget() { w.mounts, w.answers = nil, map[string]bool{} }

// shows: this process sees the folder as the host does; false if unknown.
func (w *watch) shows(folder string) bool {
	answer, known := w.answers[folder]
	if !known {
		answer = w.ask(folder)
		w.answers[folder] = answer
	}
	return answer
}

func (w *watch) ask(folder string) bool {
	v, at, err := w.look(folder)
	if err != nil {
		return false
	}
	if v.Netns {
		w.seen[at.folder] = at.mount
	}
	mount, seen := w.seen[at.folder]
	return v.Host || v.Propagated && seen && mount == at.mount
}

// place is a folder without symbolic links, and the id of its mount.
type place struct {
	folder string
	mount  int
}

func (w *watch) look(folder string) (v View, at place, err error) {
	if at.folder, err = filepath.EvalSymlinks(folder); err != nil {
		return View{}, place{}, err
	}
	if at.mount, err = mountID(at.folder); err != nil {
		return View{}, place{}, err
	}
	if w.first {
		return View{Host: true}, at, nil
	}
	if w.mounts == nil {
		if w.mounts, err = readMounts(w.mountInfo); err != nil {
			return View{}, place{}, err
		}
	}
	v.Propagated, v.Netns = judge(w.mounts, at.mount, at.folder)
	return v, at, nil
}

// View is how this process sees a folder.
type View struct {
	// Host: this is the mount namespace of the machine's first process.
	Host bool
	// Propagated: mounts of the host in the folder show up here, if it is the host's folder.
	Propagated bool
	// Netns: a network namespace is mounted in it at present.
	Netns bool
}

// Look says how this process sees a folder of network namespaces.
func Look(folder string) (View, error) {
	v, _, err := newWatch(ownMountInfo).look(folder)
	return v, err
}

// judge says whether the mount of that id is in a peer group, and whether a netns is mounted in the folder, which lies in that mount.
func judge(mounts []*mountinfo.Info, id int, folder string) (peer, netns bool) {
	for _, m := range mounts {
		if m.ID == id {
			peer = propagated(m)
		}
		if m.Parent == id && m.FSType == "nsfs" && strings.HasPrefix(m.Root, "net:[") && filepath.Dir(m.Mountpoint) == folder {
			netns = true
		}
	}
	return peer, netns
}

// firstPIDNamespace is the link /proc/self/ns/pid in the machine's first PID namespace: PROC_PID_INIT_INO (include/linux/proc_ns.h).
// Only there is process 1 the machine's; in a container it may be this very process.
const firstPIDNamespace = "pid:[4026531836]"

func inFirstMountNamespace(proc string) bool {
	pid, err := os.Readlink(filepath.Join(proc, "self/ns/pid"))
	if err != nil || pid != firstPIDNamespace {
		return false
	}
	own, err := os.Readlink(filepath.Join(proc, "self/ns/mnt"))
	if err != nil {
		return false
	}
	first, err := os.Readlink(filepath.Join(proc, "1/ns/mnt"))
	return err == nil && own == first
}

// mountID returns the mountinfo id of the folder's mount (proc(5), fdinfo, mnt_id: Linux 3.15).
func mountID(folder string) (int, error) {
	fd, err := unix.Open(folder, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open folder %s: %w", folder, err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	data, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0, fmt.Errorf("find mount of %s: %w", folder, err)
	}
	for line := range strings.Lines(string(data)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strconv.Atoi(strings.TrimSpace(id))
		}
	}
	return 0, fmt.Errorf("find mount of %s: the kernel does not say", folder)
}

func unwatched(folders map[string]bool) nodestate.Problem {
	names := slices.Sorted(maps.Keys(folders))
	for i, name := range names {
		names[i] = strconv.Quote(name)
	}
	return nodestate.Problem{Reason: reason.OrphansUnwatched, Message: fmt.Sprintf(
		"the daemon cannot see in %s that a pod has ended, so the device of a pod that ends without DEL is not released; "+
			"mount that folder of the host into the daemon's container, at the same path and with mountPropagation: HostToContainer",
		strings.Join(names, ", "))}
}

const ownMountInfo = "/proc/self/mountinfo"

// readMounts reads a mountinfo file (proc(5)) to its end. Any odd line is an error, and nothing is known.
func readMounts(path string) ([]*mountinfo.Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	defer f.Close() //nolint:errcheck // opened for reading only
	odd := false
	all, err := mountinfo.GetMountsFromReader(f, func(m *mountinfo.Info) (skip, stop bool) {
		// The parser takes 0 for an id that is no number. In older kernels the root mount's parent is 0.
		odd = odd || m.ID == 0 || m.Parent == 0 && m.Mountpoint != "/"
		return false, odd
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("read mounts: %w", err)
	case odd:
		return nil, fmt.Errorf("read mounts: %s has a mount without an id", path)
	}
	return all, nil
}

// propagated: the mount receives the mounts of its peers or its master.
func propagated(m *mountinfo.Info) bool {
	for field := range strings.FieldsSeq(m.Optional) {
		if strings.HasPrefix(field, "shared:") || strings.HasPrefix(field, "master:") {
			return true
		}
	}
	return false
}
