package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// Watcher reports changes in folders. It watches folders, not files, since
// files are replaced; and what leads to a folder, since the folder may come
// later, or be replaced itself.
type Watcher struct {
	notify  *fsnotify.Watcher
	folders []string
	// watched are the identities under which paths are watched: a folder that
	// was replaced has another.
	watched map[string]os.FileInfo
}

// NewWatcher watches the folders, which need not exist yet.
func NewWatcher(folders ...string) (*Watcher, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch files: %w", err)
	}
	w := &Watcher{notify: notify, watched: map[string]os.FileInfo{}}
	for _, f := range folders {
		abs, err := filepath.Abs(f)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("watch folder %s: %w", f, err), notify.Close())
		}
		w.folders = append(w.folders, abs)
	}
	w.refresh()
	return w, nil
}

// Run calls changed after every change, until ctx ends.
func (w *Watcher) Run(ctx context.Context, changed func()) {
	defer w.notify.Close() //nolint:errcheck // nothing is written through it
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.notify.Events:
			if !ok {
				return
			}
			if !w.concerns(e.Name) {
				continue
			}
			if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
				w.forget(e.Name) // what is there now may have its inode number
			}
			w.refresh()
			changed()
		case _, ok := <-w.notify.Errors: // events were lost
			if !ok {
				return
			}
			w.refresh()
			changed()
		}
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

// refresh watches what is there now. What a folder gained between the look at
// it and the watch on it would go unnoticed, hence the repetition.
func (w *Watcher) refresh() {
	for w.refreshOnce() {
	}
}

// refreshOnce says whether it has watched anything anew.
func (w *Watcher) refreshOnce() (more bool) {
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
		default: // a folder that cannot be watched is looked at by the resync
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

// existing returns each folder that is there, and of what leads to it the
// deepest that is there.
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
