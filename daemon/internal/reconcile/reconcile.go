// Package reconcile has the order of the daemon's effects: one key (this node),
// one queue, one Sync. The packages that it calls read, decide and write.
//
// Sync is level-triggered: it looks at everything, assumes nothing of the Sync before it except the checkpoint, and
// changes nothing at rest. The daemon recovers from a crash at any point, because the effects have this order:
//
//  1. checkpoint: ENI, MAC and PCI address, before a pod may take the link away
//  2. inventory: a draining device is refused to new pods first
//  3. the daemon's own offer to the kubelet, whose resources are in the checkpoint first
//  4. device plugin config, whose new entries are ours in the checkpoint first
//  5. device plugin restart, when due
//  6. checkpoint: our entries of the config, and the config that is served
//  7. drivers of devices that are in no config and in no pod
//
// The kubelet learns of a device that has become unfit even before the checkpoint: it needs no memory, and a disk may be slow.
package reconcile

import (
	"context"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/checkpoint"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/devicelock"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/driver"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/hostlinks"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// NodeENIs is the source of declarations; after an error nothing is known of them.
type NodeENIs interface {
	List() (inventory.Snapshot, error)
}

// Metadata is the instance's own list of ENIs (IMDS); after an error it is unknown.
type Metadata interface {
	ENIs(ctx context.Context) ([]vpc.ENI, error)
}

// PCI is sysfs; fs.ErrNotExist of PCI means that the function is gone.
type PCI interface {
	PCIAddresses() ([]device.PCIAddress, error)
	PCI(addr device.PCIAddress) (sysfs.PCIFunction, error)
}

// Host is the host's netns.
type Host = hostlinks.Host

// Orphans releases the attachments of pods that died without DEL. Sweep must not block; again is
// the time after which time alone may make a difference, 0 for never.
type Orphans interface {
	Sweep(ctx context.Context, records []nodestate.Attachment) (found []nodestate.Problem, again time.Duration)
}

// Addresses has EC2 assign addresses and take them back, in the background.
type Addresses interface {
	// Correct returns the metadata's ENIs, corrected by EC2's answers.
	Correct(enis []vpc.ENI) []vpc.ENI
	// Problems are sorted.
	Problems() []nodestate.Problem
}

// Options configure a Reconciler. All are needed unless they say otherwise.
type Options struct {
	NodeName    string
	RenamedFrom string // an earlier name of the node; "" for none
	// Instance returns the id of this EC2 instance, "" while it is not known. Nil: it never is.
	Instance      func() string
	BootID        string // this boot's
	InventoryPath string
	StateDir      string
	Attachments   nodestate.AttachmentDir
	Leases        leases.Dir

	NodeENIs NodeENIs
	Metadata Metadata
	PCI      PCI
	Host     Host
	Config   *pcidp.File
	// ConfigSeen identifies the file at the config's path, without its Hash. Nil: the file system's own answer.
	ConfigSeen   func(path string) nodestate.SeenConfig
	Drivers      driver.Actions
	DevicePlugin pluginrestart.DevicePlugin // nil where somebody else restarts it: then the log says when that is due
	Kubelet      Kubelet                    // nil where there is none
	Offer        Offer                      // nil where only the device plugin offers devices
	Wish         func() Wish                // who is to offer the devices; nil where Offer is
	Orphans      Orphans                    // nil where nothing is released
	Addresses    Addresses                  // nil where nobody asks EC2
	// Services are optional services of this daemon. Nil: none reports.
	Services      *problem.Services
	SourceRouting bool // packets from an ENI's addresses leave the host by that ENI
	// IPv6 is the folder with accept_ra of the host's links. Empty: they have no IPv6.
	IPv6 link.IPv6Conf
	// Interest gets the links whose routes and addresses matter. Nil: nobody asks.
	Interest hostlinks.Interest
	// Advice returns one line: how to keep the host's network manager off all ENIs but the primary
	// one, whose link has the name primary. Nil: no advice.
	Advice func(primary string) string

	Wake func() // Wake has Sync called again; it is called from other goroutines
	// Observe gets the View of each Sync, and must not block. Nil: nobody looks.
	Observe func(view.View)
	Jitter  time.Duration // added to the time after which a changed config counts as settled

	Now func() time.Time
	// Uptime is nodestate.Uptime. Nil: Now is never set.
	Uptime func() (time.Duration, error)
	Log    logrus.FieldLogger
}

// Reconciler keeps this node as its NodeENIs say: it reads the sources, and calls the actors in the order of the
// package comment. Except Nudge, its methods must not be called concurrently.
type Reconciler struct {
	Options
	clock    clock
	files    *checkpoint.Files
	kubelet  kubeletCache
	metadata metadataCache
	links    *hostlinks.Links
	drivers  *driver.Binder
	plugin   *pluginrestart.Restarter
	config   pluginConfig
	offer    offering
	removals removals
	releases releases
	log      transitions
	view     view.View // view of this Sync, so far
}

// Outcome says when to call Sync again though nothing happens.
type Outcome struct {
	Unsettled bool          // something is under way, or could not be read or written
	After     time.Duration // the time after which time alone makes a difference; 0 for never
}

// New returns a Reconciler that continues with the files of the last daemon. The error is
// *checkpoint.OtherNodeError if they are of a node of another name.
func New(o Options) (*Reconciler, error) {
	files, err := checkpoint.Open(checkpoint.Options{
		NodeName: o.NodeName, RenamedFrom: o.RenamedFrom, BootID: o.BootID, Instance: o.Instance, InventoryPath: o.InventoryPath, StateDir: o.StateDir,
		ConfigPath: o.Config.Path, Now: o.Now, Log: o.Log,
	})
	if err != nil {
		return nil, err
	}
	r := &Reconciler{Options: o, clock: clock{uptime: o.Uptime, wall: o.Now}, files: files, removals: removals{}}
	r.log = transitions{out: o.Log, phases: phasesOf(files.Checkpoint.Devices)}
	r.kubelet = kubeletCache{from: o.Kubelet, steady: r.clock.now}
	locks := devicelock.Locker{BootID: o.BootID, Attachments: o.Attachments, PCI: o.PCI}
	r.releases = releases{lock: locks.LockFor}
	r.links = hostlinks.New(hostlinks.Options{
		BootID: o.BootID, Attachments: o.Attachments, Leases: o.Leases, Locks: locks, PCI: o.PCI, Host: o.Host,
		SourceRouting: o.SourceRouting, IPv6: o.IPv6, Interest: o.Interest, Advice: o.Advice, Log: o.Log,
	})
	drivers := driver.BinderOptions{BootID: o.BootID, Attachments: o.Attachments, Locks: locks, Actions: o.Drivers, Links: r.links, Wake: o.Wake, Log: o.Log}
	if o.Kubelet != nil {
		drivers.Kubelet = r.kubelet.ask
	}
	r.drivers = driver.NewBinder(drivers)
	r.plugin = pluginrestart.New(pluginrestart.Options{
		Plugin: o.DevicePlugin, Stat: o.ConfigSeen, Jitter: o.Jitter, Wake: o.Wake, Log: o.Log,
		Commit: func() { files.Save(r.plugin.Record) }, //nolint:errcheck,gosec // the Sync saves the same at its end, and reports errors
	})
	r.plugin.Resume(files.Checkpoint)
	r.config = pluginConfig{file: o.Config, files: files, plugin: r.plugin, host: o.Host, now: o.Now, log: o.Log}
	r.offer = offering{server: o.Offer, wish: o.Wish, files: files, kubelet: &r.kubelet, log: o.Log}
	r.resume()
	return r, nil
}

// resume offers the devices of the last daemon, before anything but sysfs is read.
func (r *Reconciler) resume() {
	if !r.offer.serves() {
		if r.offer.outlived() {
			r.plugin.Distrust(r.Now())
		}
		return
	}
	functions, err := readFunctions(r.PCI)
	if err != nil {
		r.Log.WithError(err).Warn("PCI functions cannot be read, so no device is offered yet")
	}
	r.offer.resume(r.BootID, functions.Value)
}

// Nudge has the device plugin looked for at once: there is news of it, or of the API server.
// It is safe for concurrent use.
func (r *Reconciler) Nudge() { r.plugin.Nudge() }

// Unended waits for the changes of drivers under way until ctx ends, and returns the devices whose
// change goes on, sorted. No Sync runs meanwhile, or later.
func (r *Reconciler) Unended(ctx context.Context) []device.PCIAddress { return r.drivers.Unended(ctx) }

// Sync looks at the node once and brings it as near to its NodeENIs as is possible now. A failure is logged when it
// begins and when it ends, appears in the inventory's problems, and is retried by the next Sync.
func (r *Reconciler) Sync(ctx context.Context) Outcome {
	begun := r.clock.now()
	r.view = view.View{Config: view.ConfigView{Path: r.Config.Path, Hash: r.view.Config.Hash}}
	if r.files.ForgetOtherInstance() { // the metadata may have named the instance only now
		r.plugin.Resume(r.files.Checkpoint)
	}
	r.kubelet.forget(begun)
	r.view.Did.DriverChanges = r.drivers.TakeEnded(begun) // before anything is read, so that their result is seen
	src, found := r.collect(ctx)
	if ctx.Err() != nil {
		return Outcome{} // the daemon stops: only half of it may have been read
	}
	var out Outcome
	if r.Orphans != nil && src.Attachments.Known {
		unreleased, again := r.Orphans.Sweep(ctx, src.Attachments.Value)
		found = problem.Append(found, unreleased)
		out.sooner(again)
	}
	if r.Addresses != nil {
		found = problem.Append(found, r.Addresses.Problems())
	}
	restored, unrestored := r.links.Restore(ctx, &src, r.drivers)
	found = append(found, unrestored...)
	if restored {
		found = append(found, r.readLinks(&src)...)
	}
	res, unread := r.join(&src)
	found = append(found, unread...)
	unset, after := r.links.Step(ctx, &src, &res, func() {
		found = append(found, r.readLinks(&src)...)
		res, unread = r.join(&src)
		found = append(found, unread...)
	})
	out.sooner(after)
	found = problem.Append(slices.Concat(found, unset, r.links.Problems()), res.Problems)
	r.removals.note(src, res)
	out.Unsettled = res.Unsettled || len(unset)+len(unrestored) > 0 || !allKnown(src) || r.metadata.pending != nil
	if !res.LookAgain.IsZero() {
		out.sooner(max(res.LookAgain.Sub(src.Now), time.Second))
	}
	if src.Kubelet != nil && hasDraining(res.Devices) {
		out.sooner(holderPoll)
	}
	found = append(found, r.publish(ctx, src, res, found, &out)...)
	r.releases.step(ctx, src, res, &r.files.Inventory, &out)
	out.sooner(r.metadata.follow(res.Devices, src.Now))
	r.log.devices(res.Devices)
	r.view.Did.Began, r.view.Did.Over = r.log.findings(found)
	r.observe(begun, src)
	return out
}

// holderPoll is how often the kubelet is asked about draining devices: no event says that a pod has ended.
const holderPoll = time.Second

func hasDraining(devices []nodestate.Device) bool {
	return slices.ContainsFunc(devices, func(d nodestate.Device) bool { return d.Phase == nodestate.PhaseDraining })
}

// publish writes the result of Join, in the order of the package comment, and lets the actors
// act on it. It returns their findings.
func (r *Reconciler) publish(ctx context.Context, src inventory.Sources, res inventory.Result, found []problem.Finding, out *Outcome) []problem.Finding {
	known := src.Functions.Known && src.Links.Known // the config is about PCI functions
	if known {
		r.offer.withhold(src, res.Devices)
	}
	before := &r.files.Checkpoint
	r.plugin.AwaitDevices(r.Now(), before.BootID != r.BootID, before.Devices, res.Devices) // by the clock of its Step
	was := r.config.withdrawn
	r.config.withdrawn = false // until the config is known to be without the devices that drain now
	late := slices.Concat(r.config.Problems(), r.drivers.Problems(), r.offer.problems)
	err := r.files.Save(func(c *nodestate.Checkpoint) {
		r.files.Sign(c)
		c.Devices = res.Checkpoint
		r.plugin.RecordAwaited(c)
	})
	if err == nil {
		err = r.files.WriteInventory(res.Devices, problem.List(found, late))
	}
	if err != nil {
		out.Unsettled = true
		late = append(late, checkpoint.Unwritable(err))
		if inv := &r.files.Inventory; inv.BootID == r.BootID { // the rows must stay, and the reason must show
			r.files.WriteInventory(inv.Devices, problem.List(found, late)) //nolint:errcheck,gosec // it is tried for the sake of the error above
		}
		return late
	}
	if known {
		r.offer.Step(ctx, src, res.Devices, &r.config, out)
		var elsewhere []device.ResourceName
		if r.offer.takes() {
			elsewhere = append([]device.ResourceName{}, r.offer.memory().Names...)
		}
		r.config.Step(ctx, src, res.Devices, r.offer.entries(pcidp.Desired(res.Devices)), elsewhere, out, &r.view)
		if r.view.Config.Current && r.offer.withdrawn() {
			r.view.Did.Withdrawn = r.removals.withdraw(r.clock.now())
		}
		r.view.Offer = r.offer.done(&r.config, src, res.Devices, out, &r.view.Did)
		out.sooner(r.drivers.Step(ctx, src, res))
		late = slices.Concat(r.config.Problems(), r.drivers.Problems(), r.offer.problems)
	}
	if r.config.withdrawn && !was {
		out.sooner(time.Millisecond) // devices that drained may go
	}
	if err := r.files.WriteInventory(res.Devices, problem.List(found, late)); err != nil {
		out.Unsettled = true
		late = append(late, checkpoint.Unwritable(err))
	}
	return late
}

// sooner makes the next Sync come after d at the latest; 0 asks for none.
func (o *Outcome) sooner(d time.Duration) {
	if d > 0 && (o.After == 0 || d < o.After) {
		o.After = d
	}
}
