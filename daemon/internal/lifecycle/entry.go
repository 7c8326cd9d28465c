package lifecycle

import (
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// Restore returns the memory that an entry holds.
func Restore(e v1alpha1.AttachmentEntry, now time.Time) Memory {
	m := Memory{
		Attempt: e.Attempt, Request: e.Request, ENI: e.ENIID, AttachmentID: e.AttachmentID, Phase: Phase(e.Phase), Reason: e.Reason, Message: e.Message,
		Found: e.Found, settled: now.Add(overlay),
	}
	if m.Phase == External {
		m.ENI, m.AttachmentID = "", "" // somebody else's
	}
	if m.ENI != "" {
		m.createdAt = now // or earlier
	}
	if e.Wanted == v1alpha1.WantedReleased {
		m.drainingSince = now
	}
	return m
}

// Entry returns the entry of spec.attachments for a slot. Old is the present one, or empty: its description of the ENI stays where nothing newer is known.
func Entry(old v1alpha1.AttachmentEntry, s slots.Slot, o Observed, m Memory) v1alpha1.AttachmentEntry {
	e := v1alpha1.AttachmentEntry{
		Slot: string(s.ID), NodeENI: v1alpha1.NodeENIReference{Name: s.NodeENI.Name, UID: s.NodeENI.UID, Generation: s.NodeENI.Generation},
		InstanceID: s.Instance, SubnetID: s.Subnet, SubnetCIDR: s.SubnetCIDR, ENIID: m.ENI, AttachmentID: m.AttachmentID, NetworkCard: s.Card, DeviceIndex: s.Index,
		MTU: s.Options.MTU, EnableDPDK: s.Options.EnableDPDK, DPDKDriver: s.Options.DPDKDriver, DPDKPCIAddress: s.Options.DPDKPCIAddress,
		ResourceName: s.Options.DPDKResourceName, AllowedNamespaces: s.Options.AllowedNamespaces, Wanted: v1alpha1.WantedReleased,
		Attempt: m.Attempt, Request: m.Request, Phase: string(m.Phase), Reason: m.Reason, Message: m.Message, Found: m.Found,
	}
	// An ENI that is being released stays so, even if it is wanted again, until Next has seen that it is not being detached: no pod is to get it.
	if o.Wanted && (!releasing(m.Phase) || old.Wanted != v1alpha1.WantedReleased || old.ENIID != m.ENI) {
		e.Wanted = v1alpha1.WantedAttached
	}
	if e.Release = old.Release; e.Wanted == v1alpha1.WantedReleased && (old.Wanted != e.Wanted || e.Release == 0) {
		e.Release++
	}
	if e.ENIID == "" && m.Phase == External && o.External != nil {
		describe(&e, *o.External)
		e.ENIID = o.External.ID
		return e
	}
	if e.ENIID == "" && o.Wanted && o.PlannedAt.IsZero() && old.Phase == string(External) {
		// Without a plan nobody knows whether somebody else's ENI is still there.
		e.Phase, e.Reason, e.Message, e.ENIID, e.AttachmentID = old.Phase, old.Reason, old.Message, old.ENIID, old.AttachmentID
		e.NetworkCard, e.DeviceIndex, e.MAC, e.Addresses, e.Prefixes = old.NetworkCard, old.DeviceIndex, old.MAC, old.Addresses, old.Prefixes
		return e
	}
	if e.ENIID == "" {
		return e
	}
	if old.ENIID == e.ENIID {
		e.MAC, e.Addresses, e.Prefixes = old.MAC, old.Addresses, old.Prefixes
	}
	if m.own != nil && m.own.created != nil && m.own.created.ID == m.ENI {
		describe(&e, *m.own.created)
	}
	for _, i := range o.Interfaces {
		if i.ID == m.ENI && i.Unreadable == nil {
			describe(&e, i)
		}
	}
	return e
}

// Number returns the number of an entry's wish to release, next to the entry that is stored: where another leader has taken back the wish with
// this number, it is a new one.
func Number(e, stored v1alpha1.AttachmentEntry) int {
	if e.Wanted == v1alpha1.WantedReleased && stored.Wanted != v1alpha1.WantedReleased {
		return max(e.Release, stored.Release+1)
	}
	return max(e.Release, stored.Release)
}

// Answered reports whether a status has the daemon's answer to an entry's wish. The entry must be stored with the same wish.
func Answered(e, stored v1alpha1.AttachmentEntry, released []v1alpha1.ReleasedENI) bool {
	return e.Wanted == v1alpha1.WantedReleased && stored.Wanted == v1alpha1.WantedReleased && e.Release == stored.Release && e.Release > 0 && e.ENIID != "" &&
		slices.Contains(released, v1alpha1.ReleasedENI{Slot: e.Slot, ENIID: e.ENIID, Release: e.Release})
}

// describe fills in the ENI's own values.
func describe(e *v1alpha1.AttachmentEntry, i vpc.Interface) {
	e.MAC, e.Addresses, e.Prefixes = i.MAC, nil, nil
	for _, a := range i.Addresses {
		e.Addresses = append(e.Addresses, a.String())
	}
	for _, p := range i.Prefixes {
		e.Prefixes = append(e.Prefixes, p.String())
	}
	if a := i.Attachment; a != nil {
		e.AttachmentID, e.NetworkCard, e.DeviceIndex = a.ID, a.NetworkCard, a.DeviceIndex
	}
}
