package kubeletmodel

import (
	"context"
	"slices"
	"sync"
	"time"

	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// registry is the plugin manager: it registers the plugins whose sockets appear in the folder plugins_registry.
type registry struct {
	mu      sync.Mutex
	seen    int
	desired map[string]int // sockets, each with a number that is new for each new socket
	actual  map[string]registered
	retry   map[string]retry
}

type registered struct {
	seen           int
	name, endpoint string
}

// retry is the wait of a socket whose registration failed: 500 ms, doubled up to 2 min 2 s.
type retry struct {
	after time.Time
	wait  time.Duration
}

// SocketAdded tells the kubelet that a socket has appeared in plugins_registry. At its start the caller tells it of each that is there.
func (k *Kubelet) SocketAdded(socket string) {
	k.registry.mu.Lock()
	defer k.registry.mu.Unlock()
	k.registry.seen++
	k.registry.desired[socket] = k.registry.seen
}

// SocketRemoved tells the kubelet that a socket of plugins_registry is gone.
func (k *Kubelet) SocketRemoved(socket string) {
	k.registry.mu.Lock()
	defer k.registry.mu.Unlock()
	delete(k.registry.desired, socket)
}

// Info is the registration half of a plugin in plugins_registry. Its GetInfo and NotifyRegistrationStatus are called with the socket's
// Conn, which implements it.
type Info interface {
	GetInfo(ctx context.Context) (*registerapi.PluginInfo, error)
	NotifyRegistrationStatus(ctx context.Context, status *registerapi.RegistrationStatus) error
}

// ReconcileRegistry is one turn of the plugin manager's loop, which the kubelet makes each second. A plugin whose socket is gone or new is
// deregistered first: up to v1.36 that disconnects the current client of its resource, whoever that is. It is not registered again
// when the kubelet has disconnected it for another reason.
func (k *Kubelet) ReconcileRegistry(ctx context.Context) {
	r := &k.registry
	r.mu.Lock()
	var leave []registered
	for _, socket := range sortedKeys(r.actual) {
		if a := r.actual[socket]; r.desired[socket] != a.seen {
			leave = append(leave, a)
			delete(r.actual, socket)
		}
	}
	join := map[string]int{}
	for socket, seen := range r.desired {
		if r.actual[socket].seen != seen && !k.o.Now().Before(r.retry[socket].after) {
			join[socket] = seen
		}
	}
	r.mu.Unlock()
	for _, a := range leave {
		if c := k.current(a.name, a.endpoint); c != nil {
			k.disconnect(c)
		}
	}
	for _, socket := range sortedKeys(join) {
		k.join(ctx, socket, join[socket])
	}
}

func (k *Kubelet) join(ctx context.Context, socket string, seen int) {
	ok := k.registerPlugin(ctx, socket, seen)
	r := &k.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.retry == nil {
		r.retry = map[string]retry{}
	}
	if ok {
		delete(r.retry, socket)
		return
	}
	wait := min(max(500*time.Millisecond, 2*r.retry[socket].wait), 2*time.Minute+2*time.Second)
	r.retry[socket] = retry{after: k.o.Now().Add(wait), wait: wait}
}

func (k *Kubelet) registerPlugin(ctx context.Context, socket string, seen int) bool {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := k.o.Dial(ctx, socket)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	plugin, ok := conn.(Info)
	if !ok {
		return false
	}
	info, err := plugin.GetInfo(ctx)
	if err != nil || info.GetType() != registerapi.DevicePlugin || !slices.Contains(info.GetSupportedVersions(), deviceapi.Version) {
		return false
	}
	r := &k.registry
	endpoint := info.GetEndpoint()
	if endpoint == "" {
		endpoint = socket
	}
	r.mu.Lock()
	r.actual[socket] = registered{seen: seen, name: info.GetName(), endpoint: endpoint}
	r.mu.Unlock()
	if err := k.connect(ctx, info.GetName(), endpoint); err != nil {
		r.mu.Lock()
		delete(r.actual, socket)
		r.mu.Unlock()
		_ = plugin.NotifyRegistrationStatus(ctx, &registerapi.RegistrationStatus{Error: err.Error()})
		return false
	}
	return plugin.NotifyRegistrationStatus(ctx, &registerapi.RegistrationStatus{PluginRegistered: true}) == nil
}
