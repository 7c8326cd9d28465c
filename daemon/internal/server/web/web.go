// Package web serves HTTP for daemon and controller, with limits for each client.
package web

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Off is a value of --listen. Like "", it stands for no address.
const Off = "off"

// Limits of one client, and of the end.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 10 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 60 * time.Second
	closeTimeout  = 2 * time.Second
	maxHeader     = 16 << 10 // bytes
	maxScrapes    = 4        // at once
)

// Listen listens at a TCP address.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	return config.Listen(ctx, "tcp", address)
}

// Serve answers until ctx ends, closes l, and then returns nil. An earlier end is an error.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	server := newServer(ctx, h)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		server.Close() //nolint:errcheck,gosec // it may be opened anew
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if server.Shutdown(ending) != nil {
		server.Close() //nolint:errcheck,gosec // the process ends
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func newServer(ctx context.Context, h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader, BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
}

// Public has /metrics, /healthz and /readyz. The probes return why not, "" for no reason.
func Public(metrics prometheus.Gatherer, healthz, readyz func() string) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	mux.Handle("GET /healthz", probe(healthz))
	mux.Handle("GET /readyz", probe(readyz))
	return mux
}

func probe(fault func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if why := fault(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
}
