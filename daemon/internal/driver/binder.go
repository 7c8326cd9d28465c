package driver

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/devicelock"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

const (
	// StuckAfter is how long a change may take before a Problem says so.
	StuckAfter   = 15 * time.Second
	backoffFirst = 2 * time.Second // backoffFirst and BackoffMost bound the waits after a failure; they double
	// BackoffMost is the longest wait after failures.
	BackoffMost = time.Minute
)

// Actions change and examine PCI functions. Node implements them.
type Actions interface {
	// Obstacle says why fn cannot get a userspace driver now; nil if it can. all are the machine's functions; wanted
	// says which others should get one too.
	Obstacle(fn sysfs.PCIFunction, to string, all map[device.PCIAddress]sysfs.PCIFunction, wanted func(device.PCIAddress) bool) (*Obstacle, error)
	// Open says whether a program has the function open, and by which sign; the error is ErrUnseen if the kernel never
	// tells.
	Open(fn sysfs.PCIFunction) (by string, open bool, err error)
	// Bind binds the function to the driver. It may take any time: the kernel waits for programs that have the function
	// open. It continues when the daemon dies, and keeps the lock until its end.
	Bind(fn sysfs.PCIFunction, to string, lock *os.File) error
}

// Links prepares a device's link before the kernel gives up the device.
type Links interface {
	// ClearForDriver removes the link's routes and returns the link. Findings name routes that must stay. The error is
	// devicelock.ErrNotOurs for another link.
	ClearForDriver(d nodestate.Device, l link.Link) (link.Link, []problem.Finding, error)
	SetDown(index int) error
}

// BinderOptions configure a Binder. All are needed but Kubelet.
type BinderOptions struct {
	BootID      string
	Attachments nodestate.AttachmentDir
	Locks       devicelock.Locker
	Actions     Actions
	Links       Links
	// Kubelet is the answer of this Sync. Nil: there is no kubelet.
	Kubelet func(context.Context) (inventory.Kubelet, error)
	Wake    func() // Wake has TakeEnded and Step called again; it is called from other goroutines
	Log     logrus.FieldLogger
}

// Binder changes drivers in the background, one change per device at a time. Its methods must not be called
// concurrently.
type Binder struct {
	BinderOptions
	jobs   map[device.PCIAddress]*job
	failed map[device.PCIAddress]failure
	// busy is since when another process, a plugin or an earlier daemon's change, has had the lock of a device that is
	// due.
	busy     map[device.PCIAddress]time.Time
	waiting  map[device.PCIAddress][]problem.Finding // the findings about devices whose change has not begun
	problems []problem.Finding
}

// job is a change under way.
type job struct {
	device   nodestate.Device
	instance uint64 // of the PCI function
	from, to string
	begun    time.Time
	// done is closed when err is set.
	done chan struct{}
	err  error
}

// failure is a change that is tried again.
type failure struct {
	device   nodestate.Device
	instance uint64
	to       string
	err      error
	until    time.Time
	wait     backoff.Backoff
}

func (f failure) finding() problem.Finding { return notBound(f.device, f.to, f.err) }

// NewBinder returns a Binder without a change under way.
func NewBinder(o BinderOptions) *Binder {
	return &Binder{BinderOptions: o, jobs: map[device.PCIAddress]*job{}, failed: map[device.PCIAddress]failure{}, busy: map[device.PCIAddress]time.Time{}}
}

// Jobs are the changes under way. Each channel is closed at the end of its change.
func (b *Binder) Jobs() map[device.PCIAddress]<-chan struct{} {
	all := make(map[device.PCIAddress]<-chan struct{}, len(b.jobs))
	for pci, j := range b.jobs {
		all[pci] = j.done
	}
	return all
}

// Problems are the findings of the last Step.
func (b *Binder) Problems() []problem.Finding { return b.problems }

// Step begins the changes that are due. Obstacles, failures and changes that hang are Problems. It returns the time
// after which to step again; 0 for none.
func (b *Binder) Step(ctx context.Context, src inventory.Sources, res inventory.Result) (after time.Duration) {
	sooner := func(d time.Duration) {
		if d > 0 && (after == 0 || d < after) {
			after = d
		}
	}
	due := make(map[device.PCIAddress]string, len(res.DriverChanges))
	for _, d := range res.DriverChanges {
		due[d.Device.PCIAddress] = d.To
	}
	idle := func(pci device.PCIAddress) bool { return due[pci] == "" && b.jobs[pci] == nil }
	maps.DeleteFunc(b.failed, func(pci device.PCIAddress, f failure) bool { // another function is at its address
		fn, there := src.Functions.Value[pci]
		return there && fn.Instance != f.instance && b.jobs[pci] == nil
	})
	var found []problem.Finding
	for pci, j := range b.jobs {
		if f, failed := b.failed[pci]; failed { // it is being tried again
			found = append(found, notBound(j.device, f.to, f.err))
		}
		if lasts := src.Now.Sub(j.begun); lasts < StuckAfter {
			sooner(StuckAfter - lasts)
			continue
		}
		found = append(found, stuck(j.device))
	}
	waiting := b.postponed(res.Devices, idle)
	maps.DeleteFunc(b.failed, func(pci device.PCIAddress, f failure) bool {
		_, waits := waiting[pci]
		_, taken := src.Taken.Value[pci]
		return due[pci] != f.to && b.jobs[pci] == nil && !waits && !taken
	})
	for pci, f := range b.failed {
		sooner(f.until.Sub(src.Now))
		if _, waits := waiting[pci]; !waits && idle(pci) {
			found = append(found, f.finding()) // nobody wants it, but something of it is left
		}
	}
	maps.DeleteFunc(b.busy, func(pci device.PCIAddress, _ time.Time) bool { return due[pci] == "" })
	userspace := func(pci device.PCIAddress) bool { return userspace(due[pci]) }
	for _, d := range res.DriverChanges {
		if pci := d.Device.PCIAddress; b.jobs[pci] == nil {
			waiting[pci] = b.try(ctx, src, d, userspace)
		}
	}
	b.waiting, b.problems = waiting, found
	for _, pci := range slices.Sorted(maps.Keys(waiting)) {
		b.problems = append(b.problems, waiting[pci]...)
	}
	return after
}

