package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
	"google.golang.org/grpc"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/offer"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// peer is a kubelet without sockets, whose times are a bubble's.
type peer struct {
	mu        sync.Mutex
	identity  string
	forgotten int
	mute      bool // it forgets nothing
	changed   func()
	servers   map[device.ResourceName]deviceapi.DevicePluginServer
	register  func(ctx context.Context, name device.ResourceName) error
	times     map[device.ResourceName][]time.Time // of registrations
	streams   map[device.ResourceName][]*peerStream
}

type peerStream struct {
	grpc.ServerStream
	ctx   context.Context
	close context.CancelFunc
	deaf  bool // it reads nothing

	mu   sync.Mutex
	list []string // the healthy devices
	all  int      // the number of all devices
	got  int      // the number of lists
}

func (s *peerStream) Context() context.Context { return s.ctx }

func (s *peerStream) Send(l *deviceapi.ListAndWatchResponse) error {
	if s.deaf {
		<-s.ctx.Done()
		return s.ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list, s.all = []string{}, len(l.GetDevices())
	s.got++
	for _, d := range l.GetDevices() {
		if d.GetHealth() == deviceapi.Healthy {
			s.list = append(s.list, d.GetID())
		}
	}
	return s.ctx.Err()
}

func newPeer() *peer {
	return &peer{
		identity: "1", servers: map[device.ResourceName]deviceapi.DevicePluginServer{}, times: map[device.ResourceName][]time.Time{},
		streams: map[device.ResourceName][]*peerStream{},
	}
}

func (p *peer) Identity() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.identity
}

func (p *peer) Watch(ctx context.Context, changed func()) {
	p.mu.Lock()
	p.changed = changed
	p.mu.Unlock()
	<-ctx.Done()
}

func (p *peer) Listen(name device.ResourceName, server deviceapi.DevicePluginServer) (func(), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.servers[name] = server
	return func() {
		for _, s := range p.open(name) {
			s.close()
		}
	}, nil
}

func (p *peer) open(name device.ResourceName) []*peerStream {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.streams[name])
}

func (p *peer) Register(ctx context.Context, name device.ResourceName) error {
	p.mu.Lock()
	p.times[name] = append(p.times[name], time.Now())
	f := p.register
	p.mu.Unlock()
	if f != nil {
		return f(ctx, name)
	}
	p.listen(name, false)
	return nil
}

func (p *peer) Forget(context.Context, device.ResourceName) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mute {
		return errors.New("no answer")
	}
	p.forgotten++
	return nil
}

func (p *peer) listen(name device.ResourceName, deaf bool) *peerStream {
	ctx, cancel := context.WithCancel(context.Background())
	s := &peerStream{ctx: ctx, close: cancel, deaf: deaf}
	p.mu.Lock()
	p.streams[name] = append(p.streams[name], s)
	server := p.servers[name]
	p.mu.Unlock()
	go server.ListAndWatch(&deviceapi.Empty{}, s) //nolint:errcheck // it ends with the stream
	return s
}

func (p *peer) registrations(name device.ResourceName) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.times[name])
}

// bubble runs a test with a plugin that offers one device as each of two resources.
func bubble(t *testing.T, k *peer, ask func(context.Context) (inventory.Kubelet, error), test func(*Plugin, *logtest.Hook)) {
	synctest.Test(t, func(t *testing.T) {
		log, logs := logtest.NewNullLogger()
		p := New(Options{Kubelet: k, Allocations: ask, Now: time.Now, Log: log})
		p.Set([]device.ResourceName{resourceA, resourceB}, []offer.Device{enaDevice(resourceA, "0000:00:06.0"), enaDevice(resourceB, "0000:00:07.0")})
		ctx, stop := context.WithCancel(t.Context())
		go p.Run(ctx)
		synctest.Wait()
		test(p, logs)
		stop()
		synctest.Wait()
	})
}

func fault(p *Plugin, name device.ResourceName) error {
	for _, r := range p.State().Resources {
		if r.Name == name {
			return r.Fault
		}
	}
	return nil
}

