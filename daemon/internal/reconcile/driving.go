package reconcile

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

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// Drivers binds PCI functions to drivers.
type Drivers interface {
	// Obstacle says why fn cannot be handed to a userspace driver now, as a
	// Problem's Reason and Message; "" when nothing is in the way. all are the
	// machine's functions, and wanted those that are to be handed over too.
	Obstacle(fn sysfs.PCIFunction, to string, all map[device.PCIAddress]sysfs.PCIFunction, wanted func(device.PCIAddress) bool) (why nodestate.Reason, message string, err error)
	// Open says whether a program has the function open, and how that is seen. An
	// error means that this is not known: ErrUseUnseen where nothing can mend that.
	Open(fn sysfs.PCIFunction) (by string, open bool, err error)
	// Bind binds the function to the driver, and returns when it has, or has
	// failed: after any time, since the kernel waits for whoever has the function
	// open. It goes on when the daemon dies, and holds the lock as long.
	Bind(fn sysfs.PCIFunction, to string, lock *os.File) error
}

const (
	// stuckAfter is how long a driver may take before people are told.
	stuckAfter = 15 * time.Second
	// driveFirst and driveLatest bound the waits after a failure; they double.
	driveFirst  = 2 * time.Second
	driveLatest = time.Minute
)

// driving are the changes of drivers that are under way, at most one for each
// function, and those that have failed.
type driving struct {
	jobs   map[device.PCIAddress]*drivingJob
	failed map[device.PCIAddress]drivingFailure
	// busy is since when somebody else has the claim lock of a device that is due:
	// a plugin for a moment, or what an earlier daemon has begun.
	busy map[device.PCIAddress]time.Time
	// said are the findings about the devices whose change has not begun.
	said map[device.PCIAddress][]problem.Finding
}

type drivingJob struct {
	device   nodestate.Device
	instance uint64
	from, to string
	begun    time.Time
	done     chan error // takes the end even when nobody comes for it
}

type drivingFailure struct {
	device nodestate.Device
	// instance is the PCI function's; another one at its address has not failed.
	instance uint64
	to       string
	err      error
	until    time.Time
	wait     time.Duration
}

// drive begins the changes that are due. What is in the way of one, and what has
// become of one that lasts or is tried again, is a finding.
func (r *Reconciler) drive(ctx context.Context, src inventory.Sources, res inventory.Result, out *Outcome) []problem.Finding {
	var found []problem.Finding
	maps.DeleteFunc(r.driving.failed, func(pci device.PCIAddress, f drivingFailure) bool {
		fn, there := src.Functions.Value[pci]
		return there && fn.Instance != f.instance && r.driving.jobs[pci] == nil
	})
	for pci, job := range r.driving.jobs {
		if f, failed := r.driving.failed[pci]; failed { // trying again is no end of it
			found = append(found, driverFailed(job.device, f.to, f.err))
		}
		if lasts := src.Now.Sub(job.begun); lasts < stuckAfter {
			out.sooner(stuckAfter - lasts)
			continue
		}
		found = append(found, stuck(job.device))
	}
	due := map[device.PCIAddress]string{}
	for _, d := range res.DriverChanges {
		due[d.Device.PCIAddress] = d.To
	}
	wanted := func(pci device.PCIAddress) bool { return sysfs.PCIFunction{Driver: due[pci]}.UserspaceDriver() }
	said := map[device.PCIAddress][]problem.Finding{}
	for _, d := range res.Devices {
		if pci := d.PCIAddress; d.Phase == nodestate.PhaseDraining && due[pci] == "" && r.driving.jobs[pci] == nil {
			said[pci] = r.driving.said[pci]                                        // something else comes first for the moment, which is no end of it
			if f, failed := r.driving.failed[pci]; failed && len(said[pci]) == 0 { // nor is what was tidied up after it
				said[pci] = []problem.Finding{driverFailed(f.device, f.to, f.err)}
			}
		}
	}
	maps.DeleteFunc(r.driving.failed, func(pci device.PCIAddress, f drivingFailure) bool {
		_, waits := said[pci]
		_, taken := src.Taken.Value[pci]
		return due[pci] != f.to && r.driving.jobs[pci] == nil && !waits && !taken
	})
	for pci, f := range r.driving.failed {
		if src.Now.Before(f.until) {
			out.sooner(f.until.Sub(src.Now))
		}
		if _, told := said[pci]; !told && due[pci] == "" && r.driving.jobs[pci] == nil {
			found = append(found, driverFailed(f.device, f.to, f.err)) // what is left of a change that nobody wants any more
		}
	}
	maps.DeleteFunc(r.driving.busy, func(pci device.PCIAddress, _ time.Time) bool { return due[pci] == "" })
	for _, d := range res.DriverChanges {
		if r.driving.jobs[d.Device.PCIAddress] == nil {
			said[d.Device.PCIAddress] = r.tryDrive(ctx, src, d, wanted)
		}
	}
	r.driving.said = said
	for _, pci := range slices.Sorted(maps.Keys(said)) {
		found = append(found, said[pci]...)
	}
	return found
}

