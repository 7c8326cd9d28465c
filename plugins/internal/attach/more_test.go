package attach_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10 s for %s", what)
		}
	}
}

func inPod(t *testing.T, args *skel.CmdArgs, f func(*link.Handle, link.Link) error) {
	t.Helper()
	ns, err := link.OpenNetns(args.Netns)
	must(t, err)
	defer ns.Close()
	h, err := ns.Open()
	must(t, err)
	defer h.Close()
	l, err := h.ByName(args.IfName)
	must(t, err)
	must(t, f(h, l))
}

func moveHome(t *testing.T, args *skel.CmdArgs, name string) {
	t.Helper()
	host, err := link.CurrentNetns()
	must(t, err)
	defer host.Close()
	inPod(t, args, func(h *link.Handle, l link.Link) error { return h.Move(l.Index, host, name) })
}

func squat(t *testing.T, name string) {
	t.Helper()
	la := netlink.NewLinkAttrs()
	la.Name = name
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: la}))
}

func unsquat(t *testing.T, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkDel(l))
}

func runBinary(t *testing.T, binary, command string, args *skel.CmdArgs) (*types100.Result, uint, string) {
	cmd := exec.Command(binary)
	cmd.Env = []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + args.ContainerID, "CNI_NETNS=" + args.Netns,
		"CNI_IFNAME=" + args.IfName, "CNI_ARGS=" + args.Args, "CNI_PATH=" + args.Path,
	}
	cmd.Stdin = bytes.NewReader(args.StdinData)
	out, err := cmd.Output()
	if err != nil {
		var e types.Error
		if json.Unmarshal(out, &e) != nil {
			t.Errorf("%s: %v: %s", command, err, out)
		}
		return nil, e.Code, e.Msg
	}
	if command != "ADD" {
		return nil, 0, ""
	}
	return parseResult(t, out), 0, ""
}

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
	if links := e.podLinks(args); len(links) != 0 {
		t.Errorf("links in the pod: %+v", links)
	}
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
	_, err = run(&attach.Plugin{}, "CHECK", withPrev(t, args, got))
	must(t, err)
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
	_, err := run(&attach.Plugin{}, "CHECK", withPrev(t, first, r))
	must(t, err)
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

func withPrev(t *testing.T, args *skel.CmdArgs, r *types100.Result) *skel.CmdArgs {
	t.Helper()
	var conf map[string]any
	must(t, json.Unmarshal(args.StdinData, &conf))
	conf["prevResult"] = r
	out := *args
	var err error
	out.StdinData, err = json.Marshal(conf)
	must(t, err)
	return &out
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
	next := e.pod(e.selectA()) // the device and the address are free all the same
	e.add(next)
	e.del(next)
	must(t, os.Rename(filepath.Join(bin, "away"), filepath.Join(bin, "host-device")))
	e.del(args)
	e.unchanged(before, "after DEL")
}

func copyBinaries(t *testing.T, e *env, names ...string) string {
	t.Helper()
	bin := e.file("bin")
	must(t, os.MkdirAll(bin, 0o755))
	for _, n := range names {
		data, err := os.ReadFile(filepath.Join(e.path, n))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(bin, n), data, 0o755))
	}
	return bin
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
		_, err := run(&attach.Plugin{}, "GC", args)
		must(t, err)
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