// TestLateKubelet: a registration that hangs delays no other resource, ends, and is tried again.
func TestLateKubelet(t *testing.T) {
	k := newPeer()
	k.register = func(ctx context.Context, name device.ResourceName) error {
		if name == resourceA {
			<-ctx.Done()
			return ctx.Err()
		}
		k.listen(name, false)
		return nil
	}
	bubble(t, k, nil, func(p *Plugin, logs *logtest.Hook) {
		if s := k.open(resourceB); len(s) != 1 {
			t.Errorf("the other resource has %d connections", len(s))
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if n := k.registrations(resourceA); n < 10 || n > 30 || fault(p, resourceA) == nil || fault(p, resourceB) != nil {
			t.Errorf("%d registrations, faults %v and %v", n, fault(p, resourceA), fault(p, resourceB))
		}
		k.mu.Lock()
		k.register = nil
		k.mu.Unlock()
		time.Sleep(registerTime + registerLast)
		synctest.Wait()
		if !p.State().Registered() || fault(p, resourceA) != nil || k.registrations(resourceB) != 1 {
			t.Errorf("state %+v", p.State())
		}
		if n := len(logs.AllEntries()); n != 3 {
			t.Errorf("%d lines, want the success of one, the failure and the success of the other", n)
		}
	})
}

// TestAcceptedWithoutConnection: a kubelet that accepts a registration and does not connect is asked again, ever more
// rarely.
func TestAcceptedWithoutConnection(t *testing.T) {
	k := newPeer()
	k.register = func(context.Context, device.ResourceName) error { return nil }
	bubble(t, k, nil, func(p *Plugin, logs *logtest.Hook) {
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := k.registrations(resourceA); n < 5 || n > 30 || !errors.Is(fault(p, resourceA), errNoStream) || len(logs.AllEntries()) != 2 {
			t.Errorf("%d registrations, fault %v, %d lines", n, fault(p, resourceA), len(logs.AllEntries()))
		}
	})
}

// TestClosedConnections: a kubelet that closes each connection at once is asked at most every registerLast in the end.
// One that closes a connection that has lasted is asked at once.
func TestClosedConnections(t *testing.T) {
	k := newPeer()
	k.register = func(_ context.Context, name device.ResourceName) error {
		s := k.listen(name, false)
		time.AfterFunc(time.Millisecond, s.close)
		return nil
	}
	bubble(t, k, nil, func(p *Plugin, logs *logtest.Hook) {
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := k.registrations(resourceA); n < 15 || n > 35 {
			t.Errorf("%d registrations in a minute", n)
		}
		k.mu.Lock()
		k.register = nil
		k.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		for range 3 {
			n := k.registrations(resourceA)
			streams := k.open(resourceA)
			streams[len(streams)-1].close()
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
			if got := k.registrations(resourceA) - n; got != 1 || !p.State().Registered() {
				t.Errorf("%d registrations after a connection's end, registered %t", got, p.State().Registered())
			}
			time.Sleep(2 * calmTime)
			synctest.Wait()
		}
		if n := len(logs.AllEntries()); n > 4 {
			t.Errorf("%d lines", n)
		}
	})
}

// TestDeafKubelet: a list that the kubelet does not read does not count as sent, and holds up no other resource.
func TestDeafKubelet(t *testing.T) {
	k := newPeer()
	k.register = func(_ context.Context, name device.ResourceName) error {
		k.listen(name, name == resourceA)
		return nil
	}
	bubble(t, k, nil, func(p *Plugin, _ *logtest.Hook) {
		p.Set([]device.ResourceName{resourceA, resourceB}, []offer.Device{enaDevice(resourceA, "0000:00:06.0")})
		synctest.Wait()
		if s := k.open(resourceB)[0]; len(s.list) > 0 || p.State().Sent {
			t.Errorf("the other resource lists %v, sent %t", s.list, p.State().Sent)
		}
		k.open(resourceA)[0].close()
		k.mu.Lock()
		k.register = nil
		k.mu.Unlock()
		time.Sleep(registerLast)
		synctest.Wait()
		if !p.State().Sent {
			t.Error("not sent")
		}
	})
}

// TestStoppedEndpoint: a registration waits until the kubelet has dropped the resource whose connection it has closed,
// for it would take that as the end of the new one.
func TestStoppedEndpoint(t *testing.T) {
	k := newPeer()
	var mu sync.Mutex
	listed := map[device.ResourceName][]device.PCIAddress{resourceA: {"0000:00:06.0"}, resourceB: {"0000:00:07.0"}}
	asked := 0
	ask := func(context.Context) (inventory.Kubelet, error) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		all := map[device.ResourceName][]device.PCIAddress{}
		for name, l := range listed {
			all[name] = l
		}
		return inventory.Kubelet{Allocatable: all}, nil
	}
	bubble(t, k, ask, func(p *Plugin, _ *logtest.Hook) {
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := k.registrations(resourceA); n != 1 {
			t.Fatalf("%d registrations", n)
		}
		before := asked
		time.Sleep(time.Hour)
		synctest.Wait()
		if asked != before {
			t.Errorf("the kubelet is asked at rest: %d times", asked-before)
		}
		k.open(resourceA)[0].close()
		time.Sleep(40 * time.Millisecond)
		synctest.Wait()
		if n := k.registrations(resourceA); n != 1 {
			t.Errorf("registered while the kubelet still lists the devices")
		}
		mu.Lock()
		delete(listed, resourceA)
		mu.Unlock()
		time.Sleep(2 * droppedPoll)
		synctest.Wait()
		if n := k.registrations(resourceA); n != 2 {
			t.Errorf("%d registrations", n)
		}
	})
}

