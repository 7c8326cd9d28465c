package attach_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func TestUserspaceDevice(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	vfio := nstest.ENI{PCI: "0000:00:0b.0", Driver: "vfio-pci", MAC: "02:00:00:00:00:0b", NoLink: true}
	e := newEnv(t, vfio)
	must(t, os.Symlink("../../../../kernel/iommu_groups/12", filepath.Join(e.node.Sysfs, "bus/pci/devices", vfio.PCI, "iommu_group")))
	r := row(vfio, "dpdk")
	r.InterfaceName, r.Driver = "", "vfio-pci"
	e.inv.Devices = append(e.inv.Devices, r)
	e.writeInventory()
	before := e.snapshot()
	info := e.file("devinfo", "dpdk.json")
	conf := map[string]any{"select": map[string]any{"nodeENI": "dpdk"}, "ipam": e.hostLocal(), "runtimeConfig": map[string]any{"CNIDeviceInfoFile": info}}
	args := e.pod(conf)
	got := e.add(args)
	if i := got.Interfaces[0]; i.PciID != vfio.PCI || i.Mac != vfio.MAC || i.Name != "net1" || len(got.IPs) != 2 {
		t.Errorf("result = %+v", got)
	}
	e.holdsNone(args)
	data, err := os.ReadFile(info)
	must(t, err)
	var file struct {
		Type, Version string
		PCI           struct {
			Address string `json:"pci-address"`
		}
		Own struct {
			MAC, Driver string
			Addresses   []string
			IOMMUGroup  *int
			NUMANode    *int
		} `json:"multi-eni"`
	}
	must(t, json.Unmarshal(data, &file))
	if file.Type != "pci" || file.Version != "1.1.0" || file.PCI.Address != vfio.PCI {
		t.Errorf("device info = %s", data)
	}
	if own := file.Own; own.MAC != vfio.MAC || own.Driver != "vfio-pci" || len(own.Addresses) != 2 ||
		own.IOMMUGroup == nil || *own.IOMMUGroup != 12 || own.NUMANode == nil || *own.NUMANode != 0 {
		t.Errorf("device info's own part = %s", data)
	}
	e.succeeds("CHECK", withPrev(t, args, got))
	e.refused("ADD", e.pod(conf), 101, "pod-c1")
	e.del(args)
	if _, err := os.Stat(info); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the device-info file after DEL: %v", err)
	}
	e.unchanged(before, "after DEL")
}

// TestShared uses macvlan on a device other than an ENA, since the kernel may lack ipvlan.
func TestShared(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	nic := nstest.ENI{PCI: "0000:00:0c.0", Name: "ens12", MAC: "02:00:00:00:00:0c", Driver: "e1000e"}
	e := newEnv(t, nic)
	e.inv.Devices = append(e.inv.Devices, row(nic, "shared"))
	e.writeInventory()
	before := e.snapshot()
	ipv4 := map[string]any{"type": "host-local", "dataDir": e.file("ipam"), "subnet": "10.0.2.0/24"}
	conf := map[string]any{
		"select": map[string]any{"nodeENI": "shared"}, "ipam": ipv4, "mtu": 1400,
		"delegate": map[string]any{"type": "macvlan", "mode": "bridge"}, "routes": []any{map[string]any{"dst": "10.77.0.0/16", "gw": "10.0.2.1"}},
	}
	first, second := e.pod(conf), e.pod(conf)
	r := e.add(first)
	if len(r.IPs) == 0 || r.Interfaces[0].Mtu != 1400 && r.Interfaces[0].Mac == "" {
		t.Errorf("result = %+v", r)
	}
	e.add(second)
	e.succeeds("CHECK", withPrev(t, first, r))
	alone := e.pod(map[string]any{"select": map[string]any{"nodeENI": "shared"}})
	e.refused("ADD", alone, 101, "shares the device")
	e.del(first)
	e.refused("ADD", alone, 101, "pod-c2")
	must(t, nstest.DeleteNetns(second.Netns))
	e.add(alone) // the dead second pod is evicted
	e.refused("ADD", e.pod(conf), 101, "pod-c3")
	e.del(alone)
	e.del(second)
	e.unchanged(before, "after all DELs")
}

func TestHostDeviceDelegate(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	conf := e.selectA()
	conf["delegate"] = map[string]any{"type": "host-device", "deviceField": "device"}
	for _, happen := range []func(*skel.CmdArgs){
		func(*skel.CmdArgs) {},
		func(args *skel.CmdArgs) { moveHome(t, args, "stray0") },
	} {
		args := e.pod(conf)
		if r := e.add(args); r.Interfaces[0].Mac != eniA.MAC || r.Interfaces[0].PciID != eniA.PCI {
			t.Errorf("result = %+v", r.Interfaces[0])
		}
		e.refused("ADD", e.pod(e.selectA()), 101, "pod-"+args.ContainerID)
		happen(args)
		e.del(args)
		e.unchanged(before, "after DEL")
	}
}

func TestDelegateBinaryGone(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	bin := copyBinaries(t, e, "host-device", "host-local")
	conf := e.selectA()
	conf["delegate"] = map[string]any{"type": "host-device", "deviceField": "device"}
	args := e.pod(conf)
	args.Path = bin
	e.add(args)
	must(t, os.Rename(filepath.Join(bin, "host-device"), filepath.Join(bin, "away")))
	e.refused("DEL", args, 999, "host-device", "not found", "install it")
	e.roundTrip(e.selectA()) // the device and the address are free all the same
	must(t, os.Rename(filepath.Join(bin, "away"), filepath.Join(bin, "host-device")))
	e.del(args)
	e.unchanged(before, "after DEL")
}

func TestGC(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	confB := map[string]any{"select": map[string]any{"nodeENI": "b"}, "ipam": e.hostLocal(), "name": "other"}
	a, b := e.pod(e.selectA()), e.pod(confB)
	e.add(a)
	e.add(b)
	gc := func(valid any, present bool) {
		t.Helper()
		conf := e.selectA()
		if present {
			conf["cni.dev/valid-attachments"] = valid
		}
		args := &skel.CmdArgs{Path: e.path, StdinData: e.conf(conf)}
		if valid == nil && present {
			args.StdinData = []byte(strings.Replace(string(e.conf(e.selectA())), "{", `{"cni.dev/valid-attachments":null,`, 1))
		}
		e.succeeds("GC", args)
	}
	count := func(want int) {
		t.Helper()
		if all, _, err := e.records().List(); err != nil || len(all) != want {
			t.Fatalf("records = %d, %v; want %d", len(all), err, want)
		}
	}
	gc(nil, false) // no list: both netns live
	count(2)
	gc([]any{map[string]any{"containerID": a.ContainerID, "ifname": "net1"}}, true)
	count(2)
	gc(nil, true) // null is the empty list; the other network's record is not ours
	count(1)
	e.del(b)
	e.unchanged(before, "after GC")
	c := e.pod(e.selectA())
	e.add(c)
	must(t, nstest.DeleteNetns(c.Netns))
	gc(nil, false)
	count(0)
}
