package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/deviceplugin"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/offer"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
	"github.com/multi-eni/multi-eni-cni/test/kubeletmodel"
)

// offerDaemon is one run of the daemon.
type offerDaemon struct {
	w      *offerWorld
	plugin *deviceplugin.Plugin
	cancel context.CancelFunc
	wake   chan struct{}
	ended  chan struct{} // the loop has
	served chan struct{} // the plugin has ended

	mu         sync.Mutex
	changed    func()
	dead       bool
	dies       bool // at the next call of Set
	registered int
	servers    map[device.ResourceName]deviceapi.DevicePluginServer
	listeners  map[device.ResourceName][]*kubeletmodel.Listener
}

func (w *offerWorld) startDaemon() {
	log := logrus.New()
	log.SetOutput(discard{})
	log.SetLevel(logrus.InfoLevel)
	log.AddHook(w)
	d := &offerDaemon{w: w, wake: make(chan struct{}, 1), ended: make(chan struct{}), served: make(chan struct{}),
		servers: map[device.ResourceName]deviceapi.DevicePluginServer{}, listeners: map[device.ResourceName][]*kubeletmodel.Listener{},
	}
	awake := func() {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
	d.plugin = deviceplugin.New(deviceplugin.Options{Kubelet: d, Devices: w, Allocations: w.Devices, Changed: awake, Now: time.Now, Log: log})
	r, err := New(Options{
		NodeName: "node-a", BootID: "boot-1", InventoryPath: w.path("inventory.json"), StateDir: w.path("state"),
		Attachments: nodestate.AttachmentDir(w.path("records")), Leases: leases.Dir(w.path("leases")), NodeENIs: w, Metadata: w.imds, PCI: w, Host: w.host,
		Drivers: &fakeDrivers{}, DevicePlugin: &w.sriov, Kubelet: w,
		Config: &pcidp.File{Path: w.path("config.json"), Now: time.Now, Written: dpmodel.Judged(w, w.machine, func() []string { return nil })},
		Offer:  d, Wish: w.wished, Now: time.Now, Log: log, Wake: awake, Observe: w.observe,
	})
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel, w.daemon = cancel, d
	go func() {
		d.plugin.Run(ctx)
		close(d.served)
	}()
	go func() {
		defer close(d.ended)
		defer func() {
			if e := recover(); e != nil && e != errKilled { //nolint:errorlint // a panic's value
				panic(e)
			}
		}()
		Run(ctx, r.Sync, d.wake)
	}()
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func (w *offerWorld) observe(v view.View) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view = v
}

func (w *offerWorld) wished() Wish {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wish
}

var errKilled = errors.New("killed")

// kill ends the daemon as SIGKILL does.
func (d *offerDaemon) kill() {
	d.mu.Lock()
	d.dead = true
	all := slices.Concat(slices.Collect(maps.Values(d.listeners))...)
	d.mu.Unlock()
	for _, l := range all {
		l.Close()
	}
	d.cancel()
}

// stop ends the daemon, and returns when nothing of it runs.
func (d *offerDaemon) stop() {
	d.cancel()
	<-d.ended
	<-d.served
}

// Set implements Offer.
func (d *offerDaemon) Set(names []device.ResourceName, devices []offer.Device) {
	d.mu.Lock()
	dies := d.dies
	d.mu.Unlock()
	if dies {
		d.kill()
		panic(errKilled)
	}
	d.plugin.Set(names, devices)
}

// Linger implements Offer.
func (d *offerDaemon) Linger(devices, others []offer.Device) { d.plugin.Linger(devices, others) }

// Check implements Offer.
func (d *offerDaemon) Check() { d.plugin.Check() }

// Detach implements Offer.
func (d *offerDaemon) Detach(on bool) { d.plugin.Detach(on) }

// State implements Offer.
func (d *offerDaemon) State() offer.State { return d.plugin.State() }

// Identity implements deviceplugin.Kubelet. A killed kubelet leaves its socket.
func (d *offerDaemon) Identity() string {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	if d.w.identity == 0 {
		return ""
	}
	return fmt.Sprint(d.w.identity)
}

// Listen implements deviceplugin.Kubelet.
func (d *offerDaemon) Listen(name device.ResourceName, server deviceapi.DevicePluginServer) (func(), error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return nil, errKilled
	}
	d.servers[name] = server
	return func() {
		d.mu.Lock()
		all := d.listeners[name]
		delete(d.listeners, name)
		d.mu.Unlock()
		for _, l := range all {
			l.Close()
		}
	}, nil
}

// dial has the kubelet register a server on a socket of its own, whose name goes at once and whose connections stay.
func (d *offerDaemon) dial(ctx context.Context, name device.ResourceName, server deviceapi.DevicePluginServer) (*kubeletmodel.Listener, error) {
	k := d.w.kubelet()
	d.mu.Lock()
	if d.dead || k == nil {
		d.mu.Unlock()
		return nil, errAway
	}
	d.registered++
	socket := fmt.Sprintf("multi-eni-%p-%d.sock", d, d.registered)
	l := d.w.sockets.Listen(socket, server)
	d.listeners[name] = append(d.listeners[name], l)
	d.mu.Unlock()
	defer d.w.sockets.Remove(socket)
	return l, k.Register(ctx, &deviceapi.RegisterRequest{Version: deviceapi.Version, Endpoint: socket, ResourceName: name.String()})
}

// Register implements deviceplugin.Kubelet.
func (d *offerDaemon) Register(ctx context.Context, name device.ResourceName) error {
	d.mu.Lock()
	server := d.servers[name]
	d.mu.Unlock()
	l, err := d.dial(ctx, name, server)
	if l != nil {
		d.w.tell("    the kubelet has registered %s: %v", name, err)
	}
	return err
}

// decoy is a device plugin that does not answer for its options.
type decoy struct {
	deviceapi.UnimplementedDevicePluginServer
}

// Forget implements deviceplugin.Kubelet.
func (d *offerDaemon) Forget(ctx context.Context, name device.ResourceName) error {
	l, err := d.dial(ctx, name, decoy{})
	if l == nil {
		return err
	}
	if err == nil {
		d.w.Errorf("the kubelet has registered a plugin that does not answer")
	}
	l.Close()
	d.w.tell("    the kubelet has forgotten the connection of %s", name)
	return nil
}

// Watch implements deviceplugin.Kubelet.
func (d *offerDaemon) Watch(ctx context.Context, changed func()) {
	d.mu.Lock()
	d.changed = changed
	d.mu.Unlock()
	changed()
	<-ctx.Done()
}

func (d *offerDaemon) look() {
	d.mu.Lock()
	changed := d.changed
	d.mu.Unlock()
	if changed != nil {
		changed()
	}
}
