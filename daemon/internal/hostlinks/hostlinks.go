// Package hostlinks keeps the links of declared ENIs up, with their MTU, and without others' routes and addresses,
// while no pod owns them alone. It also reads device settings, restores links after pods, and routes by source.
package hostlinks

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/devicelock"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// lockWait bounds the wait for a device's lock. If a plugin keeps it longer, a later Sync does the rest.
const lockWait = 200 * time.Millisecond

// Host is the host's netns, as link.Handle has it.
type Host interface {
	Links() ([]link.Link, error)
	SetUp(index int) error
	SetDown(index int) error
	SetMTU(index, mtu int) error
	Clutter() (routing.Clutter, error)
	ClearRoutes(index int) (routing.Cleared, error)
	ClearAddress(index int, p netip.Prefix) error
	GiveBack(sys link.Functions, l link.Link, d nodestate.AttachedDevice) error
	// Ethtool returns the device settings of the link of that name.
	Ethtool(name string) (nodestate.Settings, error)
	// ForeignUse says of links, by index, which sign of another owner they have.
	ForeignUse() (map[int]string, error)
	EnsureSources(want []routing.Source) (changed bool, err error)
}

// Interest gets the links whose events matter, such as *events.Interest.
type Interest interface{ Set(links []link.Link) }

// Options are what Links work with. All are needed unless they say otherwise.
type Options struct {
	BootID        string
	Attachments   nodestate.AttachmentDir
	Leases        leases.Dir
	Locks         devicelock.Locker
	PCI           link.Functions
	Host          Host
	SourceRouting bool // packets from an ENI's addresses leave the host by that ENI
	// IPv6 is the folder with accept_ra of the host's links. Empty: they have no IPv6.
	IPv6 link.IPv6Conf
	// Interest gets the links whose routes and addresses matter. Nil: nobody asks.
	Interest Interest
	// Advice returns one line: how to keep the host's network manager off all ENIs but the
	// primary one, whose link has the name primary. Nil: no advice.
	Advice func(primary string) string
	Log    logrus.FieldLogger
}

// Links keeps the links. Its methods must not be called concurrently. Its times are inventory.Sources.Now's.
type Links struct {
	Options
	now time.Time // of this Sync

	targets []inventory.IdleLink          // the idle and shared links that Join found last
	cleared map[linkKey][]problem.Finding // the links that this Sync has cleared, with the findings
	busy    bool                          // a plugin had the lock of a device, so its link was not cleared
	refused map[device.ENIID]refusal      // the last failures to set accept_ra to 0, of declared ENIs

	addresses      addresses
	imposed        impositions
	unmarked       unmarked
	profiled       map[device.PCIAddress]time.Time // when the settings of a device were last read
	sourcesCleared bool                            // nothing is left of an earlier run with SourceRouting
	lasting        []problem.Finding
}

// linkKey tells a link from another one that has its index later.
type linkKey struct {
	index  int
	mac    device.MAC
	parent device.PCIAddress
}

func keyOf(l link.Link) linkKey { return linkKey{l.Index, l.MAC, l.Parent} }

// New returns Links that have seen nothing yet.
func New(o Options) *Links {
	return &Links{
		Options: o, refused: map[device.ENIID]refusal{}, addresses: addresses{}, imposed: impositions{out: o.Log, last: map[imposition]time.Time{}},
		profiled: map[device.PCIAddress]time.Time{},
	}
}

// Step brings the links to where they should be. After changes it calls again, which must read src and res anew. It
// returns the findings to retry, and the time after which to do so; 0 for any time. Others are Problems.
func (l *Links) Step(ctx context.Context, src *inventory.Sources, res *inventory.Result, again func()) (found []problem.Finding, after time.Duration) {
	l.now = src.Now
	l.follow(*res)
	// Clearing removes the default route that names the IPv6 router.
	unrouted := l.routeSources(*src, res.Devices)
	configured, found := l.configure(ctx, res.Idle)
	if configured {
		again()
		unrouted = l.routeSources(*src, res.Devices)
	}
	found = append(found, l.clearRest(ctx)...)
	if l.busy {
		after = retryBusy
	}
	l.readProfiles(ctx, res)
	l.lasting = l.hostProblems(*src, res.Devices)
	return append(found, unrouted...), after
}