func TestPolicy(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	e.inv.Devices[1].AllowedNamespaces = []string{"core"}
	e.writeInventory()
	policy := map[string]any{
		"schemaVersion": 1, "binDir": e.path, "delegates": []string{"macvlan"}, "ipam": []string{"host-local"},
		"dataDir": e.file("records"), "inventory": e.file("inventory.json"), "sysfs": e.node.Sysfs, "logFile": e.file("log"),
	}
	data, err := json.Marshal(policy)
	must(t, err)
	file := e.file("policy.json")
	must(t, os.WriteFile(file, data, 0o644))
	p := &attach.Plugin{PolicyPath: file}
	bare := map[string]any{"dataDir": nil, "inventory": nil, "sysfs": nil, "logFile": nil}
	with := func(more map[string]any) *skel.CmdArgs {
		conf := map[string]any{}
		for _, m := range []map[string]any{bare, more} {
			for k, v := range m {
				conf[k] = v
			}
		}
		return e.pod(conf)
	}
	selA := map[string]any{"nodeENI": "a"}
	refused := func(args *skel.CmdArgs, words ...string) {
		t.Helper()
		_, err := run(p, "ADD", args)
		wantCode(t, err, 105, words...)
	}
	for _, key := range []string{"dataDir", "inventory", "sysfs", "logFile"} {
		refused(with(map[string]any{"select": selA, key: "/tmp/x"}), key, "/tmp/x", "remove the key")
	}
	refused(with(map[string]any{"select": selA, "delegate": map[string]any{"type": "ipvlan"}}), "delegate.type", "ipvlan", "macvlan")
	refused(with(map[string]any{"select": selA, "ipam": map[string]any{"type": "static"}}), "ipam.type", "static", "host-local")
	refused(with(map[string]any{"select": selA, "ipam": map[string]any{"type": "host-local", "dataDir": "/etc"}}), "ipam.dataDir", "/etc")
	refused(with(map[string]any{"select": selA, "runtimeConfig": map[string]any{"CNIDeviceInfoFile": "/etc/x"}}), "CNIDeviceInfoFile", "/etc/x")
	refused(with(map[string]any{"deviceID": "0000:00:1c.0"}), "deviceID", "inventory")
	refused(with(map[string]any{"select": map[string]any{"nodeENI": "b"}}), "K8S_POD_NAMESPACE", `"shop"`, "core", "allowed-namespaces")

	args := with(map[string]any{"select": selA})
	args.Path = "/nonexistent" // CNI_PATH is the runtime's, the policy's folder holds
	_, err = run(p, "ADD", args)
	must(t, err)
	_, err = run(p, "DEL", args)
	must(t, err)
	// DEL runs nothing that ADD refuses: here it would fail in /proc.
	hostile := with(map[string]any{"select": selA, "ipam": map[string]any{"type": "host-local", "dataDir": "/proc/none"}})
	_, err = run(p, "DEL", hostile)
	must(t, err)
}

// TestUnusablePolicy: an unusable policy allows nothing. DEL and GC fail if they cannot
// know whether everything is done.
func TestUnusablePolicy(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	file := e.file("policy.json")
	write := func(more map[string]any) {
		policy := map[string]any{
			"schemaVersion": 1, "binDir": e.path, "ipam": []string{"host-local"}, "dataDir": e.file("records"),
			"inventory": e.file("inventory.json"), "sysfs": e.node.Sysfs,
		}
		maps.Copy(policy, more)
		data, err := json.Marshal(policy)
		must(t, err)
		must(t, os.RemoveAll(file))
		must(t, os.WriteFile(file, data, 0o644))
	}
	p := &attach.Plugin{PolicyPath: file}
	before := e.snapshot()
	for name, tt := range map[string]struct {
		spoil func() error
		knows bool // where the records are
	}{
		"writable by others": {func() error { return os.Chmod(file, 0o666) }, false},
		"not JSON":           {func() error { return os.WriteFile(file, []byte("{"), 0o644) }, false},
		"symlink":            {func() error { return errors.Join(os.Remove(file), os.Symlink("/dev/null", file)) }, false},
		"unknown rule":       {func() error { write(map[string]any{"allow": 1}); return nil }, true},
		"wrong type":         {func() error { write(map[string]any{"delegates": "all"}); return nil }, true},
		"other version":      {func() error { write(map[string]any{"schemaVersion": 2}); return nil }, false},
	} {
		write(nil)
		bare := map[string]any{"select": map[string]any{"nodeENI": "a"}, "dataDir": nil, "inventory": nil, "sysfs": nil, "logFile": nil}
		args, never := e.pod(bare), e.pod(bare)
		_, err := run(p, "ADD", args)
		must(t, err)
		held := e.snapshot()
		must(t, tt.spoil())
		_, err = run(p, "ADD", never)
		wantCode(t, err, 105, "policy cannot be used")
		for _, args := range []*skel.CmdArgs{never, args} {
			if _, err = run(p, "DEL", args); tt.knows {
				must(t, err)
				continue
			}
			wantCode(t, err, 105, "policy cannot be used")
			e.unchanged(held, "after a DEL that failed, "+name)
			_, err = run(p, "GC", args)
			wantCode(t, err, 105, "policy cannot be used")
		}
		write(nil)
		_, err = run(p, "DEL", args)
		must(t, err)
		e.unchanged(before, "after all DELs, "+name)
	}
}

// TestUnreadableRecord: an unreadable record stays while nothing else tells the pod's
// device.
func TestUnreadableRecord(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := map[string]any{"select": map[string]any{"nodeENI": "a"}}
	args := e.pod(conf)
	e.add(args)
	path := e.file("records", args.ContainerID+"-net1.json")
	record, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, bytes.Replace(record, []byte(`"schemaVersion": 1`), []byte(`"schemaVersion": 2`), 1), 0o600))
	e.refused("DEL", args, 999, "another version", "schemaVersion 2")
	e.refused("ADD", args, 999, "another version")
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the record of another version: %v", err)
	}
	must(t, os.WriteFile(path, record, 0o600))
	e.del(args)

	args = e.pod(conf)
	e.add(args)
	path = e.file("records", args.ContainerID+"-net1.json")
	must(t, os.WriteFile(path, record[:100], 0o600))
	inventory, err := os.ReadFile(e.file("inventory.json"))
	must(t, err)
	must(t, os.Remove(e.file("inventory.json")))
	e.refused("DEL", args, 11, "corrupt", "inventory.json")
	must(t, os.WriteFile(e.file("inventory.json"), inventory, 0o600))
	e.del(args)
	links := e.snapshot()
	if _, err := os.Stat(path); err == nil || !strings.Contains(links, "Name:eth1") {
		t.Errorf("after DEL by the inventory: record %v, %s", err, links)
	}
}