// tryDrive begins one change, unless it has failed a moment ago.
func (r *Reconciler) tryDrive(ctx context.Context, src inventory.Sources, d inventory.DriverChange, wanted func(device.PCIAddress) bool) []problem.Finding {
	failure, failed := r.driving.failed[d.Device.PCIAddress]
	if failed && src.Now.Before(failure.until) {
		return []problem.Finding{driverFailed(d.Device, d.To, failure.err)}
	}
	f, err := r.beginDrive(ctx, src, d, wanted)
	switch {
	case err != nil:
		f = append(f, driverFailed(d.Device, d.To, err))
	case failed && len(f) == 0:
		f = append(f, driverFailed(d.Device, d.To, failure.err))
	}
	return f
}

// stuck tells of a change that lasts, in the same words whoever has begun it.
func stuck(d nodestate.Device) problem.Finding {
	return problem.About(d, reason.DriverStuck, "the change of the driver of %s does not end: the kernel waits for a program that has the device open; end that program", d.PCIAddress)
}

func driverFailed(d nodestate.Device, to string, err error) problem.Finding {
	f := problem.About(d, reason.DriverNotBound, "%s cannot be bound to %s; the daemon tries again, and its log has the error", d.PCIAddress, to)
	f.Err = err
	return f
}

// takeDriven deals with the changes that have ended.
func (r *Reconciler) takeDriven(now time.Time) {
	for pci, job := range r.driving.jobs {
		var err error
		select {
		case err = <-job.done:
		default:
			continue
		}
		delete(r.driving.jobs, pci)
		if err == nil && r.driving.failed[pci].to == job.to {
			delete(r.driving.failed, pci)
		}
		if err == nil && job.from == job.to {
			continue // it was only tidied up
		}
		r.view.Did.DriverChanges = append(r.view.Did.DriverChanges, view.DriverChange{PCIAddress: pci, To: job.to, Err: err, Took: now.Sub(job.begun)})
		if err == nil {
			r.Log.WithFields(logrus.Fields{"eniID": job.device.ENIID, "pciAddress": pci, "driver": job.to, "was": job.from}).Info("device bound to driver")
			continue
		}
		wait := min(max(2*r.driving.failed[pci].wait, driveFirst), driveLatest)
		r.driving.failed[pci] = drivingFailure{device: job.device, instance: job.instance, to: job.to, err: err, until: now.Add(wait), wait: wait}
	}
	slices.SortFunc(r.view.Did.DriverChanges, func(a, b view.DriverChange) int { return cmp.Compare(a.PCIAddress, b.PCIAddress) })
}

