package nodestate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// LockFile makes and locks a file that only serves as a lock, waiting until ctx ends
// (then ErrBusy). Closing the file gives up the lock.
func LockFile(ctx context.Context, path string) (*os.File, error) { return lockFile(ctx, path, alone) }

func lockFile(ctx context.Context, path string, how lockKind) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if err := flock(ctx, f, how); err != nil {
		f.Close() //nolint:errcheck,gosec // nothing was written
		return nil, err
	}
	return f, nil
}

// lockKind is the operation of flock(2).
type lockKind int

const (
	alone    lockKind = unix.LOCK_EX
	together lockKind = unix.LOCK_SH // with others that hold it together
)

// A held lock is tried again after lockPoll, and then after an eighth of the time waited so far. flock(2) has no
// time-out that a context could cancel, and many waiters must not keep the holder from its work.
const (
	lockPoll    = 2 * time.Millisecond
	lockPatient = 8
)

func flock(ctx context.Context, f *os.File, how lockKind) error {
	for since := time.Now(); ; {
		if ok, err := tryLock(f, how); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock %s: %w", f.Name(), ErrBusy)
		case <-time.After(max(lockPoll, time.Since(since)/lockPatient)):
		}
	}
}

// tryLock says whether it has locked f, or somebody else holds the lock.
func tryLock(f *os.File, how lockKind) (bool, error) {
	for {
		err := unix.Flock(int(f.Fd()), int(how)|unix.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, unix.EINTR):
			return false, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}
