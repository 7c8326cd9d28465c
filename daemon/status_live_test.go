package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/server"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

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
	go func() { ended <- s.Run(ctx, server.Off, socket) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("status socket: %v", err)
		}
	})
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := status.Ask(ctx, socket)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no answer: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
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

// TestStatusHasOneSchema: the daemon's status has only one member more than the status from
// files.
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
