package server

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestRunning: only a daemon that answers is running.
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
	go func() { ended <- s.Run(ctx, Off, socket) }()
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
