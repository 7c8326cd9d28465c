// Package reconcile decides when the daemon acts, and in which order: one key
// (this node), one queue, one Sync. How to read, to decide and to write is the
// business of the packages it calls.
//
// Sync is level-triggered: it looks at everything, assumes nothing of the Sync
// before it but the checkpoint, and does nothing where nothing is to be done.
// The order of its effects is what a crash at any point can be recovered from:
//
//  1. checkpoint: ENI, MAC and PCI address, before a pod may take the link away
//  2. inventory: a draining device is refused to new pods first
//  3. device plugin config, whose new entries are claimed in the checkpoint
//  4. device plugin restart, when due
//  5. checkpoint: what of the config is ours, and what the device plugin serves
//  6. drivers: of devices that are in no config and that nobody has
package reconcile

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/events"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// NodeENIs is where the declarations come from; an error means that nothing is
// known of them.
type NodeENIs interface {
	List() (inventory.Snapshot, error)
}

// Metadata is the instance's own list of ENIs (IMDS); an error means that it is
// not known.
type Metadata interface {
	ENIs(ctx context.Context) ([]vpc.ENI, error)
}

// PCI is sysfs; fs.ErrNotExist of the second means that the function is gone.
type PCI interface {
	PCIAddresses() ([]device.PCIAddress, error)
	PCI(addr device.PCIAddress) (sysfs.PCIFunction, error)
}

// Host is the host's netns. Its verbs are those of link.Handle.
type Host interface {
	Links() ([]link.Link, error)
	SetUp(index int) error
	SetDown(index int) error
	SetMTU(index, mtu int) error
	Clutter() (routing.Clutter, error)
	ClearRoutes(index int) (routing.Cleared, error)
	ClearAddress(index int, p netip.Prefix) error
	GiveBack(sys link.Functions, l link.Link, d nodestate.AttachedDevice) error
	// Ethtool are the device settings of the link of that name.
	Ethtool(name string) (nodestate.Settings, error)
	// ForeignUse says of links, by index, why they look like somebody else's.
	ForeignUse() (map[int]string, error)
	EnsureSources(want []routing.Source) (changed bool, err error)
}

// Orphans releases the attachments of pods that died without DEL. Sweep must not
// block; again is after how long time alone may make a difference, 0 for never.
type Orphans interface {
	Sweep(ctx context.Context, records []nodestate.Attachment) (found []nodestate.Problem, again time.Duration)
}

// Addresses has EC2 assign addresses and take them back, in the background.
type Addresses interface {
	// Correct returns the metadata's ENIs with what EC2 knows better.
	Correct(enis []vpc.ENI) []vpc.ENI
	// Problems are those that it has, sorted.
	Problems() []nodestate.Problem
}

// Options are what a Reconciler works with. All are needed but those that say
// what their absence means.
type Options struct {
	NodeName string
	// RenamedFrom is a name that the node had before; "" for none.
	RenamedFrom string
	// Instance returns the id of this EC2 instance, "" while it is not known. Nil: it
	// never is.
	Instance func() string
	// BootID is this boot's.
	BootID        string
	InventoryPath string
	StateDir      string
	Attachments   nodestate.AttachmentDir
	Leases        leases.Dir

	NodeENIs NodeENIs
	Metadata Metadata
	PCI      PCI
	Host     Host
	Config   *pcidp.File
	// ConfigSeen tells which file is at the config's path, without its Hash; nil
	// stands for the file system's own answer.
	ConfigSeen func(path string) nodestate.SeenConfig
	Drivers    Drivers
	// DevicePlugin is nil where somebody else restarts it: then the log says when
	// that is due.
	DevicePlugin pluginrestart.DevicePlugin
	// Kubelet is nil where there is none.
	Kubelet Kubelet
	// Orphans is nil where nothing is released.
	Orphans Orphans
	// Addresses is nil where nobody asks EC2.
	Addresses Addresses
	// Services are optional services of this daemon. Nil: none reports.
	Services *problem.Services
	// SourceRouting: what comes from an ENI's addresses leaves the host by that ENI.
	SourceRouting bool
	// IPv6 is the folder with accept_ra of the host's links. Empty: they have no IPv6.
	IPv6 link.IPv6Conf
	// Interest gets the links whose routes and addresses matter. Nil: nobody asks.
	Interest *events.Interest
	// Advice returns one line: how to keep the host's network manager off all ENIs but the
	// primary one. primary is the name of that one's link. Nil: no advice.
	Advice func(primary string) string

	// Wake has Sync called again; it is called from other goroutines.
	Wake func()
	// Observe gets the View of each Sync, and must not block. Nil: nobody looks.
	Observe func(view.View)
	// Jitter is added to the time after which a changed config counts as settled.
	Jitter time.Duration

	Now func() time.Time
	// Uptime is nodestate.Uptime. Nil: Now is never set.
	Uptime func() (time.Duration, error)
	Log    logrus.FieldLogger
}

