package addressing

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/lease"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// lockWait bounds the wait for other verbs that hold the lease lock of an ENI.
const lockWait = 20 * time.Second

// Leases are the leases in one folder, for one call. All fields are needed.
type Leases struct {
	Dir string
	// Records has the attachment records, from which unreadable leases are rebuilt.
	Records nodestate.AttachmentDir
	BootID  string
	ID      nodestate.AttachmentID // the call's own
	Log     *logrus.Entry
}

// In returns the leases in another folder.
func (s Leases) In(dir string) Leases {
	s.Dir = dir
	return s
}

// Read returns an ENI's leases. It waits for their lock only to rebuild them.
func (s Leases) Read(ctx context.Context, eni device.ENIID) (leases.Leases, error) {
	l, err := leases.Dir(s.Dir).Read(s.BootID, eni)
	if leases.Unreadable(err) {
		err = s.locked(ctx, eni, func(rebuilt *leases.Locked) error { l = rebuilt.Leases; return nil })
	}
	return l, err
}

func (s Leases) locked(ctx context.Context, eni device.ENIID, f func(*leases.Locked) error) error {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	l, err := leases.Dir(s.Dir).Lock(ctx, s.BootID, eni)
	if leases.Unreadable(err) {
		s.Log.WithError(err).Warn("rebuilding the leases from the attachment records")
		l, err = leases.Dir(s.Dir).Rebuild(ctx, s.BootID, eni, func() ([]leases.Lease, error) { return s.recorded(eni) })
	}
	if errors.Is(err, nodestate.ErrOtherVersion) {
		return refusal.New(refusal.Held, "every address of ENI %s counts as leased, because its lease file cannot be read; "+
			"install the multi-eni version that wrote it: %w", eni, err)
	}
	if errors.Is(err, nodestate.ErrBusy) {
		return refusal.New(refusal.TryAgain, "the leases of ENI %s have been locked by other ADDs or DELs for more than %s; try again", eni, lockWait)
	}
	if err != nil {
		return err
	}
	defer l.Close()
	return f(l)
}

