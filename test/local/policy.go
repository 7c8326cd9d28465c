package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// policy is the plugin's policy file, in which sysfs replaces the kernel's.
type policy struct{ path, sysfs string }

func (p policy) set() error { return p.replace(sysfs.DefaultRoot, p.sysfs) }

// restore names the kernel's sysfs again: the file is as before, byte for byte.
func (p policy) restore() error { return p.replace(p.sysfs, sysfs.DefaultRoot) }

func (p policy) replace(from, to string) error {
	data, err := os.ReadFile(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the installer has not been here yet
	}
	if err != nil {
		return err
	}
	line := func(path string) []byte { return fmt.Appendf(nil, "\"sysfs\": %q", path) }
	if bytes.Contains(data, line(to)) {
		return nil
	}
	if !bytes.Contains(data, line(from)) {
		return fmt.Errorf("%s names neither %s nor %s", p.path, from, to)
	}
	return atomicfile.Write(p.path, bytes.ReplaceAll(data, line(from), line(to)), 0o644, atomicfile.Durable)
}
