package install

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const stateLock = "daemon.lock"

// LockState makes this process the only daemon or uninstall of the state folder until unlock. It makes the folder.
func LockState(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, stateLock), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close() //nolint:errcheck,gosec // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock state folder %q: another multi-enid uses it; stop that one, or give this one a --state-dir of its own", dir)
		}
		return nil, fmt.Errorf("lock state folder %q: %w", dir, err)
	}
	return func() { f.Close() }, nil //nolint:errcheck,gosec // nothing was written
}

// lockFolder makes this process the only install into a folder of plugins until unlock.
func lockFolder(path string) (unlock func(), err error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("lock folder of plugins: %w", err)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		dir.Close() //nolint:errcheck,gosec // opened for reading only
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock folder of plugins %q: another install into it is at work; try again when that has ended", path)
		}
		return nil, fmt.Errorf("lock folder of plugins %q: %w", path, err)
	}
	return func() { dir.Close() }, nil //nolint:errcheck,gosec // opened for reading only
}