// Reconciler keeps this node as its NodeENIs say. Its methods must not be
// called concurrently.
type Reconciler struct {
	Options
	// checkpoint and inventory are what the files hold, as far as we have
	// written or read them.
	checkpoint nodestate.Checkpoint
	inventory  nodestate.Inventory
	// otherCheckpoint is the file of another version that is still in the checkpoint's
	// place; nil without one.
	otherCheckpoint *nodestate.VersionError

	// sourcesCleared: what an earlier run has left of source-based routing is gone.
	sourcesCleared bool

	lastSteady time.Time
	unmarked   unmarked
	metadata   metadataCache
	plugin     *pluginrestart.Restarter
	driving    driving
	clearing   clearing
	kubelet    kubeletAnswer
	log        *logbook
	// checkpointFile and inventoryFile are the files as we last wrote or read
	// them. Others may remove or replace them.
	checkpointFile, inventoryFile fileMark
	// withdrawn: the config without any draining device is the one served.
	withdrawn bool
	// late are the findings of the steps after the inventory was written, and
	// lateConfig those of them that are about the config.
	late, lateConfig []problem.Finding
	// view is what this Sync has found and done so far.
	view view.View
	// profiled are when the settings of idle devices were last read.
	profiled map[device.PCIAddress]time.Time
	// removals are when advertised devices were first seen to be no longer
	// declared, until the config is without them.
	removals map[device.ENIID]time.Time
}

// Outcome says when to call Sync again though nothing happens.
type Outcome struct {
	// Unsettled: something is on its way, or could not be read or written.
	Unsettled bool
	// After is when time alone makes a difference; 0 for never.
	After time.Duration
}

// New returns a Reconciler that goes on where the files say the last one was. A corrupt
// checkpoint counts as none, as does an inventory that cannot be read: see remember. The
// error is *OtherNodeError where the files are of a node of another name.
func New(o Options) (*Reconciler, error) {
	path := nodestate.CheckpointPath(o.StateDir)
	book := &logbook{out: o.Log}
	r := &Reconciler{
		Options: o, log: book, checkpointFile: markOf(path), inventoryFile: markOf(o.InventoryPath),
		removals: map[device.ENIID]time.Time{}, profiled: map[device.PCIAddress]time.Time{},
		driving: driving{jobs: map[device.PCIAddress]*drivingJob{}, failed: map[device.PCIAddress]drivingFailure{}, busy: map[device.PCIAddress]time.Time{}},
	}
	var err error
	r.plugin = pluginrestart.New(pluginrestart.Options{
		Plugin: o.DevicePlugin, Stat: o.ConfigSeen, Jitter: o.Jitter, Wake: o.Wake, Log: o.Log,
		Commit: func() { r.save(r.plugin.Record) }, //nolint:errcheck,gosec // the Sync saves the same at its end, and reports errors
	})
	if r.inventory, err = nodestate.ReadInventory(o.InventoryPath); err != nil {
		r.inventory = nodestate.Inventory{} // it is written anew
	}
	if err := r.loadCheckpoint(path); err != nil {
		return nil, err
	}
	r.plugin.Resume(r.checkpoint)
	r.forgetOthers()
	if err := r.checkName(); err != nil {
		return nil, err
	}
	r.log.phases = phasesOf(r.checkpoint.Devices)
	return r, nil
}

// Nudge says that there is news of the device plugin, or of whether it can be
// asked after: it is looked for at once. It is safe for concurrent use.
func (r *Reconciler) Nudge() { r.plugin.Nudge() }

