package lifecycle

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

const fakeUID = "cluster-1"

var fakeType = vpc.InstanceType{Name: "t", Interfaces: fakeLimit, Cards: []vpc.Card{{Interfaces: fakeLimit}}}

// fakeController connects Next and After with region and cluster, as the controller does.
type fakeController struct {
	w        *fakeWorld
	cells    map[slots.ID]*fakeCell
	nodes    map[string]*fakeView // by instance
	kept     map[slots.ID]Memory
	seen     map[string]time.Time
	parked   []vpc.Interface
	resynced time.Time
	adopt    bool
	fenced   bool
}

// fakeCell is a slot.
type fakeCell struct {
	slot            slots.Slot
	wanted, dropped bool
	mem             Memory
	entry           v1alpha1.AttachmentEntry
	stored          *v1alpha1.AttachmentEntry
	object          *fakeState
	interfaces      []vpc.Interface
	lookedAt        time.Time
	step            Step
}

// fakeView is the controller's knowledge of an instance.
type fakeView struct {
	instance   *vpc.Instance
	instanceAt time.Time
	interfaces []vpc.Interface
	plannedAt  time.Time
	since      time.Time
	generation int
}

func newFakeController(w *fakeWorld, stale bool) *fakeController {
	c := &fakeController{w: w, cells: map[slots.ID]*fakeCell{}, nodes: map[string]*fakeView{}, kept: map[slots.ID]Memory{}, adopt: w.adopt}
	for _, name := range slices.Sorted(maps.Keys(w.cluster.nodes)) {
		n := w.cluster.nodes[name]
		if n.state == nil {
			continue
		}
		spec := n.state.spec
		generation := n.state.generation
		if h := n.state.history; stale && len(h) > 0 {
			spec, generation = h[len(h)-1], generation-1
		}
		c.view(n.Instance()).generation = generation
		for _, id := range slices.Sorted(maps.Keys(spec)) {
			e := spec[id]
			c.cells[id] = &fakeCell{
				slot: slots.FromEntry(slots.Entry{Node: name, AttachmentEntry: e}), mem: Restore(e, w.region.now), entry: e, stored: &e, object: n.state,
			}
		}
	}
	return c
}

func (c *fakeController) view(instance string) *fakeView {
	v := c.nodes[instance]
	if v == nil {
		v = &fakeView{since: c.w.region.now}
		if n := c.w.nodeOf(instance); n != nil && n.state != nil {
			v.generation = n.state.generation
		}
		c.nodes[instance] = v
	}
	return v
}

// begin is the entry of a slot that has none.
func (c *fakeController) begin() v1alpha1.AttachmentEntry {
	return v1alpha1.AttachmentEntry{Release: int(c.w.region.now.Unix())}
}

// sync brings the cells in line with the NodeENIs.
func (c *fakeController) sync() {
	r := slots.Slots(c.w.input())
	wanted := map[slots.ID]bool{}
	for _, s := range r.Slots {
		wanted[s.ID] = true
		cell := c.cells[s.ID]
		if cell == nil {
			cell = &fakeCell{mem: c.kept[s.ID], entry: c.begin()}
			c.cells[s.ID] = cell
		}
		cell.slot, cell.wanted = s, true
	}
	c.restore()
	for id, cell := range c.cells {
		if !wanted[id] && !r.Keep(cell.slot.NodeENI.UID, cell.slot.Node) {
			cell.wanted = false
		}
	}
}

// restore makes cells of entries that this leader does not know, as one that began with a stale list.
func (c *fakeController) restore() {
	for _, name := range slices.Sorted(maps.Keys(c.w.cluster.nodes)) {
		n := c.w.cluster.nodes[name]
		if n.state == nil {
			continue
		}
		for id, e := range n.state.spec {
			if c.cells[id] == nil {
				c.cells[id] = &fakeCell{
					slot: slots.FromEntry(slots.Entry{Node: name, AttachmentEntry: e}), mem: Restore(e, c.w.region.now), entry: e, stored: &e, object: n.state,
				}
			}
		}
	}
}

