package deviceplugin

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/offer"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// TestDetach: a resource counts as registered once the kubelet has forgotten its connection, and is registered once more
// in the end, beside that connection.
func TestDetach(t *testing.T) {
	k := newPeer()
	bubble(t, k, nil, func(p *Plugin, _ *logtest.Hook) {
		k.mu.Lock()
		k.mute = true
		k.mu.Unlock()
		p.Detach(true)
		synctest.Wait()
		if p.State().Registered() {
			t.Error("registered before the kubelet has forgotten the connections")
		}
		k.mu.Lock()
		k.mute = false
		k.mu.Unlock()
		time.Sleep(detachApart)
		synctest.Wait()
		if !p.State().Registered() || k.forgotten != 2 || k.registrations(resourceA) != 1 {
			t.Errorf("registered %t, forgotten %d times, %d registrations", p.State().Registered(), k.forgotten, k.registrations(resourceA))
		}
		if p.Detach(false); !p.State().Detached() {
			t.Error("attached before the kubelet has the resources again")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if p.State().Detached() {
			t.Error("still detached")
		}
		if s := k.open(resourceA); !p.State().Registered() || k.registrations(resourceA) != 2 || len(s) != 2 || s[0].ctx.Err() != nil {
			t.Errorf("registered %t, %d registrations, %d connections", p.State().Registered(), k.registrations(resourceA), len(s))
		}
	})
}

// TestDetachGivenUp: a kubelet that does not forget a connection is taken as it is.
func TestDetachGivenUp(t *testing.T) {
	k := newPeer()
	k.mute = true
	bubble(t, k, nil, func(p *Plugin, _ *logtest.Hook) {
		p.Detach(true)
		time.Sleep(detachTries * detachApart)
		synctest.Wait()
		if !p.State().Registered() {
			t.Errorf("state %+v", p.State())
		}
	})
}

// TestLeaving: a device that has left the offer is listed as unfit for leaveTime, and so is the last one of a resource.
func TestLeaving(t *testing.T) {
	k := newPeer()
	bubble(t, k, nil, func(p *Plugin, _ *logtest.Hook) {
		p.Set([]device.ResourceName{resourceA}, nil)
		time.Sleep(leaveTime - time.Second)
		synctest.Wait()
		for _, name := range []device.ResourceName{resourceA, resourceB} {
			if s := k.open(name)[0]; len(s.list) > 0 || s.all != 1 || s.ctx.Err() != nil {
				t.Errorf("%s: %d devices listed, healthy %v", name, s.all, s.list)
			}
		}
		if s := p.State(); len(s.Resources) != 1 {
			t.Errorf("state %+v", s)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		a, b := k.open(resourceA)[0], k.open(resourceB)[0]
		if a.all != 0 || a.ctx.Err() != nil || b.all != 0 || b.ctx.Err() == nil {
			t.Errorf("%d and %d devices listed, ended %v and %v", a.all, b.all, a.ctx.Err(), b.ctx.Err())
		}
	})
}

// TestGiven: a device that Allocate has given counts as held for a while.
func TestGiven(t *testing.T) {
	k := newPeer()
	synctest.Test(t, func(t *testing.T) {
		log, _ := logtest.NewNullLogger()
		p := New(Options{Kubelet: k, Devices: enaTree(t), Now: time.Now, Log: log})
		p.Set([]device.ResourceName{resourceA}, []offer.Device{enaDevice(resourceA, "0000:00:06.0")})
		ctx, stop := context.WithCancel(t.Context())
		go p.Run(ctx)
		synctest.Wait()
		request := &deviceapi.AllocateRequest{ContainerRequests: []*deviceapi.ContainerAllocateRequest{{DevicesIds: []string{"0000:00:06.0"}}}}
		if _, err := k.servers[resourceA].Allocate(ctx, request); err != nil {
			t.Error(err)
		}
		if g := p.State().Given; g["0000:00:06.0"] != resourceA {
			t.Errorf("given %v", g)
		}
		time.Sleep(givenTime)
		if g := p.State().Given; len(g) > 0 {
			t.Errorf("given %v", g)
		}
		stop()
		synctest.Wait()
	})
}

// TestForget: the decoy is asked for its options, and leaves the resource as it is.
func TestForget(t *testing.T) {
	dir := socketDir(t)
	k := startKubelet(t, dir)
	p, _ := testPlugin(t, dir)
	p.Set([]device.ResourceName{resourceA}, []offer.Device{enaDevice(resourceA, "0000:00:06.0")})
	k.await(resourceA, "0000:00:06.0")
	if err := NewSockets(dir, nil).Forget(t.Context(), resourceA); err != nil {
		t.Error(err)
	}
	k.await(resourceA, "0000:00:06.0")
	k.stop()
	if err := NewSockets(dir, nil).Forget(t.Context(), resourceA); err == nil {
		t.Error("no error without a kubelet")
	}
}

// TestLingerLooks: after each change of a lingering list, it is sent again while the kubelet lists a part of it, or a device that
// the other plugin is not to offer either. A device that only the other plugin offers stays.
func TestLingerLooks(t *testing.T) {
	const own, others, stale = device.PCIAddress("0000:00:06.0"), device.PCIAddress("0000:00:08.0"), device.PCIAddress("0000:00:09.0")
	for _, c := range []struct {
		listed []device.PCIAddress
		again  bool
	}{
		{[]device.PCIAddress{own}, false},
		{[]device.PCIAddress{own, others}, false},
		{[]device.PCIAddress{others}, false},
		{nil, true},
		{[]device.PCIAddress{stale}, true},
		{[]device.PCIAddress{own, others, stale}, true},
	} {
		k := newPeer()
		ask := func(context.Context) (inventory.Kubelet, error) {
			return inventory.Kubelet{Allocatable: map[device.ResourceName][]device.PCIAddress{resourceA: c.listed, resourceB: {"0000:00:07.0"}}}, nil
		}
		bubble(t, k, ask, func(p *Plugin, _ *logtest.Hook) {
			lists := func() int {
				synctest.Wait()
				s := k.open(resourceA)[0]
				s.mu.Lock()
				defer s.mu.Unlock()
				return s.got
			}
			mine := []offer.Device{enaDevice(resourceA, own), enaDevice(resourceB, "0000:00:07.0")}
			p.Linger(mine, nil)
			time.Sleep(time.Hour)
			before := lists()
			p.Linger(mine, []offer.Device{enaDevice(resourceA, others)})
			time.Sleep(time.Hour)
			want := 0
			if c.again {
				want = len(lingerLooks())
			}
			if got := lists() - before; got != want {
				t.Errorf("the kubelet lists %v, and got %d lists, want %d", c.listed, got, want)
			}
		})
	}
}
