package pcidp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// maxConfigSize bounds a config, in octets. The device plugin's ConfigMap cannot exceed 1 MiB.
const maxConfigSize = 4 << 20

// configMode lets the device plugin run as another user.
const configMode = 0o644

// errEdited says that the file has changed since the new content was made from it.
var errEdited = errors.New("edited meanwhile")

// symlinkError says that the config's path is a symbolic link.
type symlinkError struct {
	path, target string
}

func (e *symlinkError) Error() string {
	return fmt.Sprintf("read device plugin config %s: it is a symbolic link to %s", e.path, e.target)
}

// problem names the remedy. The kubelet mounts a ConfigMap as links into a folder "..data", itself a link to the
// current version.
func (e *symlinkError) problem() nodestate.Problem {
	p := nodestate.Problem{Device: e.path}
	if strings.HasPrefix(e.target, "..data/") {
		p.Reason, p.Message = reason.ConfigIsSymlink, fmt.Sprintf("%s comes from a ConfigMap, which is not overwritten, so no device is offered; mount the "+
			"node's folder %s (hostPath) into the device plugin instead",
			e.path, filepath.Dir(e.path))
	} else {
		p.Reason, p.Message = reason.ConfigIsSymlink, fmt.Sprintf("%s is a symbolic link to %s, which is not followed, so no device is offered; put a plain "+
			"file in its place", e.path, e.target)
	}
	return p
}

// readConfig returns the content, nil without a file, or *symlinkError.
func readConfig(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		target, linkErr := os.Readlink(path)
		if linkErr != nil {
			return nil, fmt.Errorf("read device plugin config: %w", linkErr)
		}
		return nil, &symlinkError{path, target}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read device plugin config: %w", err)
	}
	defer file.Close() //nolint:errcheck // opened for reading only
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read device plugin config: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read device plugin config %s: it is a %s, want a plain file", path, info.Mode().Type())
	}
	data, err := io.ReadAll(io.LimitReader(file, maxConfigSize+1))
	if err != nil {
		return nil, fmt.Errorf("read device plugin config: %w", err)
	}
	if len(data) > maxConfigSize {
		return nil, fmt.Errorf("read device plugin config %s: larger than %d octets", path, maxConfigSize)
	}
	return data, nil // not nil: io.ReadAll makes a slice even for an empty file
}

// replace puts the rendering in the file's place, durably and atomically, after copying contents that lose something;
// it returns the copies. The error is errEdited, and the file stays, if its content is not current.
func (f *File) replace(current []byte, r Rendering) (copies []string, err error) {
	dir := filepath.Dir(f.Path)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the device plugin may run as another user
		return nil, fmt.Errorf("make folder of device plugin config: %w", err)
	}
	tmp, err := atomicfile.Prepare(f.Path, r.Content, configMode, atomicfile.Durable)
	if err != nil {
		return nil, fmt.Errorf("write device plugin config: %w", err)
	}
	defer tmp.Close()
	var undo []string
	for _, content := range r.losing {
		path, made, err := f.keepAside(content)
		if err != nil {
			return nil, errors.Join(err, atomicfile.Remove(append(undo, tmp.Name())...))
		}
		if copies = append(copies, path); made {
			undo = append(undo, path)
		}
	}
	if err := publish(tmp, f.Path, current); err != nil {
		return nil, errors.Join(err, atomicfile.Remove(append(undo, tmp.Name())...))
	}
	return copies, nil
}

// publish renames tmp to path if that still has the content current.
func publish(tmp *atomicfile.Pending, path string, current []byte) error {
	now, err := readConfig(path)
	if err != nil || (now == nil) != (current == nil) || !bytes.Equal(now, current) {
		return errEdited
	}
	err = tmp.Replace()
	if errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("replace device plugin config: %w (a mount point: mount its folder instead of the file)", err)
	}
	if err != nil {
		return fmt.Errorf("replace device plugin config: %w", err)
	}
	return nil
}
