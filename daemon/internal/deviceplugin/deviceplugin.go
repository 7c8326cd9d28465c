// Package deviceplugin serves devices to the kubelet by its device-plugin API (v1beta1).
//
// Facts about the kubelet's device manager (pkg/kubelet/cm/devicemanager of Kubernetes v1.36.3):
//
//   - It knows one plugin for each resource: a registration replaces the one before, whose connection stays open.
//   - The end of any connection of a resource drops the resource's current plugin, up to v1.36: so the exit of the SR-IOV
//     device plugin drops the daemon too, which then registers again.
//   - A registration whose plugin does not answer for its options fails, and has the kubelet forget the resource's current
//     plugin, up to v1.36, but not its devices and its connection: so nothing is dropped at another connection's end.
//   - It closes the connection first, and marks the plugin of that name as stopped after that. A registration between the
//     two is taken, and stopped: its devices look healthy, no pod gets them, and they vanish after 5 minutes.
//   - A kubelet that starts removes every socket of the folder, and then makes its own.
package deviceplugin

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/offer"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// Folders of the host.
const (
	// DefaultKubeletDir is the kubelet's root folder, unless its --root-dir says otherwise.
	DefaultKubeletDir = "/var/lib/kubelet"
	// SocketsDir is the folder of device plugins' sockets in the kubelet's root folder.
	SocketsDir = "device-plugins"
	// DefaultDeviceInfo is the folder of the device-info files that device plugins write and Multus reads.
	DefaultDeviceInfo = "/var/run/k8s.cni.cncf.io/devinfo/dp"
)

// Kubelet is the way to the kubelet. Its methods are safe for concurrent use.
type Kubelet interface {
	// Identity tells one run of the kubelet from the next; "" while none has been started.
	Identity() string
	// Listen serves a resource until stop is called. A kubelet that starts later needs another call.
	Listen(name device.ResourceName, server deviceapi.DevicePluginServer) (stop func(), err error)
	// Register has the kubelet connect to a served resource.
	Register(ctx context.Context, name device.ResourceName) error
	// Forget has the kubelet forget which of a resource's connections is the current one, which it would close at the end
	// of any other, up to v1.36. The devices stay as they are.
	Forget(ctx context.Context, name device.ResourceName) error
	// Watch calls changed when Identity may have changed, until ctx ends.
	Watch(ctx context.Context, changed func())
}

// Devices reads the parts of sysfs that an answer depends on.
type Devices interface {
	PCI(addr device.PCIAddress) (sysfs.PCIFunction, error)
	VFIOGroup(addr device.PCIAddress) (group string, noIOMMU bool, err error)
	UIODevice(addr device.PCIAddress) (string, error)
}

// Options configure a Plugin. All are needed unless they say otherwise.
type Options struct {
	Kubelet Kubelet
	Devices Devices
	// Allocations asks the kubelet for its devices and their holders. Nil: it cannot be asked.
	Allocations func(context.Context) (inventory.Kubelet, error)
	DeviceInfo  string // the folder of the device-info files; "" for none
	Now         func() time.Time
	Changed     func() // Changed is called after each change of State, from other goroutines. Nil: nobody looks.
	Log         logrus.FieldLogger
}

// Plugin serves the resources of the last Set. Its methods are safe for concurrent use.
type Plugin struct {
	Options
	info deviceInfo
	wg   sync.WaitGroup

	asking sync.Mutex // held while the kubelet is asked
	asked  time.Time
	answer inventory.Kubelet
	unread error // why the answer is none

	mu            sync.Mutex
	keep          func(*resource) // keep begins to serve a resource; nil before Run
	kubelet       string          // the identity that was seen last
	resources     map[device.ResourceName]*resource
	detach        bool // see Detach
	registrations int
}

