// Package fakeimds is an EC2 instance metadata service for tests and for the demo: version 2 only, with changing
// state, with the lags of the real one, and with faults on demand.
//
// It is strict. It refuses everything that the real service refuses. It answers an unknown request with 404 and reports it,
// so that a client cannot come to rely on an answer that was never modelled.
//
// Source: "Use the Instance Metadata Service to access instance metadata" and "Instance metadata categories" in the
// EC2 user guide.
package fakeimds

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	tokenHeader = "X-Aws-Ec2-Metadata-Token"
	ttlHeader   = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	maxTTL      = 21600 // seconds; six hours
	root        = "/latest/"
	// Token is the path of the token call, for Fault.
	Token = "api/token"
)

// Fault replaces or delays the right answer.
type Fault struct {
	// Delay comes first, in real time, or until the client gives up.
	Delay time.Duration
	// Drop closes the connection without any answer.
	Drop bool
	// Status replaces the right one unless 0. Without Body, 401 and 404 have the service's own page, others none.
	Status int
	// Body replaces the value, unless it is "".
	Body string
	// Location is where a Status of 3xx points.
	Location string
	// Truncate ends the connection in the middle of the body, which must not be empty.
	Truncate bool
	// After is the number of requests before the fault begins.
	After int
	// Times is the number of requests that it then hits; 0 is all.
	Times int
}

// Server is the service: an http.Handler, safe for concurrent use. Make it with New or Start.
type Server struct {
	now       func() time.Time
	onUnknown func(request string)

	mu       sync.Mutex
	instance string
	region   string
	roleKey  string
	enis     []*attachment
	tokens   map[string]time.Time // expiry
	issued   int
	faults   map[string]*Fault
	unknown  []string
	requests map[string]int
	log      []Request
}

// Request is a request to the Server, with any outcome.
type Request struct {
	// Path is below /latest/.
	Path string
	// At is by the Server's clock.
	At time.Time
}

// Config is a Server's initial state. The zero value is an instance without an ID or any ENI.
type Config struct {
	State State
	// Now is the clock for token expiry and lags; nil is time.Now.
	Now func() time.Time
	// OnUnknown, unless nil, is called for each unknown request, as "METHOD path". It must not call the Server.
	OnUnknown func(request string)
}

// New returns a Server in the given state.
func New(cfg Config) *Server {
	s := &Server{
		now: cfg.Now, onUnknown: cfg.OnUnknown,
		tokens: map[string]time.Time{}, faults: map[string]*Fault{}, requests: map[string]int{},
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.Apply(cfg.State)
	return s
}

// Fault sets the fault of a path below /latest/; "" is all paths without their own. The zero Fault ends it.
func (s *Server) Fault(path string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[path] = &f
}

// RevokeTokens makes every token issued so far invalid.
func (s *Server) RevokeTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// TokensIssued is the number of successful token calls.
func (s *Server) TokensIssued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issued
}

// Requests counts the requests for a path below /latest/, with any outcome.
func (s *Server) Requests(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[path]
}

// Log lists all requests so far.
func (s *Server) Log() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// Unknown lists the unknown requests, as "METHOD path", sorted and without duplicates.
func (s *Server) Unknown() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Compact(slices.Sorted(slices.Values(s.unknown)))
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, root)
	if !ok {
		s.refuse(w, r, http.StatusNotFound)
		return
	}
	f := s.take(path)
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
	}
	switch {
	case f.Drop:
		panic(http.ErrAbortHandler)
	case f.Truncate:
		w.Header().Set("Content-Length", strconv.Itoa(2*len(f.Body)))
		fmt.Fprint(w, f.Body)
		panic(http.ErrAbortHandler)
	case f.Status != 0:
		if f.Location != "" {
			w.Header().Set("Location", f.Location)
		}
		writePage(w, f.Status, f.Body)
	case path == Token:
		s.serveToken(w, r)
	default:
		s.serveData(w, r, path, f.Body)
	}
}

func (s *Server) take(path string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[path]++
	s.log = append(s.log, Request{path, s.now()})
	f, ok := s.faults[path]
	if !ok {
		f, ok = s.faults[""]
	}
	if !ok {
		return Fault{}
	}
	if f.After > 0 {
		f.After--
		return Fault{}
	}
	hit := *f
	if f.Times == 1 {
		*f = Fault{}
	} else if f.Times > 1 {
		f.Times--
	}
	return hit
}

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPut {
		s.refuse(w, r, http.StatusMethodNotAllowed)
		return
	}
	if r.Header.Get("X-Forwarded-For") != "" { // a proxy stands between
		w.WriteHeader(http.StatusForbidden)
		return
	}
	ttl, err := strconv.Atoi(r.Header.Get(ttlHeader))
	if err != nil || ttl < 1 || ttl > maxTTL {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.issued++
	token := fmt.Sprintf("token-%d==", s.issued)
	s.tokens[token] = s.now().Add(time.Duration(ttl) * time.Second)
	s.mu.Unlock()
	w.Header().Set(ttlHeader, strconv.Itoa(ttl))
	fmt.Fprint(w, token)
}

func (s *Server) serveData(w http.ResponseWriter, r *http.Request, path, body string) {
	if r.Method != http.MethodGet {
		s.refuse(w, r, http.StatusMethodNotAllowed)
		return
	}
	s.mu.Lock()
	expiry, ok := s.tokens[r.Header.Get(tokenHeader)]
	authorized := ok && s.now().Before(expiry)
	value, found := s.value(path)
	s.mu.Unlock()
	switch {
	case !authorized:
		writePage(w, http.StatusUnauthorized, "")
	case found == unknown:
		s.refuse(w, r, http.StatusNotFound)
	case found == absent:
		writePage(w, http.StatusNotFound, "")
	default:
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, cmp.Or(body, value))
	}
}

func (s *Server) refuse(w http.ResponseWriter, r *http.Request, status int) {
	request := r.Method + " " + r.URL.Path
	s.mu.Lock()
	s.unknown = append(s.unknown, request)
	s.mu.Unlock()
	if s.onUnknown != nil {
		s.onUnknown(request)
	}
	writePage(w, status, "")
}

// writePage answers with a body; "" is the service's own: amazon-ec2-metadata-mock v1.13.0, pkg/server/httpserver.go.
func writePage(w http.ResponseWriter, status int, body string) {
	if body == "" && (status == http.StatusUnauthorized || status == http.StatusNotFound) {
		w.Header().Set("Content-Type", "text/html")
		body = fmt.Sprintf(page, status, http.StatusText(status))
	}
	w.WriteHeader(status)
	fmt.Fprint(w, body)
}

const page = `<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
	"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>%[1]d - %[2]s</title>
 </head>
 <body>
  <h1>%[1]d - %[2]s</h1>
 </body>
</html>
`
