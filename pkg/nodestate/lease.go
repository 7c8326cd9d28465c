package nodestate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// DefaultLeaseDir is the folder of the leases of addresses.
const DefaultLeaseDir = "/var/lib/cni/eni-ipam"

// LeaseState says why an address is not free.
type LeaseState string

// The states of a lease. An address without a lease is free.
const (
	// LeaseHeld: an attachment has the address.
	LeaseHeld LeaseState = "leased"
	// LeaseCooling: nobody has it, but neighbours and peers may still think so,
	// until FreeAt.
	LeaseCooling LeaseState = "cooling"
)

// Lease says of one address of an ENI why nobody else may be given it.
type Lease struct {
	Address netip.Addr `json:"address"`
	State   LeaseState `json:"state"`
	// AttachmentID is of who has the address, or had it last.
	AttachmentID
	// Network is the netconf's name, by which GC selects, and Pod is namespace/name
	// for messages; both may be "".
	Network string `json:"network,omitempty"`
	Pod     string `json:"pod,omitempty"`
	// Netns is the container's; once it is gone, so is the holder.
	Netns Netns `json:"netns,omitzero"`
	// CoolDown is how long the address cools once it is released.
	CoolDown time.Duration `json:"coolDownNanoseconds,omitempty"`
	// ScarceCoolDown is how long it cools while no other address is free; 0 is as long
	// as CoolDown.
	ScarceCoolDown time.Duration `json:"scarceCoolDownNanoseconds,omitempty"`
	// FreeAt is when it is free again, as the time since boot (CLOCK_BOOTTIME),
	// which nobody sets back. 0 unless it is cooling.
	FreeAt time.Duration `json:"freeAtNanoseconds,omitempty"`
}

// Leases are those of one ENI.
type Leases struct {
	SchemaVersion int          `json:"schemaVersion"`
	ENIID         device.ENIID `json:"eniID"`
	// Last are the addresses that were given last, one of each family at most: the
	// next is looked for behind it.
	Last []netip.Addr `json:"last,omitempty"`
	// Asked are the families, IPv4 and IPv6, of which pods have asked for an address
	// in this boot, whether or not there was one.
	Asked []string `json:"asked,omitempty"`
	// Retiring are addresses (with their full length) and prefixes that the daemon is
	// giving back to the subnet: nobody is given any of them.
	Retiring []netip.Prefix `json:"retiring,omitempty"`
	// Leases are sorted by address; there is one for an address at most.
	Leases []Lease `json:"leases"`
}

// Find returns where the lease of an address is in Leases, or would be.
func (l *Leases) Find(a netip.Addr) (i int, found bool) {
	return slices.BinarySearchFunc(l.Leases, a, func(lease Lease, a netip.Addr) int { return lease.Address.Compare(a) })
}

