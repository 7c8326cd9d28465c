// Package addressing is eni-ipam. A pod that owns an ENI picks among the ENI's addresses;
// pods that share the ENI lease them.
package addressing

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/lease"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/selection"
)

// IPAM is eni-ipam for one call. All fields but Pod and Requested are needed.
type IPAM struct {
	Config    *netconf.Config
	Leases    Leases
	Inventory string // path
	// Pod is namespace/name, by which a restarted pod gets its addresses again; "" if unknown.
	Pod       string
	Requested []netip.Addr // by CNI_ARGS
}

// Addresses are a pod's addresses of an ENI, with their routes.
type Addresses struct {
	addresses []netip.Prefix
	routes    []netconf.Route
}

// Result is the result of an IPAM plugin that gives the addresses.
func (a *Addresses) Result() *types100.Result {
	result := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	for _, p := range a.addresses {
		ip := &types100.IPConfig{Address: *cniresult.IPNet(p)}
		if router := nodestate.Router(p); router.IsValid() {
			ip.Gateway = router.AsSlice()
		}
		result.IPs = append(result.IPs, ip)
	}
	cniresult.AddRoutes(result, a.routes)
	cniresult.FillGateways(result)
	return result
}

// Pick chooses addresses for a pod that owns the ENI. Hold the device lock.
func (m *IPAM) Pick(ctx context.Context, row nodestate.Device) (*Addresses, error) {
	pci, l := row.PCIAddress, leases.Leases{}
	var err error
	if m.Config.ENIIPAM.Secondary(m.Requested...) {
		// No address begins to retire under the device lock. One that has left the ENI is
		// missing in the inventory, so that is read again, after the leases.
		if l, err = m.Leases.Read(ctx, row.ENIID); err != nil {
			return nil, err
		}
		if row, err = m.freshRow(row.ENIID); err != nil {
			return nil, err
		}
		retires := func(p netip.Prefix) bool { return l.Retires(p.Addr()) }
		row.Addresses, row.Prefixes = slices.DeleteFunc(row.Addresses, retires), slices.DeleteFunc(row.Prefixes, retires)
	}
	addresses, err := m.Config.ENIIPAM.Pick(row, m.Requested...)
	switch {
	case errors.Is(err, netconf.ErrNoAddressYet):
		return nil, refusal.New(refusal.TryAgain, "ipam.type %s: device %s: %v", netconf.ENIIPAMType, pci, err)
	case err != nil:
		return nil, refusal.New(refusal.Unsupported, "ipam.type %s: %w", netconf.ENIIPAMType, err)
	}
	if err := m.checkFree(&l, addresses); err != nil {
		return nil, err
	}
	return m.withRoutes(row, addresses)
}

// checkFree refuses leased and cooling addresses.
func (m *IPAM) checkFree(l *leases.Leases, addresses []netip.Prefix) error {
	if len(l.Leases) == 0 {
		return nil
	}
	now, err := nodestate.Uptime()
	if err != nil {
		return err
	}
	holder := leases.Lease{AttachmentID: m.Leases.ID, Pod: m.Pod}
	for _, p := range addresses {
		if err := lease.Free(l, p.Addr(), &holder, now); err != nil {
			return refuseLease(err)
		}
	}
	return nil
}

// freshRow reads an ENI's row again. It has addresses.
func (m *IPAM) freshRow(eni device.ENIID) (nodestate.Device, error) {
	inv, err := selection.ReadInventory(m.Inventory, m.Leases.BootID)
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

func (m *IPAM) withRoutes(row nodestate.Device, addresses []netip.Prefix) (*Addresses, error) {
	routes, err := m.Config.ENIIPAM.ResolveRoutes(row, addresses)
	if err != nil {
		return nil, refusal.New(refusal.Unsupported, "ipam.routes: %w", err)
	}
	return &Addresses{addresses, routes}, nil
}

// Lease leases addresses to a pod that shares the ENI. It saves them in intent too, if that
// is not nil. It reads the inventory under the lease lock: the daemon returns addresses only
// under that lock.
func (m *IPAM) Lease(ctx context.Context, eni device.ENIID, ns nodestate.Netns, intent *nodestate.Record) (out *Addresses, err error) {
	err = m.Leases.locked(ctx, eni, func(l *leases.Locked) error {
		row, err := m.freshRow(eni)
		if err != nil {
			return err
		}
		now, err := nodestate.Uptime()
		if err != nil {
			return err
		}
		holder := leases.Lease{AttachmentID: m.Leases.ID, Network: m.Config.Name, Pod: m.Pod, Netns: ns}
		addresses, refused := lease.Take(&l.Leases, &row, m.Config.ENIIPAM.Request(holder, m.Requested...), now, gone)
		if refused == nil {
			if out, err = m.withRoutes(row, addresses); err != nil {
				return err
			}
		}
		if err := l.Save(); err != nil {
			return err
		}
		if refused != nil || intent == nil {
			return refuseLease(refused)
		}
		for _, p := range addresses { // from which lost leases are rebuilt
			intent.LeasedAddresses = append(intent.LeasedAddresses, p.Addr())
		}
		return intent.Save()
	})
	return out, err
}

func gone(ns nodestate.Netns) bool { return link.Probe(ns) == link.Gone }

// refuseLease gives a code to an error of package lease; nil for nil.
func refuseLease(err error) error {
	if err == nil {
		return nil
	}
	code := uint(refusal.Unsupported)
	var exhausted *lease.ExhaustedError
	var held *lease.HeldError
	var retiring *lease.RetiringError
	switch {
	case errors.As(err, &exhausted), errors.As(err, &retiring), errors.As(err, &held) && held.State != leases.Held:
		code = refusal.TryAgain
	case held != nil:
		code = refusal.Held
	}
	return refusal.New(code, "ipam.type %s: %w", netconf.ENIIPAMType, err)
}

// Ready returns an error if eni-ipam can give no pod an address of the device now. Row is nil
// if the inventory does not list the device.
func (m *IPAM) Ready(pci device.PCIAddress, row *nodestate.Device) error {
	if m.Config.ENIIPAM == nil {
		return nil
	}
	if row == nil {
		return UnknownDevice(pci)
	}
	addresses, err := m.Config.ENIIPAM.Pick(*row)
	if m.Config.Shares() && len(row.Addresses) > 0 {
		addresses, err = m.wouldLease(row)
	}
	if err == nil {
		_, err = m.Config.ENIIPAM.ResolveRoutes(*row, addresses)
	}
	if err != nil {
		return refusal.New(refusal.TryAgain, "ipam.type %s: %w", netconf.ENIIPAMType, err)
	}
	return nil
}

func (m *IPAM) wouldLease(row *nodestate.Device) ([]netip.Prefix, error) {
	l, err := leases.Dir(m.Leases.Dir).Read(m.Leases.BootID, row.ENIID)
	if err != nil && !leases.Unreadable(err) { // ADD would rebuild an unreadable file
		return nil, err
	}
	now, err := nodestate.Uptime()
	if err != nil {
		return nil, err
	}
	return lease.Take(&l, row, m.Config.ENIIPAM.Request(leases.Lease{}), now, gone)
}

// UnknownDevice refuses addresses of a device that the inventory does not list.
func UnknownDevice(pci device.PCIAddress) error {
	return refusal.New(refusal.TryAgain, "ipam.type %s: the inventory has no device %s, so its addresses are not known; "+
		"see that multi-enid runs and that a NodeENI declares it", netconf.ENIIPAMType, pci)
}
