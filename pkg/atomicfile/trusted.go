package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// ErrUntrusted is returned for a symbolic link, for anything else that is not a regular file, and for a file that is
// owned by somebody else or writable by others. Its content was not looked at.
var ErrUntrusted = errors.New("untrusted file")

// Open opens a regular file for reading that belongs to root or the effective user and that neither group nor others
// may write. The last component is not followed when it is a symbolic link. Errors: fs.ErrNotExist, ErrUntrusted.
func Open(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) // a FIFO would block
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("open %s: %w: it is a symbolic link", path, ErrUntrusted)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if err := checkTrusted(f); err != nil {
		f.Close() //nolint:errcheck,gosec // nothing was written
		return nil, err
	}
	return f, nil
}

func checkTrusted(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("open %s: %w: not a regular file", f.Name(), ErrUntrusted)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("open %s: %w: owned by uid %d, want root", f.Name(), ErrUntrusted, st.Uid)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("open %s: %w: mode %#o lets others write it; run: chmod go-w %[1]s", f.Name(), ErrUntrusted, st.Mode&0o777)
	}
	return nil
}

// Same says whether path still names the open file f.
func Same(f *os.File, path string) bool {
	var a, b unix.Stat_t
	if unix.Fstat(int(f.Fd()), &a) != nil || unix.Lstat(path, &b) != nil {
		return false
	}
	return a.Ino == b.Ino && a.Dev == b.Dev
}

// Remove removes files. A missing one is no error.
func Remove(paths ...string) error {
	var errs []error
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// RemoveLeftover removes the temporary file that a killed writer of path has left. One of a living writer stays.
func RemoveLeftover(path string) error {
	tmp := TempPath(path)
	f, err := Open(tmp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // opened for reading only
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK), err == nil && !Same(f, tmp):
		return nil
	case err != nil:
		return fmt.Errorf("lock %s: %w", tmp, err)
	}
	return Remove(tmp)
}