// Sync looks at the node once and brings it where it should be, as far as that
// is possible now. What fails is logged when it begins and when it ends, shows
// in the inventory's problems, and is tried again by the next Sync.
func (r *Reconciler) Sync(ctx context.Context) Outcome {
	begun := r.steady()
	r.view = view.View{Config: view.ConfigView{Path: r.Config.Path, Hash: r.view.Config.Hash}}
	r.forgetOthers() // the metadata may have told the instance only now
	r.kubelet.forget(begun)
	r.takeDriven(begun) // before anything is read: it shows what they have come to
	src, found := r.collect(ctx)
	if ctx.Err() != nil {
		return Outcome{} // told to stop: what was read may be half of it
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
	restored, unrestored := r.restoreLinks(ctx, &src)
	found = append(found, unrestored...)
	if restored {
		found = append(found, r.readLinks(&src)...)
	}
	res, unread := r.join(&src)
	found = append(found, unread...)
	r.attend(res) // before anything of the links' routes is read
	// The IPv6 router is known by a default route that clearLinks removes.
	unrouted := r.routeSources(src, res.Devices)
	configured, linkFindings := r.configureLinks(ctx, res.Idle)
	if configured {
		found = append(found, r.readLinks(&src)...)
		res, unread = r.join(&src)
		found = append(found, unread...)
		unrouted = r.routeSources(src, res.Devices)
	}
	linkFindings = append(linkFindings, r.clearLinks(ctx, &out)...)
	r.readProfiles(ctx, &res)
	linkFindings = append(linkFindings, unrouted...)
	found = problem.Append(slices.Concat(found, linkFindings, r.lasting(src, res.Devices)), res.Problems)
	r.noteRemovals(src, res)
	out.Unsettled = res.Unsettled || len(linkFindings)+len(unrestored) > 0 || !allKnown(src) || r.metadata.pending != nil
	if !res.LookAgain.IsZero() {
		out.sooner(max(res.LookAgain.Sub(src.Now), time.Second))
	}
	if src.Kubelet != nil && hasDraining(res.Devices) {
		out.sooner(holderPoll)
	}
	late := r.publish(ctx, src, res, found, &out)
	out.sooner(r.metadata.follow(res.Devices, src.Now))
	r.log.devices(res.Devices)
	r.view.Did.Began, r.view.Did.Over = r.log.findings(append(found, late...))
	r.observe(begun, src)
	return out
}

// holderPoll is how often the kubelet is asked, while devices drain, whether a
// pod still has them: it tells nobody when that ends.
const holderPoll = time.Second

func hasDraining(devices []nodestate.Device) bool {
	return slices.ContainsFunc(devices, func(d nodestate.Device) bool { return d.Phase == nodestate.PhaseDraining })
}

// publish writes what Join found, in the order that the package comment gives.
func (r *Reconciler) publish(ctx context.Context, src inventory.Sources, res inventory.Result, found []problem.Finding, out *Outcome) []problem.Finding {
	r.plugin.AwaitDevices(r.Now(), r.checkpoint.BootID != r.BootID, r.checkpoint.Devices, res.Devices) // by the clock of its Step
	was := r.withdrawn
	r.withdrawn = false // until the config is known to be without what drains now
	err := r.save(func(c *nodestate.Checkpoint) {
		r.sign(c)
		c.Devices = res.Checkpoint
		r.plugin.Record(c)
	})
	if err == nil {
		err = r.writeInventory(res.Devices, problem.List(found, r.late))
	}
	if err != nil {
		out.Unsettled = true
		late := append(slices.Clone(r.late), unwritable(err))
		if r.inventory.BootID == r.BootID { // the rows stay as they were; that they do must be seen
			r.writeInventory(r.inventory.Devices, problem.List(found, late)) //nolint:errcheck,gosec // it is tried for the sake of the error above
		}
		return late
	}
	late := r.late
	if src.Functions.Known && src.Links.Known { // the config is about PCI functions
		r.lateConfig = r.applyConfig(ctx, src, res.Devices, out)
		late = slices.Concat(r.lateConfig, r.drive(ctx, src, res, out))
	}
	if r.withdrawn && !was {
		out.sooner(time.Millisecond) // what was draining may go
	}
	if err := r.writeInventory(res.Devices, problem.List(found, late)); err != nil {
		out.Unsettled = true
		late = append(late, unwritable(err))
	}
	r.late = late
	return late
}

// sooner makes the next Sync come no later than after d; 0 asks for none.
func (o *Outcome) sooner(d time.Duration) {
	if d > 0 && (o.After == 0 || d < o.After) {
		o.After = d
	}
}
