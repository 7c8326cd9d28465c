// Package fakeec2 is the part of Amazon EC2 for network interfaces, for tests: the Query protocol over HTTP with
// answers in XML, with changing state, pages, eventual consistency, throttling, the rights of a role, the life of
// instances, and answers of proxies.
//
// It is strict. It refuses and reports a call without a signature, and an unknown action or parameter, as EC2
// refuses them: a client cannot come to rely on an answer that was never modelled. Errors have the codes of "Error
// codes for the Amazon EC2 API". States that change with time are worked out from Config.Now when somebody looks:
// a Server starts no goroutine.
package fakeec2

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/fakeec2/iam"
)

const version = "2016-11-15"

// Config is a Server's initial state. Its zero value is an empty account, whose answers come at once.
type Config struct {
	Subnets []Subnet
	// Groups are security groups. Each VPC of a subnet has the group "default" besides.
	Groups []Group
	// Types are instance types besides the ones of the function Types; one with the same name takes its place.
	Types     []Type
	Instances []Instance
	ENIs      []ENI
	// PerENI limits the addresses of each family of an ENI; a prefix counts as one. 0 is no limit but the instance type's.
	PerENI int
	// PerRegion limits the ENIs; 0 is no limit.
	PerRegion int
	// MultiVPC permits to attach an ENI to an instance of another VPC in the same zone.
	MultiVPC bool

	// May says whether the caller's role may call an action, on an ENI if the action is about one; nil permits all. It
	// must not call the Server.
	May func(action string, on ENI) bool
	// Policy is the caller's policy, asked for each action and resource that a call needs; nil permits all.
	Policy *iam.Policy
	// AbsentForbidden makes calls about an ENI that does not exist UnauthorizedOperation if Policy asks for a tag of it, as it always is for an
	// attachment that does not exist. Nobody has tried it on EC2 for ENIs.
	AbsentForbidden bool
	// Key and Region must be in the calls' signatures; "" permits any.
	Key, Region string
	// DryRun makes the actions for addresses answer dry runs. In the API's model none of them has the
	// parameter DryRun ("API reference", and service/ec2 of aws-sdk-go-v2), so it is refused by default.
	DryRun bool
	// ListAll makes an Assign list the primary address and all secondary addresses and prefixes of the ENI, instead of
	// the new ones. The reference says only that they "are assigned to the network interface".
	ListAll bool
	// Shuffle reorders the items of each list (rand.Shuffle); nil does not. The reference promises no order.
	Shuffle func(n int, swap func(i, j int))

	// Slow ends the waiting of the fault Slow; with nil only the client does.
	Slow <-chan struct{}
	// Fault names the fault of the next call of an action, or ""; faults of Fail come first. It must not call the Server.
	Fault func(action string) string
	// Latency is how long an answer takes, half of it before the call is carried out; nil is not at all.
	Latency func(action string) time.Duration
	// Buckets throttle an action; the name "" stands for each action without its own. nil does not throttle.
	Buckets map[string]Bucket

	// Lag is how long Describe hides a change. LagOf, if not nil, is asked for each change instead.
	Lag   time.Duration
	LagOf func() time.Duration
	// DeleteLag is how long Describe goes on to show a deleted ENI, if longer than the lag.
	DeleteLag time.Duration
	// CreateLag is how long actions besides the Describes do not find a new ENI.
	CreateLag time.Duration
	// CreateTakes, AttachTakes and DetachTakes are how long an ENI is pending, attaching and detaching.
	CreateTakes, AttachTakes, DetachTakes time.Duration
	// Stuck says that a Detach without Force never ends for this ENI; nil is for none. It must not call the Server.
	Stuck func(ENI) bool
	// ForceKeepsIndex makes an index unusable after a Detach with Force until the instance was stopped: "you might not be able to attach a
	// different network interface to the same index" (API_DetachNetworkInterface.html).
	ForceKeepsIndex bool
	// LaunchTakes, StopTakes and TerminateTakes are how long an instance is pending, stopping and shutting down.
	LaunchTakes, StopTakes, TerminateTakes time.Duration
	// TerminatedFor is how long DescribeInstances shows a terminated instance; 0 is an hour.
	TerminatedFor time.Duration

	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// OnChange is called with a changed ENI, before the caller has its answer. It must not call the Server.
	OnChange func(ENI)
	// OnEvent is called with each Event, before the caller has its answer. It must not call the Server.
	OnEvent func(Event)
	// OnUnknown is called for unknown requests. It must not call the Server.
	OnUnknown func(request string)
}

