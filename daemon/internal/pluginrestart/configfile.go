package pluginrestart

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// statConfig identifies the file at path, without its Hash. Since is the change time of the file, or of its folder if
// later: the file may have come with it. A file that cannot be examined has the zero value.
func statConfig(path string) nodestate.SeenConfig {
	inode, changed, ok := changeOf(path)
	_, folder, folderOK := changeOf(filepath.Dir(path))
	if !ok || !folderOK {
		return nodestate.SeenConfig{}
	}
	return seenConfig(inode, changed, folder)
}

func seenConfig(inode uint64, changed, folder time.Time) nodestate.SeenConfig {
	seen := nodestate.SeenConfig{Inode: inode, Changed: changed, Folder: folder, Since: changed}
	if folder.After(changed) {
		seen.Since = folder
	}
	return seen
}

func changeOf(path string) (inode uint64, changed time.Time, ok bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, time.Time{}, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, time.Time{}, false
	}
	return st.Ino, time.Unix(st.Ctim.Unix()).UTC(), true
}

// inspect notes the config file on disk, and returns false if another file may be there since the last look.
//
// The daemon sees a new hash no earlier than the file has it. Changes while no daemon ran are bounded only by the
// kernel's change times, which nobody can set back.
func (r *Restarter) inspect(now time.Time) bool {
	was, first := r.memory.Seen, !r.inspected
	r.inspected = true
	seen := r.Stat(r.wanted.Path)
	seen.Hash = r.wanted.Hash
	if seen.Hash == was.Hash && seen.Inode != 0 && seen.SameFile(was) && (!first || seen.Folder.Equal(was.Folder)) {
		r.memory.Seen.Folder = seen.Folder
		return true
	}
	// A new file that is older than the one before came in a way that its times do not show, such as a mount.
	if seen.Inode == 0 || seen.Since.After(now) || seen.Since.Before(was.Since) || seen.Hash != was.Hash && !first {
		seen.Since = now.UTC().Round(0)
	}
	r.memory.Seen = seen
	// A version that did not keep the file has left no Hash; its confirmation still holds.
	return was.Hash == "" && first && seen.Hash == r.served
}

// noteReaders keeps the runs that have read the served config. A run younger than readTime may still read, so it is
// looked at again.
func (r *Restarter) noteReaders(runs []nodestate.Reader, now time.Time) {
	var known []nodestate.Reader
	r.young = false
	for _, run := range runs {
		age := now.Round(0).Sub(run.StartedAt())
		switch {
		case age >= readTime, r.memory.ReadersOf == r.served && slices.Contains(r.memory.Readers, run):
			known = append(known, run)
		case age >= 0: // else the clock was set back
			r.young = true
		}
	}
	r.memory.ReadersOf, r.memory.Readers = r.served, known
}

// setBack says whether the wall clock was set back between two times. Monotonic readings show it at any distance.
func setBack(before, now time.Time) bool {
	wall := now.Round(0).Sub(before.Round(0))
	return wall < 0 || now.Sub(before)-wall > time.Second
}
