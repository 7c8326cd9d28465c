package lifecycle

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// maxLag is how late Describe may be. It is less than overlay.
const maxLag = 25 * time.Second

// fakeRegion is EC2 in memory: late, lossy and limited.
type fakeRegion struct {
	now       time.Time
	rng       *rand.Rand
	enis      map[string]*fakeENI
	order     []string
	tokens    map[string]fakeToken
	instances map[string]*vpc.Instance
	timers    []fakeTimer
	// trouble is the chance of a fault in a call; lagging permits old answers.
	trouble float64
	lagging bool
	// held reports whether a pod has the ENI.
	held    func(eni string) bool
	say     func(format string, args ...any)
	broken  func(format string, args ...any)
	calls   int             // all
	changes int             // successful mutating calls
	flapped map[string]bool // by ENI: the last answer was a lie
}

type fakeENI struct {
	id       string
	versions []fakeVersion
	stuck    bool
}

// fakeVersion is an ENI from a time on; without an interface it is deleted.
type fakeVersion struct {
	at  time.Time
	eni *vpc.Interface
}

type fakeToken struct {
	request string
	eni     vpc.Interface
}

type fakeTimer struct {
	at time.Time
	do func()
}

// The most ENIs of an instance.
const fakeLimit = 4

func (e *fakeENI) at(t time.Time) *vpc.Interface {
	for _, v := range slices.Backward(e.versions) {
		if !v.at.After(t) {
			return v.eni
		}
	}
	return nil
}

func (e *fakeENI) last() *vpc.Interface { return e.versions[len(e.versions)-1].eni }

func copyENI(i vpc.Interface) *vpc.Interface {
	i.Tags, i.Groups = maps.Clone(i.Tags), slices.Clone(i.Groups)
	if i.Attachment != nil {
		i.Attachment = new(*i.Attachment)
	}
	return &i
}

func (f *fakeRegion) change(e *fakeENI, do func(i *vpc.Interface)) {
	i := copyENI(*e.last())
	do(i)
	e.versions = append(e.versions, fakeVersion{at: f.now, eni: i})
}

func (f *fakeRegion) remove(e *fakeENI) {
	e.versions = append(e.versions, fakeVersion{at: f.now})
}

func (f *fakeRegion) after(d time.Duration, do func()) {
	f.timers = append(f.timers, fakeTimer{f.now.Add(d), do})
}

// advance lets time pass, with all that happens then.
func (f *fakeRegion) advance(to time.Time) {
	for {
		next := -1
		for i, t := range f.timers {
			if !t.at.After(to) && (next < 0 || t.at.Before(f.timers[next].at)) {
				next = i
			}
		}
		if next < 0 {
			f.now = to
			return
		}
		t := f.timers[next]
		f.timers = slices.Delete(f.timers, next, next+1)
		f.now = t.at
		t.do()
	}
}

func (f *fakeRegion) add(i vpc.Interface) *fakeENI {
	i.ID = fmt.Sprintf("eni-%08x", len(f.order)+1)
	i.MAC = fmt.Sprintf("02:00:00:00:00:%02x", len(f.order)+1)
	e := &fakeENI{id: i.ID, versions: []fakeVersion{{at: f.now, eni: &i}}}
	f.enis[i.ID], f.order = e, append(f.order, i.ID)
	return e
}

// live returns the ENIs that exist now and meet the condition.
func (f *fakeRegion) live(ok func(vpc.Interface) bool) []*fakeENI {
	var out []*fakeENI
	for _, id := range f.order {
		if i := f.enis[id].last(); i != nil && ok(*i) {
			out = append(out, f.enis[id])
		}
	}
	return out
}

// describe returns an answer that may be late.
func (f *fakeRegion) describe(ok func(vpc.Interface) bool) ([]vpc.Interface, error) {
	if err := f.fault(false); err != nil {
		return nil, err
	}
	t := f.now
	if f.lagging && f.rng.IntN(3) == 0 {
		t = t.Add(-time.Duration(f.rng.Int64N(int64(maxLag))))
	}
	var out []vpc.Interface
	for _, id := range f.order {
		if i := f.enis[id].at(t); i != nil && ok(*i) {
			out = append(out, *copyENI(*i))
		}
	}
	return out, nil
}

