// Command imds serves the instance metadata of a JSON file (fakeimds.State) on the address of its flag,
// until SIGINT or SIGTERM. A change of the file takes effect with the next request.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
)

const (
	headerTimeout   = 5 * time.Second
	shutdownTimeout = 2 * time.Second
)

func main() {
	listen := flag.String("listen", "127.0.0.1:1338", "`address` to serve on")
	state := flag.String("state", "", "JSON `file` with the instance's id and ENIs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *listen, *state)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "imds:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen, path string) error {
	f := &file{path: path, server: fakeimds.New(fakeimds.Config{
		OnUnknown: func(request string) { fmt.Fprintln(os.Stderr, "imds: unknown request:", request) },
	})}
	if err := f.refresh(); err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("listen on %q: %w", listen, err)
	}
	srv := &http.Server{Handler: f, ReadHeaderTimeout: headerTimeout}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve on %q: %w", listen, err)
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("stop serving: %w", err), srv.Close())
	}
	return nil
}

// file applies its content to the server before each request.
type file struct {
	path   string
	server *fakeimds.Server

	mu   sync.Mutex
	last []byte
}

func (f *file) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := f.refresh(); err != nil { // half written: the state before it holds
		fmt.Fprintln(os.Stderr, "imds:", err)
	}
	f.server.ServeHTTP(w, r)
}

func (f *file) refresh() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	data, err := os.ReadFile(f.path)
	if err != nil {
		return fmt.Errorf("read the state: %w", err)
	}
	if bytes.Equal(data, f.last) {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var st fakeimds.State
	if err := dec.Decode(&st); err != nil {
		return fmt.Errorf("decode %q: %w", f.path, err)
	}
	f.last = data
	f.server.Apply(st)
	return nil
}