// Server is the service: an http.Handler, safe for concurrent use.
type Server struct {
	cfg Config

	mu        sync.Mutex
	enis      map[string]*record // all that ever were
	living    int                // ENIs not deleted
	sorted    []*record          // by id, without ENIs that no view shows
	index     map[string]map[*record]struct{}
	pools     map[string]*pool // by subnet
	subnets   map[string]Subnet
	groups    map[string]Group
	types     map[string]Type
	instances map[string]*instance
	tokens    map[string]created
	tables    map[string]action
	due       schedule
	made      uint64 // the number in the last new id

	buckets map[string]*bucket
	faults  map[string][]string
	calls   []string
	tally   map[string]*Tally
	events  []Event
	denied  []string
}

// New returns a Server.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.TerminatedFor == 0 {
		cfg.TerminatedFor = time.Hour
	}
	s := &Server{
		cfg: cfg, enis: map[string]*record{}, index: map[string]map[*record]struct{}{}, pools: map[string]*pool{}, subnets: map[string]Subnet{},
		groups: map[string]Group{}, types: map[string]Type{}, instances: map[string]*instance{}, tokens: map[string]created{},
		buckets: map[string]*bucket{}, faults: map[string][]string{}, tally: map[string]*Tally{},
	}
	s.tables = table()
	s.settle(cfg)
	for _, e := range cfg.ENIs {
		s.insert(e.clone(), time.Time{})
	}
	for _, i := range cfg.Instances {
		s.launch(i, time.Time{})
	}
	return s
}

// Fail answers the next calls of an action with these error codes or faults, one after the other.
func (s *Server) Fail(action string, codes ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[action] = append(s.faults[action], codes...)
}

// Pending says whether an action has faults left.
func (s *Server) Pending(action string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.faults[action]) > 0
}

// Change edits an ENI as another client would, visible at once.
func (s *Server) Change(id string, edit func(*ENI)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick()
	s.enis[id].before = nil
	s.commit(s.enis[id], edit)
}

// ENI returns an ENI's present state, also of one that was deleted.
func (s *Server) ENI(id string) ENI {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick()
	return s.enis[id].clone()
}

// All returns all ENIs that ever were, sorted by id; Deleted is the zero time if an ENI exists.
func (s *Server) All() []ENI {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick()
	out := make([]ENI, 0, len(s.enis))
	for _, r := range s.enis {
		out = append(out, r.clone())
	}
	sortENIs(out)
	return out
}

// Calls returns the actions since the last Calls, with their ENI or attachment.
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

// Tally counts the calls of an action.
type Tally struct {
	// Calls counts all, Mutating the calls that changed something, and Refused the ones with an error code.
	Calls, Mutating, Refused int
}

// Tally returns the counts of an action; "" is the sum of all.
func (s *Server) Tally(action string) (sum Tally) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, t := range s.tally {
		if action == "" || action == name {
			sum.Calls, sum.Mutating, sum.Refused = sum.Calls+t.Calls, sum.Mutating+t.Mutating, sum.Refused+t.Refused
		}
	}
	return sum
}

// Event is a call of an action that is no Describe, as it was carried out or refused.
type Event struct {
	At     time.Time
	Action string
	// Code is EC2's error code, or "" if the call succeeded. Lost says that the caller had no answer; Repeated that its ClientToken was known.
	Code           string
	Lost, Repeated bool
	// ENI is the ENI right before the call; for CreateNetworkInterface it is the new one.
	ENI   ENI
	Force bool
}

// Events returns all calls that are no Describes, in their order. Calls that end before EC2 looks at them (Drop and the like) have none.
func (s *Server) Events() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Event(nil), s.events...)
}

// Denied returns the "action on resource" pairs that the policy has denied.
func (s *Server) Denied() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.denied...)
}

func (s *Server) shuffle(n int, swap func(i, j int)) {
	if s.cfg.Shuffle != nil {
		s.cfg.Shuffle(n, swap)
	}
}

func (s *Server) unknown(request string) {
	if s.cfg.OnUnknown != nil {
		s.cfg.OnUnknown(request)
	}
}

// begin counts a call and says what is to go wrong with it.
func (s *Server) begin(action, on string) (fault string, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, strings.TrimSpace(action+" "+on))
	if s.tally[action] == nil {
		s.tally[action] = &Tally{}
	}
	s.tally[action].Calls++
	if q := s.faults[action]; len(q) > 0 {
		fault, s.faults[action] = q[0], q[1:]
	} else if s.cfg.Fault != nil {
		fault = s.cfg.Fault(action)
	}
	if s.cfg.Latency != nil {
		wait = s.cfg.Latency(action)
	}
	return fault, wait
}

// pause waits, or returns false when the client gave up.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
