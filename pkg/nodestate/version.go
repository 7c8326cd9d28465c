package nodestate

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// ErrOtherVersion is returned for a file whose schemaVersion is not ours: another version of this program has written
// it, and only that one understands it. It is not ErrCorrupt. Such a file counts: it holds the devices and addresses
// that it names. Where a reader cannot tell which, it may hold any. Nobody repairs it, rebuilds it, or acts upon it by
// guess.
//
// A reader still knows a little of it, since every version keeps these keys in these
// places, with the meaning and the form that they have in version 1:
//
//	every file          schemaVersion, a whole number
//	attachment record   its name, <containerID>-<ifname>.json (see fileName);
//	                    bootID; device.pciAddress; device.eniID
//	restore record      its name, restore/<PCI address>.json
//	leases of an ENI    their name, <boot id>/<ENI id>.json
//
// The checkpoint has no such keys. Its rows are taken as far as they are valid ones of
// this version (see ReadCheckpoint).
var ErrOtherVersion = errors.New("file of another version")

// VersionError is the ErrOtherVersion of one file.
type VersionError struct {
	Path string
	// Found is the file's schemaVersion, and Want the one that this version reads.
	Found, Want int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("parse %s: %v: schemaVersion %d, this version reads %d", e.Path, ErrOtherVersion, e.Found, e.Want)
}

// Unwrap implements errors.Is.
func (e *VersionError) Unwrap() error { return ErrOtherVersion }

// Decode parses data into v and checks its schema version. Fields that are not known are passed over.
func Decode(path string, data []byte, v any, version *int) error {
	err := json.Unmarshal(data, v)
	if err != nil { // a value of another form than ours may have come before the version
		*version = versionOf(data)
	}
	switch {
	case *version != 0 && *version != SchemaVersion:
		return &VersionError{Path: path, Found: *version, Want: SchemaVersion}
	case err != nil:
		return fmt.Errorf("parse %s: %w: %w", path, ErrCorrupt, err)
	case *version == 0:
		return fmt.Errorf("parse %s: %w: no schemaVersion", path, ErrCorrupt)
	}
	return nil
}

// versionOf is the schemaVersion of a file of any version; 0 when it says none.
func versionOf(data []byte) (version int) {
	var top map[string]json.RawMessage
	if json.Unmarshal(data, &top) == nil {
		take(top["schemaVersion"], &version)
	}
	return version
}

// take reads a value, which stays as it is if the text has another form.
func take[T any](data json.RawMessage, value *T) {
	var v T
	if data != nil && json.Unmarshal(data, &v) == nil {
		*value = v
	}
}

// UnreadRecord says why an attachment record could not be read, and has the keys that are known all the same. It is an
// error, and wraps ErrCorrupt, ErrOtherVersion, ErrUntrusted or an error of the file system.
type UnreadRecord struct {
	Path string
	// ID is the attachment's by the name of the file; zero where that does not tell it.
	ID AttachmentID
	// Lost: an intent was lost together with its effects. It holds nothing.
	Lost bool
	// BootID, PCIAddress and ENIID are from the record; "" is unknown.
	BootID     string
	PCIAddress device.PCIAddress
	ENIID      device.ENIID
	Err        error
}

func (u *UnreadRecord) Error() string { return u.Err.Error() }

// Unwrap implements errors.Is and errors.As.
func (u *UnreadRecord) Unwrap() error { return u.Err }

// Remedy is the way out, for the end of a message.
func (u *UnreadRecord) Remedy() string {
	if errors.Is(u.Err, ErrOtherVersion) {
		return "install that version of multi-eni again, or remove the file if its container is gone"
	}
	return "remove the file if its container is gone"
}

// Ended says whether the attachment is certainly of another boot, which ended it.
func (u *UnreadRecord) Ended(bootID string) bool { return u.BootID != "" && u.BootID != bootID }

// mayHold says whether the attachment may have a device in the boot of that id.
func (u *UnreadRecord) mayHold(bootID string, pci device.PCIAddress) bool {
	return !u.Lost && !u.Ended(bootID) && (u.PCIAddress == "" || u.PCIAddress == pci)
}

// unread describes a record whose content is data; nil data means that it was not read.
func unread(path, name string, data []byte, err error) *UnreadRecord {
	u := &UnreadRecord{Path: path, ID: idOf(name), Err: err}
	if data == nil {
		return u
	}
	var top, dev map[string]json.RawMessage
	if json.Unmarshal(data, &top) != nil || top["schemaVersion"] == nil {
		u.Lost = true // every version writes that, and whole files
		return u
	}
	take(top["bootID"], &u.BootID)
	take(top["device"], &dev)
	take(dev["pciAddress"], &u.PCIAddress)
	take(dev["eniID"], &u.ENIID)
	return u
}

// Unread are the records of a folder that could not be read.
type Unread []*UnreadRecord

// MayHold returns the first that may have a device in the boot of that id; nil without one.
func (all Unread) MayHold(bootID string, pci device.PCIAddress) *UnreadRecord {
	for _, u := range all {
		if u.mayHold(bootID, pci) {
			return u
		}
	}
	return nil
}

// Trusted returns the records that nobody else can have written.
func (all Unread) Trusted() Unread {
	return slices.DeleteFunc(slices.Clone(all), func(u *UnreadRecord) bool { return errors.Is(u.Err, ErrUntrusted) })
}

// MayBe says whether one of them may be that attachment's.
func (all Unread) MayBe(id AttachmentID) bool {
	for _, u := range all {
		if !u.Lost && (u.ID == AttachmentID{} || u.ID == id) {
			return true
		}
	}
	return false
}
