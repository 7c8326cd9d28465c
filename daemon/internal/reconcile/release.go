package reconcile

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// releases are the ENIs that the controller may detach. It is found out anew after a restart of the daemon.
type releases struct {
	lock func(ctx context.Context, wait time.Duration, pci device.PCIAddress) (unlock func(), err error)
	// told are the released ENIs, and places where the others are that the controller waits for, by slot and by ENI.
	told   map[string]device.ENIID
	places map[device.ENIID]device.PCIAddress
	// next is the Number of this Sync's View. retracted are ENIs that Views had as released and the controller wants again, each with the Number
	// of the first View without it: until the controller can read that, it may act on an earlier one.
	next      uint64
	retracted map[device.ENIID]uint64
}

// withhold begins a Sync, and returns the entries with the retracted ones withheld. It does not change the Snapshot.
func (r *releases) withhold(snap inventory.Snapshot) []inventory.Entry {
	r.next++
	entries, retracted := slices.Clone(snap.Entries), map[device.ENIID]uint64{}
	for i := range entries {
		e := &entries[i]
		first := r.retracted[e.ENI.ID]
		if first == 0 && r.tells(e.ENI.ID) {
			first = r.next
		}
		if !e.Released && first > snap.Shown {
			e.Withheld, retracted[e.ENI.ID] = true, first
		}
	}
	if !snap.Complete { // an entry may be missing only for now
		for eni, first := range r.retracted {
			retracted[eni] = max(retracted[eni], first)
		}
	}
	r.retracted = retracted
	return entries
}

// tells says whether the View before had the ENI as released.
func (r *releases) tells(eni device.ENIID) bool {
	return eni != "" && slices.Contains(slices.Collect(maps.Values(r.told)), eni)
}

// releaseWait bounds the wait for an ADD or DEL that has the lock of a device.
const releaseWait = 20 * time.Millisecond

// step notes what nothing on the node has. The inventory, as it is written, lists no such ENI. An ADD that began before that has the device
// lock until its record is there, and a later one looks at the inventory under the lock: so a look at the records under the lock is the last.
func (r *releases) step(ctx context.Context, src inventory.Sources, res inventory.Result, written *nodestate.Inventory, out *Outcome) {
	places, told := map[device.ENIID]device.PCIAddress{}, map[string]device.ENIID{}
	for _, e := range src.Entries {
		for i := range src.Checkpoint.Devices {
			if d := &src.Checkpoint.Devices[i]; e.Released && d.ENIID == e.ENI.ID && d.PCIAddress != "" {
				places[d.ENIID] = d.PCIAddress
			}
		}
		if pci := r.places[e.ENI.ID]; e.Released && places[e.ENI.ID] == "" && pci != "" {
			places[e.ENI.ID] = pci
		}
	}
	r.places = places
	for _, free := range res.Released {
		lists := slices.ContainsFunc(written.Devices, func(d nodestate.Device) bool { return d.ENIID == free.ENI })
		if written.BootID != src.BootID || lists {
			out.sooner(holderPoll)
			continue
		}
		pci := free.PCI
		if pci == "" {
			pci = places[free.ENI]
		}
		if r.told[free.Slot] != free.ENI && pci != "" {
			unlock, err := r.lock(ctx, releaseWait, pci)
			if err != nil { // an ADD or DEL is at work, or has just got the device
				out.sooner(holderPoll)
				continue
			}
			unlock()
		}
		told[free.Slot] = free.ENI
	}
	waits := func(e inventory.Entry) bool {
		return e.Withheld || e.Released && e.ENI.ID != "" && told[e.Slot] != e.ENI.ID
	}
	if slices.ContainsFunc(src.Entries, waits) {
		out.sooner(holderPoll)
	}
	if !src.Complete && len(src.Entries) == 0 { // the list is not known now: it has not changed
		told = maps.Clone(r.told)
	}
	r.told = told
}

// freed returns the ENIs that were released before, and are wanted released still.
func (r *releases) freed(entries []inventory.Entry) map[device.ENIID]bool {
	all := map[device.ENIID]bool{}
	for _, e := range entries {
		if e.Released && e.ENI.ID != "" && r.told[e.Slot] == e.ENI.ID {
			all[e.ENI.ID] = true
		}
	}
	return all
}

func (r *releases) view(entries []inventory.Entry) (slots []view.Slot, released []view.Released) {
	for _, e := range entries {
		s := view.Slot{Slot: e.Slot, NodeENI: e.NodeENI, ENIID: e.ENI.ID, Wanted: v1alpha1.WantedAttached, Phase: e.Phase, Reason: e.Reason, Message: e.Message}
		if e.Released {
			s.Wanted = v1alpha1.WantedReleased
			s.Released = e.ENI.ID != "" && r.told[e.Slot] == e.ENI.ID
		}
		if slots = append(slots, s); s.Released {
			released = append(released, view.Released{Slot: e.Slot, ENIID: e.ENI.ID, Release: e.Release})
		}
	}
	return slots, released
}

// silentFor is how long the controller may be silent on a node without devices: it looks at a new node's ENINodeState some seconds later.
const silentFor = time.Minute

// silent reports a controller whose list is not known.
func silent(snap inventory.Snapshot, devices bool) []problem.Finding {
	if snap.Silent == "" || !devices && snap.SilentFor < silentFor {
		return nil
	}
	return []problem.Finding{problem.New(reason.ControllerSilent, snap.Silent, nil)}
}
