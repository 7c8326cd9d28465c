// Package control serves the controller's metrics and probes over HTTP.
package control

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/server/web"
)

// DefaultListen is local: metrics tell how many ENIs a cluster has.
const DefaultListen = "127.0.0.1:9617"

// aliveWithin bounds the age of the leader's last turn. Its loop looks for another controller every 10 s.
const aliveWithin = 5 * time.Minute

// State is the controller's present. Fields below Leader are looked at only while it is true.
type State struct {
	// Synced: every informer has read its whole list once.
	Synced bool
	Leader bool
	// Turned is the end of the loop's last turn; zero before the first, which waits for EC2 and the API server.
	Turned time.Time
	// OtherController: the public controller is at work, so this one changes nothing.
	OtherController bool
	// Slots counts the slots by phase, Blocked those in phase Blocked by reason.
	Slots, Blocked map[string]int
	// Attach counts the times from when a slot was first wanted until its ENI was attached. It is looked at without Leader, too.
	Attach Histogram
	// Leaked are ENIs of this cluster that belong to no slot, as the last sweep has seen them. Parked wait for a node.
	Leaked, Parked int
	// Waiting is the longest present wait for a daemon's release. Slots of instances that are not running are left out.
	Waiting time.Duration
	// Resynced is the end of the last whole look at EC2 and Kubernetes; zero before the first.
	Resynced time.Time
	// Rates are the calls a second that each action's bucket allows now.
	Rates map[string]float64
	// EventsDropped counts Events that were given up.
	EventsDropped uint64
}

// Histogram counts observations, in seconds. Counts[i] has those above Bounds[i-1] and up to Bounds[i]; the last one has the rest.
type Histogram struct {
	Bounds []float64
	Counts []uint64
	Sum    float64
}

// Options configure a Server. All fields are required.
type Options struct {
	Version string
	// State is called at each scrape and probe. It must not wait for an EC2 call.
	State func() State
	Now   func() time.Time
	Log   logrus.FieldLogger
}

// Server answers questions about the controller. It is safe for concurrent use.
type Server struct {
	Options
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
}

// New returns a Server that serves nothing yet.
func New(o Options) *Server {
	s := &Server{Options: o, registry: prometheus.NewRegistry()}
	s.register()
	return s
}

// Run serves /metrics, /healthz and /readyz on the TCP address listen until ctx ends, and then returns nil.
func (s *Server) Run(ctx context.Context, listen string) error {
	if listen == "" || listen == web.Off {
		<-ctx.Done()
		return nil
	}
	l, err := web.Listen(ctx, listen)
	if err != nil {
		return fmt.Errorf("serve metrics and probes at --listen %s: %w; end the program that has the address, or give another, or off", listen, err)
	}
	return s.serve(ctx, l)
}

func (s *Server) serve(ctx context.Context, l net.Listener) error {
	s.Log.WithField("address", l.Addr().String()).Info("metrics and probes are served")
	if err := web.Serve(ctx, l, s.handler()); err != nil {
		return fmt.Errorf("serve metrics and probes: %w", err)
	}
	return nil
}

// handler answers everybody who can reach the address. It tells no names.
func (s *Server) handler() http.Handler { return web.Public(s.registry, s.fault, s.unready) }

// unready says why the controller is not ready; "" if it is. A standby is ready.
func (s *Server) unready() string {
	if !s.State().Synced {
		return "NodeENIs, Nodes and ENINodeStates are not known yet"
	}
	return ""
}

// fault says why the process should be restarted; "" for no reason. A standby is alive while it answers.
func (s *Server) fault() string {
	now := s.State()
	if !now.Leader || now.Turned.IsZero() || s.Now().Sub(now.Turned) <= aliveWithin {
		return ""
	}
	return "no turn of the loop has ended since " + now.Turned.UTC().Format(time.RFC3339)
}
