package main

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

var update = flag.Bool("update", false, "write the golden files")

// sample is a node in the middle of its life.
func sample(boot string) nodestate.Inventory {
	return nodestate.Inventory{
		NodeName: "node-a", BootID: boot, UpdatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Devices: []nodestate.Device{
			{
				ENIID: "eni-00000000000000001", NodeENI: "dataplane-a", MAC: "02:00:00:00:00:01", PCIAddress: "0000:00:06.0", InterfaceName: "eth1",
				Driver: "ena", DeviceIndex: 1, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.15/24"), netip.MustParsePrefix("10.0.1.16/24")},
				Phase: nodestate.PhaseReady,
			},
			{
				ENIID: "eni-00000000000000002", NodeENI: "dataplane-b", MAC: "02:00:00:00:00:02", PCIAddress: "0000:00:07.0", InterfaceName: "eth2",
				Driver: "ena", DeviceIndex: 2, ResourceName: "intel.com/sriov_net", Phase: nodestate.PhaseDraining,
			},
			{NodeENI: "dataplane-c", DeviceIndex: 3, Phase: nodestate.PhasePending},
		},
		Problems: []nodestate.Problem{
			{Reason: "ENINotAttached", NodeENI: "dataplane-c", Message: "no ENI is attached at device index 3 in subnet-0a1b2c3d; attach one"},
		},
	}
}

func TestStatus(t *testing.T) {
	boot, err := nodestate.BootID()
	must(t, err)
	tests := []struct {
		name    string
		inv     nodestate.Inventory
		holders bool
	}{
		{"busy", sample(boot), true},
		{"empty", nodestate.Inventory{NodeName: "node-a", BootID: boot, UpdatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, false},
		{"earlier-boot", sample("an earlier one"), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			repo := workIn(t, t.TempDir()) // so that messages have names of one length
			const path, records, leaseDir = "inventory.json", "records", "leases"
			must(t, nodestate.WriteInventory(path, tt.inv))
			if tt.holders {
				writeHolders(t, nodestate.AttachmentDir(records), boot)
				writeLease(t, leases.Dir(leaseDir), boot, tt.inv.Devices[0])
			}
			code, stdout, stderr := call(t.Context(), nil, "status", "--inventory", path, "--attachments-dir", records, "--lease-dir", leaseDir)
			if code != 0 || stderr != "" {
				t.Fatalf("exit code %d: %s", code, stderr)
			}
			golden(t, filepath.Join(repo, tt.name+".txt"), stdout)

			code, stdout, stderr = call(t.Context(), nil, "status", "--inventory", path, "--attachments-dir", records, "--lease-dir", leaseDir, "-o", "json")
			if code != 0 || stderr != "" {
				t.Fatalf("exit code %d: %s", code, stderr)
			}
			if !json.Valid([]byte(stdout)) {
				t.Errorf("not JSON: %s", stdout)
			}
			golden(t, filepath.Join(repo, tt.name+".json"), strings.ReplaceAll(stdout, boot, "THIS-BOOT"))
		})
	}
}

// writeLease has a pod lease the device's second address.
func writeLease(t *testing.T, dir leases.Dir, boot string, d nodestate.Device) {
	t.Helper()
	l, err := dir.Lock(t.Context(), boot, d.ENIID)
	must(t, err)
	defer l.Close()
	l.Leases.Leases = []leases.Lease{{Address: d.Addresses[1].Addr(), State: leases.Held, AttachmentID: nodestate.AttachmentID{ContainerID: "c1", IfName: "net1"}}}
	must(t, l.Save())
}

// writeHolders writes two pods that share the first device, one that is about to get the
// second, one of an earlier boot, and a torn record.
func writeHolders(t *testing.T, records nodestate.AttachmentDir, boot string) {
	t.Helper()
	begin := func(container, pod string, a nodestate.Attachment) *nodestate.Record {
		a.AttachmentID = nodestate.AttachmentID{ContainerID: container, IfName: "net1"}
		a.Pod = pod
		rec, err := records.Begin(a)
		must(t, err)
		t.Cleanup(rec.Close)
		return rec
	}
	first := nodestate.Attachment{BootID: boot, Mode: nodestate.ModeShared, Device: nodestate.AttachedDevice{PCIAddress: "0000:00:06.0"}}
	web := begin("c1", "default/web-0", first)
	web.LeasedAddresses = []netip.Addr{netip.MustParseAddr("10.0.1.16")}
	for _, rec := range []*nodestate.Record{web, begin("c2", "", first)} {
		rec.State = nodestate.StateComplete
		must(t, rec.Save())
	}
	second := nodestate.Attachment{BootID: boot, Mode: nodestate.ModeExclusive, Device: nodestate.AttachedDevice{PCIAddress: "0000:00:07.0"}}
	begin("c3", "red/router", second)
	second.BootID = "long ago"
	begin("c4", "red/gone", second)
	must(t, os.WriteFile(filepath.Join(string(records), "c5-net1.json"), nil, 0o600))
}

// workIn makes dir the working folder, and returns the folder of the golden files.
func workIn(t *testing.T, dir string) (goldens string) {
	t.Helper()
	goldens, err := filepath.Abs(filepath.Join("testdata", "status"))
	must(t, err)
	t.Chdir(dir)
	return goldens
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestStatusWithoutInventory(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "inventory.json")
	code, _, stderr := call(t.Context(), nil, "status", "--inventory", path)
	if code != cli.Failure || !strings.Contains(stderr, path) || !strings.Contains(stderr, "has not run") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	must(t, os.WriteFile(path, []byte("{"), 0o600))
	if code, _, stderr = call(t.Context(), nil, "status", "--inventory", path); code != cli.Failure || !strings.Contains(stderr, "corrupt") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
