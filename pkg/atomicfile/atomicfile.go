// Package atomicfile replaces files in one step: a reader sees the old content or the new.
//
// The new content is prepared in a temporary file of a fixed name beside the file, so that a killed writer leaves at
// most one, which the next writer takes over. A flock on it keeps two writers apart. Libraries such as google/renameio
// invent a name for each write, and have neither that lock, nor the rename that replaces nothing, nor the exchange that
// spares ext4 a write to the disk.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Durability says whether a write must survive a power loss.
type Durability bool

// With Durable, file and folder are synced before a write returns.
const (
	Durable  Durability = true
	Volatile Durability = false
)

// Write replaces path with data. See Prepare for folders, links and concurrent writers.
func Write(path string, data []byte, mode fs.FileMode, d Durability) error {
	return write(path, data, mode, d, (*Pending).Replace)
}

// WriteNew is Write where nothing may be at path yet (else fs.ErrExist).
func WriteNew(path string, data []byte, mode fs.FileMode, d Durability) error {
	return write(path, data, mode, d, (*Pending).Create)
}

func write(path string, data []byte, mode fs.FileMode, d Durability, publish func(*Pending) error) error {
	p, err := Prepare(path, data, mode, d)
	if err != nil {
		return err
	}
	defer p.Close()
	return publish(p)
}

// Pending is the next content of a file, complete in its temporary file. One of Replace, Create, Exchange and Discard
// ends it. Until then the caller may look at the old file once more.
type Pending struct {
	// File is open for reading and writing, and under a flock until it is closed.
	// After a rename it is the file at the path.
	File       *os.File
	path       string
	durability Durability
}

// Prepare writes data beside path. Missing folders are made with mode 0700. A symbolic link at path will be replaced,
// not followed; one at the temporary file is an error. While another process writes the same path the error is
// unix.EAGAIN. Errors name a path.
func Prepare(path string, data []byte, mode fs.FileMode, d Durability) (*Pending, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make folder of %s: %w", path, err)
	}
	f, err := openTemp(TempPath(path), mode)
	if err != nil {
		return nil, err
	}
	p := &Pending{File: f, path: path, durability: d}
	if err := p.fill(data); err != nil {
		p.Discard()
		return nil, err
	}
	return p, nil
}

// TempPath is where the next content of path is prepared.
func TempPath(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
}

// openTemp opens and locks a temporary file that no living process writes, and empties it.
func openTemp(tmp string, mode fs.FileMode) (*os.File, error) {
	fd, err := unix.Open(tmp, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, uint32(mode.Perm()))
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: tmp, Err: err}
	}
	f := os.NewFile(uintptr(fd), tmp)
	if err := takeOver(f, mode); err != nil {
		f.Close() //nolint:errcheck,gosec // nothing was written
		return nil, err
	}
	return f, nil
}

func takeOver(f *os.File, mode fs.FileMode) error {
	if err := checkTrusted(f); err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w: another process is writing it", f.Name(), err)
	}
	if !Same(f, f.Name()) {
		return fmt.Errorf("lock %s: %w: another process has just written it", f.Name(), unix.EAGAIN)
	}
	if err := empty(f); err != nil {
		return fmt.Errorf("truncate %s: %w", f.Name(), err)
	}
	if err := f.Chmod(mode); err != nil { // the umask, or a killed writer's mode
		return fmt.Errorf("set mode of %s: %w", f.Name(), err)
	}
	return nil
}

// empty truncates a file that has any content. A file that was truncated although
// it was empty, ext4 writes to the disk when it is closed (auto_da_alloc in ext4(5)).
func empty(f *os.File) error {
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return err
	}
	return f.Truncate(0)
}

func (p *Pending) fill(data []byte) error {
	if _, err := p.File.WriteAt(data, 0); err != nil {
		return fmt.Errorf("write %s: %w", p.path, err)
	}
	if p.durability == Durable {
		if err := p.File.Sync(); err != nil {
			return fmt.Errorf("sync %s: %w", p.path, err)
		}
	}
	return nil
}

// Replace renames the temporary file to the path. When it fails before that, the temporary file is removed.
func (p *Pending) Replace() error { return p.rename(os.Rename) }

// Create is Replace where nothing is at the path yet (else fs.ErrExist).
func (p *Pending) Create() error { return p.rename(renameNew) }

// Exchange is Replace for a file that need not survive a power loss. Where one file
// is renamed over another, ext4 writes the new one to the disk at once (auto_da_alloc
// in ext4(5)). The two are exchanged instead, and then the old one is removed.
func (p *Pending) Exchange() error { return p.rename(exchange) }

func (p *Pending) rename(rename func(from, to string) error) error {
	if err := rename(p.Name(), p.path); err != nil {
		os.Remove(p.Name()) //nolint:errcheck,gosec // best effort: the next writer takes it over
		return fmt.Errorf("replace %s: %w", p.path, err)
	}
	if p.durability == Durable {
		return SyncFolder(filepath.Dir(p.path))
	}
	return nil
}

// Name is the path of the temporary file.
func (p *Pending) Name() string { return TempPath(p.path) }

// Close gives up the lock. It is needed before the temporary file can be executed.
func (p *Pending) Close() { p.File.Close() } //nolint:errcheck,gosec // a failed write is reported before

// Discard removes the temporary file, as far as that is possible, and gives up the lock.
func (p *Pending) Discard() {
	os.Remove(p.Name()) //nolint:errcheck,gosec // a full disk may refuse this too; the next writer takes it over
	p.Close()
}

func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // NFS, for one
		if err := os.Link(from, to); err != nil {
			return err
		}
		return os.Remove(from)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func exchange(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOENT): // not here, or nothing to exchange
		return os.Rename(from, to)
	case err != nil:
		return &os.LinkError{Op: "exchange", Old: from, New: to, Err: err}
	}
	os.Remove(from) //nolint:errcheck,gosec // best effort: the next writer takes it over
	return nil
}

// SyncFolder makes the names in a folder survive a power loss.
func SyncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open folder %s: %w", path, err)
	}
	defer dir.Close() //nolint:errcheck // opened for reading only
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("sync folder %s: %w", path, err)
	}
	return nil
}
