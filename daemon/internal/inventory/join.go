package inventory

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

type joiner struct {
	Sources
	enis    map[device.ENIID]vpc.ENI
	prev    map[device.ENIID]*nodestate.CheckpointDevice
	record  map[device.ENIID]*nodestate.Attachment
	unread  map[device.ENIID]device.PCIAddress // where ENIs are by records that are not understood otherwise
	held    map[device.PCIAddress]bool
	alone   map[device.PCIAddress]bool // the held devices that pods do not share, or may not
	taken   map[device.ENIID]*nodestate.Restore
	slots   map[slot][]device.ENIID
	linkAt  map[device.PCIAddress]*link.Link
	byMAC   map[device.MAC][]sighting
	knownAt map[device.PCIAddress]device.ENIID // where the rows of this boot before had their devices
	places  map[device.ENIID]place

	declared      map[string]declarations
	owner         map[device.ENIID]string // the NodeENI to which an ENI has been given
	used          map[device.PCIAddress]device.ENIID
	problems      []nodestate.Problem
	said          map[string]int // how many problems each NodeENI has; see maxProblems
	rows          []row
	idle          []IdleLink
	shared        []IdleLink
	driverChanges []DriverChange
	missing       bool                    // Result.Missing
	others        map[device.ENIID]string // others says of ENIs that were not taken why: they seem to be somebody else's
	lookAgain     time.Time
}

// row is a row of the result, with the fields that only the checkpoint keeps.
type row struct {
	nodestate.Device
	missingSince time.Time
	hostName     string // the last name of the device's link in the host, kept while the device is at its address
	instance     uint64 // the PCI function's
}

// Join computes the inventory from the sources. The order of a source's items, or of Go's maps, does not show in the
// result.
func Join(s Sources) Result {
	j := &joiner{
		Sources:  s,
		enis:     make(map[device.ENIID]vpc.ENI, len(s.ENIs.Value)),
		prev:     make(map[device.ENIID]*nodestate.CheckpointDevice, len(s.Checkpoint.Devices)),
		record:   map[device.ENIID]*nodestate.Attachment{},
		unread:   map[device.ENIID]device.PCIAddress{},
		held:     make(map[device.PCIAddress]bool, len(s.Attachments.Value)),
		alone:    map[device.PCIAddress]bool{},
		taken:    map[device.ENIID]*nodestate.Restore{},
		slots:    map[slot][]device.ENIID{},
		linkAt:   make(map[device.PCIAddress]*link.Link, len(s.Links.Value)),
		byMAC:    make(map[device.MAC][]sighting, len(s.Links.Value)),
		knownAt:  make(map[device.PCIAddress]device.ENIID, len(s.Checkpoint.Devices)),
		places:   map[device.ENIID]place{},
		declared: make(map[string]declarations, len(s.NodeENIs)),
		owner:    map[device.ENIID]string{},
		used:     map[device.PCIAddress]device.ENIID{},
		said:     map[string]int{},
		others:   map[device.ENIID]string{},
	}
	j.indexSources()
	j.indexSlots()
	for _, group := range j.declarations() {
		j.addRows(group)
	}
	for i := range s.Checkpoint.Devices {
		j.drainUndeclared(&s.Checkpoint.Devices[i])
	}
	j.giveBackStray()
	released := j.releases()
	res := j.result()
	res.Released = released
	return res
}

// declarations returns the valid declarations, with their ENIs if known, in one group for each NodeENI. The rows before
// stand in for a declaration that could not be read.
func (j *joiner) declarations() [][]declaration {
	var groups [][]declaration
	live := j.live()
	for _, o := range live {
		j.declared[o.Name] = j.declare(o)
	}
	for _, name := range j.UnreadNodeENIs {
		if d, read := j.declared[name]; !read || j.Lookup == LookupEntries {
			d.undecided = true
			j.declared[name] = d
		}
	}
	for _, o := range live {
		var group []declaration
		for _, decl := range j.declared[o.Name].enis {
			if j.resolve(&decl) {
				group = append(group, decl)
			}
		}
		groups = append(groups, group)
	}
	for i := range j.Checkpoint.Devices {
		r := &j.Checkpoint.Devices[i]
		since, stays := j.mayStay(r)
		if _, taken := j.owner[r.ENIID]; taken || !stays {
			continue
		}
		if decl := remember(r, since); j.resolve(&decl) {
			groups = append(groups, []declaration{decl})
		}
	}
	return groups
}

