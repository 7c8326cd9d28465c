package server

import (
	"context"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/server/web"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// patience bounds a test's wait for an immediate event.
const patience = 10 * time.Second

func serve(t *testing.T, s *Server, listen, socket string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, listen, socket) }()
	deadline := time.Now().Add(patience)
	for {
		conn, err := status.Dial(ctx, socket)
		if err == nil {
			conn.Close()
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("server ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("no socket: %v", err)
		}
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("server: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func TestAsk(t *testing.T) {
	// deeper than the address of a socket may be long
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 30))
	socket := filepath.Join(dir, status.SocketName)
	s := newServerAt(t, &clock{noon})
	stop := serve(t, s, web.Off, socket)
	if _, err := status.Ask(t.Context(), socket); err == nil || !strings.Contains(err.Error(), "not looked at yet") {
		t.Errorf("before the first View: %v", err)
	}
	view := busy()
	s.Observe(view)
	got, err := status.Ask(t.Context(), socket)
	must(t, err)
	want := status.Status{Inventory: view.Inventory, Holders: view.Holders,
		Pools: []leases.PoolState{{ENIID: "eni-00000001", Family: "ipv4", PoolCount: leases.PoolCount{Size: 17}}}, Unreadable: []string{}, Live: &status.Live{
			Version: "v1.2.3", StartedAt: noon, SyncedAt: noon, InventoryPath: "/run/multi-eni/inventory.json",
			Config: view.Config, DevicePlugin: view.Plugin, Offer: view.Offer, API: &status.API{Reason: "Forbidden"},
		}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	info, err := os.Lstat(socket)
	must(t, err)
	if info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	stop()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := status.Ask(t.Context(), socket); err == nil {
		t.Error("a server that has ended answers")
	}
}

// TestSocketOfAnother: the socket of a dead daemon is replaced, the socket of a live one is left alone.
func TestSocketOfAnother(t *testing.T) {
	socket := filepath.Join(t.TempDir(), status.SocketName)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	must(t, err)
	dead.SetUnlinkOnClose(false)
	dead.Close()
	first := newServerAt(t, &clock{noon})
	first.Observe(busy())
	serve(t, first, "", socket)

	err = newServerAt(t, &clock{noon}).Run(t.Context(), "", socket)
	if err == nil || !strings.Contains(err.Error(), "another multi-enid") {
		t.Errorf("a second server on a live socket: %v", err)
	}
	if _, err := status.Ask(t.Context(), socket); err != nil {
		t.Errorf("the first one after that: %v", err)
	}
}

func TestMetricsOverTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	socket := filepath.Join(t.TempDir(), status.SocketName)
	s := newServerAt(t, &clock{noon})
	l.Close()
	serve(t, s, address, socket)
	client := &http.Client{Timeout: patience}
	resp, err := client.Get("http://" + address + "/metrics")
	for begin := time.Now(); err != nil && time.Since(begin) < patience; { // the socket, for which serve waits, is there first
		time.Sleep(time.Millisecond)
		resp, err = client.Get("http://" + address + "/metrics")
	}
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(body), "multi_eni_build_info{") || !strings.Contains(string(body), "process_resident_memory_bytes") {
		t.Errorf("metrics: %v\n%s", err, body)
	}
	client.CloseIdleConnections()
}

// TestAskGivesUp: a daemon that stops half-way does not hold up the command.
func TestAskGivesUp(t *testing.T) {
	socket := filepath.Join(t.TempDir(), status.SocketName)
	l, err := net.Listen("unix", socket)
	must(t, err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := status.Ask(ctx, socket); err == nil {
		t.Error("an answer from nobody")
	}
}

func TestRunning(t *testing.T) {
	inventory := filepath.Join(t.TempDir(), "inventory.json")
	socket := status.Socket(inventory)
	want := func(want, failed bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if got, err := status.Running(ctx, socket); got != want || (err != nil) != failed {
			t.Errorf("%v, %v; want %v, error %v", got, err, want, failed)
		}
	}
	want(false, false)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	must(t, err)
	want(false, true) // it listens, and does not answer
	l.SetUnlinkOnClose(false)
	l.Close()
	want(false, false) // the socket of a killed daemon
	must(t, os.Remove(socket))
	must(t, os.Mkdir(socket, 0o755))
	want(false, false) // no socket at all: nobody listens
	must(t, os.Remove(socket))
	log := logrus.New()
	log.SetOutput(io.Discard)
	s := New(Options{Inventory: inventory, Now: time.Now, Log: log})
	s.Observe(view.View{Inventory: nodestate.Inventory{NodeName: "node-a"}})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, web.Off, socket) }()
	deadline := time.Now().Add(10 * time.Second)
	for running := false; !running && time.Now().Before(deadline); {
		running, _ = status.Running(ctx, socket)
	}
	want(true, false)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// reported waits until the problems of the services are the wanted ones.
func reported(t *testing.T, services *problem.Services, want ...string) []nodestate.Problem {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		problems := services.Problems()
		var got []string
		for _, p := range problems {
			got = append(got, string(p.Reason))
		}
		if slices.Equal(got, want) {
			return problems
		}
		if time.Now().After(deadline) {
			t.Fatalf("problems %q, want %q", got, want)
		}
	}
}

// TestBusyAddress: another program has the port. The status is served all the same, a problem names the flag, and the metrics are there
// once the port is free.
func TestBusyAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	socket := filepath.Join(t.TempDir(), status.SocketName)
	s := newServerAt(t, &clock{noon})
	s.Services = &problem.Services{}
	s.Observe(busy())
	serve(t, s, address, socket)
	if _, err := status.Ask(t.Context(), socket); err != nil {
		t.Error(err)
	}
	if p := reported(t, s.Services, "MetricsUnserved")[0]; p.Device != address || !strings.Contains(p.Message, "another program listens there") ||
		!strings.Contains(p.Message, "--listen") {
		t.Errorf("problem %+v", p)
	}
	l.Close()
	reported(t, s.Services)
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + address + "/healthz")
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Error(resp.Status)
	}
}

// TestStatusSocketCannotBeMade: a file is where its folder should be.
func TestStatusSocketCannotBeMade(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "run")
	must(t, os.WriteFile(folder, nil, 0o600))
	s := newServerAt(t, &clock{noon})
	s.Services = &problem.Services{}
	s.Observe(busy())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(t.Context(), "", filepath.Join(folder, status.SocketName)) }()
	reported(t, s.Services, "StatusUnserved")
	must(t, os.Remove(folder))
	reported(t, s.Services)
	if _, err := status.Ask(t.Context(), filepath.Join(folder, status.SocketName)); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		t.Errorf("the server has ended: %v", err)
	default:
	}
}

// TestUnserved: a message names no cause but the kernel's.
func TestUnserved(t *testing.T) {
	for address, want := range map[string]string{"203.0.113.1:0": "no interface of this node has the address", "host.invalid:1": "see the daemon's log"} {
		l, err := openTCP(t.Context(), address)
		if err == nil {
			l.Close()
			t.Fatalf("listens at %s", address)
		}
		if p := unserved(address, err); !strings.Contains(p.Message, want) {
			t.Errorf("%s (%v): %q, want %q", address, err, p.Message, want)
		}
	}
}
