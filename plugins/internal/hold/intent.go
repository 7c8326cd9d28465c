package hold

import (
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/selection"
)

// begin writes the intent, from which a release can undo every later effect.
func (h *Holder) begin(d *Device, cand selection.Candidate, ns *link.Netns) (*nodestate.Record, error) {
	cfg, args := h.Fit.Config, h.Args
	a := nodestate.Attachment{
		AttachmentID: h.ID, Network: cfg.Name, CreatedAt: time.Now().UTC().Truncate(time.Second), BootID: h.Presence.BootID,
		Netns: ns.Netns, Pod: h.Pod, PodUID: h.PodUID, Mode: h.mode(d), Device: attached(cand, d.Function),
		Config: cfg.Raw, Args: args.Args, Path: strings.Join(h.Plugins.Policy.BinDirs(args.Path), ":"),
		DeviceInfoFile: cfg.DeviceInfoFile,
	}
	a.Netns.Path = args.Netns
	if d.Link.Index != 0 {
		state, err := h.owed(cand.PCI, d.Link)
		if err != nil {
			return nil, err
		}
		if state.Ethtool == nil && cand.Row != nil {
			state.Ethtool = cand.Row.Ethtool
		}
		a.Device.Link, a.Device.MAC = &state, d.Link.MAC
		if a.Device.VF { // its PF assigns the MAC, at the latest on the next reset, and may refuse any other
			state.MAC = ""
		}
	}
	a.Interface = h.expected(a, d.Link)
	if a.Mode == nodestate.ModeDelegateExclusive {
		var err error
		if a.Device.Assigned, err = h.assigned(d.Function); err != nil {
			return nil, err
		}
	}
	if cfg.ENIIPAM != nil && cfg.Shares() {
		a.Leases = h.Addresses.Leases.Dir
	}
	if cfg.IPAM != nil {
		conf, err := cfg.IPAMConfig()
		if err != nil {
			return nil, err
		}
		a.IPAM = &nodestate.Delegation{Type: cfg.IPAM.Type, Config: conf}
	}
	if cfg.Delegate != nil {
		conf, err := cfg.DelegateConfig(cand.PCI, d.Link.Name, d.MTU)
		if err != nil {
			return nil, err
		}
		a.Delegate = &nodestate.Delegation{Type: cfg.Delegate.Type, Config: conf}
	}
	var r *nodestate.Record
	err := h.Steps.Do("intent", func() (err error) { r, err = h.Records.Begin(a); return err })
	switch {
	case errors.Is(err, nodestate.ErrTooLarge):
		return nil, refusal.New(refusal.Invalid, "netconf: too long for an attachment record; shorten it: %w", err)
	case errors.Is(err, fs.ErrExist):
		return nil, refusal.New(refusal.TryAgain, "another ADD of container %s, interface %s is running; try again", h.ID.ContainerID, h.ID.IfName)
	}
	return r, err
}

// attached describes a device for the record, before its link is known.
func attached(cand selection.Candidate, fn sysfs.PCIFunction) nodestate.AttachedDevice {
	d := nodestate.AttachedDevice{PCIAddress: cand.PCI, VF: fn.PhysFn != "", Instance: fn.Instance}
	if row := cand.Row; row != nil {
		d.MAC, d.ENIID, d.NodeENI = row.MAC, row.ENIID, row.NodeENI
	}
	return d
}

// owed returns the state that a link must get back: its current one, or an earlier one that is not
// restored yet because the link's name is taken.
func (h *Holder) owed(pci device.PCIAddress, l link.Link) (nodestate.LinkState, error) {
	pending, err := h.Records.LoadRestore(pci)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		state := l.State()
		state.AcceptRA, _ = h.Fit.Host.IPv6Conf.AcceptRA(l.Name) // "" with an error: not known
		return state, nil
	case err != nil:
		return nodestate.LinkState{}, err
	}
	return *pending.Device.Link, nil // confirmLink has removed a void one
}

func (h *Holder) mode(d *Device) nodestate.Mode {
	switch {
	case h.Fit.Config.Shares():
		return nodestate.ModeShared
	case h.Fit.Config.Delegate != nil:
		return nodestate.ModeDelegateExclusive
	case d.Function.UserspaceDriver():
		return nodestate.ModeDPDK
	}
	return nodestate.ModeExclusive
}

// expected describes the attachment's future interface; nil if that is not certain.
func (h *Holder) expected(a nodestate.Attachment, l link.Link) *nodestate.Interface {
	switch {
	case l.Index == 0:
		return nil
	case a.Mode == nodestate.ModeShared: // the known sharing delegates are named like their kinds of link
		return &nodestate.Interface{Kind: h.Fit.Config.Delegate.Type, Over: l.Index}
	case a.Mode == nodestate.ModeExclusive:
		return &nodestate.Interface{Kind: l.Kind}
	}
	return nil
}

// assigned returns the PF's settings for a VF; nil if the PF is not found.
func (h *Holder) assigned(fn sysfs.PCIFunction) (*nodestate.VFState, error) {
	pf, number, err := link.Physical(h.Fit.Sys, fn)
	if err == nil {
		var vf nodestate.VFState
		if vf, err = h.Fit.Host.VF(pf, number); err == nil {
			return &vf, nil
		}
	}
	if errors.Is(err, link.ErrNotFound) {
		return nil, nil
	}
	return nil, err
}
