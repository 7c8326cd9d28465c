package nodestate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// ErrBusy is returned when another live process holds the lock on a record or a device.
var ErrBusy = errors.New("held by another process")

// AttachmentDir is the folder of attachment records (DefaultAttachmentsDir): <containerID>-<ifname>.json (see
// fileName), and beside them restore/<pci>.json and locks/<pci>.lock.
//
// The process that works on an attachment holds a flock on its record, from before the record becomes visible until it
// exits or closes it. No other process inherits it. An intent whose record can be locked is therefore one whose writer
// is dead; a program that it ran at its death has been waited for (see Heir).
type AttachmentDir string

// Record is an attachment record under this process's lock.
type Record struct {
	Attachment
	path string
	file *os.File
}

// Begin writes an intent and returns it locked. A record that exists is an error (fs.ErrExist), since its owner must be
// undone first. Of several at once, one succeeds.
func (d AttachmentDir) Begin(a Attachment) (*Record, error) {
	paths, err := d.paths(a.AttachmentID)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(paths[0]); err == nil {
		return nil, fmt.Errorf("begin %s: %w", paths[0], fs.ErrExist)
	}
	if path, ok := old(paths, a.AttachmentID); ok {
		return nil, fmt.Errorf("begin %s: %w", path, fs.ErrExist)
	}
	a.State = StateIntent
	r := &Record{Attachment: a, path: paths[0]}
	if err := r.save((*atomicfile.Pending).Create); err != nil {
		return nil, err
	}
	return r, nil
}

// Save replaces the record's file with the Attachment as it now is.
func (r *Record) Save() error { return r.save((*atomicfile.Pending).Exchange) }

func (r *Record) save(publish func(*atomicfile.Pending) error) error {
	r.SchemaVersion = SchemaVersion
	if err := r.validate(); err != nil {
		return fmt.Errorf("write %s: %w", r.path, err)
	}
	data, err := Encode(r.Attachment)
	if err != nil {
		return err
	}
	next, err := atomicfile.Prepare(r.path, data, 0o600, atomicfile.Volatile)
	if err != nil {
		return err
	}
	if err := publish(next); err != nil {
		next.Close()
		return err
	}
	r.Close()
	r.file = next.File
	return nil
}

// Remove deletes the record and gives up the lock. A file that is gone already is not an error.
func (r *Record) Remove() error {
	defer r.Close()
	return atomicfile.Remove(atomicfile.TempPath(r.path), r.path)
}

// Close gives up the lock and leaves the record.
func (r *Record) Close() {
	if r.file != nil {
		r.file.Close() //nolint:errcheck,gosec // nothing is buffered
		r.file = nil
	}
}

// Lock returns the record of id under this process's lock, waiting for another holder until ctx ends (then ErrBusy).
// Errors: fs.ErrNotExist, ErrCorrupt, ErrOtherVersion, ErrUntrusted; a record that cannot be understood is an
// *UnreadRecord. Lock removes the leftovers of a writer that was killed before its record became visible.
func (d AttachmentDir) Lock(ctx context.Context, id AttachmentID) (*Record, error) {
	paths, err := d.paths(id)
	if err != nil {
		return nil, err
	}
	r, err := lockAt(ctx, paths[0], id)
	if path, ok := old(paths, id); ok && errors.Is(err, fs.ErrNotExist) {
		return lockAt(ctx, path, id)
	}
	return r, err
}

// lockAt is Lock at one of the record's places. Another attachment's file does not count.
func lockAt(ctx context.Context, path string, id AttachmentID) (*Record, error) {
	for {
		r, err := lockRecord(ctx, path)
		if errors.Is(err, errReplaced) {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, atomicfile.RemoveLeftover(path))
		}
		if err != nil {
			return nil, err
		}
		if r.AttachmentID != id {
			r.Close()
			return nil, fmt.Errorf("read %s: %w: it is the record of container %s, interface %s", path, fs.ErrNotExist, r.ContainerID, r.IfName)
		}
		if r.State == StateIntent {
			if err := r.awaitHeir(ctx); err != nil {
				r.Close()
				return nil, err
			}
		}
		return r, nil
	}
}

