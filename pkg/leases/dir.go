package leases

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// DefaultDir is the folder of the leases of addresses.
const DefaultDir = "/var/lib/cni/eni-ipam"

// Dir is the folder of leases: <boot id>/<ENI id>.json, and beside them <boot id>/locks/<ENI id>.lock. No pod outlives
// a boot, and so no lease does: a file that a power loss has torn is in a folder that is not looked at again.
type Dir string

// Locked are an ENI's under this process's lock.
type Locked struct {
	Leases
	path string
	lock *os.File
}

// Lock returns the leases of an ENI in a boot under this process's lock, waiting for another holder until ctx ends
// (then ErrBusy). An ENI without a file has no leases. Errors: ErrCorrupt, ErrUntrusted (see Rebuild), ErrOtherVersion.
// The first call of a boot makes its folder and deletes the folders of earlier boots.
func (d Dir) Lock(ctx context.Context, bootID string, eni device.ENIID) (*Locked, error) {
	l, err := d.lock(ctx, bootID, eni)
	if err != nil {
		return nil, err
	}
	if l.Leases, err = d.Read(bootID, eni); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// lock is Lock without a look at the leases.
func (d Dir) lock(ctx context.Context, bootID string, eni device.ENIID) (*Locked, error) {
	path, err := d.path(bootID, eni)
	if err != nil {
		return nil, err
	}
	locks := filepath.Join(filepath.Dir(path), "locks")
	if _, err := os.Lstat(locks); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(locks, 0o700); err != nil {
			return nil, fmt.Errorf("make folder of leases: %w", err)
		}
		if err := d.removeBoots(bootID); err != nil {
			return nil, err
		}
	}
	file, err := nodestate.LockFile(ctx, filepath.Join(locks, eni.String()+".lock"))
	if err != nil {
		return nil, err
	}
	return &Locked{path: path, lock: file}, nil
}

// Save replaces the ENI's file.
func (l *Locked) Save() error {
	l.SchemaVersion = nodestate.SchemaVersion
	if l.Leases.Leases == nil {
		l.Leases.Leases = []Lease{}
	}
	if err := l.validate(); err != nil {
		return fmt.Errorf("write %s: %w", l.path, err)
	}
	data, err := nodestate.Encode(l.Leases)
	if err != nil {
		return err
	}
	return atomicfile.Write(l.path, data, 0o600, atomicfile.Volatile)
}

// Close gives up the lock; unsaved changes are lost.
func (l *Locked) Close() { l.lock.Close() } //nolint:errcheck,gosec // nothing was written

// Read returns the leases of an ENI in a boot as they were a moment ago; none when it has no file. Errors: ErrCorrupt,
// ErrUntrusted, ErrOtherVersion: then every address of the ENI counts as taken.
func (d Dir) Read(bootID string, eni device.ENIID) (Leases, error) {
	path, err := d.path(bootID, eni)
	if err != nil {
		return Leases{}, err
	}
	data, err := nodestate.ReadTrusted(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Leases{SchemaVersion: nodestate.SchemaVersion, ENIID: eni}, nil
	}
	if err != nil {
		return Leases{}, rebuilt(err)
	}
	l, err := decodeLeases(path, data)
	if err == nil && l.ENIID != eni {
		err = fmt.Errorf("parse %s: %w: it is the file of %s", path, nodestate.ErrCorrupt, l.ENIID)
	}
	if err != nil {
		return Leases{}, rebuilt(err)
	}
	return l, nil
}

// rebuilt adds the way out to an error about an ENI's file.
func rebuilt(err error) error {
	var other *nodestate.VersionError
	if errors.As(err, &other) {
		return fmt.Errorf("%w; install that version of multi-eni again, or have the leases rebuilt from the attachment records: truncate -s 0 %s", err, other.Path)
	}
	return fmt.Errorf("%w; the next ADD or DEL of a pod that has an address of this ENI rebuilds it", err)
}

// ENIs lists the ENIs that have a file in a boot, sorted.
func (d Dir) ENIs(bootID string) ([]device.ENIID, error) {
	names, err := nodestate.ListJSON(filepath.Join(string(d), bootID))
	if err != nil {
		return nil, err
	}
	var all []device.ENIID
	for _, name := range names {
		if eni, err := device.ParseENIID(strings.TrimSuffix(name, ".json")); err == nil {
			all = append(all, eni)
		}
	}
	return all, nil
}

// Held returns the leases that attachments of this boot hold, of all ENIs.
func (d Dir) Held() (all []Lease, err error) {
	bootID, err := nodestate.BootID()
	if err != nil {
		return nil, err
	}
	enis, err := d.ENIs(bootID)
	errs := []error{err}
	for _, eni := range enis {
		l, err := d.Read(bootID, eni)
		errs = append(errs, err)
		for _, lease := range l.Leases {
			if lease.State == Held {
				all = append(all, lease)
			}
		}
	}
	return all, errors.Join(errs...)
}

// RemoveAll deletes the leases of every boot, and nothing else that may be in the folder.
func (d Dir) RemoveAll() error {
	if err := d.removeBoots(""); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (d Dir) path(bootID string, eni device.ENIID) (string, error) {
	if _, err := device.ParseENIID(eni.String()); err != nil {
		return "", fmt.Errorf("leases of ENI: %w", err)
	}
	if bootID == "" || strings.Contains(bootID, "/") || bootID[0] == '.' {
		return "", fmt.Errorf("leases of boot %q: want the content of /proc/sys/kernel/random/boot_id", bootID)
	}
	return filepath.Join(string(d), bootID, eni.String()+".json"), nil
}

// removeBoots deletes the folders of other boots, by name: a folder may have
// been given as this one that has others named like boots.
func (d Dir) removeBoots(but string) error {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return fmt.Errorf("read folder of leases: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() && isBootID(e.Name()) && e.Name() != but {
			if err := removeBoot(filepath.Join(string(d), e.Name())); err != nil {
				return fmt.Errorf("remove leases of an earlier boot: %w", err)
			}
		}
	}
	return nil
}

// removeBoot deletes the files of leases in a boot's folder, and the folder unless something else is in it.
func removeBoot(dir string) error {
	for _, pattern := range []string{"eni-*.json", "eni-*.json" + asideSuffix, ".eni-*.json.tmp", "locks/eni-*.lock"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		if err := atomicfile.Remove(files...); err != nil {
			return err
		}
	}
	for _, folder := range []string{filepath.Join(dir, "locks"), dir} {
		if err := os.Remove(folder); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return nil
}

// isBootID says whether s looks like a boot id: a UUID in lower case.
func isBootID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range s {
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash != (c == '-') || !dash && !strings.ContainsRune("0123456789abcdef", c) {
			return false
		}
	}
	return true
}
