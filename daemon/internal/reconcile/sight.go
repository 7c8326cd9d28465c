package reconcile

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// statConfig tells which file is at path and since when it has had its content at
// the latest: since its change time, or since the folder's if that is later. The folder
// may have come with the file in it. The Hash is left out. The zero value stands for a
// file that cannot be looked at.
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

// look notes which config is on the disk. It returns false where another one may
// have been there since the last look, or one is there now.
//
// The daemon saw a new hash no earlier than it was there, so that this time is a
// bound which nobody can set back. Only the kernel's change times bound a change that was
// made while no daemon ran.
func (k *keeper) look(now time.Time) bool {
	was, first := k.memory.Seen, !k.sighted
	k.sighted = true
	seen := k.stat(k.wanted.Path)
	seen.Hash = k.wanted.Hash
	if seen.Hash == was.Hash && seen.Inode != 0 && seen.SameFile(was) && (!first || seen.Folder.Equal(was.Folder)) {
		k.memory.Seen.Folder = seen.Folder
		return true
	}
	// A file that has come and is older than the one before was brought in a way of
	// which its times do not tell, such as a mount.
	if seen.Inode == 0 || seen.Since.After(now) || seen.Since.Before(was.Since) || seen.Hash != was.Hash && !first {
		seen.Since = now.UTC().Round(0)
	}
	k.memory.Seen = seen
	// A version that did not keep it has left no Hash; its confirmation still holds.
	return was.Hash == "" && first && seen.Hash == k.served
}

// noteReaders keeps which runs are known to have read the config that is served.
// A run may read until readsWithin after its start, so that one which is younger
// is looked at again.
func (k *keeper) noteReaders(runs []nodestate.Reader, now time.Time) {
	var known []nodestate.Reader
	k.young = false
	for _, run := range runs {
		age := now.Round(0).Sub(run.StartedAt())
		switch {
		case age >= readsWithin, k.memory.ReadersOf == k.served && slices.Contains(k.memory.Readers, run):
			known = append(known, run)
		case age >= 0: // else the clock was set back
			k.young = true
		}
	}
	k.memory.ReadersOf, k.memory.Readers = k.served, known
}

// resume goes on where the last daemon was.
func (k *keeper) resume(c nodestate.Checkpoint) {
	k.served, k.log.said, k.memory = c.ConfirmedHash, c.ConfirmedHash, c.DevicePlugin
	k.prefixes = c.PluginPrefixes
	k.gate.tried, k.gate.failures = k.memory.Tried, k.memory.Failures
}

// remembered returns the memory for the next daemon, with the gate's part.
func (k *keeper) remembered() nodestate.DevicePluginMemory {
	m := k.memory
	m.Tried, m.Failures = k.gate.tried.UTC().Round(0), k.gate.failures
	return m
}

// setBack says whether the wall clock was set back between two times. Times with a
// monotonic reading show it even where more time has passed than that.
func setBack(before, now time.Time) bool {
	wall := now.Round(0).Sub(before.Round(0))
	return wall < 0 || now.Sub(before)-wall > time.Second
}
