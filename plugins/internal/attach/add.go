package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// add attaches the pod to its device. When it fails after the record was
// written, the release from that record undoes everything; a record that could
// not be released stays for DEL.
func (c *call) add() (*types100.Result, error) {
	if _, err := device.ParseInterfaceName(c.args.IfName); err != nil {
		return nil, &refusal.Error{Code: refusal.Environment, Msg: "CNI_IFNAME", Err: err}
	}
	if c.cfg.PrevResult != nil && !c.cfg.TakesPrevResult() {
		return nil, refusal.New(refusal.Invalid, "prevResult: this netconf cannot continue the result of an earlier plugin; put multi-eni first in the list of plugins")
	}
	if err := c.policy.Check(c.cfg); err != nil {
		return nil, err
	}
	if err := c.policy.CheckDeviceInfoFile(c.cfg.DeviceInfoFile, c.id); err != nil {
		return nil, err
	}
	if err := c.readRequests(); err != nil {
		return nil, err
	}
	ns, err := c.openTarget()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	c.target = ns
	if c.in, err = ns.Open(); err != nil {
		return nil, err
	}
	defer c.in.Close()
	if err := c.clearOwnRecord(); err != nil {
		return nil, err
	}
	if err := c.nameFree(c.args.IfName); err != nil {
		return nil, err
	}
	all, err := c.candidates()
	if err != nil {
		return nil, err
	}
	dev, err := c.claim(all, ns)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	c.intent = dev.Record
	result, err := c.attach(dev)
	c.steps.Wait()
	if err != nil {
		if undo := c.undo(dev.Record); undo != nil {
			err = errors.Join(err, fmt.Errorf("and undo it: %w", undo))
		}
		return nil, err
	}
	return result, nil
}

// undo releases what a failed ADD has claimed, even when its time is up.
func (c *call) undo(r *nodestate.Record) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), undoTimeout)
	defer cancel()
	c.ctx, r.Result = ctx, nil // nobody was given it
	return c.release(r, claimLockFree)
}

// openTarget opens CNI_NETNS and refuses the host's own.
func (c *call) openTarget() (*link.Netns, error) {
	ns, err := link.OpenNetns(c.args.Netns)
	if err != nil {
		return nil, &refusal.Error{Code: refusal.InvalidNetNS, Msg: "CNI_NETNS", Err: err}
	}
	host, err := ns.Current()
	if err != nil {
		ns.Close()
		return nil, err
	}
	if host {
		ns.Close()
		return nil, refusal.New(refusal.InvalidNetNS, "CNI_NETNS: %s is the host's own network namespace; remove the network from the pod, or hostNetwork: true", c.args.Netns)
	}
	return ns, nil
}

// clearOwnRecord undoes what an earlier, dead ADD of this very attachment left.
func (c *call) clearOwnRecord() error {
	r, err := c.lockOwn()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, nodestate.ErrOtherVersion):
		return otherVersion(err)
	case errors.Is(err, nodestate.ErrCorrupt): // an intent that was lost before its first effect
		return c.dir.Discard(c.id, c.bootID)
	case errors.Is(err, nodestate.ErrBusy):
		return refusal.New(refusal.TryAgain, "another ADD or DEL of container %s, interface %s is running; try again", c.id.ContainerID, c.id.IfName)
	case err != nil:
		return err
	}
	defer r.Close()
	if r.State == nodestate.StateComplete && !c.stale(r.Attachment) {
		return refusal.New(refusal.Internal, "container %s already has %s on interface %s; run DEL before another ADD", c.id.ContainerID, r.Device.PCIAddress, c.id.IfName)
	}
	c.log.WithField("device", r.Device.PCIAddress).Warn("undoing an earlier ADD of this attachment that died")
	return c.release(r, claimLockFree)
}