// Problems are the findings of the last Step that stay until somebody changes the host.
func (l *Links) Problems() []problem.Finding { return l.lasting }

// follow makes the result's idle and shared links the targets and the links of interest.
func (l *Links) follow(res inventory.Result) {
	l.targets = slices.Concat(res.Idle, res.Shared)
	l.addresses.skip(l.targets)
	if l.Interest == nil {
		return
	}
	links := make([]link.Link, 0, len(l.targets))
	for _, t := range l.targets {
		links = append(links, t.Link)
	}
	l.Interest.Set(links)
}

// configure sets the MTU of idle links and brings them up. It says whether it has changed any.
func (l *Links) configure(ctx context.Context, idle []inventory.IdleLink) (changed bool, found []problem.Finding) {
	for _, t := range idle {
		if t.Settled() {
			continue
		}
		changed = true
		err := l.configureOne(ctx, t)
		switch {
		case err == nil, errors.Is(err, devicelock.ErrNotOurs), errors.Is(err, link.ErrNotFound), errors.Is(err, nodestate.ErrBusy):
		default:
			found = append(found, problem.About(t.Device, reason.LinkNotConfigured,
				"link %s cannot be set up with MTU %d; read the daemon's log, and correct spec.mtu or the link", t.Link.Name, t.Device.MTU).With(err))
		}
	}
	return changed, found
}

// configureOne changes one link under its device's lock, after another look: a pod may have got the link meanwhile.
func (l *Links) configureOne(ctx context.Context, t inventory.IdleLink) error {
	unlock, err := l.Locks.LockFor(ctx, lockWait, t.Device.PCIAddress)
	if err != nil {
		return err
	}
	defer unlock()
	now, err := l.current(t.Link)
	if err != nil {
		return err
	}
	if t.Device.MTU != 0 && now.MTU != t.Device.MTU {
		if err := l.Host.SetMTU(now.Index, t.Device.MTU); err != nil {
			return err
		}
	}
	if !now.Up {
		l.refuseRouters(t) // before the link asks for routers
		if err := l.Host.SetUp(now.Index); err != nil {
			return err
		}
		l.Log.WithFields(logrus.Fields{"eniID": t.Device.ENIID, "interface": now.Name, "mtu": t.Device.MTU}).Info("link brought up")
	}
	return nil
}

// current returns the link as it is now; devicelock.ErrNotOurs if it is gone or another one has its index.
func (l *Links) current(was link.Link) (link.Link, error) {
	links, err := l.Host.Links()
	if err != nil {
		return link.Link{}, err
	}
	i := slices.IndexFunc(links, func(k link.Link) bool { return k.Index == was.Index && k.MAC == was.MAC && k.Name == was.Name })
	if i < 0 {
		return link.Link{}, devicelock.ErrNotOurs
	}
	return links[i], nil
}

// SetDown sets a link down.
func (l *Links) SetDown(index int) error { return l.Host.SetDown(index) }

// Foreign returns, by index, a link's sign of another owner, or how long it has been seen without one.
func (l *Links) Foreign(links []link.Link, now time.Time) (signs map[int]string, unmarked map[int]time.Duration, err error) {
	signs, err = l.Host.ForeignUse()
	if err != nil {
		return nil, nil, err
	}
	return signs, l.unmarked.see(links, signs, now), nil
}

// unmarked is since when each link has been seen without a sign of another owner. A gap or a sign begins it anew.
type unmarked map[linkKey]time.Time

// see notes all links of the host and returns, by index, how long each has been unmarked.
func (u *unmarked) see(links []link.Link, signs map[int]string, now time.Time) map[int]time.Duration {
	since, ages := make(unmarked, len(links)), make(map[int]time.Duration, len(links))
	for _, l := range links {
		if signs[l.Index] != "" {
			continue
		}
		key := keyOf(l)
		begun, known := (*u)[key]
		if !known {
			begun = now
		}
		since[key], ages[l.Index] = begun, now.Sub(begun)
	}
	*u = since
	return ages
}
