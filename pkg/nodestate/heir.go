package nodestate

import (
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
// flock is no obstacle. A process that the program leaves behind has the lock too;
// so Release ends it for all of them, and Lock waits no longer than heirWait.
type Heir struct {
	// File is for the program to inherit.
	File *os.File
}

// heirWait bounds the wait for what a dead writer's program has started. The program
// itself is to be killed with the writer (PR_SET_PDEATHSIG).
const heirWait = 2 * time.Second

// Heir returns a lock to hand on.
func (r *Record) Heir() (*Heir, error) {
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", r.file.Fd()), os.O_RDWR, 0)
	if err == nil {
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	}
	if err != nil {
		if f != nil {
			f.Close() //nolint:errcheck,gosec // nothing was written
		}
		return nil, fmt.Errorf("lock %s for a program: %w", r.path, err)
	}
	return &Heir{f}, nil
}

// Release ends the lock once the program has ended.
func (h *Heir) Release() {
	unix.FcntlFlock(h.File.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK}) //nolint:errcheck // its own lock: it cannot fail, and would be waited for
	h.File.Close()                                                                    //nolint:errcheck,gosec // nothing was written
}

// awaitHeir waits until no program that the dead writer ran holds its Heir any more.
func (r *Record) awaitHeir() {
	for since := time.Now(); time.Since(since) < heirWait && r.heirLives(); time.Sleep(lockPoll) {
	}
}

// heirLives says whether a process holds the record's Heir.
func (r *Record) heirLives() bool {
	held := unix.Flock_t{Type: unix.F_WRLCK}
	err := unix.FcntlFlock(r.file.Fd(), unix.F_OFD_GETLK, &held)
	return err == nil && held.Type != unix.F_UNLCK
}