var errReplaced = errors.New("replaced while waiting for its lock")

func lockRecord(ctx context.Context, path string) (*Record, error) {
	f, err := atomicfile.Open(path)
	if err != nil {
		return nil, err
	}
	if err := flock(ctx, f, alone); err != nil {
		f.Close() //nolint:errcheck,gosec // opened for reading only
		return nil, err
	}
	if !atomicfile.Same(f, path) {
		f.Close() //nolint:errcheck,gosec // opened for reading only
		return nil, errReplaced
	}
	a, err := readAttachment(f)
	if err != nil {
		f.Close() //nolint:errcheck,gosec // opened for reading only
		return nil, err
	}
	return &Record{Attachment: a, path: path, file: f}, nil
}

func readAttachment(f *os.File) (Attachment, error) {
	data, err := readBounded(f)
	if err != nil {
		return Attachment{}, err
	}
	return decodeAttachment(f.Name(), data)
}

func decodeAttachment(path string, data []byte) (Attachment, error) {
	var a Attachment
	err := Decode(path, data, &a, &a.SchemaVersion)
	if err == nil {
		if err = a.validate(); err != nil {
			err = fmt.Errorf("parse %s: %w", path, err)
		}
	}
	if err != nil {
		return Attachment{}, unread(path, filepath.Base(path), data, err)
	}
	return a, nil
}

// Discard removes the remains of id's record: the way out for one that Lock calls corrupt, and for one of another
// version that is not of the boot bootID. One that is whole, or that another process works on, stays (ErrBusy); one
// that is gone is not an error.
func (d AttachmentDir) Discard(id AttachmentID, bootID string) error {
	path, err := d.path(id)
	if err != nil {
		return err
	}
	f, err := atomicfile.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // opened for reading only
	if ok, err := tryLock(f, alone); err != nil {
		return err
	} else if !ok || !atomicfile.Same(f, path) {
		return fmt.Errorf("discard %s: %w", path, ErrBusy)
	}
	var u *UnreadRecord
	switch _, err := readAttachment(f); {
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrOtherVersion) && errors.As(err, &u) && u.Ended(bootID):
		return atomicfile.Remove(path)
	case err != nil:
		return err
	}
	return fmt.Errorf("discard %s: %w: the record is whole again", path, ErrBusy)
}

// readRecord reads a record without locking it. Its errors are *UnreadRecord.
func readRecord(path string) (Attachment, error) {
	data, err := ReadTrusted(path)
	if err != nil {
		return Attachment{}, unread(path, filepath.Base(path), nil, err)
	}
	return decodeAttachment(path, data)
}

// List returns all readable records, sorted by file name, without locking them, and apart from them the unreadable
// ones. A folder that does not exist holds none; one that cannot be read is the third result.
func (d AttachmentDir) List() ([]Attachment, Unread, error) {
	names, err := ListJSON(string(d))
	if err != nil {
		return nil, nil, err
	}
	var all []Attachment
	var bad Unread
	for _, name := range names {
		path := filepath.Join(string(d), name)
		a, err := readRecord(path)
		var u *UnreadRecord
		switch {
		case errors.Is(err, fs.ErrNotExist): // deleted since the folder was read
		case errors.As(err, &u):
			bad = append(bad, u)
		case !slices.Contains(a.names(), name):
			bad = append(bad, &UnreadRecord{
				Path: path, BootID: a.BootID, PCIAddress: a.Device.PCIAddress, ENIID: a.Device.ENIID,
				Err: fmt.Errorf("read %s: %w: it is the record of %s", path, ErrCorrupt, a.AttachmentID),
			})
		default:
			all = append(all, a)
		}
	}
	return all, bad, nil
}

// OfOthers returns the first of List's errors that is not about id's own record; nil without one.
func (d AttachmentDir) OfOthers(bad Unread, id AttachmentID) error {
	own, _ := d.path(id) // an id that makes no file name has no record
	for _, u := range bad {
		if u.Path != own {
			return u
		}
	}
	return nil
}