// beginDrive begins to change a device's driver, after another look, under its
// claim lock, at all that may speak against it. It begins nothing where that is
// only a matter of time.
func (r *Reconciler) beginDrive(ctx context.Context, src inventory.Sources, d inventory.DriverChange, wanted func(device.PCIAddress) bool) ([]problem.Finding, error) {
	pci := d.Device.PCIAddress
	fn := src.Functions.Value[pci]
	if d.Userspace() {
		why, message, err := r.Drivers.Obstacle(fn, d.To, src.Functions.Value, wanted)
		if err != nil {
			return nil, err
		}
		if why != "" {
			return []problem.Finding{problem.About(d.Device, why, "%s", message)}, nil
		}
	}
	now, cancel := context.WithCancel(ctx)
	cancel() // do not wait: what an earlier daemon has begun may last
	lock, err := r.claimFile(now, pci)
	if errors.Is(err, nodestate.ErrBusy) {
		return r.busy(d.Device, src.Now), nil
	}
	delete(r.driving.busy, pci)
	if errors.Is(err, errNotOurs) {
		return nil, nil // a pod has got it
	}
	if err != nil {
		return nil, err
	}
	found, err := r.prepareDrive(ctx, d, fn)
	if err != nil || len(found) > 0 {
		lock.Close() //nolint:errcheck,gosec // nothing was written
		if errors.Is(err, errNotOurs) {
			err = nil // it is looked at anew
		}
		return found, err
	}
	r.begin(&drivingJob{device: d.Device, from: fn.Driver, to: d.To, begun: src.Now}, fn, lock)
	return nil, nil
}

// begin has a driver changed in the background.
func (r *Reconciler) begin(job *drivingJob, fn sysfs.PCIFunction, lock *os.File) {
	job.instance, job.done = fn.Instance, make(chan error, 1)
	r.driving.jobs[fn.Address] = job
	go func() {
		err := r.Drivers.Bind(fn, job.to, lock)
		if err == nil && !(sysfs.PCIFunction{Driver: job.to}).UserspaceDriver() {
			err = r.givenBack(fn.Address)
		}
		lock.Close() //nolint:errcheck,gosec // nothing was written
		job.done <- err
		r.Wake()
	}()
}

// givenBack notes that the kernel has the device again, and that nothing of the
// change is left: its restore record is that of a link which comes home late.
func (r *Reconciler) givenBack(pci device.PCIAddress) error {
	rec, err := r.Attachments.LoadRestore(pci)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	rec.Driver = ""
	return r.Attachments.SaveRestore(rec)
}

// tidy has what an interrupted change may have left of a device that its kernel
// driver has, its driver_override, taken away. It says whether it has taken the
// claim lock over for that.
func (r *Reconciler) tidy(rec nodestate.Restore, src *inventory.Sources, lock *os.File) bool {
	fn := src.Functions.Value[rec.Device.PCIAddress]
	f, failed := r.driving.failed[fn.Address]
	if fn.Driver == "" || failed && f.to == rec.Driver && src.Now.Before(f.until) {
		return false
	}
	d := nodestate.Device{ENIID: rec.Device.ENIID, NodeENI: rec.Device.NodeENI, PCIAddress: fn.Address}
	r.begin(&drivingJob{device: d, from: fn.Driver, to: rec.Driver, begun: src.Now}, fn, lock)
	src.ChangingDriver[fn.Address] = true
	return true
}

// Unended waits until ctx ends for the changes of drivers that are under way, and
// returns the devices of those that have not ended by then, sorted. No Sync runs
// meanwhile, or later.
func (r *Reconciler) Unended(ctx context.Context) (devices []device.PCIAddress) {
	for _, pci := range slices.Sorted(maps.Keys(r.driving.jobs)) {
		job := r.driving.jobs[pci]
		if len(job.done) > 0 {
			continue
		}
		select {
		case <-job.done: //nolint:errcheck // the next daemon looks at the device itself
		case <-ctx.Done():
			devices = append(devices, pci)
		}
	}
	return devices
}

// busy notes that somebody else has the device's claim lock.
func (r *Reconciler) busy(d nodestate.Device, now time.Time) []problem.Finding {
	since, known := r.driving.busy[d.PCIAddress]
	if !known {
		since = now
		r.driving.busy[d.PCIAddress] = now
	}
	if now.Sub(since) < stuckAfter {
		return nil
	}
	return []problem.Finding{stuck(d)}
}