// resync lists the region's ENIs, then looks at Kubernetes.
func (c *fakeController) resync() {
	at := c.w.region.now
	list, err := c.w.region.describe(func(i vpc.Interface) bool {
		return i.Tags[slots.TagCluster] == fakeUID || i.Tags[slots.TagManagedBy] != ""
	})
	if c.w.killed(err) || err != nil {
		return
	}
	c.resynced = at
	world := World{
		Cluster: fakeUID, Live: map[slots.ID]bool{}, Held: map[string]bool{}, Parking: map[string]map[string]bool{}, Instances: map[string]bool{},
	}
	for id, cell := range c.cells {
		cell.interfaces, cell.lookedAt = nil, at
		for _, i := range list {
			if slots.ID(i.Tags[slots.TagSlot]) == id || i.ID == cell.mem.ENI {
				cell.interfaces = append(cell.interfaces, i)
			}
		}
		world.Live[id], world.Held[cell.mem.ENI] = true, true
	}
	alive := map[string]bool{}
	for _, e := range c.w.cluster.nodeENIs {
		alive[string(e.UID)] = e.DeletionTimestamp == nil
		if e.DeletionTimestamp == nil && !*e.Spec.DeleteOnTermination {
			world.Parking[string(e.UID)] = map[string]bool{}
			for _, s := range e.Spec.SubnetIDs {
				world.Parking[string(e.UID)][s] = true
			}
		}
	}
	for _, n := range c.w.cluster.nodes {
		world.Instances[n.Instance()] = true
	}
	leaks := FindLeaks(list, world, c.seen, at)
	c.seen, c.parked = leaks.Seen, leaks.Parked
	for _, i := range list { // ENIs that lost their entries
		if s, ok := slots.FromTags(i, fakeUID); ok && c.cells[s.ID] == nil && (!alive[s.NodeENI.UID] || i.Attachment != nil) {
			c.cells[s.ID] = &fakeCell{slot: s, entry: c.begin(), interfaces: []vpc.Interface{i}, lookedAt: at}
		}
	}
	for _, i := range leaks.Delete {
		if err := c.w.region.delete(i.ID); c.w.killed(err) {
			return
		}
	}
}

func (c *fakeController) observed(cell *fakeCell) Observed {
	v := c.view(cell.slot.Instance)
	o := Observed{
		Cluster: fakeUID, Interfaces: cell.interfaces, LookedAt: cell.lookedAt, Instance: v.instance, InstanceAt: v.instanceAt, Wanted: cell.wanted,
		Node: c.w.cluster.observe(cell, v.since, c.w.region.lagging && c.w.rng.IntN(4) == 0), ForceAfter: c.w.force,
	}
	for _, e := range c.w.cluster.nodeENIs {
		if string(e.UID) == cell.slot.NodeENI.UID {
			o.Park = e.DeletionTimestamp == nil && !*e.Spec.DeleteOnTermination && slices.Contains(e.Spec.SubnetIDs, cell.slot.Subnet)
			o.Abandoned = e.DeletionTimestamp != nil && slots.Abandoned(*e)
		}
	}
	if cell.wanted {
		c.plan(cell, v, &o)
	}
	return o
}

