package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// errNoBinary: another plugin's binary is not in the folders it may come from.
var errNoBinary = errors.New("plugin binary not found")

// invocation says for which attachment another plugin is run.
type invocation struct {
	id          nodestate.AttachmentID
	netns, args string
	path        string // of plugin folders, separated by colons
}

func (c *call) own() invocation {
	return invocation{id: c.id, netns: c.args.Netns, args: c.args.Args, path: c.binPath(c.args.Path)}
}

// recorded looks for plugins where ADD found them, else where they are now.
func (c *call) recorded(a nodestate.Attachment) invocation {
	return invocation{id: a.AttachmentID, netns: a.Netns.Path, args: a.Args, path: a.Path + ":" + c.binPath(c.args.Path)}
}

// binPath is CNI_PATH as the policy has it.
func (c *call) binPath(path string) string {
	if c.policy != nil {
		return c.policy.BinDir
	}
	return path
}

func (c *call) find(typ, path string) (string, error) {
	// A relative folder, "" among them, would be one of our working directory's.
	folders := slices.DeleteFunc(filepath.SplitList(path), func(dir string) bool { return !filepath.IsAbs(dir) })
	file, err := c.exec(nil).FindInPath(typ, folders)
	if err != nil {
		return "", fmt.Errorf("plugin %s: %w in %s; install it there", typ, errNoBinary, path)
	}
	return file, nil
}

// findPlugins refuses, before any effect, a netconf whose plugins are missing.
func (c *call) findPlugins() error {
	for _, d := range c.plugins() {
		if _, err := c.find(d.Type, c.own().path); err != nil {
			return err
		}
	}
	return nil
}

// exec runs other plugins; intent is the record of the ADD that they are run for, or
// nil.
func (c *call) exec(intent *nodestate.Record) invoke.Exec {
	if c.Exec != nil {
		return c.Exec
	}
	return &pluginExec{stderr: c.log.Logger.Out, intent: intent, folder: string(c.dir)}
}

func (i invocation) environ(command string) *invoke.Args {
	return &invoke.Args{
		Command: command, ContainerID: i.id.ContainerID, NetNS: i.netns, IfName: i.id.IfName, PluginArgsStr: i.args, Path: i.path,
	}
}

// pluginAdd runs another plugin's ADD.
func (c *call) pluginAdd(d *nodestate.Delegation, i invocation) (*types100.Result, error) {
	file, err := c.find(d.Type, i.path)
	if err != nil {
		return nil, err
	}
	r, err := invoke.ExecPluginWithResult(c.ctx, file, d.Config, i.environ("ADD"), c.exec(c.intent))
	if err != nil {
		return nil, fmt.Errorf("%s ADD: %w", d.Type, err)
	}
	return cniresult.From(r)
}

// pluginRun runs a verb of another plugin that has no result.
func (c *call) pluginRun(command string, d *nodestate.Delegation, i invocation) error {
	file, err := c.find(d.Type, i.path)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if err := invoke.ExecPluginWithoutResult(c.ctx, file, d.Config, i.environ(command), c.exec(nil)); err != nil {
		return fmt.Errorf("%s %s: %w", d.Type, command, err)
	}
	return nil
}

// ipamAdd returns the addresses, or an empty result without an address plugin.
func (c *call) ipamAdd(d *claimed) (*types100.Result, error) {
	if d.own != nil {
		return d.own.result(), nil
	}
	if d.IPAM == nil {
		return &types100.Result{}, nil
	}
	var result *types100.Result
	err := c.steps.Do("ipam", func() (err error) { result, err = c.pluginAdd(d.IPAM, c.own()); return err })
	if err != nil {
		return nil, err
	}
	return c.addressesOnly(d.IPAM.Type, result)
}

// startIPAM is ipamAdd, begun at once where the IPAM plugin needs no interface.
// What it returns waits for the addresses.
func (c *call) startIPAM(d *claimed) func() (*types100.Result, error) {
	if d.IPAM == nil || !netconf.AddressesAlone(d.IPAM.Type) {
		return func() (*types100.Result, error) { return c.ipamAdd(d) }
	}
	var result *types100.Result
	wait := c.steps.Start("ipam", func() (err error) { result, err = c.pluginAdd(d.IPAM, c.own()); return err })
	return func() (*types100.Result, error) {
		if err := wait(); err != nil {
			return nil, err
		}
		return c.addressesOnly(d.IPAM.Type, result)
	}
}

// addressesOnly keeps of an IPAM plugin's result what the spec lets it say.
func (c *call) addressesOnly(typ string, result *types100.Result) (*types100.Result, error) {
	if len(result.IPs) == 0 {
		return nil, refusal.New(refusal.Invalid, "ipam.type: %s gave no address; see its own keys in ipam, or use another IPAM plugin", typ)
	}
	result.Interfaces = nil
	return result, c.gotAddresses(result)
}

