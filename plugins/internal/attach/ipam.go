package attach

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// IPAMFuncs returns the verbs of eni-ipam for netconfs of other plugins than
// multi-eni. Results go to stdout.
func (p *Plugin) IPAMFuncs(ctx context.Context, stdout io.Writer) skel.CNIFuncs {
	verb := p.verbs(ctx, parser{netconf.ParseIPAM, netconf.ParseIPAMLenient})
	return skel.CNIFuncs{
		Add:    verb(strict, func(c *call) error { return c.ipamVerbAdd(stdout) }), //nolint:contextcheck // a call carries its context
		Del:    verb(anything, func(c *call) error { return errors.Join(c.garbled, c.lost, c.giveBackAnywhere(c.id)) }),
		Check:  verb(strict, checking((*call).ipamVerbCheck)),
		GC:     verb(lenient, func(c *call) error { return errors.Join(c.lost, c.collectLeases()) }),
		Status: verb(lenient, ready((*call).ipamReady)),
	}
}

// ipamVerbAdd is ADD: the primary address, or a lease for a plugin by which pods
// share the ENI.
func (c *call) ipamVerbAdd(stdout io.Writer) error {
	if err := c.policy.CheckIPAM(c.cfg); err != nil {
		return err
	}
	if err := c.readRequests(); err != nil {
		return err
	}
	row, err := c.namedRow()
	if err != nil {
		return err
	}
	own, err := c.pickOwn(candidate{pci: row.PCIAddress, row: &row})
	if err != nil {
		return err
	}
	if own == nil {
		ns, err := c.openTarget()
		if err != nil {
			return err
		}
		defer ns.Close()
		unlock, err := c.notAlone(row.PCIAddress)
		if err != nil {
			return err
		}
		defer unlock()
		id := ns.Netns
		id.Path = c.args.Netns
		if own, err = c.leaseOwn(row.ENIID, id); err != nil {
			return err
		}
	}
	versioned, err := cniresult.InVersion(own.result(), c.cfg.CNIVersion)
	if err != nil {
		return err
	}
	return versioned.PrintTo(stdout)
}

// namedRow is the one device of the inventory that the netconf names.
func (c *call) namedRow() (nodestate.Device, error) {
	if c.cfg.Select.Empty() && c.cfg.DeviceID == "" {
		mac, err := c.macOf(c.cfg.Interface)
		if err != nil {
			return nodestate.Device{}, err
		}
		c.cfg.Select.MAC = mac
	}
	all, err := c.candidates()
	if err != nil {
		return nodestate.Device{}, err
	}
	if all[0].row == nil {
		return nodestate.Device{}, refusal.New(refusal.TryAgain, "the inventory has no device %s, so its addresses are not known; see that a NodeENI declares it", all[0].pci)
	}
	if len(all) > 1 {
		var rows []nodestate.Device
		for _, cand := range all {
			rows = append(rows, *cand.row)
		}
		return nodestate.Device{}, refusal.New(refusal.Invalid, "ipam.select %s: several ENIs match: %s; add subnetID or eniID", c.cfg.Select, describeRows(rows))
	}
	return *all[0].row, nil
}

// macOf is the hardware address of the interface that the netconf names.
func (c *call) macOf(ifname string) (device.MAC, error) {
	l, err := c.host.ByName(ifname)
	if errors.Is(err, link.ErrNotFound) {
		l, err = c.movedLink()
	}
	switch {
	case errors.Is(err, link.ErrNotFound):
		return "", refusal.New(refusal.NoDevice, "interface %s is not in the host, and not in the container as %s; give ipam.select.nodeENI", ifname, c.args.IfName)
	case err == nil && l.MAC == "":
		return "", refusal.New(refusal.NoDevice, "interface %s has no MAC address, so it belongs to no ENI; give ipam.select.nodeENI", ifname)
	}
	return l.MAC, err
}

// movedLink is the interface that is in the container already: host-device moves
// it before it asks for addresses.
func (c *call) movedLink() (link.Link, error) {
	ns, err := c.openTarget()
	if err != nil {
		return link.Link{}, err
	}
	defer ns.Close()
	in, err := ns.Open()
	if err != nil {
		return link.Link{}, err
	}
	defer in.Close()
	return in.ByName(c.args.IfName)
}

// ipamVerbCheck is CHECK: what was leased still is.
func (c *call) ipamVerbCheck() error {
	if !c.shares() {
		return nil
	}
	row, err := c.namedRow()
	if err != nil {
		return err
	}
	l, err := c.readLeases(c.paths.LeaseDir, row.ENIID)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(l.Leases, func(lease nodestate.Lease) bool { return lease.HeldBy(c.id) }) {
		return refusal.New(refusal.UnknownRecord, "container %s, interface %s has no address of ENI %s; run ADD", c.id.ContainerID, c.id.IfName, row.ENIID)
	}
	return nil
}
