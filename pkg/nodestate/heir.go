package nodestate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Heir is a lock on an intent for a program that the intent's writer runs and that may have effects, such as an IPAM
// plugin about to write a lease. Should the writer die before the program does, Lock waits for the program.
//
// It is an open file description lock (fcntl_locking(2)), for which the writer's own flock is no obstacle. A process
// that the program leaves behind holds the lock too. So Release ends it for all of them, and it counts only as long as
// the program lives, and for heirTime at most.
//
// The lock is on two octets, whose places name the program. One place is its start,
// in milliseconds since boot; the other is its PID (see place).
type Heir struct {
	// File is for the program to inherit.
	File *os.File
}

// heirTime bounds the wait for a program after its start: its writer would have given it no more.
const heirTime = 2 * time.Minute

// programs is the first place of octets that stand for programs.
const programs = 1 << 62

// place is the octet that stands for a process of this PID namespace. A PID has 22 bits at most (proc(5), pid_max).
func place(pid int) int64 { return programs | int64(uint32(PIDNamespace()))<<22 | int64(pid) }

// PIDNamespace is the inode number of this process's PID namespace; 0 when it cannot be told.
func PIDNamespace() uint64 {
	var st unix.Stat_t
	if unix.Stat("/proc/self/ns/pid", &st) != nil {
		return 0
	}
	return st.Ino
}

// Heir returns a lock to hand on to a program that is started now.
func (r *Record) Heir() (*Heir, error) {
	now, err := Uptime()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", r.file.Fd()))
	if err != nil {
		return nil, fmt.Errorf("lock %s for a program: %w", r.path, err)
	}
	h := &Heir{f}
	if err := h.lock(now.Milliseconds()); err != nil {
		f.Close() //nolint:errcheck,gosec // nothing was written
		return nil, fmt.Errorf("lock %s for a program: %w", r.path, err)
	}
	return h, nil
}

func (h *Heir) lock(octet int64) error {
	return unix.FcntlFlock(h.File.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: octet, Len: 1})
}

// Started says which process the program is.
func (h *Heir) Started(pid int) {
	h.lock(place(pid)) //nolint:errcheck // without it the lock counts for heirTime
}

// Release ends the lock once the program has ended.
func (h *Heir) Release() {
	// An unlock of its own lock. Should it fail, Lock waits for heirTime at most.
	unix.FcntlFlock(h.File.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK}) //nolint:errcheck // see above
	h.File.Close()                                                                    //nolint:errcheck,gosec // nothing was written
}

// awaitHeir waits for a program that the dead writer ran, until ctx ends (then ErrBusy).
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

// heirLives says whether a program holds an Heir that counts at a time since boot.
func (r *Record) heirLives(now time.Duration) bool {
	if _, held := r.heldOctet(max(now-heirTime, 0).Milliseconds(), programs); !held {
		return false
	}
	octet, held := r.heldOctet(programs, 0)
	if pid := int(octet & (1<<22 - 1)); held && octet == place(pid) {
		return running(pid)
	}
	return true
}

// heldOctet is the first octet between two places that another process holds; to is open where it is 0.
func (r *Record) heldOctet(from, to int64) (octet int64, held bool) {
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: from}
	if to != 0 {
		lock.Len = to - from
	}
	err := unix.FcntlFlock(r.file.Fd(), unix.F_OFD_GETLK, &lock)
	return lock.Start, err == nil && lock.Type != unix.F_UNLCK
}

// running says whether a process runs. A zombie does not.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	_, state, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}
