package reconcile

import (
	"context"
	"errors"
	"io/fs"
	"runtime"
	"slices"
	"sync"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

func allKnown(s inventory.Sources) bool {
	return s.Complete && s.ENIs.Known && s.Functions.Known && s.Links.Known && s.Attachments.Known
}

// collect reads every source. A source that cannot be read is unknown, with a finding.
func (r *Reconciler) collect(ctx context.Context) (inventory.Sources, []problem.Finding) {
	f := inventory.Sources{
		Now: r.clock.now().UTC().Round(0), NodeName: r.NodeName, BootID: r.BootID, Checkpoint: r.files.Checkpoint,
		Withdrawn: r.config.withdrawn && r.offer.withdrawn(),
	}
	f.Withdrawn = f.Withdrawn && !r.offer.giving(f)
	f.ChangingDriver = map[device.PCIAddress]bool{}
	for pci := range r.drivers.Jobs() {
		f.ChangingDriver[pci] = true
	}
	found := r.Services.Findings()
	snap, err := r.NodeENIs.List()
	var told interface{ Problem() nodestate.Problem }
	switch {
	case errors.As(err, &told):
		found = append(found, problem.Finding{Problem: told.Problem(), Err: err})
	case err != nil:
		found = append(found, problem.New(reason.NodeENIsUnreadable, "NodeENIs cannot be read, so none counts as removed; read the daemon's log", err))
	}
	f.UnreadNodeENIs = snap.Unread
	f.NodeENIs, f.Complete, f.Lookup = snap.Objects, snap.Complete && err == nil, snap.Lookup
	f.Elsewhere = snap.Elsewhere
	f.Entries, f.UnreadENIs = r.releases.withhold(snap), snap.UnreadENIs
	f.Freed = r.releases.freed(f.Entries)
	found = append(found, silent(snap, len(f.Checkpoint.Devices) > 0)...)
	for _, p := range snap.Problems {
		found = append(found, problem.Finding{Problem: p})
	}
	r.links.Sweep(ctx, &f)
	found = append(found, r.metadata.read(ctx, r.Metadata, r.PCI, r.Addresses, &f)...)
	f.Functions, err = readFunctions(r.PCI)
	if err == nil && len(f.Functions.Value) == 0 && r.hasPlaced() {
		f.Functions, err = inventory.Fact[map[device.PCIAddress]sysfs.PCIFunction]{}, errNoFunctions
	}
	if err != nil {
		found = append(found, problem.New(reason.SysfsUnreadable, "PCI functions cannot be read, so nothing changes; check that sysfs is mounted", err))
	}
	found = append(found, r.readLinks(&f)...)
	found = append(found, r.readRecords(&f)...)
	found = append(found, r.readLeases(&f)...)
	found = append(found, r.files.Problems()...)
	return f, append(found, r.kubelet.read(ctx, &f)...)
}

// join is inventory.Join. For a missing device it reads links and records once more: the device's
// pod may have come or gone between the two.
func (r *Reconciler) join(src *inventory.Sources) (inventory.Result, []problem.Finding) {
	res := inventory.Join(*src)
	if !res.Missing {
		return res, nil
	}
	found := append(r.readLinks(src), r.readRecords(src)...)
	return inventory.Join(*src), found
}

// errNoFunctions: a machine that had PCI functions still has its primary ENI, which cannot be unplugged.
var errNoFunctions = errors.New("sysfs lists no PCI function at all, though devices were there in this boot")

func (r *Reconciler) hasPlaced() bool {
	c := &r.files.Checkpoint
	return c.BootID == r.BootID && slices.ContainsFunc(c.Devices, func(d nodestate.CheckpointDevice) bool { return d.PCIAddress != "" })
}

// readLinks reads the host's links, also for a second time.
func (r *Reconciler) readLinks(f *inventory.Sources) []problem.Finding {
	links, err := r.Host.Links()
	if err != nil {
		f.Links = inventory.Fact[[]link.Link]{}
		return []problem.Finding{problem.New(reason.LinksUnreadable, "the host's links cannot be read, so nothing changes; read the daemon's log", err)}
	}
	f.Links = inventory.Known(links)
	if f.Lookup != inventory.LookupGuarded {
		return nil
	}
	foreign, unmarked, err := r.links.Foreign(links, f.Now)
	if err != nil {
		f.Foreign, f.Unmarked = inventory.Fact[map[int]string]{}, nil
		return []problem.Finding{problem.New(reason.RoutesUnreadable,
			"the host's rules and routes cannot be read, so no ENI is taken for ours; read the daemon's log", err)}
	}
	f.Foreign, f.Unmarked = inventory.Known(foreign), unmarked
	return nil
}

// readRecords reads the attachment records. A torn record is an intent that was lost with its
// effects, and holds nothing. A record of unknown content holds the device that it names. If it
// names none, or cannot be opened, every device counts as held.
func (r *Reconciler) readRecords(f *inventory.Sources) []problem.Finding {
	all, bad, err := r.Attachments.List()
	if err != nil {
		return []problem.Finding{problem.New(reason.RecordsUnreadable, "attachment records cannot be read, so every device counts as held; read the daemon's log",
			err)}
	}
	f.Attachments, f.Unread, f.Held = inventory.Known(all), bad, map[device.PCIAddress]bool{}
	found := r.readRestores(f)
	for _, u := range bad {
		switch {
		case u.Lost, u.Ended(r.BootID):
		case u.PCIAddress == "":
			f.Attachments = inventory.Fact[[]nodestate.Attachment]{}
		default:
			f.Held[u.PCIAddress] = true
		}
		found = append(found, problem.On(u.PCIAddress.String(), reason.RecordUnreadable, "%v; %s", u, u.Remedy()))
	}
	return found
}

// readLeases reads the leases of addresses. If an ENI's file cannot be read, all of its addresses count as leased.
func (r *Reconciler) readLeases(f *inventory.Sources) (found []problem.Finding) {
	enis, err := r.Leases.ENIs(r.BootID)
	if err != nil {
		return []problem.Finding{problem.New(reason.LeasesUnreadable, "leases of addresses cannot be read, so no address is returned; read the daemon's log", err)}
	}
	f.Leases, f.UnreadLeases = inventory.Known(make(map[device.ENIID]leases.Leases, len(enis))), map[device.ENIID]bool{}
	for _, eni := range enis {
		l, err := r.Leases.Read(r.BootID, eni)
		if err != nil {
			f.UnreadLeases[eni] = true
			found = append(found, problem.On(eni.String(), reason.LeasesUnreadable, "%v", err))
			continue
		}
		f.Leases.Value[eni] = l
	}
	return found
}

// readRestores finds the devices that the daemon has bound to a userspace driver. A corrupt record was never whole,
// so nothing was done for it. The device of another version's record counts as held.
func (r *Reconciler) readRestores(f *inventory.Sources) (found []problem.Finding) {
	unknown := func(err error) []problem.Finding {
		return append(found, problem.New(reason.RecordsUnreadable, "restore records cannot be read, so no device changes its driver; read the daemon's log", err))
	}
	waiting, err := r.Attachments.Restores()
	if err != nil {
		return unknown(err)
	}
	taken := map[device.PCIAddress]nodestate.Restore{}
	for _, pci := range waiting {
		rec, err := r.Attachments.LoadRestore(pci)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, nodestate.ErrCorrupt):
		case errors.Is(err, nodestate.ErrOtherVersion):
			f.Held[pci] = true
			found = append(found, problem.On(pci.String(), reason.RecordUnreadable,
				"%v; install that version of multi-eni again, or remove the file if the device needs nothing given back", err))
		case err != nil:
			return unknown(err)
		case rec.Driver != "" && rec.BootID == r.BootID:
			taken[pci] = rec
		}
	}
	f.Taken = inventory.Known(taken)
	return found
}

// readFunctions reads all PCI functions on all processors: each function has a dozen small files.
func readFunctions(pci PCI) (inventory.Fact[map[device.PCIAddress]sysfs.PCIFunction], error) {
	var unknown inventory.Fact[map[device.PCIAddress]sysfs.PCIFunction]
	addrs, err := pci.PCIAddresses()
	if err != nil {
		return unknown, err
	}
	functions, errs := make([]sysfs.PCIFunction, len(addrs)), make([]error, len(addrs))
	workers := runtime.GOMAXPROCS(0)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(addrs); i += workers {
				functions[i], errs[i] = pci.PCI(addrs[i])
			}
		})
	}
	wg.Wait()
	all := make(map[device.PCIAddress]sysfs.PCIFunction, len(addrs))
	for i, err := range errs {
		switch {
		case errors.Is(err, fs.ErrNotExist): // unplugged since the list was read
		case err != nil:
			return unknown, err
		default:
			all[addrs[i]] = functions[i]
		}
	}
	return inventory.Known(all), nil
}