// mayStay says whether an undeclared row stays: its declaration may be unreadable, or a lost attachment has a grace,
// which began at since.
func (j *joiner) mayStay(r *nodestate.CheckpointDevice) (since time.Time, ok bool) {
	d, declared := j.declared[r.NodeENI]
	if !j.Complete || d.undecided || slices.Contains(j.UnreadENIs, r.ENIID) {
		return j.missedSince(r), true
	}
	if !declared || !d.attached || r.Phase == nodestate.PhaseDraining || j.place(r.ENIID).state == gone {
		return time.Time{}, false
	}
	since = j.missingSince(r)
	return since, j.Now.Sub(since) < missingGrace
}

// missingSince is now if the row was not missing yet, or in another boot, whose clock does not tell when the grace
// ends.
func (j *joiner) missingSince(r *nodestate.CheckpointDevice) time.Time {
	if since := j.missedSince(r); !since.IsZero() && !since.After(j.Now) {
		return since
	}
	return j.Now
}

func (j *joiner) missedSince(r *nodestate.CheckpointDevice) time.Time {
	if j.Checkpoint.BootID != j.BootID {
		return time.Time{}
	}
	return r.MissingSince
}

// live returns the NodeENIs that are not being deleted, with defaults, sorted by name. Of two with one name the first
// counts.
func (j *joiner) live() []*v1alpha1.NodeENI {
	var all []*v1alpha1.NodeENI
	for i := range j.NodeENIs {
		if j.NodeENIs[i].DeletionTimestamp == nil {
			o := j.NodeENIs[i].Defaulted()
			all = append(all, &o)
		}
	}
	slices.SortStableFunc(all, func(a, b *v1alpha1.NodeENI) int { return cmp.Compare(a.Name, b.Name) })
	return slices.CompactFunc(all, func(a, b *v1alpha1.NodeENI) bool { return a.Name == b.Name })
}

func (j *joiner) result() Result {
	j.fitRows()
	j.moreProblems()
	slices.SortFunc(j.rows, func(a, b row) int {
		return cmp.Or(
			cmp.Compare(a.NodeENI, b.NodeENI), cmp.Compare(a.SubnetID, b.SubnetID),
			cmp.Compare(a.ENIID, b.ENIID), cmp.Compare(a.DeviceIndex, b.DeviceIndex))
	})
	byIndex := func(a, b IdleLink) int { return cmp.Compare(a.Link.Index, b.Link.Index) }
	slices.SortFunc(j.idle, byIndex)
	slices.SortFunc(j.shared, byIndex)
	slices.SortFunc(j.driverChanges, func(a, b DriverChange) int { return cmp.Compare(a.Device.ENIID, b.Device.ENIID) })
	res := Result{Problems: SortProblems(j.problems), Idle: j.idle, Shared: j.shared, DriverChanges: j.driverChanges, Missing: j.missing, LookAgain: j.lookAgain}
	placed := map[device.PCIAddress]bool{}
	for _, r := range j.rows {
		placed[r.PCIAddress] = placed[r.PCIAddress] || r.Phase != nodestate.PhaseDraining
	}
	for _, r := range j.rows {
		if r.Phase == nodestate.PhaseDraining && placed[r.PCIAddress] { // another device is there now
			r.PCIAddress, r.InterfaceName, r.hostName, r.Driver, r.instance = "", "", "", "", 0
		}
		res.Devices = append(res.Devices, r.Device)
		if r.ENIID != "" {
			r.InterfaceName = r.hostName
			before := j.sameBefore(r.ENIID, r.PCIAddress)
			res.Checkpoint = append(res.Checkpoint, nodestate.CheckpointDevice{
				Device: r.Device, MissingSince: r.missingSince, Instance: r.instance,
				Advertised: r.Phase == nodestate.PhaseReady && r.ResourceName != "" || before != nil && before.Advertised,
			})
		}
		if r.Phase != nodestate.PhaseReady {
			res.Unsettled = true
		} else if !r.missingSince.IsZero() {
			if at := r.missingSince.Add(missingGrace); res.LookAgain.IsZero() || at.Before(res.LookAgain) {
				res.LookAgain = at
			}
		}
	}
	return res
}

// SortProblems sorts problems as nodestate.Inventory says and drops duplicates. It changes the argument.
func SortProblems(p []nodestate.Problem) []nodestate.Problem {
	slices.SortFunc(p, func(a, b nodestate.Problem) int {
		return cmp.Or(
			strings.Compare(a.Device, b.Device), strings.Compare(a.NodeENI, b.NodeENI),
			cmp.Compare(a.Reason, b.Reason), strings.Compare(a.Message, b.Message))
	})
	return slices.Compact(p)
}
