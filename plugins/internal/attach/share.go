package attach

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// sharing says how a delegate lets several pods use one device.
type sharing struct {
	kind string
	// Mode is ipvlan's or macvlan's.
	Mode string `json:"mode"`
	// VLAN is the id of vlan.
	VLAN int `json:"vlanId"`
}

func sharingOf(d nodestate.Delegation) (s sharing, err error) {
	if err := json.Unmarshal(d.Config, &s); err != nil {
		return s, fmt.Errorf("read netconf of delegate %s: %w", d.Type, err)
	}
	s.kind = d.Type
	if s.kind == "ipvlan" {
		s.Mode = cmp.Or(s.Mode, "l2") // the default of the ipvlan plugin
	}
	return s, nil
}

// conflict says why two attachments cannot share a device; "" when they can. The
// kernel keeps one mode for all ipvlan links of a device, and a new link changes it
// for the others (drivers/net/ipvlan). Only one of ipvlan and macvlan receives a
// device's packets, a macvlan in mode passthru wants them all, and each VLAN id
// exists once.
func (s sharing) conflict(o sharing) string {
	passthru := func(s sharing) bool { return s.kind == kindMacvlan && s.Mode == "passthru" }
	switch {
	case s.kind == "ipvlan" && o.kind == "ipvlan" && s.Mode != o.Mode:
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

// agree refuses to share the device with living attachments in a way that would
// disturb theirs or that the kernel refuses. Error, unless alone: errUntidy, where
// this attachment would be the one to choose ipvlan's mode, which no two may at once.
func (c *call) agree(pci device.PCIAddress, records []nodestate.Attachment, alone bool) error {
	if !c.shares() {
		return nil
	}
	mine, err := sharingOf(nodestate.Delegation{Type: c.cfg.Delegate.Type, Config: c.cfg.Delegate.Raw})
	if err != nil {
		return &refusal.Error{Code: refusal.Invalid, Msg: "delegate", Err: err}
	}
	first := mine.kind == "ipvlan"
	for _, a := range records {
		if a.Device.PCIAddress != pci || a.Mode != nodestate.ModeShared || a.State == nodestate.StateReleased || c.stale(a) {
			continue
		}
		theirs, err := sharingOf(*a.Delegate)
		if err != nil {
			return err
		}
		if why := mine.conflict(theirs); why != "" {
			return refusal.New(refusal.Unsupported, "device %s is shared with %s: %s", pci, c.who(a), why)
		}
		first = first && theirs.kind != mine.kind
	}
	if first && !alone {
		return errUntidy
	}
	return nil
}

// refuseLeased refuses to give an ENI to one pod while others have leased addresses of
// it. Pods that lease through multi-eni have records too, which the caller checks
// first. Leases found here came through other plugins that run eni-ipam. Hold the
// claim lock.
func (c *call) refuseLeased(cand candidate) error {
	if c.shares() || cand.row == nil {
		return nil
	}
	l, err := c.readLeases(c.paths.LeaseDir, cand.row.ENIID)
	if err != nil {
		return &refusal.Error{Code: refusal.TryAgain, Msg: fmt.Sprintf("device %s: the leases of its ENI cannot be read, so pods may use its addresses", cand.pci), Err: err}
	}
	for _, o := range l.Leases {
		if o.State == nodestate.LeaseHeld && o.AttachmentID != c.id && link.Probe(o.Netns) != link.Gone {
			return heldError(cand.pci, fmt.Sprintf("that pod leases %s of this ENI, but this attachment must own the ENI; "+
				"select another ENI, or use a delegate that shares", o.Address),
				c.who(nodestate.Attachment{AttachmentID: o.AttachmentID, Pod: o.Pod}))
		}
	}
	return nil
}

// notAlone refuses to share an ENI that an attachment of multi-eni has alone. The
// returned function ends the claim, which keeps others from having it alone.
func (c *call) notAlone(pci device.PCIAddress) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(c.ctx, claimWait)
	defer cancel()
	if unlock, err = c.dir.ShareDevice(ctx, pci); errors.Is(err, nodestate.ErrBusy) {
		return nil, busyDevice(pci)
	} else if err != nil {
		return nil, err
	}
	records, unread, err := c.dir.List()
	if err == nil {
		err = c.heldUnread(pci, unread)
	}
	if i := slices.IndexFunc(records, func(a nodestate.Attachment) bool {
		return a.Device.PCIAddress == pci && a.Mode.Exclusive() && a.Holds(c.bootID) && !c.stale(a)
	}); i >= 0 {
		err = c.held(records[i])
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}
