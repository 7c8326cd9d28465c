package reconcile

import (
	"slices"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/offer"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// fakeOffer is the daemon's device plugin, with a kubelet that listens unless away is set.
type fakeOffer struct {
	names     []device.ResourceName
	devices   []offer.Device
	away      bool // no kubelet listens
	unsent    bool // the kubelet does not read
	identity  string
	lingering bool
	sets      int
	fault     error
	// checkpoint is read when a name is set: it must have the name by then.
	remembered func() []device.ResourceName
	t          interface{ Errorf(string, ...any) }
}

// Set implements Offer.
func (f *fakeOffer) Set(names []device.ResourceName, devices []offer.Device) {
	f.sets++
	for _, name := range names {
		if !slices.Contains(f.remembered(), name) {
			f.t.Errorf("%s is served and not in the checkpoint", name)
		}
	}
	held := map[device.PCIAddress]bool{}
	for _, d := range devices {
		if held[d.ID] || !slices.Contains(names, d.Resource) {
			f.t.Errorf("offered %+v of %v", devices, names)
		}
		held[d.ID] = true
	}
	f.names, f.devices, f.lingering = names, devices, false
}

// Linger implements Offer.
func (f *fakeOffer) Linger(devices, _ []offer.Device) { f.devices, f.lingering = devices, true }

// Check implements Offer.
func (*fakeOffer) Check() {}

// Detach implements Offer.
func (*fakeOffer) Detach(bool) {}

// State implements Offer.
func (f *fakeOffer) State() offer.State {
	s := offer.State{Sent: !f.unsent, Kubelet: f.identity}
	for _, name := range f.names {
		s.Resources = append(s.Resources, offer.Resource{Name: name, Registered: !f.away, Lingering: f.lingering, Fault: f.fault})
	}
	return s
}

// healthy lists the devices that a pod may get.
func (f *fakeOffer) healthy() (all []device.PCIAddress) {
	for _, d := range f.devices {
		if d.Healthy() {
			all = append(all, d.ID)
		}
	}
	return all
}

// offers gives the node a daemon that can offer devices itself, in the mode that wish returns.
func (n *testNode) offers(wish *Wish) *fakeOffer {
	n.Helper()
	f := &fakeOffer{identity: "kubelet-1", t: n}
	n.restartOffering(f, wish)
	return f
}

// restartOffering starts another daemon with the same kubelet.
func (n *testNode) restartOffering(f *fakeOffer, wish *Wish) {
	n.Helper()
	f.names, f.devices, f.lingering = nil, nil, false
	f.remembered = func() []device.ResourceName {
		c, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(n.path("state")))
		n.must(err)
		return c.Offer.Names
	}
	n.must(n.startWith(func(o *Options) { o.Offer, o.Wish = f, func() Wish { return *wish } }))
}
