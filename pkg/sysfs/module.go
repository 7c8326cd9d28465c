package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Module says whether a kernel module is there: loaded, or built into the kernel with parameters of its own
// (/sys/module/<name>; a built-in module without any is not listed). The name is as the kernel has it, with
// underscores. An error means that it is not known; it is never fs.ErrNotExist.
func (f FS) Module(name string) (bool, error) {
	return f.listed("module", name)
}

// ModuleParameter returns a parameter of a kernel module, from /sys/module/<module>/parameters/<name>. ok is false when
// the module is not there or has no such parameter. An error means that neither is known; it is never fs.ErrNotExist.
func (f FS) ModuleParameter(module, name string) (value string, ok bool, err error) {
	there, err := f.Module(module)
	if err != nil || !there {
		return "", false, err
	}
	if err := oneName(name); err != nil {
		return "", false, err
	}
	dir := f.path("module", module, "parameters")
	value, ok, err = optional(dir, name)
	if err != nil {
		return "", false, unreadable(filepath.Join(dir, name), err)
	}
	return value, ok, nil
}

// ModuleUsers returns how many references a loaded module has, from /sys/module/<name>/refcnt. ok is false when the
// kernel does not count them: the module is not there, or built in, or can never be unloaded. An error means that it is
// not known; it is never fs.ErrNotExist.
func (f FS) ModuleUsers(name string) (users int, ok bool, err error) {
	there, err := f.Module(name)
	if err != nil || !there {
		return 0, false, err
	}
	dir := f.path("module", name)
	value, ok, err := optional(dir, "refcnt")
	if err != nil {
		return 0, false, unreadable(filepath.Join(dir, "refcnt"), err)
	}
	if !ok {
		return 0, false, nil
	}
	if users, err = strconv.Atoi(value); err != nil || users < 0 { // negative while it is being unloaded
		return 0, false, fmt.Errorf("parse %s: %q, want a count", filepath.Join(dir, "refcnt"), value)
	}
	return users, true, nil
}

// listed says whether a folder of all things of a kind has one by that name. It
// is missing only from a folder that can be read.
func (f FS) listed(folder, name string) (bool, error) {
	if err := oneName(name); err != nil {
		return false, err
	}
	path := f.path(folder, name)
	_, err := os.Stat(path)
	if err == nil {
		return true, nil
	}
	if err := gone(path, err); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return false, nil
}

// oneName refuses all but a single name in a folder.
func oneName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("read sysfs: %q is no name of a driver, module or parameter", name)
	}
	return nil
}
