package driver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/u-root/u-root/pkg/kmodule"
	"golang.org/x/sys/unix"
)

// modules are the module files of the running kernel.
type modules struct {
	root, release string
	dir           string            // lib/modules/<release>
	files         map[string]string // by module name, below dir
}

// findModules reads the list of modules. The error is fs.ErrNotExist without a folder for the running kernel, or before
// depmod(8).
func findModules(root string) (modules, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return modules{}, fmt.Errorf("read the kernel's release: %w", err)
	}
	if root == "" {
		root = "/"
	}
	m := modules{root: root, release: unix.ByteSliceToString(uts.Release[:])}
	var err error
	for _, lib := range []string{"lib/modules", "usr/lib/modules"} { // as kmodule looks
		m.dir = filepath.Join(root, lib, m.release)
		var f *os.File
		if f, err = os.Open(filepath.Join(m.dir, "modules.dep")); err != nil {
			continue
		}
		m.files, err = parseModulesDep(f)
		f.Close() //nolint:errcheck,gosec // opened for reading only
		if err != nil {
			return modules{}, fmt.Errorf("parse %s: %w", f.Name(), err)
		}
		return m, nil
	}
	return modules{}, fmt.Errorf("look for kernel modules: %w", err)
}

// parseModulesDep returns the module files of modules.dep(5), by module name. A line has a path, a colon and the
// dependencies.
func parseModulesDep(r io.Reader) (map[string]string, error) {
	files := map[string]string{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		path, _, ok := strings.Cut(lines.Text(), ":")
		if !ok || path == "" {
			return nil, fmt.Errorf("line %q: want path: path…", lines.Text())
		}
		base, _, ok := strings.Cut(filepath.Base(path), ".ko")
		if !ok {
			return nil, fmt.Errorf("line %q: want the path of a .ko file", lines.Text())
		}
		files[moduleName(base)] = path
	}
	return files, lines.Err()
}

// moduleName is a module's name in the kernel: file names and drivers may have dashes instead.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// has says whether the module's file is there.
func (m modules) has(name string) (bool, error) {
	path, ok := m.files[moduleName(name)]
	if !ok {
		return false, nil
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(m.dir, path)
	}
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// load loads a module with its dependencies, except loaded ones. The error is fs.ErrNotExist for an unknown module.
func (m modules) load(name string) error {
	there, err := m.has(name)
	if err == nil && !there {
		err = fs.ErrNotExist
	}
	if err != nil {
		return fmt.Errorf("load module %s from %s: %w", name, m.dir, err)
	}
	// With /proc/modules, a loaded module that is not in modules.dep would be an error. The kernel answers EEXIST
	// anyway.
	opts := kmodule.ProbeOpts{RootDir: m.root, KVer: m.release, IgnoreProcMods: true}
	if err := kmodule.ProbeOptions(name, "", opts); err != nil {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	return nil
}
