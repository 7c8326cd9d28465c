// Package sysfstree has sysfs trees for tests: records of a machine with real PCI NICs, and functions put together
// in the same shape.
//
// A tree is text, one line for each file, link and folder that the product reads below a root:
//
//	path/            a folder
//	path -> target   a symbolic link
//	path = content   a file; its line end is added
//
// Lines that begin with # are comments. A tree has only parts that somebody reads: the folders of other attributes
// are missing.
package sysfstree

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The trees of test/hardware/trees and test/hardware/noiommu, which fail when
// the machine shows something else, and write them with -update.
//
//go:embed recorded/*.tree
var recorded embed.FS

// Recorded returns a recorded tree by its name:
//
//	kernel     every NIC on its kernel driver: e1000e at 0000:00:05.0 (primary) and in a hot-plug slot, igb
//	vfs        the same with two VFs of the igb
//	vfio       the hot-pluggable e1000e and a VF on vfio-pci
//	pod        the same two on their kernel drivers, their interfaces in another netns
//	unplugged  the hot-pluggable e1000e pulled out
//	noiommu    a machine without IOMMU
func Recorded(name string) ([]byte, error) {
	data, err := recorded.ReadFile("recorded/" + name + ".tree")
	if err != nil {
		return nil, fmt.Errorf("read recorded tree: %w", err)
	}
	return data, nil
}

// Unpack makes a recorded tree in a folder of the test, and returns its root.
func Unpack(t testing.TB, name string) (root string) {
	t.Helper()
	data, err := Recorded(name)
	must(t, err)
	root = t.TempDir()
	must(t, Grow(root, string(data)))
	return root
}

// Grow makes a tree's lines below root. It fails on existing files and links, and on paths out of root.
func Grow(root, tree string) error {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("make sysfs tree: %w", err)
	}
	defer dir.Close()
	for line := range strings.Lines(tree) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := grow(dir, line); err != nil {
			return fmt.Errorf("make sysfs tree: line %q: %w", line, err)
		}
	}
	return nil
}

func grow(root *os.Root, line string) error {
	if dir, ok := strings.CutSuffix(line, "/"); ok {
		return root.MkdirAll(dir, 0o755)
	}
	path, rest, isLink := strings.Cut(line, " -> ")
	if !isLink {
		var isFile bool
		if path, rest, isFile = strings.Cut(line, " = "); !isFile {
			return errors.New("want path/, path -> target or path = content")
		}
	}
	if err := root.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if isLink {
		return root.Symlink(rest, path)
	}
	f, err := root.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(rest + "\n")
	return errors.Join(err, f.Close())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
