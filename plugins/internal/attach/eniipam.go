package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/lease"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// ownAddresses are those of an ENI that a pod gets by ipam.type eni-ipam, and the
// routes that go with them.
type ownAddresses struct {
	addresses []netip.Prefix
	routes    []netconf.Route
}

// pickOwn are the addresses of a pod that has the ENI to itself; nil without
// eni-ipam. One that shares it leases its addresses once it has its claim.
func (c *call) pickOwn(cand candidate) (*ownAddresses, error) {
	if c.cfg.ENIIPAM == nil {
		return nil, nil
	}
	if cand.row == nil {
		return nil, unknownDevice(cand.pci)
	}
	requested, err := c.requestedIPs()
	if err != nil || c.shares() {
		return nil, err
	}
	row, l := *cand.row, nodestate.Leases{}
	if c.cfg.ENIIPAM.Secondary(requested...) {
		// Under the claim lock nothing begins to retire; what has ceased to is in the
		// inventory no more, which is therefore read anew, and after the leases.
		if l, err = c.readLeases(c.paths.LeaseDir, row.ENIID); err != nil {
			return nil, err
		}
		if row, err = c.freshRow(row.ENIID); err != nil {
			return nil, err
		}
		retires := func(p netip.Prefix) bool { return l.Retires(p.Addr()) }
		row.Addresses, row.Prefixes = slices.DeleteFunc(row.Addresses, retires), slices.DeleteFunc(row.Prefixes, retires)
	}
	addresses, err := c.cfg.ENIIPAM.Pick(row, requested...)
	switch {
	case errors.Is(err, netconf.ErrNoAddressYet):
		return nil, refusal.New(refusal.TryAgain, "ipam.type %s: device %s: %v", netconf.ENIIPAMType, cand.pci, err)
	case err != nil:
		return nil, &refusal.Error{Code: refusal.Unsupported, Msg: "ipam.type " + netconf.ENIIPAMType, Err: err}
	}
	if err := c.areFree(&l, addresses); err != nil {
		return nil, err
	}
	return c.withRoutes(row, addresses)
}

// areFree refuses what pods that shared the ENI had a moment ago.
func (c *call) areFree(l *nodestate.Leases, addresses []netip.Prefix) error {
	if len(l.Leases) == 0 {
		return nil
	}
	now, err := nodestate.Uptime()
	if err != nil {
		return err
	}
	holder := nodestate.Lease{AttachmentID: c.id, Pod: c.pod()}
	for _, p := range addresses {
		if err := lease.Free(l, p.Addr(), &holder, now); err != nil {
			return leaseRefusal(err)
		}
	}
	return nil
}

// freshRow is an ENI's row of the inventory as it is now, with addresses.
func (c *call) freshRow(eni device.ENIID) (nodestate.Device, error) {
	inv, err := c.inventory()
	if err != nil {
		return nodestate.Device{}, err
	}
	for _, d := range inv.Devices {
		if d.ENIID == eni && len(d.Addresses) > 0 {
			return d, nil
		}
	}
	return nodestate.Device{}, refusal.New(refusal.TryAgain, "ipam.type %s: ENI %s: %v", netconf.ENIIPAMType, eni, netconf.ErrNoAddressYet)
}

func (c *call) withRoutes(row nodestate.Device, addresses []netip.Prefix) (*ownAddresses, error) {
	routes, err := c.cfg.ENIIPAM.ResolveRoutes(row, addresses)
	if err != nil {
		return nil, &refusal.Error{Code: refusal.Unsupported, Msg: "ipam.routes", Err: err}
	}
	return &ownAddresses{addresses, routes}, nil
}

// shares says whether this call's pod shares its device with others.
func (c *call) shares() bool { return c.cfg.Delegate != nil && c.cfg.Delegate.Shared }