// Retires says whether an address is on its way back to the subnet.
func (l *Leases) Retires(a netip.Addr) bool {
	return slices.ContainsFunc(l.Retiring, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Holds says whether the lease keeps the address from others at a time since boot.
func (l *Lease) Holds(now time.Duration) bool {
	return l.State != LeaseCooling || now < l.FreeAt
}

// ScarceAt is from when on a cooling address can be given although it cools, as the
// time since boot, if no other is free.
func (l *Lease) ScarceAt() time.Duration {
	if l.ScarceCoolDown == 0 {
		return l.FreeAt
	}
	return l.FreeAt - max(l.CoolDown-l.ScarceCoolDown, 0)
}

// HeldBy says whether an attachment has the address.
func (l *Lease) HeldBy(id AttachmentID) bool {
	return l.State == LeaseHeld && l.AttachmentID == id
}

// LeaseDir is the folder of leases: <boot id>/<ENI id>.json, and beside them
// <boot id>/locks/<ENI id>.lock. No pod outlives a boot, and so no lease does: a
// file that a power loss has torn is in a folder that is not looked at again.
type LeaseDir string

// LockedLeases are an ENI's under this process's lock.
type LockedLeases struct {
	Leases
	path string
	lock *os.File
}

// Lock returns the leases of an ENI in a boot under this process's lock, waiting
// for another holder until ctx ends (then ErrBusy). An ENI without a file has no
// leases. Errors: ErrCorrupt, ErrUntrusted (see Rebuild),
// ErrOtherVersion. The first call of a boot
// makes its folder and deletes the folders of earlier boots.
func (d LeaseDir) Lock(ctx context.Context, bootID string, eni device.ENIID) (*LockedLeases, error) {
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
func (d LeaseDir) lock(ctx context.Context, bootID string, eni device.ENIID) (*LockedLeases, error) {
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
	file, err := lockFile(ctx, filepath.Join(locks, eni.String()+".lock"), alone)
	if err != nil {
		return nil, err
	}
	return &LockedLeases{path: path, lock: file}, nil
}

// Save replaces the ENI's file.
func (l *LockedLeases) Save() error {
	l.SchemaVersion = SchemaVersion
	if l.Leases.Leases == nil {
		l.Leases.Leases = []Lease{}
	}
	if err := l.validate(); err != nil {
		return fmt.Errorf("write %s: %w", l.path, err)
	}
	data, err := encode(l.Leases)
	if err != nil {
		return err
	}
	return atomicfile.Write(l.path, data, 0o600, atomicfile.Volatile)
}

// Close gives up the lock; what was not saved is lost.
func (l *LockedLeases) Close() { l.lock.Close() } //nolint:errcheck,gosec // nothing was written

// Read returns the leases of an ENI in a boot as they were a moment ago; none
// when it has no file. Errors: ErrCorrupt, ErrUntrusted, ErrOtherVersion: then every
// address of the ENI counts as taken.
func (d LeaseDir) Read(bootID string, eni device.ENIID) (Leases, error) {
	path, err := d.path(bootID, eni)
	if err != nil {
		return Leases{}, err
	}
	data, err := ReadTrusted(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Leases{SchemaVersion: SchemaVersion, ENIID: eni}, nil
	}
	if err != nil {
		return Leases{}, rebuilt(err)
	}
	l, err := decodeLeases(path, data)
	if err == nil && l.ENIID != eni {
		err = fmt.Errorf("parse %s: %w: it is the file of %s", path, ErrCorrupt, l.ENIID)
	}
	if err != nil {
		return Leases{}, rebuilt(err)
	}
	return l, nil
}

// rebuilt adds the way out to an error about an ENI's file.
func rebuilt(err error) error {
	var other *VersionError
	if errors.As(err, &other) {
		return fmt.Errorf("%w; install that version of multi-eni again, or have the leases rebuilt from the attachment records: truncate -s 0 %s", err, other.Path)
	}
	return fmt.Errorf("%w; the next ADD or DEL of a pod that has an address of this ENI rebuilds it", err)
}

func decodeLeases(path string, data []byte) (Leases, error) {
	var l Leases
	if err := decode(path, data, &l, &l.SchemaVersion); err != nil {
		return Leases{}, err
	}
	if err := l.validate(); err != nil {
		return Leases{}, fmt.Errorf("parse %s: %w", path, err)
	}
	return l, nil
}

func (l *Leases) validate() error {
	if _, err := device.ParseENIID(l.ENIID.String()); err != nil {
		return fmt.Errorf("%w: eniID: %w", ErrCorrupt, err)
	}
	for i, lease := range l.Leases {
		if err := lease.validate(); err != nil {
			return fmt.Errorf("%w: leases[%d]: %w", ErrCorrupt, i, err)
		}
		if i > 0 && lease.Address.Compare(l.Leases[i-1].Address) <= 0 {
			return fmt.Errorf("%w: leases[%d]: %s is not behind %s", ErrCorrupt, i, lease.Address, l.Leases[i-1].Address)
		}
	}
	for i, p := range l.Retiring {
		if !p.IsValid() || p != p.Masked() {
			return fmt.Errorf("%w: retiring[%d] %q", ErrCorrupt, i, p)
		}
	}
	return nil
}

func (l *Lease) validate() error {
	switch {
	case !l.Address.IsValid() || l.Address.Zone() != "":
		return fmt.Errorf("address %q", l.Address)
	case l.State != LeaseHeld && l.State != LeaseCooling:
		return fmt.Errorf("state %q", l.State)
	case l.State == LeaseHeld && (l.ContainerID == "" || l.IfName == ""):
		return errors.New("containerID or ifname is empty")
	}
	return nil
}

// ENIs lists the ENIs that have a file in a boot, sorted.
func (d LeaseDir) ENIs(bootID string) ([]device.ENIID, error) {
	names, err := listJSON(filepath.Join(string(d), bootID))
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
func (d LeaseDir) Held() (all []Lease, err error) {
	bootID, err := BootID()
	if err != nil {
		return nil, err
	}
	enis, err := d.ENIs(bootID)
	errs := []error{err}
	for _, eni := range enis {
		l, err := d.Read(bootID, eni)
		errs = append(errs, err)
		for _, lease := range l.Leases {
			if lease.State == LeaseHeld {
				all = append(all, lease)
			}
		}
	}
	return all, errors.Join(errs...)
}

// RemoveAll deletes the leases of every boot, and nothing else that may be in the
// folder.
func (d LeaseDir) RemoveAll() error {
	if err := d.removeBoots(""); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (d LeaseDir) path(bootID string, eni device.ENIID) (string, error) {
	if _, err := device.ParseENIID(eni.String()); err != nil {
		return "", fmt.Errorf("leases of ENI: %w", err)
	}
	if bootID == "" || strings.Contains(bootID, "/") || bootID[0] == '.' {
		return "", fmt.Errorf("leases of boot %q: want the content of %s", bootID, bootIDPath)
	}
	return filepath.Join(string(d), bootID, eni.String()+".json"), nil
}

// removeBoots deletes what was written in other boots, by name: a folder may have
// been given as this one that has others named like boots.
func (d LeaseDir) removeBoots(but string) error {
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

// removeBoot deletes the files of leases in a boot's folder, and the folder unless
// something else is in it.
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

// Uptime is the time since boot, suspension included (CLOCK_BOOTTIME).
func Uptime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read the time since boot: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}
