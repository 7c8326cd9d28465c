package attach

import (
	"context"
	"errors"
	"io"

	"github.com/containernetworking/cni/pkg/skel"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/addressing"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/selection"
)

// IPAMFuncs is Funcs for eni-ipam, with netconfs of other plugins.
func (p *Plugin) IPAMFuncs(ctx context.Context, stdout io.Writer) skel.CNIFuncs {
	verb := p.verbs(parser{netconf.ParseIPAM, netconf.ParseIPAMLenient})
	return skel.CNIFuncs{
		Add:    verb(ctx, strict, printing(stdout, (*call).ipamAdd)),
		Del:    verb(ctx, anything, (*call).ipamDel),
		Check:  verb(ctx, strict, checking((*call).ipamCheck)),
		GC:     verb(ctx, lenient, (*call).ipamGC),
		Status: verb(ctx, lenient, ready((*call).ipamReady)),
	}
}

// ipamAdd leases addresses if the calling plugin shares the ENI between pods, else it picks them.
func (c *call) ipamAdd(ctx context.Context) (*types100.Result, error) {
	if err := c.policy.CheckIPAM(c.cfg); err != nil {
		return nil, err
	}
	if err := c.readRequests(); err != nil {
		return nil, err
	}
	row, err := c.namedRow()
	if err != nil {
		return nil, err
	}
	get := c.addresses.Pick
	if c.cfg.Shares() {
		get = c.ipamLease
	}
	own, err := get(ctx, row)
	if err != nil {
		return nil, err
	}
	return own.Result(), nil
}

func (c *call) ipamLease(ctx context.Context, row nodestate.Device) (*addressing.Addresses, error) {
	ns, err := c.openTarget()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	unlock, err := c.holder.Share(ctx, row.PCIAddress)
	if err != nil {
		return nil, err
	}
	defer unlock()
	id := ns.Netns
	id.Path = c.args.Netns
	return c.addresses.Lease(ctx, row.ENIID, id, nil)
}

func (c *call) ipamDel(ctx context.Context) error {
	return errors.Join(c.faults.netconf, c.faults.paths, c.addresses.Leases.GiveBackAll(ctx))
}

func (c *call) ipamGC(ctx context.Context) error {
	return errors.Join(c.faults.paths, c.collectLeases(ctx))
}

// ipamCheck checks that leased addresses are still leased.
func (c *call) ipamCheck(ctx context.Context) error {
	if !c.cfg.Shares() {
		return nil
	}
	row, err := c.namedRow()
	if err != nil {
		return err
	}
	return c.addresses.Leases.CheckAny(ctx, row.ENIID)
}

func (c *call) namedRow() (nodestate.Device, error) {
	if c.cfg.Select.Empty() && c.cfg.DeviceID == "" {
		mac, err := c.macOf(c.cfg.Interface)
		if err != nil {
			return nodestate.Device{}, err
		}
		c.cfg.Select.MAC = mac
	}
	all, err := c.selector.Candidates()
	if err != nil {
		return nodestate.Device{}, err
	}
	if all[0].Row == nil {
		return nodestate.Device{}, refusal.New(refusal.TryAgain, "the inventory has no device %s, so its addresses are not known; see that a NodeENI declares it",
			all[0].PCI)
	}
	if len(all) > 1 {
		var rows []nodestate.Device
		for _, cand := range all {
			rows = append(rows, *cand.Row)
		}
		return nodestate.Device{}, refusal.New(refusal.Invalid, "ipam.select %s: several ENIs match: %s; add subnetID or eniID", c.cfg.Select,
			selection.DescribeRows(rows))
	}
	return *all[0].Row, nil
}

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

// movedLink returns the container's CNI_IFNAME: host-device moves it before it asks for addresses.
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