// New returns a Plugin that serves nothing yet.
func New(o Options) *Plugin {
	if o.Changed == nil {
		o.Changed = func() {}
	}
	return &Plugin{Options: o, info: deviceInfo{o.DeviceInfo}, kubelet: o.Kubelet.Identity(), resources: map[device.ResourceName]*resource{}}
}

// Run serves until ctx ends, and returns when nothing is served any more. Call it once.
func (p *Plugin) Run(ctx context.Context) {
	p.mu.Lock()
	p.keep = func(r *resource) {
		ctx, cancel := context.WithCancel(ctx)
		r.cancel = cancel
		p.wg.Go(func() { r.keep(ctx) })
	}
	for _, r := range p.resources {
		p.start(r)
	}
	p.mu.Unlock()
	p.look()
	p.Kubelet.Watch(ctx, p.look)
	<-ctx.Done()
	p.wg.Wait()
}

// look notes another kubelet.
func (p *Plugin) look() {
	identity := p.Kubelet.Identity()
	p.mu.Lock()
	was := p.kubelet
	p.kubelet = identity
	if was != identity {
		for _, r := range p.resources {
			r.restart()
		}
	}
	p.mu.Unlock()
	if was != identity {
		p.Changed()
	}
}

// Set has the plugin serve these resources with these devices, sorted as offer.Desired does. A resource that is not
// among them is no longer served. The kubelet is told in the background.
func (p *Plugin) Set(names []device.ResourceName, devices []offer.Device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, r := range p.resources {
		if !slices.Contains(names, name) {
			p.unlist(r.devices())
			r.end()
			if r.cancel == nil {
				delete(p.resources, name)
			}
		}
	}
	for _, name := range names {
		r, of := p.resources[name], devicesOf(devices, name)
		if r == nil {
			r = newResource(p, name)
			p.resources[name] = r
			if err := p.info.clean(name, of); err != nil {
				p.Log.WithError(err).WithField("resource", name).Warn("old device-info files cannot be removed")
			}
		}
		p.unlist(r.set(of, false))
		p.start(r)
	}
}

// Linger has the plugin go on with the resources that it serves, and these devices, but register none again: a
// resource ends with its last connection. The other plugin may offer the devices of others, too.
func (p *Plugin) Linger(devices, others []offer.Device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, r := range p.resources {
		r.set(devicesOf(devices, name), true)
		r.allow(devicesOf(others, name))
	}
}

// Check has the kubelet asked soon whether it has dropped a resource unseen: it lists none of the healthy devices, because another
// plugin had registered later and has ended since. Such a resource is registered once more.
func (p *Plugin) Check() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.resources {
		r.mu.Lock()
		r.suspect = true
		r.mu.Unlock()
		r.kick()
	}
}

// Detach has the kubelet leave the daemon's connections open at the end of another plugin of the same resources. Nothing
// ends them then until Detach(false), and a kubelet does not notice the end of a detached plugin, so it is for a moment
// only. A resource does not count as registered before it is detached. Detach(false) registers each once more.
func (p *Plugin) Detach(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.detach == on {
		return
	}
	p.detach = on
	for _, r := range p.resources {
		r.kick()
	}
}

func devicesOf(devices []offer.Device, name device.ResourceName) []offer.Device {
	return slices.DeleteFunc(slices.Clone(devices), func(d offer.Device) bool { return d.Resource != name })
}

// unlist removes the device-info files of devices that are not listed any more.
func (p *Plugin) unlist(devices []offer.Device) {
	for _, d := range devices {
		if err := p.info.remove(d.Resource, d.ID); err != nil {
			p.Log.WithError(err).WithField("pciAddress", d.ID).Warn("device-info file cannot be removed")
		}
	}
}

// start begins to serve a resource, once Run is called. Hold mu.
func (p *Plugin) start(r *resource) {
	if p.keep != nil && r.cancel == nil {
		p.keep(r)
	}
}