// leaseOwn leases the addresses of a pod that shares an ENI. The inventory is read
// anew under the lock: the daemon gives no address back without it.
func (c *call) leaseOwn(eni device.ENIID, ns nodestate.Netns) (own *ownAddresses, err error) {
	requested, err := c.requestedIPs()
	if err != nil {
		return nil, err
	}
	err = c.withLeases(c.paths.LeaseDir, eni, func(l *nodestate.LockedLeases) error {
		row, err := c.freshRow(eni)
		if err != nil {
			return err
		}
		now, err := nodestate.Uptime()
		if err != nil {
			return err
		}
		holder := nodestate.Lease{AttachmentID: c.id, Network: c.cfg.Name, Pod: c.pod(), Netns: ns}
		gone := func(ns nodestate.Netns) bool { return link.Probe(ns) == link.Gone }
		addresses, refused := lease.Take(&l.Leases, &row, c.cfg.ENIIPAM.Request(holder, requested...), now, gone)
		if refused == nil {
			if own, err = c.withRoutes(row, addresses); err != nil {
				return err
			}
		}
		if err := l.Save(); err != nil {
			return err
		}
		if refused != nil || c.intent == nil {
			return leaseRefusal(refused)
		}
		for _, p := range addresses { // by which the leases can be rebuilt
			c.intent.LeasedAddresses = append(c.intent.LeasedAddresses, p.Addr())
		}
		return c.intent.Save()
	})
	return own, err
}

func leaseRefusal(err error) error {
	if err == nil {
		return nil
	}
	code := uint(refusal.Unsupported)
	var exhausted *lease.ExhaustedError
	var held *lease.HeldError
	var retiring *lease.RetiringError
	switch {
	case errors.As(err, &exhausted), errors.As(err, &retiring), errors.As(err, &held) && held.State != nodestate.LeaseHeld:
		code = refusal.TryAgain
	case held != nil:
		code = refusal.Held
	}
	return &refusal.Error{Code: code, Msg: "ipam.type " + netconf.ENIIPAMType, Err: err}
}

// withLeases calls f with an ENI's leases under their lock.
func (c *call) withLeases(dir string, eni device.ENIID, f func(*nodestate.LockedLeases) error) error {
	ctx, cancel := context.WithTimeout(c.ctx, claimWait)
	defer cancel()
	l, err := nodestate.LeaseDir(dir).Lock(ctx, c.bootID, eni)
	if nodestate.Unreadable(err) {
		c.log.WithError(err).Warn("rebuilding the leases from the attachment records")
		l, err = nodestate.LeaseDir(dir).Rebuild(ctx, c.bootID, eni, func() ([]nodestate.Lease, error) { return c.recordedLeases(dir, eni) })
	}
	if errors.Is(err, nodestate.ErrOtherVersion) {
		return &refusal.Error{Code: refusal.Held, Msg: fmt.Sprintf("every address of ENI %s counts as leased, because its lease file cannot be read; "+
			"install the multi-eni version that wrote it", eni), Err: err}
	}
	if errors.Is(err, nodestate.ErrBusy) {
		return refusal.New(refusal.TryAgain, "the leases of ENI %s have been locked by other ADDs or DELs for more than %s; try again", eni, claimWait)
	}
	if err != nil {
		return err
	}
	defer l.Close()
	return f(l)
}

// giveBack ends the leases of an attachment in one ENI. Unused leases need no
// cool-down: their ADD did not succeed, and no process of the pod has seen them.
func (c *call) giveBack(dir string, eni device.ENIID, id nodestate.AttachmentID, used bool) error {
	return c.changeLeases(dir, eni, func(l *nodestate.Leases) bool {
		return slices.ContainsFunc(l.Leases, func(lease nodestate.Lease) bool { return lease.HeldBy(id) })
	}, func(l *nodestate.LockedLeases) error {
		now, err := nodestate.Uptime()
		if err != nil {
			return err
		}
		if !used && !lease.Drop(&l.Leases, id) || used && !lease.Give(&l.Leases, id, now) {
			return nil
		}
		return l.Save()
	})
}

// changeLeases calls f under the lock of an ENI's leases where a first look at
// them finds that needed: most calls of DEL and GC have nothing to do.
func (c *call) changeLeases(dir string, eni device.ENIID, needed func(*nodestate.Leases) bool, f func(*nodestate.LockedLeases) error) error {
	l, err := nodestate.LeaseDir(dir).Read(c.bootID, eni)
	if errors.Is(err, nodestate.ErrOtherVersion) { // that version frees leases whose netns is gone
		c.log.WithError(err).Warn("leaving the leases of this ENI, which stay taken")
		return nil
	}
	if unreadable := nodestate.Unreadable(err); !unreadable && (err != nil || !needed(&l)) {
		return err
	}
	err = c.withLeases(dir, eni, f)
	if nodestate.Unreadable(err) { // a record, which the leases would be rebuilt from
		c.log.WithError(err).Warn("leaving the leases to the next ADD, which rebuilds them from the attachment records that are left")
		return nil
	}
	return err
}

