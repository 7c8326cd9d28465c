package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/skel"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/plugins/pkg/ipam"
	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
)

// netconf is the plugin's input; other keys are errors.
type netconf struct {
	CNIVersion    string          `json:"cniVersion"`
	Name          string          `json:"name"`
	Type          string          `json:"type"`
	DeviceID      string          `json:"deviceID"`
	VLAN          *int            `json:"vlan"`
	MAC           string          `json:"mac"`
	Spoofchk      string          `json:"spoofchk"`
	Trust         string          `json:"trust"`
	IPAM          json.RawMessage `json:"ipam"`
	Args          json.RawMessage `json:"args"`
	RuntimeConfig json.RawMessage `json:"runtimeConfig"`
	DNS           json.RawMessage `json:"dns"`
}

func (n netconf) ipamType() (string, error) {
	var ipam struct {
		Type string `json:"type"`
	}
	if n.IPAM == nil {
		return "", nil
	}
	if err := json.Unmarshal(n.IPAM, &ipam); err != nil {
		return "", fmt.Errorf("netconf: ipam: %w", err)
	}
	return ipam.Type, nil
}

func parse(stdin []byte) (netconf, error) {
	var n netconf
	d := json.NewDecoder(bytes.NewReader(stdin))
	d.DisallowUnknownFields()
	if err := d.Decode(&n); err != nil {
		return n, fmt.Errorf("decode netconf: %w", err)
	}
	if _, err := n.ipamType(); err != nil {
		return n, err
	}
	switch {
	case n.DeviceID == "":
		return n, errors.New("netconf: deviceID is needed: the PCI address of a VF")
	case n.VLAN != nil && (*n.VLAN < 0 || *n.VLAN > 4094):
		return n, fmt.Errorf("netconf: vlan: %d: want 0 to 4094", *n.VLAN)
	}
	for key, value := range map[string]string{"spoofchk": n.Spoofchk, "trust": n.Trust} {
		if value != "" && value != "on" && value != "off" {
			return n, fmt.Errorf(`netconf: %s: %q: want "on" or "off"`, key, value)
		}
	}
	if _, err := net.ParseMAC(n.MAC); n.MAC != "" && err != nil {
		return n, fmt.Errorf("netconf: mac: %w", err)
	}
	return n, nil
}

type record struct {
	Conf  netconf `json:"conf"`
	Netns string  `json:"netns"`
	Was   vfState `json:"was"`
}

type store string

func (s store) path(a *skel.CmdArgs) string {
	return filepath.Join(string(s), a.ContainerID+"-"+a.IfName)
}

func (s store) free(deviceID string) error {
	names, err := filepath.Glob(filepath.Join(string(s), "*-*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		r, err := load(name)
		if err != nil {
			return err
		}
		if _, err := os.Stat(r.Netns); err == nil && r.Conf.DeviceID == deviceID {
			return fmt.Errorf("%s is already allocated to %s", deviceID, filepath.Base(name))
		}
	}
	return nil
}

func load(path string) (record, error) {
	var r record
	data, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

func (s store) add(a *skel.CmdArgs, stdout io.Writer) (err error) {
	n, err := parse(a.StdinData)
	if err != nil {
		return err
	}
	if err := s.free(n.DeviceID); err != nil {
		return err
	}
	netns, err := ns.GetNS(a.Netns)
	if err != nil {
		return err
	}
	defer netns.Close()
	vf, err := findVF(n.DeviceID)
	if err != nil {
		return err
	}
	was, err := vf.state()
	if err != nil {
		return err
	}
	undo := func(step func() error) {
		if err != nil {
			err = errors.Join(err, step())
		}
	}
	defer undo(func() error { return vf.set(was.admin(n)) })
	if err := vf.set(n.wanted()); err != nil {
		return err
	}
	if err := vf.give(netns, a.IfName, was.Name, n.MAC); err != nil {
		return err
	}
	defer undo(func() error { return vf.takeBack(netns, a.IfName, was, n) })
	result, err := addresses(n, a.StdinData)
	if err != nil {
		return err
	}
	if err := describe(result, netns, a.IfName, n.DeviceID); err != nil {
		return err
	}
	if err := s.save(a, record{Conf: n, Netns: a.Netns, Was: was}); err != nil {
		return err
	}
	out, err := result.GetAsVersion(n.CNIVersion)
	if err != nil {
		return err
	}
	return out.PrintTo(stdout)
}

func (s store) save(a *skel.CmdArgs, r record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(string(s), 0o700), os.WriteFile(s.path(a), data, 0o600))
}

func addresses(n netconf, stdin []byte) (*types100.Result, error) {
	typ, err := n.ipamType()
	if typ == "" || err != nil {
		return &types100.Result{}, err
	}
	got, err := ipam.ExecAdd(typ, stdin)
	if err != nil {
		return nil, err
	}
	result, err := types100.NewResultFromResult(got)
	if err != nil {
		return nil, err
	}
	if len(result.IPs) == 0 {
		return nil, fmt.Errorf("ipam: %s gave no address", typ)
	}
	for _, ip := range result.IPs {
		ip.Interface = types100.Int(0)
	}
	return result, nil
}

func describe(result *types100.Result, in ns.NetNS, ifname, deviceID string) error {
	return in.Do(func(ns.NetNS) error {
		link, err := netlink.LinkByName(ifname)
		if err != nil {
			return err
		}
		result.Interfaces = []*types100.Interface{{
			Name: ifname, Mac: link.Attrs().HardwareAddr.String(), Mtu: link.Attrs().MTU, Sandbox: in.Path(), PciID: deviceID,
		}}
		return ipam.ConfigureIface(ifname, result)
	})
}

func (s store) del(a *skel.CmdArgs) error {
	r, err := load(s.path(a))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	typ, err := r.Conf.ipamType()
	if err != nil {
		return err
	}
	if typ != "" {
		if err := ipam.ExecDel(typ, a.StdinData); err != nil {
			return err
		}
	}
	netns, err := ns.GetNS(a.Netns)
	if errors.As(err, new(ns.NSPathNotExistErr)) {
		return os.Remove(s.path(a))
	}
	if err != nil {
		return err
	}
	defer netns.Close()
	vf, err := findVF(r.Conf.DeviceID)
	if err != nil {
		return err
	}
	if err := vf.set(r.Was.admin(r.Conf)); err != nil {
		return err
	}
	if err := vf.takeBack(netns, a.IfName, r.Was, r.Conf); err != nil {
		return err
	}
	return os.Remove(s.path(a))
}