// prepareDrive looks at the device once more and, before it is taken from the
// kernel, writes down what it must get back and sets its link down. Nothing has
// happened where it returns findings or an error, but that the link may be down:
// the restore record brings it up again.
func (r *Reconciler) prepareDrive(ctx context.Context, d inventory.DriverChange, fn sysfs.PCIFunction) ([]problem.Finding, error) {
	pci := d.Device.PCIAddress
	if now, err := r.PCI.PCI(pci); err != nil || now.Driver != fn.Driver || now.Instance != fn.Instance {
		return nil, errNotOurs // it has changed, or gone, since this Sync has read it
	}
	fresh := false
	if r.Kubelet != nil {
		kubelet, err := r.kubeletDevices(ctx)
		if err != nil {
			return []problem.Finding{problem.New(reason.KubeletUnreadable, "the kubelet's podresources socket cannot be asked, so devices keep their drivers; check --podresources-socket", err)}, nil
		}
		if len(kubelet.Allocated[pci]) > 0 {
			return []problem.Finding{problem.About(d.Device, reason.DriverNotBound, "%s is bound to %q, wanted %s, and the kubelet has given it to a pod; it is bound once that pod has ended", pci, fn.Driver, d.To)}, nil
		}
		fresh = kubelet.Fresh
		if name, offered := offeredAs(kubelet, pci); offered && d.Device.Phase != nodestate.PhasePending {
			return []problem.Finding{problem.About(d.Device, reason.DriverNotBound, "%s is bound to %q, wanted %s, and the kubelet still offers it as %s; take it out of that resource's entry in the device plugin config", pci, fn.Driver, d.To, name)}, nil
		}
	}
	switch {
	case fn.Driver == "": // stopped between two drivers
		return nil, nil
	case !fn.UserspaceDriver():
		return r.takeFromKernel(d, fn)
	}
	by, open, err := r.Drivers.Open(fn)
	switch {
	case err != nil:
		return useUnknown(d.Device, fn, fresh, err), nil
	case open:
		return []problem.Finding{problem.About(d.Device, reason.DeviceOpen, "a program has %s open (%s) though no pod of ours has the device, so it stays bound to %s; end that program", pci, by, fn.Driver)}, nil
	}
	return nil, nil
}

// offeredAs returns a resource, the first by name, as which the kubelet may give
// the device to a pod.
func offeredAs(k inventory.Kubelet, pci device.PCIAddress) (device.ResourceName, bool) {
	for _, name := range slices.Sorted(maps.Keys(k.Allocatable)) {
		if slices.Contains(k.Allocatable[name], pci) {
			return name, true
		}
	}
	return "", false
}

// takeFromKernel prepares a device that has a link in the host.
func (r *Reconciler) takeFromKernel(d inventory.DriverChange, fn sysfs.PCIFunction) ([]problem.Finding, error) {
	l, err := r.sameLink(d.Link)
	if err != nil {
		return nil, err
	}
	if found, err := r.clearForDriver(d.Device, l); err != nil || found != nil {
		return found, err
	}
	state := l.State()
	pci := d.Device.PCIAddress
	earlier, err := r.Attachments.LoadRestore(pci)
	if errors.Is(err, nodestate.ErrOtherVersion) {
		return nil, errNotOurs
	}
	if err == nil && earlier.BootID == r.BootID && earlier.Device.Link != nil && !earlier.Device.Replaced(fn.Instance) {
		state = *earlier.Device.Link // its link has not got back yet what it had
	}
	err = r.Attachments.SaveRestore(nodestate.Restore{BootID: r.BootID, Driver: fn.Driver, Device: nodestate.AttachedDevice{
		PCIAddress: pci, MAC: d.Device.MAC, ENIID: d.Device.ENIID, NodeENI: d.Device.NodeENI, VF: fn.PhysFn != "", Instance: fn.Instance, Link: &state,
	}})
	if err != nil {
		return nil, err
	}
	if err := r.Host.SetDown(l.Index); errors.Is(err, link.ErrNotFound) {
		return nil, errNotOurs
	} else if err != nil {
		return nil, err
	}
	return nil, nil
}
