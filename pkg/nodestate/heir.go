package nodestate

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Heir is a lock on an intent for a program that the intent's writer runs and that
// may have effects, such as an IPAM plugin about to write a lease. Should the writer
// die before the program does, Lock waits for the program.
//
// It is an open file description lock (fcntl_locking(2)), for which the writer's own
// flock is no obstacle. A process that the program leaves behind has the lock too:
// so Release ends it for all of them, and it counts for heirTime only.
type Heir struct {
	// File is for the program to inherit.
	File *os.File
}

// heirTime is for how long a program is waited for after its start: its writer would
// have given it no more.
const heirTime = 2 * time.Minute

// Heir returns a lock to hand on to a program that is started now. The octet that is
// locked says when that is: its place is the time since boot in milliseconds.
func (r *Record) Heir() (*Heir, error) {
	now, err := Uptime()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", r.file.Fd()))
	if err != nil {
		return nil, fmt.Errorf("lock %s for a program: %w", r.path, err)
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: now.Milliseconds(), Len: 1}); err != nil {
		f.Close() //nolint:errcheck,gosec // nothing was written
		return nil, fmt.Errorf("lock %s for a program: %w", r.path, err)
	}
	return &Heir{f}, nil
}

// Release ends the lock once the program has ended.
func (h *Heir) Release() {
	unix.FcntlFlock(h.File.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK}) //nolint:errcheck // of its own lock: if it failed, the time would be waited for
	h.File.Close()                                                                    //nolint:errcheck,gosec // nothing was written
}

// awaitHeir waits for a program that the dead writer ran, until ctx ends (then
// ErrBusy).
func (r *Record) awaitHeir(ctx context.Context) error {
	for {
		now, err := Uptime()
		if err != nil || !r.heirLives(now) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock %s: %w: its writer is dead, but a plugin that it ran is not", r.path, ErrBusy)
		case <-time.After(lockPoll):
		}
	}
}

// heirLives says whether a program, or what it has left behind, holds an Heir that
// counts at a time since boot.
func (r *Record) heirLives(now time.Duration) bool {
	from := max(now-heirTime, 0)
	held := unix.Flock_t{Type: unix.F_WRLCK, Start: from.Milliseconds()}
	err := unix.FcntlFlock(r.file.Fd(), unix.F_OFD_GETLK, &held)
	return err == nil && held.Type != unix.F_UNLCK
}