// plan asks PlanNode, with the controller's own writes.
func (c *fakeController) plan(cell *fakeCell, v *fakeView, o *Observed) {
	if v.plannedAt.IsZero() {
		return
	}
	there := map[string]vpc.Interface{}
	for _, i := range v.interfaces {
		there[i.ID] = i
	}
	var wanted []slots.Slot
	var waiting []slots.Slot
	recorded := map[slots.ID]string{}
	for _, id := range slices.Sorted(maps.Keys(c.cells)) {
		other := c.cells[id]
		if other.slot.Instance == cell.slot.Instance {
			d := decider{s: &other.slot, o: Observed{Interfaces: other.interfaces, LookedAt: other.lookedAt}, m: other.mem}
			if d.find(); d.eni != nil { // with the controller's own writes
				there[d.eni.ID] = *d.eni
			} else {
				delete(there, other.mem.gone)
			}
			if other.wanted {
				wanted = append(wanted, other.slot)
			}
			if other.entry.Phase == string(External) {
				recorded[id] = other.entry.ENIID
			}
		}
		if other.wanted && other.mem.ENI == "" && !other.lookedAt.IsZero() && len(other.interfaces) == 0 {
			waiting = append(waiting, other.slot)
		}
	}
	list := slices.SortedFunc(maps.Values(there), func(a, b vpc.Interface) int { return compare(a.ID, b.ID) })
	p := slots.PlanNode(wanted, list, recorded, fakeType)
	o.PlannedAt, o.Holders = v.plannedAt, p.Holders
	for _, s := range p.Slots {
		if s.ID == cell.slot.ID {
			cell.slot = s
		}
	}
	if f, ok := p.Faults[cell.slot.ID]; ok {
		o.Refused = &f
	}
	if i, ok := p.External[cell.slot.ID]; ok {
		o.External = &i
		if c.adopt && i.Tags[vpc.NodeENITag] == cell.slot.NodeENI.Name {
			o.Adopt, o.External = &i, nil
		}
	}
	parked := slices.DeleteFunc(slices.Clone(c.parked), func(i vpc.Interface) bool {
		for _, other := range c.cells {
			if other.mem.ENI == i.ID && other.wanted {
				return true
			}
		}
		return false
	})
	if move, ok := Moves(parked, waiting)[cell.slot.ID]; ok {
		o.Move = &move
	}
}

func compare(a, b string) int {
	if a < b {
		return -1
	} else if a > b {
		return 1
	}
	return 0
}

// step lets one slot go on; false if it has nothing to do now.
func (c *fakeController) step(cell *fakeCell) bool {
	w := c.w
	o := c.observed(cell)
	st := Next(new(cell.slot), o, cell.mem, w.region.now)
	cell.step = st
	if st.Do != Wait {
		w.say("%s %s: %v %s (%s %s)", cell.slot.ID[:4], cell.slot.Node, st.Do, st.ENI, st.Phase, st.Reason)
	}
	var r Result
	if c.fenced && (st.Do.Mutates() || st.Do == Store || st.Do == Drop) {
		r.Err = errors.New("the lease is over")
	} else if r = c.do(cell, o, st); w.killed(r.Err) {
		return true
	}
	if r.Err != nil {
		w.say("    %v", r.Err)
	}
	mem := After(cell.mem, st, r, w.region.now)
	if st.Do == Store && !c.fenced {
		if err := c.store(cell, o, After(cell.mem, st, Result{}, w.region.now)); err != nil {
			mem = After(cell.mem, st, Result{Err: err}, w.region.now)
		}
	}
	if cell.dropped {
		return true
	}
	cell.mem = mem
	if o.Node.Lost && cell.object != nil && st.Do != Store {
		cell.stored = nil
	}
	cell.entry = Entry(cell.entry, cell.slot, o, cell.mem)
	if !c.fenced && st.Do != Store && (cell.stored == nil || !sameEntry(cell.entry, *cell.stored)) {
		_ = c.store(cell, o, cell.mem) // it is tried again when the slot's turn comes
	}
	return st.Do != Wait
}

func sameEntry(a, b v1alpha1.AttachmentEntry) bool {
	same := slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Prefixes, b.Prefixes)
	a.Addresses, a.Prefixes, a.AllowedNamespaces, b.Addresses, b.Prefixes, b.AllowedNamespaces = nil, nil, nil, nil, nil, nil
	return same && entryKey(a) == entryKey(b)
}