// TestNotTaken: a kubelet that lists other devices is asked to listen again, a few times, and the difference shows
// until it ends.
func TestNotTaken(t *testing.T) {
	k := newPeer()
	var mu sync.Mutex
	var listed []device.PCIAddress
	ask := func(context.Context) (inventory.Kubelet, error) {
		mu.Lock()
		defer mu.Unlock()
		return inventory.Kubelet{Allocatable: map[device.ResourceName][]device.PCIAddress{resourceA: listed, resourceB: {"0000:00:07.0"}}}, nil
	}
	bubble(t, k, ask, func(p *Plugin, _ *logtest.Hook) {
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		var other *NotTakenError
		if n := k.registrations(resourceA); n != 1+notTakenTries || !errors.As(fault(p, resourceA), &other) || k.registrations(resourceB) != 1 {
			t.Errorf("%d registrations, fault %v", n, fault(p, resourceA))
		}
		mu.Lock()
		listed = []device.PCIAddress{"0000:00:06.0"}
		mu.Unlock()
		time.Sleep(2 * notTakenLook)
		synctest.Wait()
		if fault(p, resourceA) != nil {
			t.Errorf("fault %v", fault(p, resourceA))
		}
	})
}

// TestLinger: a lingering resource registers no more, tells of its devices, and ends with its connection.
func TestLinger(t *testing.T) {
	k := newPeer()
	bubble(t, k, nil, func(p *Plugin, _ *logtest.Hook) {
		a := enaDevice(resourceA, "0000:00:06.0")
		a.Unfit = "it is draining"
		p.Linger([]offer.Device{a, enaDevice(resourceB, "0000:00:07.0")}, nil)
		synctest.Wait()
		if s := k.open(resourceA)[0]; len(s.list) > 0 {
			t.Errorf("listed %v", s.list)
		}
		k.open(resourceA)[0].close()
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := p.State(); k.registrations(resourceA) != 1 || len(s.Resources) != 1 || s.Resources[0].Name != resourceB || !s.Resources[0].Lingering {
			t.Errorf("%d registrations, state %+v", k.registrations(resourceA), s)
		}
		k.mu.Lock()
		k.identity = "2"
		changed := k.changed
		k.mu.Unlock()
		k.open(resourceB)[0].close()
		changed()
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := fmt.Sprint(p.State().Resources); s != "[]" || k.registrations(resourceB) != 1 {
			t.Errorf("%s is left", s)
		}
	})
}