// State returns the state of the resources.
func (p *Plugin) State() offer.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := offer.State{Sent: true, Kubelet: p.kubelet, Registrations: p.registrations, Given: map[device.PCIAddress]device.ResourceName{}}
	for name, r := range p.resources {
		r.mu.Lock()
		for _, pci := range r.givenLately(p.Now()) {
			s.Given[pci] = name
		}
		r.mu.Unlock()
		state, sent, ending := r.state(p.detach)
		s.Sent = s.Sent && sent
		if !ending {
			s.Resources = append(s.Resources, state)
		}
	}
	slices.SortFunc(s.Resources, func(a, b offer.Resource) int { return cmp.Compare(a.Name, b.Name) })
	return s
}

// situation is the kubelet that was seen last, and the wish of Detach.
func (p *Plugin) situation() (kubelet string, detach bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kubelet, p.detach
}

// forget drops a resource that has ended by itself.
func (p *Plugin) forget(r *resource) {
	p.mu.Lock()
	if p.resources[r.name] == r {
		delete(p.resources, r.name)
	}
	p.mu.Unlock()
	p.Changed()
}

func (p *Plugin) registered() {
	p.mu.Lock()
	p.registrations++
	p.mu.Unlock()
}

// allocations asks the kubelet; an answer of the last moment counts for everybody who asks.
func (p *Plugin) allocations(ctx context.Context) (inventory.Kubelet, error) {
	p.asking.Lock()
	defer p.asking.Unlock()
	if now := p.Now(); now.Sub(p.asked) >= askApart {
		p.answer, p.unread = p.Allocations(ctx)
		p.asked = p.Now()
	}
	return p.answer, p.unread
}

// The times of a registration.
const (
	registerFirst = time.Millisecond // the waits between failures double from registerFirst to registerLatest
	registerLast  = 5 * time.Second
	registerTime  = 15 * time.Second // registerTime bounds one registration: the kubelet itself gives up after 10 s
	streamTime    = 2 * time.Second  // streamTime is how long an accepted registration may stay without a connection
	calmTime      = time.Second      // calmTime is how long a connection must last until failures are forgotten
	// droppedTime bounds the wait until the kubelet has dropped a resource whose connection it has closed.
	droppedTime  = 100 * time.Millisecond
	droppedFirst = time.Millisecond
	droppedPoll  = 4 * time.Millisecond
	askApart     = 2 * time.Millisecond // the kubelet admits 100 requests per second from all its clients
	// notTakenTries is how often a resource is registered again because the kubelet lists other devices. Each leaves a
	// connection behind. After that the list is only compared, every notTakenLook.
	notTakenTries = 3
	notTakenLook  = time.Minute
)

// checksAfter are the times after a registration at which the kubelet's list is compared with ours: soon, when the
// exit of another plugin may have removed files, and after the kubelet's grace period for stopped plugins.
func checksAfter() []time.Duration {
	return []time.Duration{time.Second, 5 * time.Second, 330 * time.Second}
}

// NotTakenError says that the kubelet lists other devices of a resource than it was sent.
type NotTakenError struct {
	Resource        device.ResourceName
	Offered, Listed []device.PCIAddress
}

// wrong says whether the kubelet's list is not explained by another plugin that offers some of others, too.
func (e *NotTakenError) wrong(others []offer.Device) bool {
	besides := slices.DeleteFunc(slices.Clone(e.Listed), func(pci device.PCIAddress) bool { return slices.Contains(e.Offered, pci) })
	return len(besides) == 0 || slices.ContainsFunc(besides, func(pci device.PCIAddress) bool {
		return !slices.ContainsFunc(others, func(d offer.Device) bool { return d.ID == pci })
	})
}

func (e *NotTakenError) Error() string {
	return fmt.Sprintf("the kubelet lists %v as %s, and the daemon offers %v; find the other device plugin that offers it", e.Listed, e.Resource, e.Offered)
}

// NotTaken tells this error from the kubelet's refusal.
func (*NotTakenError) NotTaken() bool { return true }
