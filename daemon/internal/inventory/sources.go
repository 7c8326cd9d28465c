// Package inventory decides which ENIs of this node are declared, which device each is and in which phase: in one pure
// function, Join.
//
// Absent and unknown differ: a source that could not be read proves nothing, so the rows that depend on it stay.
package inventory

import (
	"errors"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// Fact is the answer of a source. The zero value is unknown.
type Fact[T any] struct {
	Value T
	Known bool
}

// Known returns a fact that is known.
func Known[T any](v T) Fact[T] { return Fact[T]{Value: v, Known: true} }

// Snapshot is the answer of a source of NodeENIs at one moment.
type Snapshot struct {
	// Objects have unique names and are sorted by them. Their values may be invalid. Later Snapshots share them, so
	// they are read-only.
	Objects  []v1alpha1.NodeENI
	Problems []nodestate.Problem // the source's problems with single objects, in a stable order
	// Unread are the names of objects, perhaps for this node, that were never understood. Only their own meaning is
	// unknown.
	Unread []string
	// Complete says that an object in neither Objects nor Unread is not declared for this node; else absence means
	// nothing.
	Complete bool
	// Elsewhere says whether there is a NodeENI of that name for other nodes. Nil: the source knows of none.
	Elsewhere func(name string) bool
	Lookup    Lookup // Lookup says how the ENI of an object without an entry for this node in status.attachments is found
	// Entries are the controller's, with LookupEntries. Each that is not Released has its NodeENI in Objects. UnreadENIs are the ENIs of
	// entries that cannot be understood: the row of each stays as it is.
	Entries    []Entry
	UnreadENIs []device.ENIID
	// Shown is the Number of the latest View whose status the controller can read.
	Shown uint64
	// Silent says why the controller's list is not known; "" if it is, or is not used. SilentFor is how long that lasts.
	Silent    string
	SilentFor time.Duration
}

// Lookup is a way to find the ENI of a NodeENI whose status does not name it.
type Lookup int

// The ways to find an ENI.
const (
	LookupSlot Lookup = iota // LookupSlot goes by device index and subnet in IMDS: for manifests, which are meant for this node
	// LookupNone: the status is the truth. Without an entry for this node there is no ENI here.
	LookupNone
	LookupGuarded // LookupSlot where others attach ENIs too: see foreign.go
	LookupEntries // LookupEntries: the controller's entries alone name ENIs, and an entry that has gone is a removal at once
)

// Kubelet has the devices that device plugins offer to the kubelet (its podresources API), except ids that are no PCI
// address.
type Kubelet struct {
	Allocatable map[device.ResourceName][]device.PCIAddress // the healthy devices of each resource, sorted
	Allocated   map[device.PCIAddress][]Container           // the containers that have a device, sorted
	Held        map[device.ResourceName][]device.PCIAddress // the devices that containers have, by resource, sorted
	Fresh       bool                                        // the kubelet has started a moment ago, or does not list the daemon's pod: it may not list all
}

// ErrNoPods is the error of a kubelet that lists no pod, which proves nothing.
var ErrNoPods = errors.New("it lists no pod, as it does until it knows its pods after a start")

// Container is one container of a pod.
type Container struct{ Namespace, Pod, Container string }

// Sources is everything that one Join reads. Join does not change it.
type Sources struct {
	Now            time.Time // the time of the reading, by a clock that nobody sets and that may begin anew with each boot
	NodeName       string
	BootID         string             // this boot's; see nodestate.Checkpoint
	NodeENIs       []v1alpha1.NodeENI // the readable declarations, in any order
	UnreadNodeENIs []string           // the names of others that cannot be understood: the rows of each stay as they were
	// Complete says that there are no others; else a missing NodeENI means nothing. An unreadable source is an empty,
	// incomplete list.
	Complete bool
	// Lookup and Elsewhere are the NodeENIs' source's; see Snapshot.
	Lookup    Lookup
	Elsewhere func(name string) bool
	// Entries and UnreadENIs are the source's, too. Freed are the ENIs that were released before and not wanted since.
	Entries    []Entry
	UnreadENIs []device.ENIID
	Freed      map[device.ENIID]bool
	ENIs       Fact[[]vpc.ENI]                               // the instance's as IMDS lists them: a hint that lags
	Functions  Fact[map[device.PCIAddress]sysfs.PCIFunction] // all PCI functions of the machine
	Links      Fact[[]link.Link]                             // the links of the host netns
	// Foreign says of links, by index, why they look like somebody else's. Only LookupGuarded needs it.
	Foreign     Fact[map[int]string]
	Unmarked    map[int]time.Duration        // Unmarked says of links, by their index, how long they have been seen without such a sign
	Attachments Fact[[]nodestate.Attachment] // all records; records of another boot hold nothing
	// Unread are the records that could not be understood; Held are the devices that count as held because of these or
	// of such restore records.
	Unread nodestate.Unread
	Held   map[device.PCIAddress]bool
	// Leases are the leases of this boot, by ENI. All addresses of the ENIs in UnreadLeases count as leased.
	Leases       Fact[map[device.ENIID]leases.Leases]
	UnreadLeases map[device.ENIID]bool
	// Taken are the restore records of functions that the daemon has bound to a userspace driver in this boot, or is
	// about to.
	Taken          Fact[map[device.PCIAddress]nodestate.Restore]
	ChangingDriver map[device.PCIAddress]bool // the functions whose driver is being changed, whatever is read of them meanwhile
	Checkpoint     nodestate.Checkpoint       // the state after the last Sync of this or an earlier daemon; the zero value at the very first
	// Withdrawn says that the device plugin serves a config without draining devices, so those may go once no pod holds
	// them.
	Withdrawn bool
	Kubelet   *Fact[Kubelet] // nil without a kubelet: then Withdrawn and Attachments decide alone
}

// InHand says whether the daemon has taken the function from its kernel driver and not returned it. A function that was
// plugged in since is another instance.
func (s *Sources) InHand(pci device.PCIAddress) bool {
	rec, taken := s.Taken.Value[pci]
	fn := s.Functions.Value[pci]
	return taken && fn.Address != "" && fn.Instance == rec.Device.Instance && (fn.UserspaceDriver() || fn.Driver == "")
}

// Result is computed from the Sources.
type Result struct {
	Devices    []nodestate.Device           // the inventory's rows, sorted as nodestate.Inventory says
	Problems   []nodestate.Problem          // sorted and without duplicates
	Checkpoint []nodestate.CheckpointDevice // for the next Join's Checkpoint.Devices: every row whose ENI is known, in the order of Devices
	// Idle are host links of declared kernel devices that no pod holds. The daemon may bring them up and clear foreign
	// routes and addresses.
	Idle []IdleLink
	// Shared are host links of declared kernel devices that pods share. The daemon may only clear them.
	Shared        []IdleLink
	Released      []Release      // the ENIs that the controller wants back and nothing has, in the order of Entries
	DriverChanges []DriverChange // the changes of drivers that are due, by ENI id: nothing that Join knows stands against them
	// Missing says that a device has neither a link in the host nor a record (NoInterface). A pod may have come or gone
	// between the two reads.
	Missing bool
	// Unsettled says that a device is pending or draining. Facts may change without an event, so look again soon.
	Unsettled bool
	LookAgain time.Time // when time alone changes the outcome; zero for never
}

// IdleLink is a link that the daemon may configure, or clear.
type IdleLink struct {
	Device nodestate.Device
	Link   link.Link
}

// DriverChange is a device that is to be bound to another driver.
type DriverChange struct {
	Device nodestate.Device
	Link   link.Link // the device's in the host; the zero value where it has none there
	To     string    // a userspace driver, or the kernel driver that the device is to be given back to
}

// Userspace says whether the device is to be handed to userspace, rather than given back.
func (c DriverChange) Userspace() bool { return sysfs.PCIFunction{Driver: c.To}.UserspaceDriver() }

// Settled says whether the link is as its device wants it: up, with its MTU.
func (l IdleLink) Settled() bool { return settled(l.Link, l.Device.MTU) }

func settled(l link.Link, mtu int) bool { return l.Up && (mtu == 0 || l.MTU == mtu) }

// missingGrace is how long a plugged-in device stays declared after its entry has vanished from the status: the public
// controller writes stale status back on a conflict.
const missingGrace = 60 * time.Second