// recorded returns the leases of an ENI that the attachment records imply.
func (s Leases) recorded(eni device.ENIID) (all []leases.Lease, err error) {
	records, bad, err := s.Records.List()
	if err == nil {
		err = s.Records.OfOthers(bad, s.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("rebuild the leases of ENI %s: %w", eni, err)
	}
	for _, a := range records {
		if a.Leases != s.Dir || a.Device.ENIID != eni || !a.Holds(s.BootID) {
			continue
		}
		addresses, err := leased(a)
		if err != nil {
			return nil, fmt.Errorf("rebuild the leases of ENI %s: record of %s: %w", eni, a.AttachmentID, err)
		}
		for _, addr := range addresses {
			all = append(all, leases.Lease{
				Address: addr, State: leases.Held, AttachmentID: a.AttachmentID, Network: a.Network, Pod: a.Pod, Netns: a.Netns, CoolDown: lease.DefaultCoolDown,
			})
		}
	}
	return all, nil
}

// leased returns an attachment's leased addresses. Earlier versions wrote them only into the
// result.
func leased(a nodestate.Attachment) ([]netip.Addr, error) {
	if a.LeasedAddresses != nil || a.Result == nil {
		return a.LeasedAddresses, nil
	}
	result, err := cniresult.Recorded(a)
	if err != nil {
		return nil, err
	}
	prefixes, err := cniresult.Addresses(result)
	var out []netip.Addr
	for _, p := range prefixes {
		out = append(out, p.Addr())
	}
	return out, err
}

// change edits an ENI's leases. It locks them only if edit changes a copy, since most DELs and
// GCs change nothing. Edit reports whether it changed any.
func (s Leases) change(ctx context.Context, eni device.ENIID, edit func(*leases.Leases, time.Duration) bool) error {
	edited := func(l *leases.Leases) (bool, error) {
		now, err := nodestate.Uptime()
		return err == nil && edit(l, now), err
	}
	l, err := leases.Dir(s.Dir).Read(s.BootID, eni)
	switch {
	case errors.Is(err, nodestate.ErrOtherVersion): // that version frees leases of a netns that is gone
		s.Log.WithError(err).Warn("leaving the leases of this ENI, which stay taken")
		return nil
	case leases.Unreadable(err):
	case err != nil:
		return err
	default:
		if changed, err := edited(&l); err != nil || !changed {
			return err
		}
	}
	err = s.locked(ctx, eni, func(l *leases.Locked) error {
		if changed, err := edited(&l.Leases); err != nil || !changed {
			return err
		}
		return l.Save()
	})
	if leases.Unreadable(err) { // of an attachment record, so the leases could not be rebuilt
		s.Log.WithError(err).Warn("leaving the leases to the next ADD, which rebuilds them from the attachment records that are left")
		return nil
	}
	return err
}

// GiveBack ends the leases of an attachment in one ENI. Unused addresses, of an ADD that failed
// before any process could use them, need no cool-down.
func (s Leases) GiveBack(ctx context.Context, eni device.ENIID, id nodestate.AttachmentID, unused bool) error {
	return s.change(ctx, eni, func(l *leases.Leases, now time.Duration) bool {
		if unused {
			return lease.Drop(l, id)
		}
		return lease.Give(l, id, now)
	})
}

// GiveBackAll ends the leases of the call's attachment in every ENI: for a DEL without a record.
func (s Leases) GiveBackAll(ctx context.Context) error {
	enis, err := leases.Dir(s.Dir).ENIs(s.BootID)
	errs := []error{err}
	for _, eni := range enis {
		errs = append(errs, s.GiveBack(ctx, eni, s.ID, false))
	}
	return errors.Join(errs...)
}

// Collect ends a network's leases without a record that are not of valid attachments. If valid,
// which is GC's list, is nil, it ends leases whose netns is gone.
func (s Leases) Collect(ctx context.Context, network string, valid []nodestate.AttachmentID) error {
	records, unread, err := s.Records.List()
	if err != nil {
		return err
	}
	keep := func(l *leases.Lease) bool {
		if unread.MayBe(l.AttachmentID) || slices.ContainsFunc(records, func(a nodestate.Attachment) bool { return a.AttachmentID == l.AttachmentID }) {
			return true
		}
		if valid == nil {
			return !gone(l.Netns)
		}
		return slices.Contains(valid, l.AttachmentID)
	}
	enis, err := leases.Dir(s.Dir).ENIs(s.BootID)
	errs := []error{err}
	for _, eni := range enis {
		errs = append(errs, s.change(ctx, eni, func(l *leases.Leases, now time.Duration) bool {
			return lease.Collect(l, network, now, keep)
		}))
	}
	return errors.Join(errs...)
}

// Check returns an error unless the addresses of a recorded result are still leased.
func (s Leases) Check(ctx context.Context, a nodestate.Attachment) error {
	result, err := cniresult.Recorded(a)
	if err != nil {
		return err
	}
	want, err := cniresult.Addresses(result)
	if err != nil {
		return err
	}
	l, err := s.Read(ctx, a.Device.ENIID)
	if err != nil {
		return err
	}
	for _, p := range want {
		if i, found := l.Find(p.Addr()); !found || !l.Leases[i].HeldBy(a.AttachmentID) {
			return refusal.New(refusal.OtherDevice, "address %s is no longer leased to container %s, interface %s; run DEL, then ADD", p.Addr(), a.ContainerID, a.IfName)
		}
	}
	return nil
}

// CheckAny returns an error if the call's attachment leases no address of an ENI.
func (s Leases) CheckAny(ctx context.Context, eni device.ENIID) error {
	l, err := s.Read(ctx, eni)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(l.Leases, func(lease leases.Lease) bool { return lease.HeldBy(s.ID) }) {
		return refusal.New(refusal.UnknownRecord, "container %s, interface %s has no address of ENI %s; run ADD", s.ID.ContainerID, s.ID.IfName, eni)
	}
	return nil
}

// Holder returns a lease that another live pod than the call's holds; nil for none.
func (s Leases) Holder(ctx context.Context, eni device.ENIID) (*leases.Lease, error) {
	l, err := s.Read(ctx, eni)
	if err != nil {
		return nil, err
	}
	for _, o := range l.Leases {
		if o.State == leases.Held && o.AttachmentID != s.ID && !gone(o.Netns) {
			return &o, nil
		}
	}
	return nil, nil
}