// begin writes the intent: from here on, release knows all that may need undoing.
func (c *call) begin(d *claimed, cand candidate) (*nodestate.Record, error) {
	a := nodestate.Attachment{
		AttachmentID: c.id, Network: c.cfg.Name, CreatedAt: time.Now().UTC().Truncate(time.Second), BootID: c.bootID,
		Netns: d.ns.Netns, Pod: c.pod(), Mode: c.mode(d), Device: attached(cand.pci, d.fn, cand.row),
		Config: c.cfg.Raw, Args: c.args.Args, Path: strings.Join(c.policy.BinDirs(c.args.Path), ":"),
		DeviceInfoFile: c.cfg.DeviceInfoFile,
	}
	a.Netns.Path = c.args.Netns
	if d.link.Index != 0 {
		state, err := c.owed(cand.pci, d.link)
		if err != nil {
			return nil, err
		}
		if state.Ethtool == nil && cand.row != nil {
			state.Ethtool = cand.row.Ethtool
		}
		a.Device.Link, a.Device.MAC = &state, d.link.MAC
		if a.Device.VF { // its PF assigns it, at the latest on its next reset, and may refuse any other
			state.MAC = ""
		}
	}
	a.Interface = c.expected(a, d.link)
	if a.Mode == nodestate.ModeDelegateExclusive {
		var err error
		if a.Device.Assigned, err = c.assigned(d.fn); err != nil {
			return nil, err
		}
	}
	if c.cfg.ENIIPAM != nil && c.shares() {
		a.Leases = c.paths.LeaseDir
	}
	if c.cfg.IPAM != nil {
		conf, err := c.cfg.IPAMConfig()
		if err != nil {
			return nil, err
		}
		a.IPAM = &nodestate.Delegation{Type: c.cfg.IPAM.Type, Config: conf}
	}
	if c.cfg.Delegate != nil {
		conf, err := c.cfg.DelegateConfig(cand.pci, d.link.Name, c.mtu(cand.row))
		if err != nil {
			return nil, err
		}
		a.Delegate = &nodestate.Delegation{Type: c.cfg.Delegate.Type, Config: conf}
	}
	var r *nodestate.Record
	err := c.steps.Do("intent", func() (err error) { r, err = c.dir.Begin(a); return err })
	switch {
	case errors.Is(err, nodestate.ErrTooLarge):
		return nil, &refusal.Error{Code: refusal.Invalid, Msg: "netconf: too long for an attachment record; shorten it", Err: err}
	case errors.Is(err, fs.ErrExist):
		return nil, refusal.New(refusal.TryAgain, "another ADD of container %s, interface %s is running; try again", c.id.ContainerID, c.id.IfName)
	}
	return r, err
}

// owed is what a link must be given back: what it is, or what it was before an
// earlier attachment when the name that it had then is still taken.
func (c *call) owed(pci device.PCIAddress, l link.Link) (nodestate.LinkState, error) {
	pending, err := c.dir.LoadRestore(pci)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		state := l.State()
		state.AcceptRA, _ = c.host.IPv6Conf.AcceptRA(l.Name) // "" with an error: not known
		return state, nil
	case err != nil:
		return nodestate.LinkState{}, err
	}
	return *pending.Device.Link, nil // confirmLink has removed any that is void
}

func (c *call) mode(d *claimed) nodestate.Mode {
	switch {
	case c.shares():
		return nodestate.ModeShared
	case c.cfg.Delegate != nil:
		return nodestate.ModeDelegateExclusive
	case d.fn.UserspaceDriver():
		return nodestate.ModeDPDK
	}
	return nodestate.ModeExclusive
}

// mtu is the netconf's, else the NodeENI's, else 0 for the link's own.
func (c *call) mtu(row *nodestate.Device) int {
	if c.cfg.MTU == 0 && row != nil {
		return row.MTU
	}
	return c.cfg.MTU
}

