package attach

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/addressing"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/delegation"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/hold"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/podlink"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/steps"
)

type effects struct {
	*hold.Device
	cfg     *netconf.Config
	args    *skel.CmdArgs
	host    *link.Handle
	steps   *steps.Steps
	pod     *podlink.Pod
	eniIPAM *addressing.IPAM
	plugins *delegation.Runner
}

// attach has the effects, each a step, and completes the record.
func (e *effects) attach(ctx context.Context) (*types100.Result, error) {
	var result *types100.Result
	var err error
	switch e.Mode {
	case nodestate.ModeExclusive:
		result, err = e.attachLink(ctx)
	case nodestate.ModeDPDK:
		result, err = e.attachUserspace(ctx)
	default:
		result, err = e.attachDelegate(ctx)
	}
	if err != nil {
		return nil, err
	}
	result.CNIVersion = types100.ImplementedSpecVersion
	if e.cfg.DNS != nil { // replaces the address plugin's, as in bridge
		result.DNS = types.DNS{}
		if err := json.Unmarshal(e.cfg.DNS, &result.DNS); err != nil {
			return nil, refusal.New(refusal.Invalid, "dns: %v", err)
		}
	}
	if e.DeviceInfoFile != "" {
		if err := e.steps.Do("deviceInfo", func() error { return writeDeviceInfo(e.Device, result) }); err != nil {
			return nil, err
		}
	}
	if _, err := cniresult.InVersion(result, e.cfg.CNIVersion); err != nil { // while it can be undone
		return nil, err
	}
	if e.Result, err = json.Marshal(result); err != nil {
		return nil, fmt.Errorf("encode result: %w", err)
	}
	e.State = nodestate.StateComplete
	return result, e.steps.Do("complete", e.Save)
}

func (e *effects) attachLink(ctx context.Context) (*types100.Result, error) {
	if err := e.pod.CheckFree(e.Link.AltNames...); err != nil {
		return nil, err
	}
	addresses := e.startIPAM(ctx)
	if err := e.steps.Do("move", func() error { return e.host.Move(e.Link.Index, e.pod.NS, e.args.IfName) }); err != nil {
		return nil, err
	}
	l, err := e.arrived()
	if err != nil {
		return nil, err
	}
	e.Interface.Index = l.Index
	if e.MTU != 0 && e.MTU != l.MTU {
		if err := e.pod.SetMTU(&l, e.MTU); err != nil {
			return nil, err
		}
	}
	result, err := addresses()
	if err != nil {
		return nil, err
	}
	e.describe(result, l.Name, l.MAC.String(), l.MTU)
	return result, e.pod.Configure(l, e.Link.MAC, result)
}

func (e *effects) describe(result *types100.Result, name, mac string, mtu int) {
	result.Interfaces = []*types100.Interface{{Name: name, Mac: mac, Mtu: mtu, Sandbox: e.args.Netns, PciID: e.Record.Device.PCIAddress.String()}}
}

// arrived returns the moved link: renamed, down, and perhaps with another index. A move resets a
// VF, whose PF may give it another MAC.
func (e *effects) arrived() (l link.Link, err error) {
	if e.Record.Device.VF {
		return e.pod.In.ByName(e.args.IfName)
	}
	l = e.Link
	l.Name, l.Up = e.args.IfName, false
	l.Index, err = e.pod.In.Index(l.Name)
	return l, err
}

// attachUserspace moves nothing: the device plugin gives the container the device's files, and
// the container reads the result.
func (e *effects) attachUserspace(ctx context.Context) (*types100.Result, error) {
	result, err := e.startIPAM(ctx)()
	if err != nil {
		return nil, err
	}
	cniresult.AddRoutes(result, e.cfg.Routes)
	for _, ip := range result.IPs {
		ip.Interface = types100.Int(0)
	}
	e.describe(result, e.args.IfName, e.Record.Device.MAC.String(), e.MTU)
	cniresult.FillGateways(result)
	return result, nil
}

// startIPAM returns a function that returns the addresses; none without an address plugin. A
// plugin that needs no interface runs beside later steps, any other when the function is called.
func (e *effects) startIPAM(ctx context.Context) func() (*types100.Result, error) {
	var result *types100.Result
	run := func() (err error) { result, err = e.plugins.Add(ctx, e.IPAM); return err }
	wait := func() error { return e.steps.Do("ipam", run) }
	switch {
	case e.Addresses != nil:
		return func() (*types100.Result, error) { return e.Addresses.Result(), nil }
	case e.IPAM == nil:
		return func() (*types100.Result, error) { return &types100.Result{}, nil }
	case e.Mode == nodestate.ModeExclusive && netconf.AddressesAlone(e.IPAM.Type):
		wait = e.steps.Start("ipam", run)
	}
	return func() (*types100.Result, error) {
		if err := wait(); err != nil {
			return nil, err
		}
		if len(result.IPs) == 0 {
			return nil, refusal.New(refusal.Invalid, "ipam.type: %s gave no address; see its own keys in ipam, or use another IPAM plugin", e.IPAM.Type)
		}
		result.Interfaces = nil // the spec allows an IPAM plugin none
		return result, checkIPs(e.cfg.IPs, result)
	}
}

// deviceInfo is the device-info spec 1.1.0's file for a PCI device. Readers ignore the key
// multi-eni.
type deviceInfo struct {
	Type    string `json:"type"`
	Version string `json:"version"`
	PCI     struct {
		PCIAddress   string `json:"pci-address"`
		PFPCIAddress string `json:"pf-pci-address,omitempty"`
	} `json:"pci"`
	MultiENI struct {
		ENIID     string   `json:"eniID,omitempty"`
		NodeENI   string   `json:"nodeENI,omitempty"`
		MAC       string   `json:"mac,omitempty"`
		Addresses []string `json:"addresses,omitempty"`
		Driver    string   `json:"driver,omitempty"` // of the kernel or of userspace
		// IOMMUGroup is the number in /dev/vfio/<group>. Nil for none or unknown, like NUMANode.
		IOMMUGroup *int `json:"iommuGroup,omitempty"`
		NUMANode   *int `json:"numaNode,omitempty"`
	} `json:"multi-eni"`
}

func writeDeviceInfo(d *hold.Device, result *types100.Result) error {
	info := deviceInfo{Type: "pci", Version: "1.1.0"}
	dev, fn := &d.Record.Device, &d.Function
	info.PCI.PCIAddress, info.PCI.PFPCIAddress = dev.PCIAddress.String(), fn.PhysFn.String()
	m := &info.MultiENI
	m.ENIID, m.NodeENI, m.MAC = dev.ENIID.String(), dev.NodeENI, dev.MAC.String()
	m.Driver = fn.Driver
	if fn.IOMMUGroup >= 0 {
		m.IOMMUGroup = &fn.IOMMUGroup
	}
	if fn.NUMANode >= 0 {
		m.NUMANode = &fn.NUMANode
	}
	for _, ip := range result.IPs {
		m.Addresses = append(m.Addresses, ip.Address.String())
	}
	data, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return fmt.Errorf("encode device info: %w", err)
	}
	return atomicfile.Write(d.DeviceInfoFile, data, fs.FileMode(0o644), atomicfile.Volatile)
}
