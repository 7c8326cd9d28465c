package nodestate

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

var update = flag.Bool("update", false, "write the golden files")

// sameJSON compares netconfs as JSON, since files are indented.
var sameJSON = cmp.Options{
	cmp.Comparer(func(a, b json.RawMessage) bool { return squeeze(a) == squeeze(b) }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(slices.Equal[[]netip.Addr]),
	cmp.Comparer(slices.Equal[[]netip.Prefix]),
	cmp.Comparer(slices.Equal[[]string]), // an empty list may be left out
}

func squeeze(raw json.RawMessage) string {
	var plain, escaped bytes.Buffer
	if json.Compact(&plain, raw) != nil {
		return string(raw)
	}
	json.HTMLEscape(&escaped, plain.Bytes())
	return escaped.String()
}

var updatedAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func prefixes(list ...string) []netip.Prefix {
	out := []netip.Prefix{}
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// rows are one device that is known as well as can be, and one as little.
func rows() []Device {
	return []Device{
		{
			ENIID: "eni-0a1b2c3d4e5f60001", NodeENI: "dataplane-a", MAC: "02:00:00:00:00:07", PCIAddress: "0000:00:07.0",
			InterfaceName: "ens7", Driver: "ena", DeviceIndex: 1, NetworkCard: 0, SubnetID: "subnet-0a1b2c3d4e5f60001",
			SubnetCIDR: netip.MustParsePrefix("10.0.2.0/24"), Addresses: prefixes("10.0.2.15/24", "2001:db8::15/64"),
			Prefixes: prefixes("10.0.2.32/28"), MTU: 9001, ResourceName: "intel.com/sriov_net", AllowedNamespaces: []string{"prod"}, Phase: PhaseReady,
			Ethtool: Settings{"rings": "1024 0 0 512"},
		},
		{ENIID: "eni-0a1b2c3d4e5f60002", NodeENI: "dataplane-b", DeviceIndex: -1, NetworkCard: -1, Addresses: prefixes(), Prefixes: prefixes(), Phase: PhasePending},
	}
}

// TestContract pins the files' names and forms, which people and other tools rely on, and reads each back.
func TestContract(t *testing.T) {
	dir := t.TempDir()
	inventory := Inventory{
		NodeName: "node-1", BootID: "2b0e0cf5-6c9d-4b8a-9a51-0f6f1b1d7c11", UpdatedAt: updatedAt, Devices: rows(),
		Problems: []Problem{{Reason: "PCIAddressMismatch", NodeENI: "dataplane-b", Device: "eni-0a1b2c3d4e5f60002", Message: "dpdkPCIAddress is wrong; correct it"}},
	}
	checkpoint := Checkpoint{
		BootID:         inventory.BootID,
		Devices:        []CheckpointDevice{{Device: rows()[0]}, {Device: rows()[1], MissingSince: updatedAt}},
		OwnedResources: []device.ResourceName{"intel.com/sriov_net"}, LastGoodConfig: []byte(`{"resourceList":[]}`), ConfirmedHash: "abc",
	}
	pod := attachment("c1", "net1")
	pod.Pod, pod.Args, pod.Path, pod.DeviceInfoFile = "prod/web-0", "IgnoreUnknown=1", "/opt/cni/bin", "/var/run/k8s.cni.cncf.io/devinfo/cni/x.json"
	pod.Device.ENIID, pod.Device.NodeENI = rows()[0].ENIID, "dataplane-a"
	pod.Device.Link = &LinkState{
		Name: "ens7", AltNames: []string{"enp0s7"}, MAC: "02:00:00:00:00:07", MTU: 9001, Up: true, Kind: "veth", XDP: 7,
		Settings: Settings{"alias": "", "txqueuelen": "1000"}, Ethtool: Settings{"rings": "1024 0 0 512"}, AcceptRA: "0",
	}
	pod.Device.Assigned = &VFState{MAC: "02:00:00:00:00:17", VLAN: 7, QoS: 3, Spoofchk: true, Trust: true}
	pod.Delegate = &Delegation{Type: "ipvlan", Config: []byte(`{"type":"ipvlan"}`)}
	pod.IPAM = &Delegation{Type: "host-local", Config: []byte(`{"type":"multi-eni"}`)}
	pod.Result = []byte(`{"cniVersion":"1.1.0"}`)
	records := AttachmentDir(filepath.Join(dir, "records"))

	t.Run("inventory", func(t *testing.T) {
		path := filepath.Join(dir, "inventory.json")
		want := inventory
		want.SchemaVersion = SchemaVersion
		writeAndRead(t, "inventory", path, func() error { return WriteInventory(path, inventory) }, want, func() (any, error) { return ReadInventory(path) })
	})
	t.Run("checkpoint", func(t *testing.T) {
		path := CheckpointPath(dir)
		want := checkpoint
		want.SchemaVersion = SchemaVersion
		writeAndRead(t, "checkpoint", path, func() error { return WriteCheckpoint(path, checkpoint) }, want, func() (any, error) { return ReadCheckpoint(path) })
	})
	t.Run("attachment", func(t *testing.T) {
		want := pod
		want.SchemaVersion, want.State = SchemaVersion, StateComplete
		write := func() error {
			r := begin(t, records, pod)
			defer r.Close()
			r.State = StateComplete
			return r.Save()
		}
		read := func() (any, error) {
			r, err := records.Lock(soon(t), pod.AttachmentID)
			if err != nil {
				return nil, err
			}
			defer r.Close()
			return r.Attachment, nil
		}
		writeAndRead(t, "attachment", filepath.Join(string(records), "c1-net1.json"), write, want, read)
	})
	t.Run("restore", func(t *testing.T) {
		want := Restore{SchemaVersion: SchemaVersion, BootID: "boot", Device: pod.Device}
		write := func() error { return records.SaveRestore(Restore{BootID: "boot", Device: pod.Device}) }
		read := func() (any, error) { return records.LoadRestore(pod.Device.PCIAddress) }
		writeAndRead(t, "restore", filepath.Join(string(records), "restore", "0000:00:07.0.json"), write, want, read)
	})
	t.Run("restore of the version before", func(t *testing.T) { // it knew no settings: they are left alone
		data, err := os.ReadFile("testdata/restore-before-settings.json")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(string(records), "restore", "0000:00:07.0.json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := records.LoadRestore(pod.Device.PCIAddress)
		want := *pod.Device.Link
		want.XDP, want.Settings, want.Ethtool, want.AcceptRA = 0, nil, nil, ""
		if diff := cmp.Diff(&want, got.Device.Link); diff != "" || err != nil {
			t.Errorf("read: %v (-want +got):\n%s", err, diff)
		}
	})
}

// TestEmptyLists: a list is never null.
func TestEmptyLists(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "empty.json")
	given := []Device{{Phase: PhasePending}}
	if err := WriteInventory(path, Inventory{Devices: given}); err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "inventory-empty-row", path)
	if given[0].Addresses != nil {
		t.Error("WriteInventory has changed the caller's rows")
	}
	if err := WriteInventory(path, Inventory{}); err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "inventory-empty", path)
	if err := WriteCheckpoint(path, Checkpoint{}); err != nil {
		t.Fatal(err)
	}
	compareGolden(t, "checkpoint-empty", path)
	if _, err := ReadCheckpoint(path); err != nil {
		t.Error(err)
	}
}

