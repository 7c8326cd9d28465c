package hold

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/giveback"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/selection"
)

const (
	kindMacvlan = "macvlan"
	kindIPVlan  = "ipvlan"
)

type sharing struct {
	kind string
	Mode string `json:"mode"` // of ipvlan or macvlan
	VLAN int    `json:"vlanId"`
}

func sharingOf(d nodestate.Delegation) (s sharing, err error) {
	if err := json.Unmarshal(d.Config, &s); err != nil {
		return s, fmt.Errorf("read netconf of delegate %s: %w", d.Type, err)
	}
	s.kind = d.Type
	if s.kind == kindIPVlan {
		s.Mode = cmp.Or(s.Mode, "l2") // the default of the ipvlan plugin
	}
	return s, nil
}

// conflict returns why two attachments cannot share a device; "" if they can. A new ipvlan link
// changes the mode of all others (drivers/net/ipvlan), only one of ipvlan and macvlan receives
// a device's packets, a macvlan in mode passthru receives all, and each VLAN id exists once.
func (s sharing) conflict(o sharing) string {
	passthru := func(s sharing) bool { return s.kind == kindMacvlan && s.Mode == "passthru" }
	switch {
	case s.kind == kindIPVlan && o.kind == kindIPVlan && s.Mode != o.Mode:
		return fmt.Sprintf("all ipvlan pods of a device share one mode, now %s; use %[1]s instead of %s, or another device", o.Mode, s.Mode)
	case s.kind == "vlan" && o.kind == "vlan" && s.VLAN == o.VLAN:
		return fmt.Sprintf("that pod already uses VLAN %d; use another vlanId, or another device", o.VLAN)
	case s.kind == "vlan" || o.kind == "vlan":
		return ""
	case s.kind != o.kind:
		return fmt.Sprintf("a device can serve %s or %s, not both; use %[2]s, or another device", s.kind, o.kind)
	case passthru(s) || passthru(o):
		return "macvlan in mode passthru needs the device alone; use another mode, or another device"
	}
	return ""
}

// agree refuses to share the device if that would disturb live attachments, or if the kernel would
// refuse it. The first attachment chooses ipvlan's mode, under the exclusive lock:
// errNeedsExclusive without it.
func (h *Holder) agree(pci device.PCIAddress, records []nodestate.Attachment, exclusive bool) error {
	if !h.Fit.Config.Shares() {
		return nil
	}
	mine, err := sharingOf(nodestate.Delegation{Type: h.Fit.Config.Delegate.Type, Config: h.Fit.Config.Delegate.Raw})
	if err != nil {
		return refusal.New(refusal.Invalid, "delegate: %w", err)
	}
	first := mine.kind == kindIPVlan
	for _, a := range records {
		if a.Device.PCIAddress != pci || a.Mode != nodestate.ModeShared || a.State == nodestate.StateReleased || h.Presence.Stale(a) {
			continue
		}
		theirs, err := sharingOf(*a.Delegate)
		if err != nil {
			return err
		}
		if why := mine.conflict(theirs); why != "" {
			return refusal.New(refusal.Unsupported, "device %s is shared with %s: %s", pci, h.describe(a), why)
		}
		first = first && theirs.kind != mine.kind
	}
	if first && !exclusive {
		return errNeedsExclusive
	}
	return nil
}

// checkLeased refuses to give an ENI to one pod while others lease its addresses through other
// plugins than multi-eni, without a record. Hold the device lock.
func (h *Holder) checkLeased(ctx context.Context, cand selection.Candidate) error {
	if h.Fit.Config.Shares() || cand.Row == nil {
		return nil
	}
	o, err := h.Addresses.Leases.Holder(ctx, cand.Row.ENIID)
	if err != nil {
		return refusal.New(refusal.TryAgain, "device %s: the leases of its ENI cannot be read, so pods may use its addresses: %w", cand.PCI, err)
	}
	if o == nil {
		return nil
	}
	return heldError(cand.PCI, fmt.Sprintf("that pod leases %s of this ENI, but this attachment must own the ENI; "+
		"select another ENI, or use a delegate that shares", o.Address),
		h.describe(nodestate.Attachment{AttachmentID: o.AttachmentID, Pod: o.Pod}))
}

// Share takes the shared device lock, which keeps others from owning the device. It refuses if an
// attachment owns it. Call unlock once the lease is written.
func (h *Holder) Share(ctx context.Context, pci device.PCIAddress) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, giveback.LockWait)
	defer cancel()
	if unlock, err = h.Records.ShareDevice(ctx, pci); errors.Is(err, nodestate.ErrBusy) {
		return nil, busy(pci)
	} else if err != nil {
		return nil, err
	}
	records, unread, err := h.Records.List()
	if err == nil {
		err = h.checkUnread(pci, unread)
	}
	if i := slices.IndexFunc(records, func(a nodestate.Attachment) bool {
		return a.Device.PCIAddress == pci && a.Mode.Exclusive() && a.Holds(h.Presence.BootID) && !h.Presence.Stale(a)
	}); i >= 0 {
		err = h.held(records[i])
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}
