// Package inventory decides which ENIs of this node are declared, what each of them is and in which phase: one pure
// function, Join, from everything the daemon has read to everything it then does.
//
// Its one rule is that absent and unknown are different things. A source that could not be read proves nothing: rows
// that depend on it are kept as they were, and nothing is ever removed on its account.
package inventory

import (
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// Fact is the answer of a source, or notes that it could not be asked. The zero value is not known.
type Fact[T any] struct {
	Value T
	Known bool
}

// Known returns a fact that is known.
func Known[T any](v T) Fact[T] { return Fact[T]{Value: v, Known: true} }

// Snapshot is the answer of a source of NodeENIs at one moment.
type Snapshot struct {
	// Objects have unique names, by which they are sorted. Their values may be
	// invalid. They are shared with later Snapshots, so nobody may change them.
	Objects  []v1alpha1.NodeENI
	Problems []nodestate.Problem // the source's problems with single objects, in a stable order
	// Unread are the names of objects that are declared, perhaps for this node, and
	// cannot be understood, nor ever were. Only the meaning of each of these is unknown.
	Unread []string
	// Complete says that an object which is neither in Objects nor in Unread is not
	// declared for this node. While it is false, absence means nothing.
	Complete bool
	// Elsewhere says whether there is a NodeENI of that name that is not for this
	// node. Nil where the source knows of none.
	Elsewhere func(name string) bool
	Lookup    Lookup // Lookup says how the ENI of an object without an entry for this node in status.attachments is found
}

// Lookup is a way to find the ENI of a NodeENI whose status does not name it.
type Lookup int

// The ways to find an ENI.
const (
	// LookupSlot goes by device index and subnet in IMDS. The zero value: for
	// manifests, which are meant for this node.
	LookupSlot Lookup = iota
	// LookupNone: the status is the truth. Without an entry for this node there is no ENI here, or none any more.
	LookupNone
	LookupGuarded // LookupSlot where others attach ENIs too: see foreign.go
)

// Kubelet describes the devices that device plugins offer to the kubelet
// (its podresources API). Device ids that are no PCI address are left out.
type Kubelet struct {
	Allocatable map[device.ResourceName][]device.PCIAddress // the healthy devices of each resource, sorted
	Allocated   map[device.PCIAddress][]Container           // the containers that have a device, sorted
	Fresh       bool                                        // the kubelet has started a moment ago, and may not list all pods yet
}

// Container is one container of a pod.
type Container struct{ Namespace, Pod, Container string }

// Sources is everything that one Join looks at. Join does not change it.
type Sources struct {
	// Now is the time of the reading, from which MissingSince is counted, by a clock
	// that nobody sets. In another boot it may begin anew.
	Now            time.Time
	NodeName       string
	BootID         string             // this boot's; see nodestate.Checkpoint
	NodeENIs       []v1alpha1.NodeENI // the readable declarations, in any order
	UnreadNodeENIs []string           // the names of others that cannot be understood: the rows of each stay as they were
	// Complete says that there are no others. While it is false, the absence of a NodeENI means nothing; a source
	// that could not be read at all is an empty list that is not complete.
	Complete bool
	// Lookup and Elsewhere are the NodeENIs' source's; see Snapshot.
	Lookup    Lookup
	Elsewhere func(name string) bool
	ENIs      Fact[[]vpc.ENI]                               // the instance's as IMDS lists them: a hint that lags
	Functions Fact[map[device.PCIAddress]sysfs.PCIFunction] // all PCI functions of the machine
	Links     Fact[[]link.Link]                             // the links of the host netns
	// Foreign says of links, by their index, why they look like somebody else's. Only LookupGuarded needs it.
	Foreign     Fact[map[int]string]
	Unmarked    map[int]time.Duration        // Unmarked says of links, by their index, how long they have been seen without such a sign
	Attachments Fact[[]nodestate.Attachment] // all records; records of another boot hold nothing
	// Unread are the records that could not be understood, and Held the devices that
	// count as held on account of these, and of restore records of the kind.
	Unread nodestate.Unread
	Held   map[device.PCIAddress]bool
	// Leases are the leases of this boot, by ENI; an ENI without an entry has none. Of the
	// ENIs in UnreadLeases every address counts as leased.
	Leases       Fact[map[device.ENIID]leases.Leases]
	UnreadLeases map[device.ENIID]bool
	// Taken are the restore records of the functions that the daemon has bound to a userspace driver in this boot, or
	// is about to bind. A function that somebody else has bound is not in it.
	Taken          Fact[map[device.PCIAddress]nodestate.Restore]
	ChangingDriver map[device.PCIAddress]bool // the functions whose driver is being changed, whatever is read of them meanwhile
	// Checkpoint is the last state of the Sync before this one, in this run of
	// the daemon or an earlier one; the zero value at the very first.
	Checkpoint nodestate.Checkpoint
	// Withdrawn says that the device plugin serves a config without any
	// draining device, so that one which no pod holds may be forgotten.
	Withdrawn bool
	// Kubelet tells the devices that it still offers, and the pods that have one. Nil where
	// there is no kubelet: then Withdrawn and Attachments decide alone.
	Kubelet *Fact[Kubelet]
}

// InHand says whether the daemon has taken the function from its kernel driver and not given it back: it is bound to
// a userspace driver, or on its way between two drivers. A function that was plugged in since is another instance.
func (s *Sources) InHand(pci device.PCIAddress) bool {
	rec, taken := s.Taken.Value[pci]
	fn := s.Functions.Value[pci]
	return taken && fn.Address != "" && fn.Instance == rec.Device.Instance && (fn.UserspaceDriver() || fn.Driver == "")
}

// Result is computed from the Sources.
type Result struct {
	Devices  []nodestate.Device  // the inventory's rows, sorted as nodestate.Inventory says
	Problems []nodestate.Problem // sorted and without duplicates
	// Checkpoint must be given to the next Join as Checkpoint.Devices:
	// every row whose ENI is known, in the order of Devices.
	Checkpoint []nodestate.CheckpointDevice
	// Idle are the host's links of declared kernel devices that no pod holds. The daemon may
	// bring them up, and clear them of foreign routes and addresses.
	Idle []IdleLink
	// Shared are the host's links of declared kernel devices that pods share. The daemon may
	// clear them too, but not change them in another way.
	Shared        []IdleLink
	DriverChanges []DriverChange // the changes of drivers that are due, by ENI id: nothing that Join knows stands against them
	// Missing says that a device has no link in the host and no record has it (NoInterface). Links and records are
	// read one after the other: a pod may have come or gone in between.
	Missing bool
	// Unsettled says that a device is not where it should end: pending, or
	// draining. Look again soon, the facts may change without any event.
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

// missingGrace is how long a device stays declared whose entry has vanished from its NodeENI's status while it is
// still plugged in: the public controller writes stale status back on a conflict.
const missingGrace = 60 * time.Second