// TestAbsentPlugin: a pod can end without its address plugin if that was never installed.
// With a torn record, which may be of that plugin's address, DEL waits for the plugin.
func TestAbsentPlugin(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	args := e.pod(map[string]any{"select": map[string]any{"nodeENI": "a"}, "ipam": map[string]any{"type": "absent"}})
	e.refused("ADD", args, 999, "absent", "not found")
	e.del(args)
	must(t, os.MkdirAll(e.file("records"), 0o700))
	must(t, os.WriteFile(e.file("records", args.ContainerID+"-net1.json"), nil, 0o600))
	e.refused("DEL", args, 999, "absent", "not found")
}

// TestHostileRecords: foreign files in the records folder are not followed, run or
// deleted.
func TestHostileRecords(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	victim := e.file("victim")
	must(t, os.WriteFile(victim, []byte("precious"), 0o644))
	must(t, os.MkdirAll(e.file("records"), 0o700))
	plant := func(name, target string) { must(t, os.Symlink(target, e.file("records", name))) }
	plant("c1-net1.json", victim)
	plant(".c2-net1.json.tmp", victim)
	plant("x-net1.json", "/dev/zero")
	must(t, os.MkdirAll(e.file("records", "locks"), 0o700))

	first, second := e.pod(e.selectA()), e.pod(e.selectA())
	e.refused("ADD", first, 999, "symbolic link")
	e.refused("DEL", first, 999, "symbolic link")
	if _, err := run(&attach.Plugin{}, "ADD", second); err == nil {
		t.Error("ADD wrote through a symbolic link in place of its temporary file")
	}
	must(t, os.Remove(e.file("records", ".c2-net1.json.tmp")))
	must(t, os.WriteFile(e.file("records", "y-net1.json"), forged(e), 0o666))
	must(t, os.Chmod(e.file("records", "y-net1.json"), 0o666))
	e.add(second) // a record that anybody could have written claims nothing
	e.del(second)
	plant("locks/"+eniB.PCI+".lock", victim)
	if _, err := run(&attach.Plugin{}, "ADD", e.pod(map[string]any{"select": map[string]any{"nodeENI": "b"}})); err == nil {
		t.Error("ADD followed a symbolic link in place of a lock")
	}
	if data, err := os.ReadFile(victim); err != nil || string(data) != "precious" {
		t.Errorf("victim = %q, %v", data, err)
	}
}

func forged(e *env) []byte {
	a := nodestate.Attachment{
		SchemaVersion: 1, AttachmentID: nodestate.AttachmentID{ContainerID: "y", IfName: "net1"}, State: nodestate.StateComplete,
		Mode: nodestate.ModeExclusive, BootID: e.inv.BootID, Device: nodestate.AttachedDevice{PCIAddress: "0000:00:06.0"},
		Config: json.RawMessage("{}"), Delegate: &nodestate.Delegation{Type: "evil", Config: json.RawMessage("{}")},
	}
	data, _ := json.Marshal(a)
	return data
}

// TestAnnouncements listens on the wire for the kernel's announcements when the pod's
// interface comes up.
func TestAnnouncements(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	heard := listen(t, e.node.VPC)
	args := e.pod(e.selectA())
	e.add(args)
	want := map[string]bool{"gratuitous ARP": false, "unsolicited NA": false}
	deadline := time.After(10 * time.Second)
	for !want["gratuitous ARP"] || !want["unsolicited NA"] {
		select {
		case what := <-heard:
			want[what] = true
		case <-deadline:
			t.Fatalf("heard %v", want)
		}
	}
	inPod(t, args, func(*link.Handle, link.Link) error { return nil })
	for name, value := range map[string]string{"ipv4/conf/net1/rp_filter": "2", "ipv4/conf/net1/arp_ignore": "1", "ipv4/conf/net1/arp_announce": "2"} {
		var got []byte
		must(t, nstest.In(args.Netns, func() (err error) { got, err = os.ReadFile("/proc/sys/net/" + name); return err }))
		if strings.TrimSpace(string(got)) != value {
			t.Errorf("%s = %s; want %s", name, got, value)
		}
	}
	e.del(args)
}