// postponed are the findings to keep about draining devices whose change is not due for the moment.
func (b *Binder) postponed(devices []nodestate.Device, idle func(device.PCIAddress) bool) map[device.PCIAddress][]problem.Finding {
	kept := map[device.PCIAddress][]problem.Finding{}
	for _, d := range devices {
		pci := d.PCIAddress
		if d.Phase != nodestate.PhaseDraining || !idle(pci) {
			continue
		}
		kept[pci] = b.waiting[pci]
		if f, failed := b.failed[pci]; failed && len(kept[pci]) == 0 {
			kept[pci] = []problem.Finding{f.finding()}
		}
	}
	return kept
}

// try begins one change, unless it has just failed.
func (b *Binder) try(ctx context.Context, src inventory.Sources, d inventory.DriverChange, wanted func(device.PCIAddress) bool) []problem.Finding {
	last, failed := b.failed[d.Device.PCIAddress]
	if failed && src.Now.Before(last.until) {
		return []problem.Finding{notBound(d.Device, d.To, last.err)}
	}
	found, err := b.begin(ctx, src, d, wanted)
	switch {
	case err != nil:
		found = append(found, notBound(d.Device, d.To, err))
	case failed && len(found) == 0:
		found = append(found, notBound(d.Device, d.To, last.err))
	}
	return found
}

// TakeEnded returns the changes that have ended, sorted by device, and notes failures.
func (b *Binder) TakeEnded(now time.Time) (ended []view.DriverChange) {
	for pci, j := range b.jobs {
		select {
		case <-j.done:
		default:
			continue
		}
		delete(b.jobs, pci)
		if j.err == nil && b.failed[pci].to == j.to {
			delete(b.failed, pci)
		}
		if j.err == nil && j.from == j.to {
			continue // only Tidy
		}
		ended = append(ended, view.DriverChange{PCIAddress: pci, To: j.to, Err: j.err, Took: now.Sub(j.begun)})
		if j.err == nil {
			b.Log.WithFields(logrus.Fields{"eniID": j.device.ENIID, "pciAddress": pci, "driver": j.to, "was": j.from}).Info("device bound to driver")
			continue
		}
		wait := b.failed[pci].wait
		wait.First, wait.Cap = backoffFirst, BackoffMost
		b.failed[pci] = failure{device: j.device, instance: j.instance, to: j.to, err: j.err, until: now.Add(wait.Failed()), wait: wait}
	}
	slices.SortFunc(ended, func(a, b view.DriverChange) int { return cmp.Compare(a.PCIAddress, b.PCIAddress) })
	return ended
}

// start changes a driver in the background, and takes over the lock.
func (b *Binder) start(j *job, fn sysfs.PCIFunction, lock *os.File) {
	j.instance, j.done = fn.Instance, make(chan struct{})
	b.jobs[fn.Address] = j
	go func() {
		j.err = b.Actions.Bind(fn, j.to, lock)
		if j.err == nil && !userspace(j.to) {
			j.err = b.noteReturned(fn.Address)
		}
		lock.Close() //nolint:errcheck,gosec // nothing was written
		close(j.done)
		b.Wake()
	}()
}

// noteReturned notes that a kernel driver has the device again, so that the restore record is only about the link.
func (b *Binder) noteReturned(pci device.PCIAddress) error {
	rec, err := b.Attachments.LoadRestore(pci)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	rec.Driver = ""
	return b.Attachments.SaveRestore(rec)
}

// Tidy removes the driver_override that an interrupted change may have left on a device with a kernel driver. It says
// whether it has begun, and so taken over the lock.
func (b *Binder) Tidy(rec nodestate.Restore, src *inventory.Sources, lock *os.File) bool {
	fn := src.Functions.Value[rec.Device.PCIAddress]
	f, failed := b.failed[fn.Address]
	if fn.Driver == "" || failed && f.to == rec.Driver && src.Now.Before(f.until) {
		return false
	}
	d := nodestate.Device{ENIID: rec.Device.ENIID, NodeENI: rec.Device.NodeENI, PCIAddress: fn.Address}
	b.start(&job{device: d, from: fn.Driver, to: rec.Driver, begun: src.Now}, fn, lock)
	src.ChangingDriver[fn.Address] = true
	return true
}

// Unended waits for the changes under way until ctx ends, and returns the devices whose change goes on, sorted.
func (b *Binder) Unended(ctx context.Context) (devices []device.PCIAddress) {
	for _, pci := range slices.Sorted(maps.Keys(b.jobs)) {
		select {
		case <-b.jobs[pci].done:
		case <-ctx.Done():
		}
		select {
		case <-b.jobs[pci].done:
		default:
			devices = append(devices, pci)
		}
	}
	return devices
}

// stuck reports a change that does not end, in the same words for every process.
func stuck(d nodestate.Device) problem.Finding {
	return problem.About(d, reason.DriverStuck, "the change of the driver of %s does not end: the kernel waits for a program that has the device open; "+
		"end that program", d.PCIAddress)
}

func notBound(d nodestate.Device, to string, err error) problem.Finding {
	return problem.About(d, reason.DriverNotBound, "%s cannot be bound to %s; the daemon tries again, and its log has the error", d.PCIAddress, to).With(err)
}