// attach has the effects, each a step, and completes the record.
func (c *call) attach(d *claimed) (*types100.Result, error) {
	var result *types100.Result
	var err error
	switch d.Mode {
	case nodestate.ModeExclusive:
		result, err = c.attachLink(d)
	case nodestate.ModeDPDK:
		result, err = c.attachUserspace(d)
	default:
		result, err = c.attachDelegate(d)
	}
	if err != nil {
		return nil, err
	}
	result.CNIVersion = types100.ImplementedSpecVersion
	if c.cfg.DNS != nil { // in place of the address plugin's, as bridge has it
		result.DNS = types.DNS{}
		if err := json.Unmarshal(c.cfg.DNS, &result.DNS); err != nil {
			return nil, refusal.New(refusal.Invalid, "dns: %v", err)
		}
	}
	if d.DeviceInfoFile != "" {
		if err := c.steps.Do("deviceInfo", func() error { return writeDeviceInfo(d, result) }); err != nil {
			return nil, err
		}
	}
	if _, err := cniresult.InVersion(result, c.cfg.CNIVersion); err != nil { // while there is an undo
		return nil, err
	}
	if d.Result, err = json.Marshal(result); err != nil {
		return nil, fmt.Errorf("encode result: %w", err)
	}
	d.State = nodestate.StateComplete
	return result, c.steps.Do("complete", d.Save)
}

// attachLink moves the device itself into the container's netns.
func (c *call) attachLink(d *claimed) (*types100.Result, error) {
	if err := c.nameFree(d.link.AltNames...); err != nil {
		return nil, err
	}
	addresses := c.startIPAM(d)
	if err := c.steps.Do("move", func() error { return c.host.Move(d.link.Index, d.ns, c.args.IfName) }); err != nil {
		return nil, err
	}
	l, err := arrivedIn(c.in, d, c.args.IfName)
	if err != nil {
		return nil, err
	}
	d.Interface.Index = l.Index
	if mtu := c.mtu(d.row); mtu != 0 && mtu != l.MTU {
		if err := c.steps.Do("mtu", func() error { return c.in.SetMTU(l.Index, mtu) }); err != nil {
			return nil, err
		}
		l.MTU = mtu
	}
	result, err := addresses()
	if err != nil {
		return nil, err
	}
	result.Interfaces = []*types100.Interface{{
		Name: l.Name, Mac: l.MAC.String(), Mtu: l.MTU, Sandbox: c.args.Netns, PciID: d.Device.PCIAddress.String(),
	}}
	return result, c.configure(d, l, result)
}

// arrivedIn is the link as it is after its move: named, down, and with an index that
// may be another. A VF is reset on the way, and may have taken another MAC, which its
// PF has assigned.
func arrivedIn(in *link.Handle, d *claimed, name string) (l link.Link, err error) {
	if d.Device.VF {
		return in.ByName(name)
	}
	l = d.link
	l.Name, l.Up = name, false
	l.Index, err = in.Index(name)
	return l, err
}

// nameFree refuses names that the container has given to other interfaces: the
// kernel would only half carry out a move to one, and a delegate's DEL goes by name.
func (c *call) nameFree(names ...string) error {
	for _, n := range names {
		switch _, err := c.in.Index(n); {
		case err == nil:
			return refusal.New(refusal.Environment, "the container already has an interface %s; choose another name for one of them", n)
		case !errors.Is(err, link.ErrNotFound):
			return err
		}
	}
	return nil
}

// attachUserspace moves nothing: the device plugin hands the device's files to
// the container, and the result tells it the rest.
func (c *call) attachUserspace(d *claimed) (*types100.Result, error) {
	result, err := c.ipamAdd(d)
	if err != nil {
		return nil, err
	}
	cniresult.AddRoutes(result, c.cfg.Routes)
	for _, ip := range result.IPs {
		ip.Interface = types100.Int(0)
	}
	result.Interfaces = []*types100.Interface{{
		Name: c.args.IfName, Mac: d.Device.MAC.String(), Mtu: c.mtu(d.row), Sandbox: c.args.Netns, PciID: d.Device.PCIAddress.String(),
	}}
	cniresult.FillGateways(result)
	return result, nil
}
