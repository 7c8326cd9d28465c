// Package hold decides who gets a device. A device is held by one pod, or by any number of
// pods that share it, from the moment that the intent of their attachment is written.
package hold

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/addressing"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/delegation"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/giveback"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/presence"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/selection"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/steps"
)

// Holder takes devices for the pod of one call. All fields but Pod and PodUID are needed.
type Holder struct {
	// Reselect selects anew, by the inventory of this moment.
	Reselect    func() ([]selection.Candidate, error)
	Fit         *Fit
	Args        *skel.CmdArgs
	ID          nodestate.AttachmentID
	Pod, PodUID string // Pod is namespace/name; "" if unknown
	Records     nodestate.AttachmentDir
	Presence    *presence.Prober
	Plugins     *delegation.Runner
	Addresses   *addressing.IPAM
	Releaser    *giveback.Releaser
	Steps       *steps.Steps
	Log         *logrus.Entry
}

// Device is a device that this attachment holds: its record is written.
type Device struct {
	*nodestate.Record
	Row      *nodestate.Device // nil if the inventory does not list the device
	Function sysfs.PCIFunction
	Link     link.Link // zero without a netdev
	// MTU is the netconf's, else the NodeENI's, else 0, which keeps the link's.
	MTU int
	// Addresses of the ENI for the pod; nil without eni-ipam, or before a sharing pod leases any.
	Addresses *addressing.Addresses

	routed bool // the link has default routes that the node does not need
}

// errNeedsExclusive says that something must be done first under the exclusive device lock.
var errNeedsExclusive = errors.New("something is to be put right first")

// Take takes the first free candidate for the pod in ns, and writes the intent.
func (h *Holder) Take(ctx context.Context, all []selection.Candidate, ns *link.Netns) (*Device, error) {
	var refused []error
	for _, cand := range all {
		got, err := h.take(ctx, cand, ns)
		if err == nil {
			return got, nil
		}
		refused = append(refused, err)
	}
	return nil, refusal.Worst(refused)
}

// take looks without the lock first, since most devices are held for long. Pods that share a device
// take it side by side.
func (h *Holder) take(ctx context.Context, cand selection.Candidate, ns *link.Netns) (*Device, error) {
	records, unread, err := h.Records.List()
	if err != nil {
		return nil, err
	}
	for _, a := range records {
		if a.Device.PCIAddress == cand.PCI && a.State == nodestate.StateComplete && h.excludes(a) && !h.Presence.Stale(a) {
			return nil, h.held(a)
		}
	}
	if err := h.checkUnread(cand.PCI, unread); err != nil {
		return nil, err
	}
	if h.Fit.Config.Shares() {
		got, err := h.takeUnder(ctx, h.Records.ShareDevice, false, cand, ns)
		if !errors.Is(err, errNeedsExclusive) {
			return got, err
		}
	}
	return h.takeUnder(ctx, h.Records.LockDevice, true, cand, ns)
}

