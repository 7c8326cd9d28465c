package machine

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
)

// libraryDirs are the folders that a Debian dynamic linker searches without a cache (ld.so(8)), below root.
func libraryDirs(root string) ([]string, error) {
	var dirs []string
	for _, pattern := range []string{"usr/lib/x86_64-linux-gnu", "usr/lib", "usr/lib64"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, found...)
	}
	return dirs, nil
}

type libraries struct {
	root string // "/", or a folder that stands for it
	dirs []string
	out  *files
	done map[string]bool
}

func newLibraries(root string, out *files) (*libraries, error) {
	dirs, err := libraryDirs(root)
	if err != nil {
		return nil, err
	}
	return &libraries{root: root, dirs: dirs, out: out, done: map[string]bool{}}, nil
}

// add copies an ELF file to the same path, with its interpreter and libraries, recursively. The path is below root.
func (l *libraries) add(path string) error {
	path, err := l.copy(path)
	if err != nil || l.done[path] {
		return err
	}
	l.done[path] = true
	if err := l.addNeeds(filepath.Join(l.root, path)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func (l *libraries) addNeeds(path string) error {
	interpreter, needed, err := dynamic(path)
	if err != nil {
		return fmt.Errorf("read its dynamic section: %w", err)
	}
	if interpreter != "" {
		needed = append(needed, interpreter)
	}
	for _, name := range needed {
		if name != interpreter {
			if name, err = l.find(name); err != nil {
				return err
			}
		}
		if err := l.add(name); err != nil {
			return err
		}
	}
	return nil
}

func (l *libraries) find(name string) (string, error) {
	for _, dir := range l.dirs {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Rel(l.root, filepath.Join(dir, name))
		}
	}
	return "", fmt.Errorf("find %s in %q: %w", name, l.dirs, fs.ErrNotExist)
}

// copy copies a file with every symbolic link on the way, or a library would be loaded twice. It returns the file's path.
func (l *libraries) copy(path string) (string, error) {
	const most = 40 // as many as the kernel follows
	path = strings.TrimPrefix(path, "/")
	for range most {
		dir, err := filepath.EvalSymlinks(filepath.Join(l.root, filepath.Dir(path)))
		if err != nil {
			return "", err
		}
		if dir, err = filepath.Rel(l.root, dir); err != nil {
			return "", err
		}
		path = filepath.Join(dir, filepath.Base(path))
		full := filepath.Join(l.root, path)
		target, err := os.Readlink(full)
		if err != nil { // not a link, or not there
			data, err := os.ReadFile(full)
			if err != nil {
				return "", err
			}
			l.out.put(cpio.StaticFile(path, string(data), 0o755))
			return path, nil
		}
		l.out.link(path, target)
		if filepath.IsAbs(target) {
			path = strings.TrimPrefix(target, "/")
		} else {
			path = filepath.Join(filepath.Dir(path), target)
		}
	}
	return "", fmt.Errorf("%s: too many symbolic links", path)
}

// dynamic reads an ELF file's interpreter ("" for a static program or a library) and its libraries.
func dynamic(path string) (interpreter string, needed []string, err error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	if needed, err = f.ImportedLibraries(); err != nil {
		return "", nil, err
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name := make([]byte, p.Filesz)
		if _, err := p.ReadAt(name, 0); err != nil {
			return "", nil, err
		}
		interpreter = strings.TrimRight(string(name), "\x00")
	}
	return interpreter, needed, nil
}

// addDPDK adds dpdk-testpmd and its plugins for an e1000e. DPDK looks for plugins in its own folder.
func (*host) addDPDK(l *libraries) error {
	missing := func(err error) error {
		return fmt.Errorf("put DPDK into the machine: %w; see: test/hardware/prepare check", err)
	}
	if err := l.add("usr/bin/dpdk-testpmd"); err != nil {
		return missing(err)
	}
	for _, plugin := range []string{"bus_pci", "mempool_ring", "net_e1000"} {
		found, err := filepath.Glob(filepath.Join(l.root, "usr/lib/x86_64-linux-gnu/dpdk/pmds-*/librte_"+plugin+".so*"))
		if err != nil {
			return missing(err)
		}
		if len(found) == 0 {
			return missing(errors.New("no plugin " + plugin))
		}
		for _, f := range found {
			path, err := filepath.Rel(l.root, f)
			if err == nil {
				err = l.add(path)
			}
			if err != nil {
				return missing(err)
			}
		}
	}
	return nil
}