// giveBackAnywhere ends the leases of an attachment in whatever ENI they are: for
// a DEL that finds no record.
func (c *call) giveBackAnywhere(id nodestate.AttachmentID) error {
	enis, err := nodestate.LeaseDir(c.paths.LeaseDir).ENIs(c.bootID)
	errs := []error{err}
	for _, eni := range enis {
		errs = append(errs, c.giveBack(c.paths.LeaseDir, eni, id, true))
	}
	return errors.Join(errs...)
}

// collectLeases ends the leases of this network's attachments that are no more,
// by the same rule as records. Those of records that could not be released stay.
func (c *call) collectLeases() error {
	if c.cfg.ENIIPAM == nil || c.cfg.Name == "" {
		return nil
	}
	records, unread, err := c.dir.List()
	if err != nil {
		return err
	}
	keep := func(l *nodestate.Lease) bool {
		if unread.MayBe(l.AttachmentID) || slices.ContainsFunc(records, func(a nodestate.Attachment) bool { return a.AttachmentID == l.AttachmentID }) {
			return true
		}
		if c.cfg.ValidAttachments == nil {
			return link.Probe(l.Netns) != link.Gone
		}
		return slices.Contains(c.cfg.ValidAttachments, l.AttachmentID)
	}
	dir := c.paths.LeaseDir
	enis, err := nodestate.LeaseDir(dir).ENIs(c.bootID)
	errs := []error{err}
	for _, eni := range enis {
		errs = append(errs, c.changeLeases(dir, eni, func(l *nodestate.Leases) bool {
			return slices.ContainsFunc(l.Leases, func(lease nodestate.Lease) bool { return lease.Network == c.cfg.Name && !keep(&lease) })
		}, func(l *nodestate.LockedLeases) error {
			now, err := nodestate.Uptime()
			if err != nil || !lease.Collect(&l.Leases, c.cfg.Name, now, keep) {
				return err
			}
			return l.Save()
		}))
	}
	return errors.Join(errs...)
}

// checkLease is CHECK's part: the addresses of the result are still leased.
func (c *call) checkLease(dir string, eni device.ENIID, id nodestate.AttachmentID, want []netip.Prefix) error {
	l, err := c.readLeases(dir, eni)
	if err != nil {
		return err
	}
	for _, p := range want {
		if i, found := l.Find(p.Addr()); !found || !l.Leases[i].HeldBy(id) {
			return refusal.New(refusal.OtherDevice, "address %s is no longer leased to container %s, interface %s; run DEL, then ADD", p.Addr(), id.ContainerID, id.IfName)
		}
	}
	return nil
}

// requestedIPs are IP of CNI_ARGS (CNI conventions): none, or several with commas
// between them.
func (c *call) requestedIPs() (out []netip.Addr, err error) {
	for s := range strings.SplitSeq(c.env["IP"], ",") {
		if s == "" {
			continue
		}
		addr, err := netconf.ParseRequestedIP(s)
		if err != nil {
			return nil, &refusal.Error{Code: refusal.Environment, Msg: "CNI_ARGS: IP", Err: err}
		}
		out = append(out, addr)
	}
	return out, nil
}

// result is what an IPAM plugin would say of the addresses.
func (o *ownAddresses) result() *types100.Result {
	result := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	for _, p := range o.addresses {
		ip := &types100.IPConfig{Address: *cniresult.IPNet(p)}
		if router := nodestate.Router(p); router.IsValid() {
			ip.Gateway = router.AsSlice()
		}
		result.IPs = append(result.IPs, ip)
	}
	cniresult.AddRoutes(result, o.routes)
	cniresult.FillGateways(result)
	return result
}

// forDelegate is the delegate's netconf with the addresses as prevResult: ipvlan
// configures these instead of asking an IPAM plugin; others make a bare interface.
func (c *call) forDelegate(d *claimed) (*nodestate.Delegation, error) {
	result := d.own.result()
	result.Routes = nil // once the interface is there
	versioned, err := cniresult.InVersion(result, c.cfg.PluginVersion())
	if err != nil {
		return nil, err
	}
	prev, err := json.Marshal(versioned)
	if err != nil {
		return nil, fmt.Errorf("encode prevResult: %w", err)
	}
	conf, err := netconf.WithPrevResult(d.Delegate.Config, prev)
	return &nodestate.Delegation{Type: d.Delegate.Type, Config: conf}, err
}