// writeAndRead compares a file with its golden one, and reads it back.
func writeAndRead(t *testing.T, golden, path string, write func() error, want any, read func() (any, error)) {
	t.Helper()
	if err := write(); err != nil {
		t.Fatal(err)
	}
	compareGolden(t, golden, path)
	got, err := read()
	if diff := cmp.Diff(want, got, sameJSON); diff != "" || err != nil {
		t.Errorf("read back: %v (-want +got):\n%s", err, diff)
	}
}

func compareGolden(t *testing.T, name, path string) {
	t.Helper()
	golden := filepath.Join("testdata", name+".golden.json")
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if m := mode(t, path); m != 0o600 {
		t.Errorf("mode of %s: %v, want 0600", path, m)
	}
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-golden +got):\n%s", golden, diff)
	}
}

func TestPaths(t *testing.T) {
	got := []string{DefaultInventoryPath, DefaultAttachmentsDir, CheckpointPath(DefaultStateDir)}
	want := []string{"/run/multi-eni/inventory.json", "/var/lib/cni/multi-eni", "/var/lib/multi-eni/checkpoint.json"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("paths of the contract (-want +got):\n%s", diff)
	}
}

// TestRowsRefused: a row that a reader could misuse is corrupt, in the inventory and in the checkpoint.
func TestRowsRefused(t *testing.T) {
	ready := `"phase":"ready","mac":"02:00:00:00:00:07","pciAddress":"0000:00:07.0"`
	for row, want := range map[string]string{
		`{` + ready + `}`:      "",
		`{"phase":"pending"}`:  "",
		`{"phase":"draining"}`: "",
		`{}`:                   `devices[1]: corrupt file: phase ""`,
		`{"phase":"Ready"}`:    `phase "Ready"`,
		`{"phase":"ready","pciAddress":"0000:00:07.0"}`: "needs mac and pciAddress",
		`{"phase":"ready","mac":"02:00:00:00:00:07"}`:   "needs mac and pciAddress",
		`{` + ready + `,"interfaceName":"a/b"}`:         "interfaceName",
		`{` + ready + `,"interfaceName":".."}`:          "interfaceName",
		`{` + ready + `,"pciAddress":"07:00.0"}`:        "PCI address",
		`{` + ready + `,"mac":"01:00:5e:00:00:01"}`:     "MAC address",
		`{` + ready + `,"eniID":"eth1"}`:                "ENI id",
		`{` + ready + `,"subnetID":"x"}`:                "subnet id",
		`{` + ready + `,"resourceName":"x"}`:            "resource name",
		`{` + ready + `,"subnetCIDR":"10.0.0.0"}`:       "parse",
		`{` + ready + `,"addresses":["10.0.0.1"]}`:      "parse",
		`{` + ready + `,"mtu":"9001"}`:                  "parse",
		`[]`:                                            "parse",
	} {
		content := []byte(`{"schemaVersion":1,"devices":[{"phase":"pending"},` + row + `]}`)
		_, inventory := decodeInventory("/f", content)
		_, checkpoint := decodeCheckpoint("/f", content)
		for reader, err := range map[string]error{"inventory": inventory, "checkpoint": checkpoint} {
			switch {
			case want == "" && err != nil:
				t.Errorf("%s refuses row %s: %v", reader, row, err)
			case want != "" && (!errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "/f")):
				t.Errorf("%s, row %s: %v; want ErrCorrupt, /f and %q", reader, row, err, want)
			}
		}
	}
}

