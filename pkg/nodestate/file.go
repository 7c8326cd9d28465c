package nodestate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Errors that readers of this package's files can tell apart. A missing file
// is fs.ErrNotExist.
var (
	// ErrCorrupt is returned when the content is not what the schema says (empty,
	// torn). For an attachment record this means an intent was lost.
	ErrCorrupt = errors.New("corrupt file")
	// ErrUntrusted is returned for a symbolic link, for anything else that is not
	// a regular file, and for a file that is owned by somebody else or writable by
	// others. Its content was not looked at.
	ErrUntrusted = errors.New("untrusted file")
	// ErrTooLarge is returned by writers for what no reader would take.
	ErrTooLarge = fmt.Errorf("larger than %d octets", maxFileSize)
)

// maxFileSize bounds what is read into memory, in octets. An inventory row
// takes about 600 octets; the largest EC2 instance has fewer than 500 ENIs.
const maxFileSize = 4 << 20

// Durability says whether a write must survive a power loss.
type Durability bool

// The daemon's files are Durable. The plugin's are not: no effect on a network
// device outlives a power loss, so neither must the record of it.
const (
	Durable  Durability = true
	Volatile Durability = false
)

// ReadTrusted returns the content of a regular file of at most 4 MiB that
// belongs to root or the effective user and that neither group nor others may
// write. The last component is not followed when it is a symbolic link.
func ReadTrusted(path string) ([]byte, error) {
	f, err := openTrusted(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // opened for reading only
	return readBounded(f)
}

// readBounded reads f to its end into a buffer of its size, so that a file which
// nobody changes meanwhile, as nobody does with a file of this package, costs one
// allocation.
func readBounded(f *os.File) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	var data bytes.Buffer
	data.Grow(int(min(max(st.Size, 0), maxFileSize)) + bytes.MinRead) // the last read finds the end
	if _, err := data.ReadFrom(io.LimitReader(f, maxFileSize+1)); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if data.Len() > maxFileSize {
		return nil, fmt.Errorf("read %s: %w: larger than %d octets", f.Name(), ErrCorrupt, maxFileSize)
	}
	return data.Bytes(), nil
}

// openTrusted opens path without following a symbolic link in its last
// component and without blocking on a FIFO, then checks type, owner and mode.
func openTrusted(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
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

// WriteFile replaces path atomically with data: a reader sees the old content
// or the new. Missing folders are made with mode 0700. A symbolic link at path
// is replaced, not followed. With Durable, file and folder are synced before
// WriteFile returns. Concurrent writers of one path need a lock of their own.
func WriteFile(path string, data []byte, mode fs.FileMode, d Durability) error {
	f, err := createTemp(path, mode)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // a failed write is reported before
	return publish(f, path, data, d, os.Rename)
}

// tempPath is where the next content of path is prepared. The name is fixed, so
// that a killed writer leaves at most one such file, which the next one reuses.
func tempPath(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
}

// createTemp makes the folder of path and an empty temporary file in it that
// nobody else holds a lock on. The file is locked until it is closed.
func createTemp(path string, mode fs.FileMode) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make folder of %s: %w", path, err)
	}
	tmp := tempPath(path)
	fd, err := unix.Open(tmp, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, uint32(mode.Perm()))
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: tmp, Err: err}
	}
	f := os.NewFile(uintptr(fd), tmp)
	if err := prepareTemp(f, mode); err != nil {
		f.Close() //nolint:errcheck,gosec // nothing was written
		return nil, err
	}
	return f, nil
}

func prepareTemp(f *os.File, mode fs.FileMode) error {
	if err := checkTrusted(f); err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w: another process is writing it", f.Name(), err)
	}
	if !samePath(f, f.Name()) {
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

// empty truncates a file that has any content. One that is truncated, were it empty
// before, ext4 writes to the disk when it is closed (auto_da_alloc in ext4(5)).
func empty(f *os.File) error {
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return err
	}
	return f.Truncate(0)
}

func publish(f *os.File, path string, data []byte, d Durability, rename func(from, to string) error) error {
	if _, err := f.WriteAt(data, 0); err != nil {
		os.Remove(f.Name()) //nolint:errcheck,gosec // best effort: a full disk may refuse this too
		return fmt.Errorf("write %s: %w", path, err)
	}
	if d == Durable {
		if err := f.Sync(); err != nil {
			return fmt.Errorf("sync %s: %w", path, err)
		}
	}
	if err := rename(f.Name(), path); err != nil {
		os.Remove(f.Name()) //nolint:errcheck,gosec // best effort
		return fmt.Errorf("replace %s: %w", path, err)
	}
	if d == Durable {
		return syncFolder(filepath.Dir(path))
	}
	return nil
}

// renameNew renames where nothing is yet (else fs.ErrExist), in one step where
// the file system can; NFS, for one, cannot.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return os.Rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// exchange puts from in the place of to, in one step, and then removes what to
// was. It is a rename for a file that must not survive a power loss: where one file
// is renamed over another, ext4 writes the new one to the disk at once
// (auto_da_alloc in ext4(5)).
func exchange(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOENT): // not here, or nothing to exchange
		return os.Rename(from, to)
	case err != nil:
		return &os.LinkError{Op: "exchange", Old: from, New: to, Err: err}
	}
	os.Remove(from) //nolint:errcheck,gosec // best effort: the next writer takes it over, and Record.Remove removes it
	return nil
}

// removeDead removes a temporary file that a killed writer has left.
func removeDead(tmp string) error {
	f, err := openTrusted(tmp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // opened for reading only
	if ok, err := tryLock(f, alone); err != nil || !ok {
		return err // its writer lives
	}
	if !samePath(f, tmp) {
		return nil
	}
	return removeAll(tmp)
}

func syncFolder(path string) error {
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

// samePath says whether path still names the open file f.
func samePath(f *os.File, path string) bool {
	var a, b unix.Stat_t
	if unix.Fstat(int(f.Fd()), &a) != nil || unix.Lstat(path, &b) != nil {
		return false
	}
	return a.Ino == b.Ino && a.Dev == b.Dev
}

// maxIndented bounds the memory for an indented file, in octets: indentation
// grows with the square of the depth, and a tenant's netconf, which is in the
// attachment records, may be as deep as it likes.
const maxIndented = 16 * maxFileSize

// encode gives the canonical form of every file: indented, for the people who
// read it on a node, unless that would be too large, and ending in a newline.
// Error: ErrTooLarge.
func encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	data = append(data, '\n')
	if len(data) > maxFileSize {
		return nil, fmt.Errorf("encode %T: %d octets: %w", v, len(data), ErrTooLarge)
	}
	const indent = "  "
	if len(data)*len(indent)*nesting(data) > maxIndented {
		return data, nil
	}
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", indent); err != nil {
		return nil, fmt.Errorf("indent %T: %w", v, err)
	}
	if out.Len() > maxFileSize {
		return data, nil
	}
	return out.Bytes(), nil
}

// nesting returns how deep the objects and arrays of valid JSON go.
func nesting(data []byte) (deepest int) {
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch b := data[i]; {
		case quoted && b == '\\':
			i++
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '{' || b == '[':
			depth++
			deepest = max(deepest, depth)
		case b == '}' || b == ']':
			depth--
		}
	}
	return deepest
}

const bootIDPath = "/proc/sys/kernel/random/boot_id"

// BootID returns the id of the running boot, from
// /proc/sys/kernel/random/boot_id.
func BootID() (string, error) {
	data, err := os.ReadFile(bootIDPath)
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
