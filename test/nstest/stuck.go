package nstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Stuck is a file system whose files all hang: a process that looks at one waits in the kernel, and no
// signal ends that, as with a device that a driver does not release. It is FUSE without answers
// (request_wait_answer in the kernel's fs/fuse/dev.c: a request that userspace has read is waited out).
type Stuck struct {
	// Asked is closed when a process hangs.
	Asked <-chan struct{}

	dev  *os.File
	path string
	once sync.Once
}

// Parts of FUSE's protocol (include/uapi/linux/fuse.h).
const (
	fuseInit    = 26 // opcode
	fuseHeader  = 40 // bytes of a request before its body: len, opcode, unique, …
	fuseReply   = 16 // bytes of an answer before its body: len, error, unique
	fuseInitOut = 24 // bytes of the answer to INIT, as of version 7.5
	fuseMajor   = 7
	fuseMinor   = 12
	fuseBuffer  = 1 << 17
)

// NewStuck mounts one on a folder. Prepare has been called.
func NewStuck(path string) (*Stuck, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	dev := os.NewFile(uintptr(fd), "/dev/fuse")
	if err := unix.Mount("stuck", path, "fuse", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		return nil, errors.Join(fmt.Errorf("mount FUSE at %s: %w", path, err), dev.Close())
	}
	asked := make(chan struct{})
	s := &Stuck{Asked: asked, dev: dev, path: path}
	if err := s.greet(); err != nil {
		return nil, errors.Join(err, s.LetGo())
	}
	go func() { // reads a request, and answers nothing
		defer close(asked)
		unix.Read(fd, make([]byte, fuseBuffer)) //nolint:errcheck,gosec // its end is news, too
	}()
	return s, nil
}

func (s *Stuck) greet() error {
	buf := make([]byte, fuseBuffer)
	n, err := unix.Read(int(s.dev.Fd()), buf)
	if err != nil {
		return fmt.Errorf("read /dev/fuse: %w", err)
	}
	if n < fuseHeader || binary.NativeEndian.Uint32(buf[4:]) != fuseInit {
		return fmt.Errorf("read /dev/fuse: %d bytes that are no INIT", n)
	}
	out := make([]byte, fuseReply+fuseInitOut)
	binary.NativeEndian.PutUint32(out, uint32(len(out)))
	copy(out[8:], buf[8:16])
	binary.NativeEndian.PutUint32(out[fuseReply:], fuseMajor)
	binary.NativeEndian.PutUint32(out[fuseReply+4:], fuseMinor)
	if _, err := unix.Write(int(s.dev.Fd()), out); err != nil {
		return fmt.Errorf("answer INIT: %w", err)
	}
	return nil
}

// LetGo ends all hanging, and unmounts the file system.
func (s *Stuck) LetGo() (err error) {
	s.once.Do(func() {
		err = errors.Join(unix.Unmount(s.path, unix.MNT_FORCE|unix.MNT_DETACH), s.dev.Close())
	})
	return err
}
