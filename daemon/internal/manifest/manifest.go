// Package manifest reads NodeENIs from a folder of manifests, for a machine without a cluster. A missing NodeENI takes
// a device away from pods, and people may be editing the folder, so a Snapshot says whether it is complete.
package manifest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const (
	// maxFileSize bounds a manifest, in bytes. The API server accepts objects up to 1.5 MiB, and ConfigMaps up to 1
	// MiB.
	maxFileSize = 1 << 20
	maxReads    = 3 // maxReads bounds how often a folder that changes while it is read is read again at once
)

// Source is a folder of NodeENI manifests. It is safe for concurrent use.
type Source struct {
	dir   string
	stamp func(dir string) ([]entry, error)

	mu sync.Mutex
	// files are the last List's files by name. A file is decoded again when its bytes change: the kernel's clock for
	// file times ticks only every few milliseconds.
	files map[string]file
}

type file struct {
	data []byte
	decoded
}

// New returns the source of the manifests in dir, which need not exist yet.
func New(dir string) *Source { return &Source{dir: dir, stamp: stamp} }

// List reads every *.yaml, *.yml and *.json file of the folder except dot files. It follows symbolic links, and enters
// no subfolders. After an error, the folder is unreadable and nothing is known.
func (s *Source) List() (inventory.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()

	before, err := s.stamp(s.dir)
	if err != nil {
		return inventory.Snapshot{}, err
	}
	var snap inventory.Snapshot
	for range maxReads {
		snap = s.read(before)
		after, err := s.stamp(s.dir)
		if err != nil {
			return inventory.Snapshot{}, err
		}
		if slices.Equal(before, after) {
			return snap, nil
		}
		before = after
	}
	// An object that moved from one file to another meanwhile is in neither.
	snap.Complete = false
	snap.Problems = append(snap.Problems, nodestate.Problem{
		Reason: reason.ManifestsChanging, Device: s.dir,
		Message: fmt.Sprintf("folder %q changes all the time, so no NodeENI counts as removed; stop writing to it", s.dir),
	})
	return snap, nil
}

func (s *Source) read(entries []entry) inventory.Snapshot {
	snap := inventory.Snapshot{Complete: true}
	files := make(map[string]file, len(entries))
	owner := make(map[string]string) // NodeENI -> file
	for _, e := range entries {
		path := filepath.Join(s.dir, e.name)
		data, err := readFile(path)
		if errors.Is(err, errFolder) {
			continue
		}
		if err != nil {
			snap.Complete = false
			snap.Problems = append(snap.Problems, unreadable(path, err))
			continue
		}
		f, ok := s.files[e.name]
		if !ok || !bytes.Equal(f.data, data) {
			f = file{data: data, decoded: decode(path, data)}
		}
		files[e.name] = f
		add(&snap, path, f.decoded, owner)
	}
	s.files = files
	slices.SortFunc(snap.Objects, func(a, b v1alpha1.NodeENI) int { return cmp.Compare(a.Name, b.Name) })
	return snap
}

func add(s *inventory.Snapshot, path string, d decoded, owner map[string]string) {
	s.Complete = s.Complete && d.complete
	s.Unread = append(s.Unread, d.unread...)
	s.Problems = append(s.Problems, d.problems...)
	for _, o := range d.objects {
		if first, ok := owner[o.Name]; ok {
			s.Problems = append(s.Problems, nodestate.Problem{
				Reason: reason.DuplicateNodeENI, NodeENI: o.Name, Device: path,
				Message: fmt.Sprintf("file %q declares NodeENI %q again, which file %q declares; the first counts, give one of them another name", path, o.Name, first),
			})
			continue
		}
		owner[o.Name] = path
		s.Objects = append(s.Objects, o)
	}
}

type entry struct {
	name  string
	dev   uint64
	inode uint64
	size  int64
	mtime int64 // nanoseconds since 1970
}

// stamp lists the folder's manifests by name. A file that cannot be examined has only its name; reading it gives the
// reason.
func stamp(dir string) ([]entry, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read NodeENI folder: %w", err)
	}
	var out []entry
	for _, n := range names {
		if !isManifest(n.Name()) {
			continue
		}
		e := entry{name: n.Name()}
		if info, err := os.Stat(filepath.Join(dir, n.Name())); err == nil {
			e.size, e.mtime = info.Size(), info.ModTime().UnixNano()
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				e.dev, e.inode = st.Dev, st.Ino
			}
		}
		out = append(out, e)
	}
	return out, nil
}

// isManifest goes by the name. It refuses editors' files (x.yaml~, x.yaml.swp, #x.yaml#, .#x.yaml) and a ConfigMap
// mount's folders (..data).
func isManifest(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	default:
		return false
	}
}

var errFolder = errors.New("is a folder")

// readFile returns a regular file's content. Opening does not block, as it would on a named pipe.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer f.Close() //nolint:errcheck // opened for reading only
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, withoutPath(err)
	case info.IsDir():
		return nil, errFolder
	case !info.Mode().IsRegular():
		return nil, errors.New("not a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, withoutPath(err)
	}
	if len(data) > maxFileSize {
		return nil, fmt.Errorf("more than %d bytes", maxFileSize)
	}
	return data, nil
}

// withoutPath drops the path, with which the Problem's message begins.
func withoutPath(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return fmt.Errorf("%s: %w", pathErr.Op, pathErr.Err)
	}
	return err
}

func unreadable(path string, err error) nodestate.Problem {
	return nodestate.Problem{
		Reason: reason.UnreadableManifest, Device: path,
		Message: fmt.Sprintf("file %q: %v; no NodeENI of this folder counts as removed until you correct or remove the file", path, err),
	}
}