func entryKey(e v1alpha1.AttachmentEntry) [15]any {
	return [...]any{
		e.ENIID, e.AttachmentID, e.MAC, e.NetworkCard, e.DeviceIndex, e.Wanted, e.Attempt, e.Request, e.Phase, e.Reason, e.Message, e.Found, e.NodeENI, e.MTU,
		e.Release,
	}
}

func (c *fakeController) store(cell *fakeCell, o Observed, m Memory) error {
	v := c.view(cell.slot.Instance)
	e := Entry(cell.entry, cell.slot, o, m)
	err := c.w.cluster.write(cell.slot.Node, cell.slot.Instance, cell.slot.ID, &v.generation, &e)
	if err == nil {
		cell.entry, cell.stored = e, &e
		if n := c.w.cluster.nodes[cell.slot.Node]; n != nil {
			cell.object = n.state
		}
	}
	return err
}

func (c *fakeController) do(cell *fakeCell, o Observed, st Step) (r Result) {
	f, v := c.w.region, c.view(cell.slot.Instance)
	at := f.now
	switch st.Do { //nolint:exhaustive // Wait and Store have no call
	case LookUp:
		var list []vpc.Interface
		if list, r.Err = f.describe(func(i vpc.Interface) bool { return i.Tags[slots.TagSlot] == string(cell.slot.ID) }); r.Err == nil {
			cell.interfaces, cell.lookedAt = list, at
		}
	case Describe:
		r.Interface, r.Err = f.byID(st.ENI)
		var e *vpc.EC2Error
		missing := errors.As(r.Err, &e) && e.Code == "InvalidNetworkInterfaceID.NotFound"
		if r.Err == nil || missing {
			cell.interfaces = slices.DeleteFunc(slices.Clone(cell.interfaces), func(i vpc.Interface) bool { return i.ID == st.ENI })
		}
		if r.Err == nil {
			cell.interfaces = append(cell.interfaces, *r.Interface)
		}
	case ReadInstance:
		var i *vpc.Instance
		if i, r.Err = f.instance(cell.slot.Instance); r.Err == nil {
			v.instance, v.instanceAt = i, at
		}
	case ReadNode:
		var list []vpc.Interface
		list, r.Err = f.describe(func(i vpc.Interface) bool { return i.Attachment != nil && i.Attachment.Instance == cell.slot.Instance })
		if r.Err == nil {
			v.interfaces, v.plannedAt = list, at
		}
	case Create:
		r.Interface, r.Err = f.create(slots.Creation(*st.Slot, fakeUID, cell.mem.Attempt), slots.Request(*st.Slot, fakeUID))
	case Attach:
		r.Attachment, r.Err = f.attach(slots.Joining(*st.Slot, st.ENI))
	case SetTermination:
		r.Err = f.setTermination(st.Attachment, st.Slot.Options.DeleteOnTermination)
	case SetGroups:
		r.Err = f.modify(st.ENI, func(i *vpc.Interface) { i.Groups = st.Slot.Groups })
	case SetSourceDestCheck:
		r.Err = f.modify(st.ENI, func(i *vpc.Interface) { i.SourceDestCheck = *st.Slot.Options.SourceDestCheck })
	case Tag:
		r.Err = f.modify(st.ENI, func(i *vpc.Interface) { maps.Copy(i.Tags, slots.Tags(*st.Slot, fakeUID)) })
	case Detach, ForceDetach:
		r.Err = f.detach(st.Attachment, st.Do == ForceDetach)
	case Delete:
		r.Err = f.delete(st.ENI)
	case Drop:
		if r.Err = c.w.cluster.write(cell.slot.Node, cell.slot.Instance, cell.slot.ID, &v.generation, nil); r.Err == nil {
			cell.dropped = true
			c.kept[cell.slot.ID] = After(cell.mem, st, r, f.now)
			delete(c.cells, cell.slot.ID)
		}
	}
	return r
}