// takeUnder takes a device under a lock. Without the exclusive one, it returns errNeedsExclusive
// if it must clean up after dead attachments first.
func (h *Holder) takeUnder(ctx context.Context, lock func(context.Context, device.PCIAddress) (func(), error), exclusive bool,
	cand selection.Candidate, ns *link.Netns) (*Device, error) {
	waiting, cancel := context.WithTimeout(ctx, giveback.LockWait)
	defer cancel()
	unlock, err := lock(waiting, cand.PCI)
	if errors.Is(err, nodestate.ErrBusy) {
		return nil, busy(cand.PCI)
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	if cand, err = h.reselect(cand); err != nil {
		return nil, err
	}
	if err := h.evict(ctx, cand.PCI, exclusive); err != nil {
		return nil, err
	}
	got, err := h.confirm(ctx, cand, exclusive)
	if err != nil {
		return nil, err
	}
	if err := h.Fit.checkMAC(got); err != nil {
		return nil, err
	}
	if err := h.Plugins.FindAll(); err != nil {
		return nil, err
	}
	if got.routed && h.Fit.Config.Shares() {
		if !exclusive {
			return nil, errNeedsExclusive
		}
		if err := h.clearRoutes(cand, got.Link); err != nil {
			return nil, err
		}
	}
	got.Record, err = h.begin(got, cand, ns)
	return got, err
}

// reselect returns the candidate by the inventory of this moment, or a refusal: since it was selected, the daemon may have begun to drain
// the device, or have released it. The daemon takes the device lock between that and its look for the last pod. Hold the device lock.
func (h *Holder) reselect(cand selection.Candidate) (selection.Candidate, error) {
	all, err := h.Reselect()
	if err != nil {
		return cand, err
	}
	for _, now := range all {
		if now.PCI == cand.PCI && (now.Row == nil) == (cand.Row == nil) && (now.Row == nil || now.Row.ENIID == cand.Row.ENIID) {
			return now, nil
		}
	}
	return cand, refusal.New(refusal.TryAgain, "device %s was another one when it was selected: the inventory has changed since; try again", cand.PCI)
}

// checkUnread refuses a device that an unreadable record may name. It ignores files that others
// could have written, and could block any device with.
func (h *Holder) checkUnread(pci device.PCIAddress, unread nodestate.Unread) error {
	u := unread.Trusted().MayHold(h.Presence.BootID, pci)
	if u == nil {
		return nil
	}
	return refusal.New(refusal.Held, "device %s counts as held, because an attachment record that may name it cannot be read; %s: %w", pci, u.Remedy(), u)
}

func (h *Holder) held(a nodestate.Attachment) error {
	free := "it becomes free when that pod ends"
	switch {
	case a.ContainerID == h.ID.ContainerID:
		free = "two of its network attachments select the same device; select another device in one, or remove one"
	case h.restarted(a):
		free = "it becomes free when the runtime removes that sandbox"
	case !a.Mode.Exclusive():
		free = "that pod shares the device, but this attachment must own it; select another device, or use a delegate that shares"
	}
	return heldError(a.Device.PCIAddress, free, h.describe(a))
}

// restarted reports whether an attachment is of an earlier sandbox of this pod.
func (h *Holder) restarted(a nodestate.Attachment) bool {
	return a.ContainerID != h.ID.ContainerID && a.Pod != "" && a.Pod == h.Pod
}

func (h *Holder) describe(a nodestate.Attachment) string {
	switch {
	case a.ContainerID == h.ID.ContainerID:
		return fmt.Sprintf("this pod already, as interface %s", a.IfName)
	case h.restarted(a):
		return fmt.Sprintf("this pod's earlier sandbox (container %s, interface %s)", a.ContainerID, a.IfName)
	}
	return presence.Describe(a)
}

// excludes reports whether an attachment and this call's cannot share a device.
func (h *Holder) excludes(a nodestate.Attachment) bool {
	return a.State != nodestate.StateReleased && (a.Mode.Exclusive() || !h.Fit.Config.Shares())
}

// evict releases every dead attachment of the device that excludes this call's, and refuses if a
// live one does. Hold the device lock; errNeedsExclusive if it is not exclusive.
func (h *Holder) evict(ctx context.Context, pci device.PCIAddress, exclusive bool) error {
	records, unread, err := h.Records.List()
	if err != nil {
		return err
	}
	if err := h.checkUnread(pci, unread); err != nil {
		return err
	}
	if err := h.agree(pci, records, exclusive); err != nil {
		return err
	}
	for _, a := range records {
		if a.Device.PCIAddress != pci || !h.excludes(a) {
			continue
		}
		if !h.Presence.Stale(a) && a.State == nodestate.StateComplete {
			return h.held(a)
		}
		if !exclusive {
			return errNeedsExclusive
		}
		if err := h.evictOne(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func (h *Holder) evictOne(ctx context.Context, a nodestate.Attachment) error {
	now, cancel := context.WithCancel(ctx)
	cancel() // do not wait: the holder of the record may be waiting for our device lock
	r, err := h.Records.Lock(now, a.AttachmentID)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, nodestate.ErrBusy): // its ADD or DEL is running
		return h.held(a)
	case err != nil:
		return err
	}
	defer r.Close()
	if r.State == nodestate.StateComplete && !h.Presence.Stale(r.Attachment) {
		return h.held(r.Attachment) // completed between the two looks
	}
	h.Log.WithField("record", r.AttachmentID.String()).WithField("device", r.Device.PCIAddress).
		Warn("releasing the device from an attachment that died without DEL")
	if err := h.Releaser.Release(ctx, r, giveback.LockHeld); err != nil && r.State != nodestate.StateReleased {
		return fmt.Errorf("release the dead attachment %s: %w", r.AttachmentID, err)
	}
	return nil
}

// confirm compares a candidate with sysfs and the kernel. Hold the device lock;
// errNeedsExclusive if it is not exclusive.
func (h *Holder) confirm(ctx context.Context, cand selection.Candidate, exclusive bool) (*Device, error) {
	fn, err := h.Fit.function(cand.PCI)
	if err != nil {
		return nil, err
	}
	if err := h.checkLeased(ctx, cand); err != nil {
		return nil, err
	}
	got := &Device{Row: cand.Row, Function: fn, MTU: h.Fit.Config.MTU}
	if got.MTU == 0 && cand.Row != nil {
		got.MTU = cand.Row.MTU
	}
	if got.Addresses, err = h.pick(ctx, cand); err != nil {
		return nil, err
	}
	if fn.UserspaceDriver() {
		return got, h.Fit.checkUserspace(cand.PCI, fn)
	}
	if got.Link, err = h.confirmLink(cand, fn, exclusive); err != nil {
		return nil, err
	}
	if err := h.Fit.checkDelegate(cand.PCI, fn); err != nil {
		return nil, err
	}
	got.routed, err = h.Fit.routed(cand, got.Link)
	return got, err
}

// pick picks the addresses of a pod that owns the ENI; nil for others, and without eni-ipam.
func (h *Holder) pick(ctx context.Context, cand selection.Candidate) (*addressing.Addresses, error) {
	switch {
	case h.Fit.Config.ENIIPAM == nil:
		return nil, nil
	case cand.Row == nil:
		return nil, addressing.UnknownDevice(cand.PCI)
	case h.Fit.Config.Shares():
		return nil, nil
	}
	return h.Addresses.Pick(ctx, *cand.Row)
}

// confirmLink finds the candidate's link in the host, and restores settings that a dying netns has
// left behind: errNeedsExclusive without the exclusive lock.
func (h *Holder) confirmLink(cand selection.Candidate, fn sysfs.PCIFunction, exclusive bool) (link.Link, error) {
	d := attached(cand, fn)
	l, err := h.Fit.Host.FindDevice(h.Fit.Sys, fn, d)
	switch {
	case errors.Is(err, link.ErrOtherDevice):
		return l, refusal.New(refusal.OtherDevice, "device %s does not match the inventory; multi-enid updates it, so try again: %w", cand.PCI, err)
	case errors.Is(err, link.ErrNotFound):
		return l, refusal.New(refusal.OtherDevice, "device %s has no interface in the host (driver %q); "+
			"bind its kernel driver, or bring back the interface that something else moved", cand.PCI, fn.Driver)
	case err != nil:
		return l, err
	}
	if !exclusive {
		if _, err := h.Records.LoadRestore(cand.PCI); !errors.Is(err, fs.ErrNotExist) {
			return l, errNeedsExclusive
		}
		return l, nil
	}
	restored, err := h.Fit.Host.RestorePending(h.Records, h.Fit.Sys, cand.PCI, l)
	if errors.Is(err, nodestate.ErrOtherVersion) {
		return l, refusal.New(refusal.Held, "device %s counts as held, because another version of multi-eni wrote its restore record; "+
			"install that version again, or remove the file if the device needs nothing restored: %w", cand.PCI, err)
	}
	if errors.Is(err, link.ErrUnfit) {
		return l, refusal.New(refusal.TryAgain, "device %s (%s) keeps settings of an earlier pod that cannot be removed yet; "+
			"each ADD and the daemon try again; if it lasts, detach and attach the ENI: %w", cand.PCI, l.Name, err)
	}
	if err != nil || !restored {
		return l, err
	}
	return h.Presence.FindDevice(d)
}

func busy(pci device.PCIAddress) error {
	return refusal.New(refusal.TryAgain, "device %s has been locked by other ADDs or DELs for more than %s; try again", pci, giveback.LockWait)
}

func heldError(pci device.PCIAddress, free, holder string) error {
	return refusal.New(refusal.Held, "device %s is held by %s; %s", pci, holder, free)
}
