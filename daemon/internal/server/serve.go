package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/backoff"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/server/web"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

const (
	socketFileMode = 0o600
	// reopenFirst and reopenLatest bound the waits before listening again at an address. They double.
	reopenFirst  = time.Second
	reopenLatest = 30 * time.Second
)

var errAnotherDaemon = errors.New("another multi-enid listens there; stop that one, or give this one an --inventory in a folder of its own")

// Run serves /metrics, /healthz and /readyz on the TCP address listen, and the status on the unix socket, until ctx ends. An address that
// cannot be opened is a problem of the Services, and is tried again. Run fails only if another daemon listens at the socket.
func (s *Server) Run(ctx context.Context, listen, socket string) error {
	local, err := s.openStatus(ctx, socket)
	if errors.Is(err, errAnotherDaemon) {
		return err
	}
	endpoints := []endpoint{{
		name: "status", address: socket, handler: s.local(), first: local, firstErr: err, problem: func(error) nodestate.Problem {
			return nodestate.Problem{Reason: reason.StatusUnserved, Device: socket,
				Message: "multi-enid status reads the daemon's files instead of asking it, because its socket cannot be made; the daemon tries again, and its log has " +
					"the error"}
		},
		open: func() (listener, error) { return s.openStatus(ctx, socket) },
	}}
	if listen != "" && listen != web.Off {
		open := func() (listener, error) { return openTCP(ctx, listen) }
		public, err := open()
		endpoints = append(endpoints, endpoint{
			name: "listen", address: listen, handler: s.public(), first: public, firstErr: err, open: open,
			problem: func(err error) nodestate.Problem { return unserved(listen, err) },
		})
	}
	var running sync.WaitGroup
	for _, e := range endpoints {
		running.Go(func() { s.keep(ctx, e) })
	}
	running.Wait()
	return nil
}

// listener serves one endpoint; done is called after that.
type listener struct {
	net.Listener
	done func()
}

type endpoint struct {
	name string
	// address is a name for people: the socket was made under another.
	address string
	handler http.Handler
	// first and firstErr are the outcome of the first open.
	first    listener
	firstErr error
	open     func() (listener, error)
	// problem tells that it is not served.
	problem func(err error) nodestate.Problem
}

// keep serves an endpoint until ctx ends, and opens it again after each failure.
func (s *Server) keep(ctx context.Context, e endpoint) {
	wait := backoff.Backoff{First: reopenFirst, Cap: reopenLatest}
	l, err := e.first, e.firstErr
	for {
		s.Services.Report(e.name, e.problem(err), err)
		if err == nil {
			wait.Reset()
			if err = s.serve(ctx, e, l); err == nil {
				return
			}
			s.Services.Report(e.name, e.problem(err), err)
		}
		if !backoff.Sleep(ctx, wait.Failed()) {
			return
		}
		l, err = e.open()
	}
}

// serve answers until ctx ends, and then returns nil. An earlier end is an error.
func (s *Server) serve(ctx context.Context, e endpoint, l listener) error {
	defer l.done()
	s.Log.WithFields(logrus.Fields{"endpoint": e.name, "address": e.address}).Info("the daemon can be asked")
	return web.Serve(ctx, l, e.handler)
}

func openTCP(ctx context.Context, listen string) (listener, error) {
	l, err := web.Listen(ctx, listen)
	return listener{l, func() {}}, err
}

// unserved returns the Problem of an address that cannot be listened at.
func unserved(listen string, err error) nodestate.Problem {
	why := "see the daemon's log"
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		why = "another program listens there; end that program, or give another --listen, or off"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		why = "no interface of this node has the address; give another --listen, or off"
	case errors.Is(err, unix.EACCES):
		why = "the daemon may not listen at that port; give a --listen above 1023, or off"
	}
	return nodestate.Problem{Reason: reason.MetricsUnserved, Device: listen,
		Message: fmt.Sprintf("metrics and probes are not served at %s: %s; the daemon tries again", listen, why)}
}

func (s *Server) openStatus(ctx context.Context, socket string) (listener, error) {
	l, done, err := listenUnix(ctx, socket)
	if err != nil {
		return listener{}, fmt.Errorf("open status socket: %w", err)
	}
	return listener{l, done}, nil
}

// public answers everybody who can reach the address. It tells no names.
func (s *Server) public() http.Handler { return web.Public(s.registry, s.hangs, s.unready) }

// local answers root on this node.
func (s *Server) local() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+status.StatusPath, func(w http.ResponseWriter, _ *http.Request) {
		answer, ok := s.status()
		if !ok {
			http.Error(w, "the node was not looked at yet", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(answer) //nolint:errcheck,gosec,errchkjson // a client that has gone needs no answer
	})
	mux.HandleFunc("GET "+status.ConfigPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(status.Config{Version: s.Version, Flags: s.Flags}) //nolint:errcheck,gosec,errchkjson // a client that has gone needs no answer
	})
	return mux
}

// listenUnix listens on a socket that only its owner may use, from the first moment on: it
// is made in a private folder, and renamed. The rename replaces the socket of a dead daemon.
func listenUnix(ctx context.Context, path string) (l net.Listener, done func(), err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	if conn, err := status.Dial(ctx, path); err == nil {
		conn.Close() //nolint:errcheck,gosec // nothing was sent
		return nil, nil, fmt.Errorf("%q: %w", path, errAnotherDaemon)
	}
	private, err := os.MkdirTemp(dir, "."+status.SocketName+"-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(private) //nolint:errcheck // an empty folder left behind does no harm
	made := filepath.Join(private, status.SocketName)
	if err := status.WithShortName(made, func(name string) error {
		ul, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		if err != nil {
			return err
		}
		ul.SetUnlinkOnClose(false) // it has another name by then
		l = ul
		return nil
	}); err != nil {
		return nil, nil, err
	}
	var ours os.FileInfo
	if err = os.Chmod(made, socketFileMode); err == nil {
		ours, err = os.Lstat(made)
	}
	if err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		l.Close() //nolint:errcheck,gosec // never used
		return nil, nil, err
	}
	return l, func() {
		l.Close() //nolint:errcheck,gosec // the server has closed it
		if now, err := os.Lstat(path); err == nil && os.SameFile(now, ours) {
			os.Remove(path) //nolint:errcheck,gosec // the next daemon replaces it
		}
	}, nil
}
