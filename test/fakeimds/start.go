package fakeimds

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// Running is a Server that listens on the loopback interface.
type Running struct {
	*Server
	// URL is for AWS_EC2_METADATA_SERVICE_ENDPOINT.
	URL string

	listener *httptest.Server
}

// Start runs a Server until the test ends, or until Stop. An unknown request fails the test.
func Start(t testing.TB, cfg Config) *Running {
	t.Helper()
	s := New(cfg)
	l := httptest.NewServer(s)
	t.Cleanup(func() {
		l.Close()
		if u := s.Unknown(); len(u) > 0 {
			t.Errorf("metadata service: requests that it does not know:\n%s", strings.Join(u, "\n"))
		}
	})
	return &Running{Server: s, URL: l.URL, listener: l}
}

// Stop ends the service: connections are then refused.
func (r *Running) Stop() { r.listener.Close() }