// LockDevice takes the device lock, waiting until ctx ends (then ErrBusy). Under it a device is given to a pod, and its
// link is changed in the host. The returned function gives it up.
func (d AttachmentDir) LockDevice(ctx context.Context, pci device.PCIAddress) (unlock func(), err error) {
	return unlocking(d.DeviceLockFile(ctx, pci))
}

// ShareDevice is LockDevice for callers that leave the device unchanged and share it. They hold the lock together.
func (d AttachmentDir) ShareDevice(ctx context.Context, pci device.PCIAddress) (unlock func(), err error) {
	return unlocking(d.deviceLock(ctx, pci, together))
}

func unlocking(f *os.File, err error) (unlock func(), _ error) {
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil //nolint:errcheck,gosec // nothing was written
}

// DeviceLockFile is LockDevice for a caller that hands the lock on. It is held until the
// file is closed here and in every program that has inherited it.
func (d AttachmentDir) DeviceLockFile(ctx context.Context, pci device.PCIAddress) (*os.File, error) {
	return d.deviceLock(ctx, pci, alone)
}

func (d AttachmentDir) deviceLock(ctx context.Context, pci device.PCIAddress, how lockKind) (*os.File, error) {
	path := filepath.Join(string(d), "locks", pci.String()+".lock")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make folder of %s: %w", path, err)
	}
	return lockFile(ctx, path, how)
}

func (d AttachmentDir) restorePath(pci device.PCIAddress) string {
	return filepath.Join(string(d), "restore", pci.String()+".json")
}

// SaveRestore writes the restore record of r.Device.PCIAddress. Hold its device lock.
func (d AttachmentDir) SaveRestore(r Restore) error {
	r.SchemaVersion = SchemaVersion
	data, err := Encode(r)
	if err != nil {
		return err
	}
	return atomicfile.Write(d.restorePath(r.Device.PCIAddress), data, 0o600, atomicfile.Volatile)
}

// LoadRestore reads the restore record of a device. Errors: fs.ErrNotExist, ErrCorrupt, ErrOtherVersion, ErrUntrusted.
func (d AttachmentDir) LoadRestore(pci device.PCIAddress) (Restore, error) {
	var r Restore
	path := d.restorePath(pci)
	data, err := ReadTrusted(path)
	if err != nil {
		return r, err
	}
	if err := Decode(path, data, &r, &r.SchemaVersion); err != nil {
		return Restore{}, err
	}
	if r.Device.PCIAddress != pci {
		return Restore{}, fmt.Errorf("parse %s: %w: it is the record of %s", path, ErrCorrupt, r.Device.PCIAddress)
	}
	return r, nil
}

// Returned ends the restore record of a device whose link has its state back. One that the daemon has for a change of
// the device's driver stays: only the daemon knows when nothing is left of that. So does one of another version. Hold
// its device lock.
func (d AttachmentDir) Returned(pci device.PCIAddress) error {
	if r, err := d.LoadRestore(pci); err == nil && r.Driver != "" || errors.Is(err, ErrOtherVersion) {
		return nil
	}
	return d.RemoveRestore(pci)
}

// RemoveRestore deletes the restore record of a device, if there is one. Hold its LockDevice.
func (d AttachmentDir) RemoveRestore(pci device.PCIAddress) error {
	return atomicfile.Remove(d.restorePath(pci))
}

// Restores lists the devices that have a restore record.
func (d AttachmentDir) Restores() ([]device.PCIAddress, error) {
	names, err := ListJSON(filepath.Join(string(d), "restore"))
	if err != nil {
		return nil, err
	}
	var all []device.PCIAddress
	for _, name := range names {
		if pci, err := device.ParsePCIAddress(strings.TrimSuffix(name, ".json")); err == nil {
			all = append(all, pci)
		}
	}
	return all, nil
}

// ListJSON lists the names of the files in a folder whose names end in .json, sorted. A missing folder has none.
func ListJSON(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read folder %s: %w", dir, err)
	}
	var names []string
	for _, e := range entries {
		if n := e.Name(); !e.IsDir() && strings.HasSuffix(n, ".json") && n[0] != '.' {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names, nil
}
