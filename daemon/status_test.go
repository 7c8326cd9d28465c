package main

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/server"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/server/web"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

var update = flag.Bool("update", false, "write the golden files")

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
	boot := thisBoot(t)
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

// writeHolders writes two pods that share the first device, one that is about to get the second, one of an earlier boot, and a torn record.
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

// answering runs a server with a View, as a running daemon does.
func answering(t *testing.T, inventory string, v view.View) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	started := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	s := server.New(server.Options{
		Version: "v1.2.3", Inventory: inventory, Log: log, Now: func() time.Time { return started },
		API: func() (bool, string) { return false, "Unreachable" },
	})
	s.Observe(v)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	socket := filepath.Join(filepath.Dir(inventory), status.SocketName)
	go func() { ended <- s.Run(ctx, web.Off, socket) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("status socket: %v", err)
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := status.Ask(ctx, socket); err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("no answer: %v", err)
		}
	}
}

func liveView(boot string) view.View {
	return view.View{
		At: time.Date(2026, 1, 2, 3, 5, 0, 0, time.UTC), Inventory: sample(boot),
		Holders: []view.Holder{
			{PCIAddress: "0000:00:06.0", Pod: "default/web-0", PodUID: "u-1", ContainerID: "c1", IfName: "net1", Mode: nodestate.ModeShared,
				State: nodestate.StateComplete},
			{PCIAddress: "0000:00:07.0", Pod: "red/router", Container: "main"},
		},
		Config: view.ConfigView{Path: "/etc/pcidp/config.json", Hash: "abc123", Current: true},
		Plugin: view.PluginView{
			State: view.PluginFailed, Pods: []string{"kube-system/sriov-x"}, LastRestart: time.Date(2026, 1, 2, 3, 1, 0, 0, time.UTC),
			Message: "intel.com/sriov_net offers other devices than the config has",
		},
	}
}

// TestStatusOfTheRunningDaemon needs no file but the socket.
func TestStatusOfTheRunningDaemon(t *testing.T) {
	inventory := filepath.Join(t.TempDir(), "inventory.json")
	answering(t, inventory, liveView("boot-1"))
	for name, args := range map[string][]string{"live.txt": nil, "live.json": {"-o", "json"}} {
		code, stdout, stderr := call(t.Context(), nil, append([]string{"status", "--inventory", inventory}, args...)...)
		if code != 0 || stderr != "" {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		golden(t, filepath.Join("testdata", "status", name), strings.ReplaceAll(stdout, filepath.Dir(inventory), "DIR"))
	}
}

// TestStatusOfTheOffer: without a device plugin, the daemon's own offer is shown by resource.
func TestStatusOfTheOffer(t *testing.T) {
	inventory := filepath.Join(t.TempDir(), "inventory.json")
	v := liveView("boot-1")
	v.Plugin = view.PluginView{State: view.PluginNotFound}
	v.Offer = view.OfferView{Mode: nodestate.OfferDevicePlugin, Wanted: nodestate.OfferPCIDP, State: view.OfferWaiting, Message: "the kubelet does not listen",
		Resources: []view.OfferedResource{{Name: "intel.com/dpdk_net", Unhealthy: 2}, {Name: "intel.com/sriov_net", Registered: true, Healthy: 3, Unhealthy: 1}}}
	answering(t, inventory, v)
	for name, args := range map[string][]string{"offer.txt": nil, "offer.yaml": {"-o", "yaml"}} {
		code, stdout, stderr := call(t.Context(), nil, append([]string{"status", "--inventory", inventory}, args...)...)
		if code != 0 || stderr != "" {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		golden(t, filepath.Join("testdata", "status", name), strings.ReplaceAll(stdout, filepath.Dir(inventory), "DIR"))
	}
}

// TestStatusHasOneSchema: the daemon's status has only one member more than the status from files.
func TestStatusHasOneSchema(t *testing.T) {
	inventory := filepath.Join(t.TempDir(), "inventory.json")
	must(t, nodestate.WriteInventory(inventory, sample(thisBoot(t))))
	members := func() map[string]json.RawMessage {
		code, stdout, stderr := call(t.Context(), nil, "status", "--inventory", inventory, "--attachments-dir", t.TempDir(), "-o", "json")
		if code != 0 || stderr != "" {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		var m map[string]json.RawMessage
		must(t, json.Unmarshal([]byte(stdout), &m))
		return m
	}
	files := members()
	answering(t, inventory, liveView(thisBoot(t)))
	live := members()
	if _, ok := live["live"]; !ok {
		t.Fatalf("the daemon was not asked: %v", live)
	}
	delete(live, "live")
	for _, m := range []map[string]json.RawMessage{files, live} {
		for name := range m {
			m[name] = nil
		}
	}
	if diff := cmp.Diff(files, live); diff != "" {
		t.Errorf("members (-files +daemon):\n%s", diff)
	}
}

// TestStatusOfACopy: the daemon beside a copied inventory is not asked.
func TestStatusOfACopy(t *testing.T) {
	dir := t.TempDir()
	answering(t, filepath.Join(dir, "inventory.json"), liveView("boot-1"))
	backup := filepath.Join(dir, "inventory-yesterday.json")
	must(t, nodestate.WriteInventory(backup, nodestate.Inventory{NodeName: "node-b", BootID: thisBoot(t)}))
	code, stdout, stderr := call(t.Context(), nil, "status", "--inventory", backup, "--attachments-dir", t.TempDir())
	if code != 0 || !strings.Contains(stdout, "node-b") || !strings.Contains(stdout, "From the files") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
}

// TestStatusOfADaemonThatHangs falls back to the files.
func TestStatusOfADaemonThatHangs(t *testing.T) {
	dir := t.TempDir()
	inventory := filepath.Join(dir, "inventory.json")
	must(t, nodestate.WriteInventory(inventory, sample(thisBoot(t))))
	l, err := net.Listen("unix", filepath.Join(dir, status.SocketName))
	must(t, err)
	defer l.Close()
	begun := time.Now()
	code, stdout, stderr := call(t.Context(), nil, "status", "--inventory", inventory, "--attachments-dir", t.TempDir())
	if code != 0 || !strings.Contains(stdout, "From the files") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	if took := time.Since(begun); took > 2*time.Second+5*time.Second {
		t.Errorf("it took %v", took)
	}
}
