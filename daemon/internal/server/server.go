// Package server serves the daemon's state: metrics and probes over HTTP, and the whole
// status over a unix socket. All of it is made of the last View.
package server

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// aliveWithin bounds the age of the last Sync. There is one each minute; its waits for IMDS and the kubelet are shorter than the rest.
const aliveWithin = 5 * time.Minute

// Options configure a Server. Fields are required unless they say otherwise.
type Options struct {
	Version string
	// Flags are the daemon's flags by name. May be nil.
	Flags map[string]string
	// Inventory is the path of the inventory, as the status names it.
	Inventory string
	Leases    leases.Dir
	// API says whether the API server is followed. If it is not, reason is a word of a fixed
	// set, or "" before the first answer. Nil without an API server.
	API func() (reachable bool, reason string)
	// EventsDropped counts the Events that were given up. Nil where none are sent.
	EventsDropped func() uint64
	// Services report endpoints that cannot be served.
	Services *problem.Services
	Now      func() time.Time
	Log      logrus.FieldLogger
}

// Server answers questions about the daemon. It is safe for concurrent use.
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

// hangs says why the daemon should be restarted; "" while the last Sync has ended recently enough.
func (s *Server) hangs() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Now().Sub(s.seen) <= aliveWithin {
		return ""
	}
	return "no look at the node has ended since " + s.seen.UTC().Format(time.RFC3339)
}

// unready says why the daemon is not ready; "" once a Sync has known the NodeENIs. It stays ready if the API server is lost later: the pods of the
// node keep working.
func (s *Server) unready() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready {
		return ""
	}
	return "the NodeENIs are not known yet"
}

// status returns the last View as a Status, or false before the first.
func (s *Server) status() (status.Status, bool) {
	v := s.last()
	if v == nil {
		return status.Status{}, false
	}
	out := status.Status{Inventory: v.Inventory, Holders: append([]view.Holder{}, v.Holders...), Unreadable: []string{}, Live: &status.Live{
		Version: s.Version, StartedAt: s.started, SyncedAt: v.At, InventoryPath: s.Inventory, Config: v.Config, DevicePlugin: v.Plugin,
		Offer: v.Offer, ByController: v.ByController, Slots: v.Slots,
	}}
	out.SetPools(s.Leases)
	if s.API != nil {
		reachable, reason := s.API()
		out.Live.API = &status.API{Reachable: reachable, Reason: reason}
	}
	return out, true
}
