package server

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

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

// TestBusyAddress: another program has the port. The status is served all the
// same, a problem names the flag, and the metrics are there once the port is
// free.
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