func (f *fakeRegion) byID(id string) (*vpc.Interface, error) {
	list, err := f.describe(func(i vpc.Interface) bool { return i.ID == id })
	if err != nil {
		return nil, err
	}
	flap := f.trouble > 0 && f.rng.IntN(20) == 0 && !f.flapped[id]
	f.flapped[id] = flap
	if len(list) == 0 || flap {
		return nil, no("InvalidNetworkInterfaceID.NotFound", "The networkInterface ID '%s' does not exist", id)
	}
	return &list[0], nil
}

func (f *fakeRegion) instance(id string) (*vpc.Instance, error) {
	if err := f.fault(false); err != nil {
		return nil, err
	}
	i := f.instances[id]
	if i == nil {
		return nil, no("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", id)
	}
	return new(*i), nil
}

// mutate is a mutating call: its answer may be lost.
func (f *fakeRegion) mutate(do func() error) error {
	if err := f.fault(true); err != nil {
		return err
	}
	err := do()
	if err == nil {
		f.changes++
	}
	if f.rng.Float64() < f.trouble {
		if f.rng.IntN(2) == 0 {
			return errKilledLate
		}
		return errLost
	}
	return err
}

func (f *fakeRegion) create(c vpc.Creation, request string) (*vpc.Interface, error) {
	var out *vpc.Interface
	err := f.mutate(func() error {
		if t, ok := f.tokens[c.Token]; ok {
			if t.request != request {
				return no("IdempotentParameterMismatch", "The client token was used with other parameters")
			}
			out = copyENI(t.eni)
			return nil
		}
		if f.trouble > 0 && f.rng.IntN(30) == 0 {
			return no("InsufficientFreeAddressesInSubnet", "The subnet has no free addresses")
		}
		e := f.add(vpc.Interface{SubnetID: c.SubnetID, VPCID: "vpc-1", Zone: "z1", Status: "pending", Groups: c.Groups, SourceDestCheck: true, Tags: c.Tags})
		f.tokens[c.Token] = fakeToken{request, *e.last()}
		out = copyENI(*e.last())
		f.after(time.Second, func() {
			if e.last() != nil && e.last().Status == "pending" {
				f.change(e, func(i *vpc.Interface) { i.Status = "available" })
			}
		})
		slot := c.Tags[slots.TagSlot]
		if twins := f.live(func(i vpc.Interface) bool { return i.Tags[slots.TagSlot] == slot }); len(twins) > 1 {
			f.broken("%d live ENIs of slot %s", len(twins), slot)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// get returns an ENI that the controller may change.
func (f *fakeRegion) get(id string) (*fakeENI, error) {
	e := f.enis[id]
	if e == nil || e.last() == nil {
		return nil, no("InvalidNetworkInterfaceID.NotFound", "The networkInterface ID '%s' does not exist", id)
	}
	if i := e.last(); i.Tags[slots.TagCluster] == "" && i.Tags[slots.TagManagedBy] == "" {
		f.broken("a call for %s, which is somebody else's", id)
	}
	return e, nil
}

func (f *fakeRegion) attach(j vpc.Joining) (string, error) {
	var id string
	err := f.mutate(func() error {
		e, err := f.get(j.ENI)
		if err != nil {
			return err
		}
		inst := f.instances[j.Instance]
		switch {
		case inst == nil:
			return no("InvalidInstanceID.NotFound", "The instance ID '%s' does not exist", j.Instance)
		case inst.State != "running" && inst.State != "stopped":
			return no("IncorrectInstanceState", "The instance is %s", inst.State)
		case e.last().Attachment != nil:
			return no("InvalidNetworkInterface.InUse", "Interface %s in use", j.ENI)
		}
		there := f.live(func(i vpc.Interface) bool { return i.Attachment != nil && i.Attachment.Instance == j.Instance })
		for _, o := range there {
			if o.last().Attachment.DeviceIndex == j.DeviceIndex {
				return no("InvalidParameterValue", "Instance '%s' already has an interface attached at device index '%d'.", j.Instance, j.DeviceIndex)
			}
		}
		if len(there) >= fakeLimit {
			return no("AttachmentLimitExceeded", "Interface count %d exceeds the limit", fakeLimit+1)
		}
		id = fmt.Sprintf("eni-attach-%04d", f.calls)
		f.join(e, vpc.Attachment{ID: id, Instance: j.Instance, DeviceIndex: j.DeviceIndex, Status: "attaching"})
		return nil
	})
	return id, err
}

func (f *fakeRegion) join(e *fakeENI, a vpc.Attachment) {
	f.change(e, func(i *vpc.Interface) { i.Status, i.Attachment = "in-use", &a })
	f.after(time.Duration(f.rng.IntN(8000))*time.Millisecond, func() {
		if i := e.last(); i != nil && i.Attachment != nil && i.Attachment.ID == a.ID && i.Attachment.Status == "attaching" {
			f.change(e, func(i *vpc.Interface) { i.Attachment.Status = "attached" })
		}
	})
}

func (f *fakeRegion) attached(attachment string) (*fakeENI, error) {
	for _, e := range f.live(func(i vpc.Interface) bool { return i.Attachment != nil && i.Attachment.ID == attachment }) {
		return f.get(e.id)
	}
	return nil, no("InvalidAttachmentID.NotFound", "The attachment '%s' does not exist", attachment)
}

func (f *fakeRegion) modify(id string, do func(*vpc.Interface)) error {
	return f.mutate(func() error {
		e, err := f.get(id)
		if err == nil {
			f.change(e, do)
		}
		return err
	})
}

func (f *fakeRegion) setTermination(attachment string, to bool) error {
	return f.mutate(func() error {
		e, err := f.attached(attachment)
		if err == nil {
			f.change(e, func(i *vpc.Interface) { i.Attachment.DeleteOnTermination = to })
		}
		return err
	})
}

func (f *fakeRegion) detach(attachment string, force bool) error {
	return f.mutate(func() error {
		e, err := f.attached(attachment)
		if err != nil {
			return err
		}
		inst := f.instances[e.last().Attachment.Instance]
		if inst != nil && inst.State == "running" && f.held(e.id) {
			f.broken("%s is detached, and a pod has it", e.id)
		}
		if e.last().Attachment.Status == "detaching" && !force {
			return nil
		}
		f.change(e, func(i *vpc.Interface) { i.Attachment.Status = "detaching" })
		last := time.Duration(f.rng.IntN(20000)) * time.Millisecond
		if e.stuck && !force {
			last = 40 * time.Minute
		}
		f.after(last, func() { f.part(e, attachment) })
		return nil
	})
}

// part ends an attachment.
func (f *fakeRegion) part(e *fakeENI, attachment string) {
	if i := e.last(); i != nil && i.Attachment != nil && i.Attachment.ID == attachment {
		f.change(e, func(i *vpc.Interface) { i.Attachment, i.Status = nil, "available" })
	}
}

func (f *fakeRegion) delete(id string) error {
	return f.mutate(func() error {
		e, err := f.get(id)
		if err != nil {
			return err
		}
		if e.last().Attachment != nil {
			return no("InvalidParameterValue", "Network interface '%s' is currently in use.", id)
		}
		f.remove(e)
		return nil
	})
}

// terminate ends an instance with its ENIs.
func (f *fakeRegion) terminate(id string) {
	i := f.instances[id]
	i.State = "shutting-down"
	f.after(30*time.Second, func() {
		i.State = "terminated"
		for _, e := range f.live(func(i vpc.Interface) bool { return i.Attachment != nil && i.Attachment.Instance == id }) {
			if e.last().Attachment.DeleteOnTermination {
				f.remove(e)
			} else {
				f.part(e, e.last().Attachment.ID)
			}
		}
		f.after(time.Hour, func() { delete(f.instances, id) })
	})
}