// attachDelegate lets another plugin make the interface, with addresses.
func (c *call) attachDelegate(d *claimed) (*types100.Result, error) {
	run := d.Delegate
	if d.Leases != "" {
		err := c.steps.Do("lease", func() (err error) { d.own, err = c.leaseOwn(d.Device.ENIID, d.Netns); return err })
		if err != nil {
			return nil, err
		}
	}
	if d.own != nil {
		var err error
		if run, err = c.forDelegate(d); err != nil {
			return nil, err
		}
	}
	var result *types100.Result
	err := c.steps.Do("delegate", func() (err error) { result, err = c.pluginAdd(run, c.own()); return err })
	if err != nil {
		if mtu := c.mtu(d.row); mtu != 0 && mtu < ipv6MTU && strings.Contains(err.Error(), "/ipv6/") {
			err = refusal.New(refusal.Unsupported, "mtu %d: an IPv6 address needs at least %d octets; raise the MTU, or use IPv4 addresses only: %v", mtu, ipv6MTU, err)
		}
		return nil, err
	}
	l, err := c.seeMade(d, result)
	if err != nil {
		return nil, err
	}
	at := cniresult.FindInterface(result, c.args.IfName)
	if at >= 0 {
		if i := result.Interfaces[at]; i.PciID == "" {
			i.PciID = d.Device.PCIAddress.String()
		}
	}
	if err := c.gotMAC(d, l, result, at); err != nil {
		return nil, err
	}
	if err := c.setMTU(d, &l, result, at); err != nil {
		return nil, err
	}
	if d.own != nil {
		own := d.own.result()
		result.IPs, result.Routes = own.IPs, own.Routes
	} else if err := c.gotAddresses(result); err != nil {
		return nil, err
	}
	if d.link.Index == 0 { // a userspace device: the container reads all in the result
		cniresult.AddRoutes(result, c.cfg.Routes)
		cniresult.FillGateways(result)
	} else {
		err = c.finishDelegate(d, l, result, at)
	}
	if d.own != nil {
		for _, ip := range result.IPs {
			if ip.Interface = nil; at >= 0 {
				ip.Interface = types100.Int(at)
			}
		}
	}
	return result, err
}

// finishDelegate adds the ENI's addresses and the netconf's routes to the interface
// that a delegate has made. At is the interface's index in the result; -1 for none.
func (c *call) finishDelegate(d *claimed, l link.Link, result *types100.Result, at int) error {
	if at < 0 {
		if d.own != nil || len(c.cfg.Routes) > 0 {
			return noInterface(d.Delegate.Type, c.args.IfName)
		}
		return nil
	}
	result.Interfaces[at].Mtu = l.MTU
	if d.own != nil {
		return c.configure(d, l, result)
	}
	if ra := c.acceptRA(nil); ra != "" {
		err := c.steps.Do("sysctls", func() error {
			err := d.ns.SetSysctls(func(set func(name, value string) error) error { return setAcceptRA(set, l.Name, ra) })
			return errors.Join(err, c.in.ForgetRouters(l.Index))
		})
		if err != nil {
			return err
		}
	}
	theirs := len(result.Routes)
	cniresult.AddRoutes(result, c.cfg.Routes)
	routes, err := cniresult.Routes(result)
	if err != nil {
		return err
	}
	return c.setRoutes(l.Index, routes[theirs:])
}

// seeMade finds the interface that a delegate reports to have made in the
// container, and has the record tell it from others. It is the zero Link where the
// delegate reports none.
func (c *call) seeMade(d *claimed, result *types100.Result) (l link.Link, err error) {
	if d.link.Index == 0 || cniresult.FindInterface(result, c.args.IfName) < 0 {
		return l, nil
	}
	if l, err = c.in.ByName(c.args.IfName); err != nil {
		return l, fmt.Errorf("%s ADD reported success: %w", d.Delegate.Type, err)
	}
	d.Interface = &nodestate.Interface{Index: l.Index, Kind: l.Kind, Over: l.Over}
	return l, nil
}

func noInterface(delegate, name string) error {
	return refusal.New(refusal.Unsupported,
		"delegate %s reports no interface %s in the container, so nothing can have addresses, routes or an MTU; remove ipam, routes and mtu", delegate, name)
}

// deviceInfo is the device-info spec 1.1.0's file for a PCI device; readers
// ignore the key that is ours.
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
		// Driver is the kernel or userspace driver that the device is bound to.
		Driver string `json:"driver,omitempty"`
		// IOMMUGroup is the number in /dev/vfio/<group>, and NUMANode where the
		// device's memory should be; absent where there is none, or it is not known.
		IOMMUGroup *int `json:"iommuGroup,omitempty"`
		NUMANode   *int `json:"numaNode,omitempty"`
	} `json:"multi-eni"`
}

func writeDeviceInfo(d *claimed, result *types100.Result) error {
	info := deviceInfo{Type: "pci", Version: "1.1.0"}
	info.PCI.PCIAddress, info.PCI.PFPCIAddress = d.Device.PCIAddress.String(), d.fn.PhysFn.String()
	m := &info.MultiENI
	m.ENIID, m.NodeENI, m.MAC = d.Device.ENIID.String(), d.Device.NodeENI, d.Device.MAC.String()
	m.Driver = d.fn.Driver
	if d.fn.IOMMUGroup >= 0 {
		m.IOMMUGroup = &d.fn.IOMMUGroup
	}
	if d.fn.NUMANode >= 0 {
		m.NUMANode = &d.fn.NUMANode
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
