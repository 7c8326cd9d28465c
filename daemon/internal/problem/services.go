package problem

import (
	"maps"
	"slices"
	"sync"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Services holds the problems of services that the daemon can work without, more slowly: file watches, kernel events, listeners. The zero
// value is ready, without a Wake; nil drops reports. It is safe for concurrent use.
type Services struct {
	// Wake is called when a service begins to fail or works again.
	Wake func()

	mu      sync.Mutex
	failing map[string]Finding
}

// Report sets the state of a service: nil for working. The caller words the problem; err is for the log.
func (s *Services) Report(service string, p nodestate.Problem, err error) {
	if s == nil {
		return
	}
	s.mu.Lock()
	before, was := s.failing[service]
	if err == nil {
		delete(s.failing, service)
	} else {
		if s.failing == nil {
			s.failing = map[string]Finding{}
		}
		s.failing[service] = Finding{Problem: p, Err: err}
	}
	s.mu.Unlock()
	if is := err != nil; (is != was || is && before.Problem != p) && s.Wake != nil {
		s.Wake()
	}
}

// Findings lists the failing services, sorted by name.
func (s *Services) Findings() (found []Finding) {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, service := range slices.Sorted(maps.Keys(s.failing)) {
		found = append(found, s.failing[service])
	}
	return found
}

// Problems lists the problems of the failing services, sorted.
func (s *Services) Problems() []nodestate.Problem { return List(s.Findings()) }
