package operate

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

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// What one client may cost at most.
const (
	headerTimeout  = 5 * time.Second
	readTimeout    = 10 * time.Second
	writeTimeout   = 30 * time.Second
	idleTimeout    = 60 * time.Second
	maxHeader      = 16 << 10 // bytes
	maxScrapes     = 4        // at once
	closeTimeout   = 2 * time.Second
	dialTimeout    = time.Second
	socketFileMode = 0o600
)

// Off is a value of listen that, like "", stands for no address.
const Off = "off"

// Run serves /metrics, /healthz and /readyz on the TCP address listen, and the
// status on the unix socket, until ctx ends. An error is that one of them could
// not be opened: then neither is served.
func (s *Server) Run(ctx context.Context, listen, socket string) error {
	status, closeStatus, err := listenUnix(ctx, socket)
	if err != nil {
		return fmt.Errorf("open status socket: %w", err)
	}
	defer closeStatus()
	servers := map[*http.Server]net.Listener{newServer(ctx, s.local()): status}
	if listen != "" && listen != Off {
		var config net.ListenConfig
		public, err := config.Listen(ctx, "tcp", listen)
		if err != nil {
			return fmt.Errorf("open address for metrics and probes: %w; give another --listen, or off", err)
		}
		servers[newServer(ctx, s.public())] = public
		s.Log.WithField("address", public.Addr().String()).Info("metrics and probes are served")
	}
	var running sync.WaitGroup
	for server, l := range servers {
		running.Go(func() {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				s.Log.WithError(err).Warn("daemon can no longer be asked")
			}
		})
	}
	<-ctx.Done()
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	for server := range servers {
		if server.Shutdown(ending) != nil {
			server.Close() //nolint:errcheck,gosec // the process ends
		}
	}
	running.Wait()
	return nil
}

func newServer(ctx context.Context, h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader, BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
}

// public is for everybody who may reach the address: it tells no names.
func (s *Server) public() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		since, ok := s.alive()
		answer(w, ok, fmt.Sprintf("no look at the node has ended since %s", since.UTC().Format(time.RFC3339)))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, s.isReady(), "the NodeENIs are not known yet")
	})
	return mux
}

func answer(w http.ResponseWriter, ok bool, fault string) {
	if ok {
		fmt.Fprintln(w, "ok")
		return
	}
	http.Error(w, fault, http.StatusServiceUnavailable)
}

// local is for root on this node.
func (s *Server) local() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+statusPath, func(w http.ResponseWriter, _ *http.Request) {
		status, ok := s.status()
		if !ok {
			http.Error(w, "the node was not looked at yet", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(status) //nolint:errcheck,gosec,errchkjson // a client that has gone needs no answer
	})
	return mux
}

// listenUnix listens on a socket that only its owner may use, from the first
// moment on: it is made under another name in a folder of its own, and put in
// place by a rename. That also replaces what a dead daemon has left.
func listenUnix(ctx context.Context, path string) (l net.Listener, done func(), err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	if conn, err := dial(ctx, path); err == nil {
		conn.Close() //nolint:errcheck,gosec // nothing was sent
		return nil, nil, fmt.Errorf("%q: another multi-enid listens there; stop that one, or give this one an --inventory in a folder of its own", path)
	}
	private, err := os.MkdirTemp(dir, "."+SocketName+"-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(private) //nolint:errcheck // empty, and in nobody's way
	made := filepath.Join(private, SocketName)
	if err := short(made, func(name string) error {
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

func dial(ctx context.Context, path string) (conn net.Conn, err error) {
	err = short(path, func(name string) error {
		conn, err = (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", name)
		return err
	})
	return conn, err
}

// short calls f with a name for path that fits into a socket's address, which
// takes 107 bytes (unix(7)), however deep the folder is.
func short(path string, f func(name string) error) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // it was only named
	return f(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}
