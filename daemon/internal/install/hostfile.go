package install

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/hostnet"
	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
)

// writeHostFile writes one file. It keeps a foreign file, and ours when somebody has edited it.
func writeHostFile(root string, m hostnet.Manager, f hostnet.File) (outcome string, changed bool, err error) {
	state, data, err := hostFile(root, f.Path)
	if err != nil {
		return "", false, err
	}
	switch state {
	case hostFileForeign:
		return "kept, multi-enid has not written it", false, nil
	case hostFileEdited:
		return "kept, somebody has edited it", false, nil
	case hostFileOurs:
		if string(data) == f.Marked() {
			return "as it should be", false, nil
		}
	case hostFileNone:
	}
	at, err := os.OpenRoot(root)
	if err != nil {
		return "", false, err
	}
	defer at.Close() //nolint:errcheck // nothing is written by it
	// It refuses a folder that a symbolic link leads out of the host's root.
	if err := at.MkdirAll(filepath.Dir(relative(f.Path)), 0o755); err != nil {
		return "", false, err
	}
	if err := atomicfile.Write(filepath.Join(root, f.Path), []byte(f.Marked()), 0o644, atomicfile.Durable); err != nil {
		return "", false, err
	}
	return fmt.Sprintf("written, in effect after a reboot or `%s`", hostnet.Reload(m)), true, nil
}

// removeHostFiles removes the files that multi-enid has written, except edited ones.
func removeHostFiles(root string, tell report) error {
	var errs []error
	for _, path := range hostnet.Paths() {
		state, _, err := hostFile(root, path)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("remove %s: %w", path, err))
		case state == hostFileForeign:
			tell(path, "kept, multi-enid has not written it", false)
		case state == hostFileEdited:
			tell(path, "kept, somebody has edited it", false)
		case state == hostFileOurs:
			if err := os.Remove(filepath.Join(root, path)); err != nil {
				errs = append(errs, fmt.Errorf("remove: %w", err))
				continue
			}
			tell(path, "removed", true)
		}
	}
	return errors.Join(errs...)
}

// hostFileState says whose a file is.
type hostFileState int

const (
	hostFileNone hostFileState = iota
	// hostFileForeign: multi-enid has not written it, or it is no regular file.
	hostFileForeign
	hostFileEdited
	hostFileOurs
)

// hostFile looks at a file of the host. Symbolic links within the host's root are followed in folders, never in the last component.
func hostFile(root, path string) (hostFileState, []byte, error) {
	at, err := os.OpenRoot(root)
	if err != nil {
		return 0, nil, err
	}
	defer at.Close() //nolint:errcheck // opened for reading only
	info, err := at.Lstat(relative(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return hostFileNone, nil, nil
	case err != nil:
		return 0, nil, err
	case !info.Mode().IsRegular():
		return hostFileForeign, nil, nil
	}
	data, err := at.ReadFile(relative(path))
	if err != nil {
		return 0, nil, err
	}
	switch ours, unchanged := hostnet.Ours(string(data)); {
	case !ours:
		return hostFileForeign, data, nil
	case !unchanged:
		return hostFileEdited, data, nil
	}
	return hostFileOurs, data, nil
}

func relative(path string) string { return strings.TrimPrefix(path, "/") }