func TestFilesRefused(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "torn": `{"schemaVersion":1,"dev`, "null": "null", "list": "[]", "no version": "{}",
		"two values": `{"schemaVersion":1}{}`,
	} {
		path := filepath.Join(t.TempDir(), "file.json")
		put(t, path, content, 0o600)
		if inv, err := ReadInventory(path); !errors.Is(err, ErrCorrupt) || cmp.Diff(Inventory{}, inv) != "" {
			t.Errorf("ReadInventory, %s: %+v, %v; want ErrCorrupt alone", name, inv, err)
		}
		if c, err := ReadCheckpoint(path); !errors.Is(err, ErrCorrupt) || cmp.Diff(Checkpoint{}, c) != "" {
			t.Errorf("ReadCheckpoint, %s: %+v, %v; want ErrCorrupt alone", name, c, err)
		}
	}
	// A later release may add fields; readers of this one pass over them.
	if _, err := decodeInventory("f", []byte(`{"schemaVersion":1,"new":{},"devices":[{"phase":"pending","new":1}]}`)); err != nil {
		t.Errorf("an unknown field: %v", err)
	}
}

func TestNetnsSame(t *testing.T) {
	for name, tt := range map[string]struct {
		a, b Netns
		want bool
	}{
		"same":                          {Netns{Path: "/a", Cookie: 1, Inode: 2}, Netns{Path: "/b", Cookie: 1, Inode: 2}, true},
		"inode reused":                  {Netns{Path: "/a", Cookie: 1, Inode: 2}, Netns{Path: "/a", Cookie: 3, Inode: 2}, false},
		"cookie decides":                {Netns{Path: "/a", Cookie: 1, Inode: 2}, Netns{Path: "/a", Cookie: 1, Inode: 9}, true},
		"no cookie, same inode":         {Netns{Path: "/a", Cookie: 0, Inode: 2}, Netns{Path: "/a", Cookie: 7, Inode: 2}, true},
		"no cookie, other inode":        {Netns{Path: "/a", Cookie: 0, Inode: 2}, Netns{Path: "/a", Cookie: 0, Inode: 3}, false},
		"nothing known is nothing same": {Netns{Path: "/a"}, Netns{Path: "/a"}, false},
	} {
		if got := tt.a.Same(tt.b); got != tt.want {
			t.Errorf("%s: Same = %t, want %t", name, got, tt.want)
		}
		if got := tt.b.Same(tt.a); got != tt.want {
			t.Errorf("%s, the other way round: Same = %t, want %t", name, got, tt.want)
		}
	}
}

// TestNoSettingsAreNotUnread: settings of which a device has none, and settings that
// nobody has read, stay apart on the disk.
func TestNoSettingsAreNotUnread(t *testing.T) {
	for _, want := range []LinkState{{}, {Settings: Settings{}}, {Ethtool: Settings{}}} {
		data, err := Encode(want)
		if err != nil {
			t.Fatal(err)
		}
		var got LinkState
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("written and read again (-want +got):\n%s", diff)
		}
	}
}

// fuzzDecoder checks a decoder: it never panics, it refuses a file as corrupt or as another
// version's and as nothing else, and a file that it accepts is written and read again as the same.
func fuzzDecoder[T any](f *testing.F, decode func(path string, data []byte) (T, error), goldens ...string) {
	for _, name := range goldens {
		data, err := os.ReadFile(filepath.Join("testdata", name+".golden.json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for version := range 3 {
		f.Add(fmt.Appendf(nil, `{"schemaVersion":%d}`, version))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		first, err := decode("f", data)
		if err != nil {
			if errors.Is(err, ErrCorrupt) == errors.Is(err, ErrOtherVersion) {
				t.Fatalf("decode: %v; want either ErrCorrupt or ErrOtherVersion", err)
			}
			return
		}
		written, err := Encode(first)
		if err != nil {
			t.Fatalf("encode what was decoded: %v", err)
		}
		second, err := decode("f", written)
		if diff := cmp.Diff(first, second, sameJSON); diff != "" || err != nil {
			t.Fatalf("decode what was encoded: %v (-first +second):\n%s", err, diff)
		}
	})
}

func FuzzInventory(f *testing.F) {
	fuzzDecoder(f, decodeInventory, "inventory", "inventory-empty", "inventory-empty-row")
}

func FuzzAttachment(f *testing.F) { fuzzDecoder(f, decodeAttachment, "attachment") }

func FuzzCheckpoint(f *testing.F) { fuzzDecoder(f, decodeCheckpoint, "checkpoint", "checkpoint-empty") }
