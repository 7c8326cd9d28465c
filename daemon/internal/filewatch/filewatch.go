// Package filewatch reports changes of files and folders.
package filewatch

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const (
	// pollEvery is how often the folders are read while a watch is missing.
	pollEvery = 5 * time.Second
	// watchAgainFirst and watchAgainLatest bound the waits before missing watches are requested again; they double.
	watchAgainFirst  = 5 * time.Second
	watchAgainLatest = time.Minute
)

// Watcher reports changes in folders. It watches folders, not files, because files are replaced, and their parents, because folders may
// come later or be replaced. If the kernel gives no watch, it reads the folders every pollEvery, reports that, and asks again.
type Watcher struct {
	services *problem.Services
	name     string
	folders  []string
	// notify is nil while the kernel gives none.
	notify *fsnotify.Watcher
	// watched are the identities under which paths are watched: a replaced folder has another.
	watched map[string]os.FileInfo
	// lacking is why a watch is missing; nil for none.
	lacking error
	// seen is the fingerprint of the last look by poll.
	seen uint64
}

// New watches the folders, which need not exist yet, and reports to services, as the service name, whether it can. It
// fails for a path that cannot be made absolute.
func New(services *problem.Services, name string, folders ...string) (*Watcher, error) {
	w := &Watcher{services: services, name: name, watched: map[string]os.FileInfo{}}
	for _, f := range folders {
		abs, err := filepath.Abs(f)
		if err != nil {
			return nil, fmt.Errorf("watch folder %s: %w", f, err)
		}
		w.folders = append(w.folders, abs)
	}
	w.seen = w.fingerprint()
	w.watch()
	return w, nil
}

// Run calls changed after every change, until ctx ends.
func (w *Watcher) Run(ctx context.Context, changed func()) {
	defer w.close()
	poll := time.NewTimer(pollEvery)
	defer poll.Stop()
	again, waited := backoff.Backoff{First: watchAgainFirst, Cap: watchAgainLatest}, time.Duration(0)
	again.Failed()
	for {
		events, faults := w.channels()
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if !w.concerns(e.Name) {
				continue
			}
			if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
				w.forget(e.Name) // a new folder may have its inode number
			}
			w.watch()
			changed()
		case <-faults: //nolint:errcheck // events were lost, whichever
			w.watch()
			changed()
		case <-poll.C:
			poll.Reset(pollEvery)
			if w.lacking == nil {
				continue
			}
			if waited += pollEvery; waited >= again.Wait() {
				again.Failed()
				waited = 0
				w.watch()
			}
			if now := w.fingerprint(); now != w.seen || w.lacking == nil {
				w.seen = now
				changed()
			}
		}
		if w.lacking == nil {
			again.Reset()
			again.Failed()
			waited = 0
		}
	}
}

// channels are nil, so never ready, without a watch.
func (w *Watcher) channels() (<-chan fsnotify.Event, <-chan error) {
	if w.notify == nil {
		return nil, nil
	}
	return w.notify.Events, w.notify.Errors
}

func (w *Watcher) close() {
	if w.notify != nil {
		w.notify.Close() //nolint:errcheck,gosec // nothing is written through it
	}
}

// concerns says whether a path is in one of the folders or leads to one.
func (w *Watcher) concerns(path string) bool {
	for _, f := range w.folders {
		if filepath.Dir(path) == f || path == f || strings.HasPrefix(f, path+string(filepath.Separator)) {
			return true
		}
	}
	return false
}

// watch watches every path that exists now, as far as the kernel allows. A folder may gain an
// entry between the look at it and the watch on it, so watch looks again until nothing is new.
func (w *Watcher) watch() {
	if w.notify == nil {
		if w.notify, w.lacking = fsnotify.NewWatcher(); w.lacking != nil {
			w.notify, w.lacking = nil, instanceError(w.lacking)
		}
	}
	if w.notify != nil {
		for w.watchOnce() {
		}
	}
	w.services.Report(w.name, nodestate.Problem{Reason: reason.FilesUnwatched, Message: unwatchedMessage(w.lacking)}, w.lacking)
}

// watchOnce says whether it has watched anything anew.
func (w *Watcher) watchOnce() (more bool) {
	w.lacking = nil
	want := w.existing()
	for path, info := range w.watched {
		if now, ok := want[path]; !ok || !os.SameFile(now, info) {
			w.forget(path)
		}
	}
	for path, info := range want {
		if _, ok := w.watched[path]; ok {
			continue
		}
		switch err := w.notify.Add(path); {
		case err == nil:
			w.watched[path], more = info, true
		case errors.Is(err, fs.ErrNotExist): // removed since it was looked at
			more = true
		default:
			w.lacking = fmt.Errorf("watch folder %s: %w", path, err)
		}
	}
	return more
}

// forget ends the watch on a path, if there is one.
func (w *Watcher) forget(path string) {
	if _, ok := w.watched[path]; ok {
		w.notify.Remove(path) //nolint:errcheck,gosec // it may be gone, and its watch with it
		delete(w.watched, path)
	}
}

// existing returns each folder that exists, and the deepest existing folder above it.
func (w *Watcher) existing() map[string]os.FileInfo {
	there := map[string]os.FileInfo{}
	add := func(path string) bool {
		info, err := os.Stat(path)
		if err != nil || !info.IsDir() {
			return false
		}
		there[path] = info
		return true
	}
	for _, f := range w.folders {
		add(f)
		for dir := filepath.Dir(f); !add(dir) && dir != filepath.Dir(dir); {
			dir = filepath.Dir(dir)
		}
	}
	return there
}

// fingerprint changes when a file of the folders has come, gone, or changed (by ctime, which programs cannot set).
func (w *Watcher) fingerprint() uint64 {
	sum := fnv.New64a()
	for _, f := range w.folders {
		entries, err := os.ReadDir(f)
		fmt.Fprintf(sum, "%s %t\n", f, err == nil)
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				continue // gone meanwhile
			}
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				fmt.Fprintf(sum, "%s %d %d %d %d\n", e.Name(), st.Dev, st.Ino, st.Size, st.Ctim)
			}
		}
	}
	return sum.Sum64()
}

// errNoInstance says that the user has reached its limit of inotify instances.
var errNoInstance = errors.New("no inotify instance is left")

// instanceError distinguishes the two limits for which inotify_init1(2) fails with EMFILE: the
// user's inotify instances, and this process' open files.
func instanceError(err error) error {
	if !errors.Is(err, unix.EMFILE) {
		return err
	}
	f, openErr := os.Open(os.DevNull)
	if openErr != nil {
		return fmt.Errorf("open a file: %w", openErr)
	}
	f.Close() //nolint:errcheck,gosec // opened for nothing
	return fmt.Errorf("%w: %w", errNoInstance, err)
}

// unwatchedMessage names the limit (inotify(7)), if it is known.
func unwatchedMessage(err error) string {
	message := fmt.Sprintf("changes of files are seen within %v instead of at once: ", pollEvery)
	switch {
	case errors.Is(err, errNoInstance):
		return message + "all inotify instances of the daemon's user are taken; on the node raise fs.inotify.max_user_instances (sysctl), which is often 128"
	case errors.Is(err, unix.ENOSPC):
		return message + "all inotify watches of the daemon's user are taken; on the node raise fs.inotify.max_user_watches (sysctl)"
	case errors.Is(err, unix.EMFILE):
		return message + "the daemon has as many files open as it may; raise its limit (LimitNOFILE of its service, or of the container runtime's)"
	}
	return message + "they cannot be watched, see the daemon's log"
}
