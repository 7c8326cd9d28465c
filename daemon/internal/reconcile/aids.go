package reconcile

import (
	"maps"
	"slices"
	"sync"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Aids make the daemon quicker, or let it be asked, and it works without them:
// watches of files, events of the kernel, addresses to listen at. Each
// that fails is a problem until it works. The zero value has none, and nobody to
// wake; nil takes reports and drops them. It is safe for concurrent use.
type Aids struct {
	// Wake is called when one begins to fail or works again.
	Wake func()

	mu      sync.Mutex
	failing map[string]finding
}

// Report notes how an aid does, which has a name of its own: nil for well. The
// problem is the caller's to word; err is for the log.
func (a *Aids) Report(name string, problem nodestate.Problem, err error) {
	if a == nil {
		return
	}
	a.mu.Lock()
	before, was := a.failing[name]
	if err == nil {
		delete(a.failing, name)
	} else {
		if a.failing == nil {
			a.failing = map[string]finding{}
		}
		a.failing[name] = finding{Problem: problem, err: err}
	}
	a.mu.Unlock()
	if is := err != nil; (is != was || is && before.Problem != problem) && a.Wake != nil {
		a.Wake()
	}
}

// findings lists the failing aids, sorted by name.
func (a *Aids) findings() (found []finding) {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(a.failing)) {
		found = append(found, a.failing[name])
	}
	return found
}

// Problems lists the problems of the failing aids, sorted.
func (a *Aids) Problems() []nodestate.Problem { return problems(a.findings()) }
