// Package sysfs reads the kernel's description of PCI functions and network
// devices below one root folder: "/sys", or a recorded tree.
//
// It only reads, holds no state and is safe for concurrent use. Each result
// is a snapshot that may be out of date at once.
//
// Gone and unreadable are told apart. An error that is fs.ErrNotExist says that the kernel lists no such device: the
// folder of all devices was there, this one was not in it. Every other failure, a missing sysfs mount included, is an
// error that is not fs.ErrNotExist; it proves nothing about the device.
package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// DefaultRoot is where Linux mounts sysfs.
const DefaultRoot = "/sys"

// FS is a sysfs tree. The zero value reads DefaultRoot.
type FS struct {
	root string
}

// NewFS returns the tree below root. The folder is not looked at until something is read from it; "" means DefaultRoot.
func NewFS(root string) FS { return FS{root: root} }

// Root returns the root folder.
func (f FS) Root() string {
	if f.root == "" {
		return DefaultRoot
	}
	return f.root
}

func (f FS) path(elem ...string) string {
	return filepath.Join(f.Root(), filepath.Join(elem...))
}

// unreadable reports a failed read in a way that is never fs.ErrNotExist,
// with any cause: %v keeps the cause out of the chain.
func unreadable(what string, cause error) error {
	return fmt.Errorf("read %s: %v", what, cause) //nolint:errorlint // on purpose: see above
}

// gone decides the meaning of a failure to read something of the device folder dir:
// fs.ErrNotExist when dir is no longer listed in a readable folder of devices.
// The kernel answers ENODEV for an attribute whose device is being removed.
func gone(dir string, cause error) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return unreadable(dir, cause)
	}
	if _, err := os.ReadDir(filepath.Dir(dir)); err != nil {
		return unreadable(dir, err)
	}
	return &fs.PathError{Op: "read", Path: dir, Err: fs.ErrNotExist}
}

// attributeSize is the most that the kernel shows of an attribute: one page (Documentation/filesystems/sysfs.rst).
const attributeSize = 4096

// attribute returns the value of one sysfs attribute without its line end. It is read as sysfs means it, in one
// read(2): os.ReadFile takes twice the system calls, and a node has thousands of attributes.
func attribute(dir, name string) (string, error) {
	path := filepath.Join(dir, name)
	fd, err := retry(func() (int, error) { return syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0) })
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer syscall.Close(fd) //nolint:errcheck // opened for reading only
	var buf [attributeSize]byte
	n, err := retry(func() (int, error) { return syscall.Read(fd, buf[:]) })
	if err != nil {
		return "", &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return strings.TrimSuffix(string(buf[:n]), "\n"), nil
}

// retry repeats a system call that a signal has interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

// optional is attribute for a file that some kernels or devices do not have; ok is false when it is missing.
func optional(dir, name string) (value string, ok bool, err error) {
	value, err = attribute(dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	return value, err == nil, err
}

// linkBase returns the last component of a symbolic link's target, or "" when
// there is no such link. The target need not exist.
func linkBase(dir, name string) (string, error) {
	target, err := os.Readlink(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return filepath.Base(target), nil
}

// parseHex parses an attribute that the kernel prints with "0x%0*x".
func parseHex(s string, bits int) (uint64, error) {
	digits, ok := strings.CutPrefix(s, "0x")
	if !ok {
		return 0, fmt.Errorf("value %q: want hexadecimal digits after 0x", s)
	}
	v, err := strconv.ParseUint(digits, 16, bits)
	if err != nil {
		return 0, fmt.Errorf("value %q: %w", s, err)
	}
	return v, nil
}

// parseIndex parses a number that is -1 or more.
func parseIndex(s string) (int, error) {
	v, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("value %q: %w", s, err)
	}
	if v < -1 {
		return 0, fmt.Errorf("value %q: want -1 or more", s)
	}
	return v, nil
}

// parseOverride parses driver_override, which reads "(null)" when it is unset
// (driver_override_show in drivers/pci/pci-sysfs.c).
func parseOverride(s string) string {
	if s == "(null)" {
		return ""
	}
	return s
}
