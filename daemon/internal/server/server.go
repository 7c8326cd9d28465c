// Package server tells people and their tools how the daemon is doing: metrics
// and probes over HTTP, and the whole status over a unix socket. All of it is
// made of the last View; nothing here has a truth of its own.
package server

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// aliveWithin is how old the last Sync may be. There is one each minute; what
// one may wait for (the metadata, the kubelet) is bounded well below the rest.
const aliveWithin = 5 * time.Minute

// Options are what a Server works with. All are needed but those that say what
// their absence means.
type Options struct {
	Version string
	// Flags are those that the daemon was started with, by name; nil if nobody asks.
	Flags map[string]string
	// Inventory is the path of the inventory, as the status names it.
	Inventory string
	// Leases is the folder of the leases.
	Leases nodestate.LeaseDir
	// API says whether the API server is followed, and with one word of a fixed
	// set why not; "" before its first answer. Nil where there is none.
	API func() (reachable bool, reason string)
	// EventsDropped is how many Events for the cluster were given up. Nil where
	// none are sent.
	EventsDropped func() uint64
	// Services get to know of endpoints that cannot be served.
	Services *problem.Services
	Now      func() time.Time
	Log      logrus.FieldLogger
}

// Server answers questions about the daemon. Its methods are safe for
// concurrent use.
type Server struct {
	Options
	registry *prometheus.Registry
	metrics  metrics
	started  time.Time

	mu sync.Mutex
	// view is the last one, if any was seen.
	view *view.View
	// seen is when it came, or when the Server was made.
	seen time.Time
	// ready: the NodeENIs were known to a Sync once.
	ready bool
}

// New returns a Server that has seen nothing yet.
func New(o Options) *Server {
	s := &Server{Options: o, registry: prometheus.NewRegistry(), started: o.Now()}
	s.seen = s.started
	s.register()
	return s
}

// Observe takes the View of a Sync that has ended. It does not block.
func (s *Server) Observe(v view.View) {
	s.count(v.Did)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view, s.seen = &v, s.Now()
	s.ready = s.ready || !slices.ContainsFunc(v.Inventory.Problems, func(p nodestate.Problem) bool { return p.Reason == reason.NodeENIsUnreadable })
}

// last returns the last View, or nil.
func (s *Server) last() *view.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view
}

// alive returns since when no Sync has ended, and whether that is soon enough.
func (s *Server) alive() (since time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen, s.Now().Sub(s.seen) <= aliveWithin
}

// isReady says whether a Sync has once known the NodeENIs. It stays true when
// the API server cannot be reached later: the pods of the node keep working.
func (s *Server) isReady() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}
