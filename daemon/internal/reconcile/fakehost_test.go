package reconcile

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

type fakeMetadata struct {
	mu    sync.Mutex // of asked
	enis  map[int]vpc.ENI
	err   error
	asked int
	hold  chan struct{} // hold delays the answer until it is closed; nil for no delay
}

func (m *fakeMetadata) ENIs(ctx context.Context) ([]vpc.ENI, error) {
	m.mu.Lock()
	m.asked++
	m.mu.Unlock()
	if m.hold != nil {
		select {
		case <-m.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if m.err != nil {
		return nil, m.err
	}
	var all []vpc.ENI
	for _, n := range slices.Sorted(maps.Keys(m.enis)) {
		all = append(all, m.enis[n])
	}
	return all, nil
}

// fakeHost is the host's netns. It fails the test when a link changes that is missing or not declared.
type fakeHost struct {
	t         testing.TB
	mu        sync.Mutex
	links     map[int]link.Link // by ENI; the index is that plus 10
	ours      map[int]bool
	routes    map[int]bool // default routes, by ENI
	shared    bool         // they are next hops of one route
	addresses []routing.HostAddress
	dumps     int // of the routes
	changes   []string
	err       error // of Links
	fail      map[string]error
	foreign   map[int]string // by index
	// ethtool has the links' device settings, by ENI; ethtoolRead counts the reads.
	ethtool     map[int]nodestate.Settings
	ethtoolRead int
	sources     [][]routing.Source // as they were asked for
	taking      func()             // is called once, as EnsureSources begins
	linksRead   func()             // is called once, when Links has ended
}

func (h *fakeHost) EnsureSources(want []routing.Source) (bool, error) {
	h.sources = append(h.sources, want)
	if h.taking != nil {
		h.taking()
		h.taking = nil
	}
	for _, s := range want {
		if _, ok := h.links[s.Index-10]; !ok {
			return false, link.ErrNotFound
		}
	}
	return false, h.fail["sources"]
}

func (h *fakeHost) Links() ([]link.Link, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return nil, h.err
	}
	var all []link.Link
	for _, n := range slices.Sorted(maps.Keys(h.links)) {
		all = append(all, h.links[n])
	}
	if read := h.linksRead; read != nil {
		h.linksRead = nil
		read()
	}
	return all, nil
}

func (h *fakeHost) change(verb string, index int, f func(n int, l *link.Link)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := index - 10
	l, ok := h.links[n]
	if !ok {
		return link.ErrNotFound
	}
	if !h.ours[n] {
		h.t.Errorf("%s of %s, which is not ours", verb, l.Name)
	}
	h.changes = append(h.changes, verb+" "+l.Name)
	if err := h.fail[verb]; err != nil {
		return err
	}
	f(n, &l)
	h.links[n] = l
	return nil
}

func (h *fakeHost) SetUp(index int) error {
	return h.change("up", index, func(_ int, l *link.Link) { l.Up = true })
}

func (h *fakeHost) SetDown(index int) error {
	return h.change("down", index, func(_ int, l *link.Link) { l.Up = false })
}

func (h *fakeHost) SetMTU(index, mtu int) error {
	return h.change("mtu", index, func(_ int, l *link.Link) { l.MTU = mtu })
}

func (h *fakeHost) Clutter() (routing.Clutter, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dumps++
	return h.clutter(), h.fail["routes"]
}

func (h *fakeHost) clutter() routing.Clutter {
	c := routing.Clutter{Addresses: h.addresses}
	for n, has := range h.routes {
		if has {
			c.Defaults = append(c.Defaults, routing.DefaultRoute{Index: n + 10, Family: syscall.AF_INET, Beside: h.shared})
		}
	}
	return c
}

func (h *fakeHost) ClearRoutes(index int) (routing.Cleared, error) {
	h.mu.Lock()
	c := h.clutter()
	h.mu.Unlock()
	var done routing.Cleared
	var clearable bool
	if clearable, done.Only, done.Shared = c.Routes(index); !clearable {
		return done, nil
	}
	done.Protocols = []string{"dhcp"}
	return done, h.change("unroute", index, func(n int, _ *link.Link) { delete(h.routes, n) })
}

func (h *fakeHost) ClearAddress(index int, p netip.Prefix) error {
	return h.change("unaddress "+p.String(), index, func(int, *link.Link) {
		h.addresses = slices.DeleteFunc(h.addresses, func(a routing.HostAddress) bool { return a.Index == index && a.Prefix == p })
	})
}

func (h *fakeHost) GiveBack(_ link.Functions, l link.Link, d nodestate.AttachedDevice) error {
	want := d.Link
	return h.change("restore", l.Index, func(_ int, l *link.Link) { l.Name, l.MTU, l.MAC, l.Up = want.Name, want.MTU, want.MAC, want.Up })
}

func (h *fakeHost) Ethtool(name string) (nodestate.Settings, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n, l := range h.links {
		if l.Name == name {
			h.ethtoolRead++
			settings := nodestate.Settings{} // never nil, as link.Ethtool's
			maps.Copy(settings, h.ethtool[n])
			return settings, h.fail["ethtool"]
		}
	}
	return nil, link.ErrNotFound
}

func (h *fakeHost) ForeignUse() (map[int]string, error) {
	return h.foreign, h.fail["foreign"]
}
