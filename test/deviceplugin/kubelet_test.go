package deviceplugin

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const (
	callTimeout = 10 * time.Second
	// dialTimeout is how long a socket may exist without a listener: before it listens, and after a kill.
	dialTimeout = time.Second
)

// kubelet is the part of the kubelet that finds plugins by their sockets, like pkg/kubelet/pluginmanager
// and pkg/kubelet/cm/devicemanager of v1.36. For each socket at its start, and for each new one, it asks
// for the plugin's info, checks it, connects, and watches until the socket is gone.
type kubelet struct {
	t       *testing.T
	refuse  string // why it does not register anything; "" when it does
	watcher *fsnotify.Watcher
	wg      sync.WaitGroup

	mu        sync.Mutex
	endpoints map[string]*endpoint // by socket
	refused   []string             // sockets of plugins that were told so
}

type endpoint struct {
	resource string
	conn     *grpc.ClientConn
	devices  map[string]string // id -> health
}

func startKubelet(t *testing.T, registry, refuse string) *kubelet {
	t.Helper()
	k := &kubelet{t: t, refuse: refuse, endpoints: map[string]*endpoint{}}
	var err error
	if k.watcher, err = fsnotify.NewWatcher(); err != nil {
		t.Fatal(err)
	}
	must(t, k.watcher.Add(registry))
	there, err := filepath.Glob(filepath.Join(registry, "*.sock"))
	must(t, err)
	for _, socket := range there {
		k.connect(socket)
	}
	k.wg.Go(func() {
		for e := range k.watcher.Events {
			switch {
			case !strings.HasSuffix(e.Name, ".sock"):
			case e.Has(fsnotify.Create):
				k.connect(e.Name)
			case e.Has(fsnotify.Remove):
				k.disconnect(e.Name)
			}
		}
	})
	return k
}

func (k *kubelet) stop() {
	k.watcher.Close()
	for _, socket := range k.sockets() {
		k.disconnect(socket)
	}
	k.wg.Wait()
}

func (k *kubelet) sockets() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for s := range k.endpoints {
		out = append(out, s)
	}
	return out
}

// connect registers the plugin behind a socket. A socket without listener is left over, and no fault.
func (k *kubelet) connect(socket string) {
	ctx, cancel := context.WithTimeout(k.t.Context(), dialTimeout)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 10 * time.Millisecond}}))
	if err != nil {
		k.t.Error(err)
		return
	}
	registration := registerapi.NewRegistrationClient(conn)
	info, err := registration.GetInfo(ctx, &registerapi.InfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		conn.Close()
		return
	}
	k.register(socket, conn, registration, info)
}

// register accepts or refuses a plugin by its info. A refused one hangs up at once.
func (k *kubelet) register(socket string, conn *grpc.ClientConn, registration registerapi.RegistrationClient, info *registerapi.PluginInfo) {
	ctx, cancel := context.WithTimeout(k.t.Context(), callTimeout)
	defer cancel()
	if info.GetType() != registerapi.DevicePlugin || !slices.Contains(info.GetSupportedVersions(), deviceapi.Version) || info.GetEndpoint() != socket {
		k.t.Errorf("%s says it is %v", socket, info)
	}
	_, err := registration.NotifyRegistrationStatus(ctx, &registerapi.RegistrationStatus{PluginRegistered: k.refuse == "", Error: k.refuse})
	if err != nil && k.refuse == "" {
		k.t.Errorf("notify %s: %v", socket, err)
	}
	if k.refuse != "" {
		conn.Close()
		k.mu.Lock()
		k.refused = append(k.refused, socket)
		k.mu.Unlock()
		return
	}
	if _, err := deviceapi.NewDevicePluginClient(conn).GetDevicePluginOptions(ctx, &deviceapi.Empty{}); err != nil {
		k.t.Errorf("ask %s for its options: %v", socket, err)
	}
	k.mu.Lock()
	k.endpoints[socket] = &endpoint{resource: info.GetName(), conn: conn}
	k.mu.Unlock()
	k.wg.Go(func() { k.watch(socket, conn) })
}

func (k *kubelet) watch(socket string, conn *grpc.ClientConn) {
	stream, err := deviceapi.NewDevicePluginClient(conn).ListAndWatch(k.t.Context(), &deviceapi.Empty{})
	if err != nil {
		return
	}
	for {
		list, err := stream.Recv()
		if err != nil {
			return
		}
		devices := map[string]string{}
		for _, d := range list.GetDevices() {
			devices[d.GetID()] = d.GetHealth()
		}
		k.mu.Lock()
		if e := k.endpoints[socket]; e != nil {
			e.devices = devices
		}
		k.mu.Unlock()
	}
}

func (k *kubelet) disconnect(socket string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.endpoints[socket]; e != nil {
		e.conn.Close()
		delete(k.endpoints, socket)
	}
}

// allocatable are the healthy devices of each resource, sorted.
func (k *kubelet) allocatable() map[string][]string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[string][]string{}
	for _, e := range k.endpoints {
		for id, health := range e.devices {
			if health == deviceapi.Healthy {
				out[e.resource] = append(out[e.resource], id)
			}
		}
		slices.Sort(out[e.resource])
	}
	return out
}

func (k *kubelet) allocate(socket string, ids ...string) (map[string]string, error) {
	k.mu.Lock()
	e := k.endpoints[socket]
	k.mu.Unlock()
	if e == nil {
		k.t.Fatalf("%s is not registered", socket)
	}
	ctx, cancel := context.WithTimeout(k.t.Context(), callTimeout)
	defer cancel()
	out, err := deviceapi.NewDevicePluginClient(e.conn).Allocate(ctx, &deviceapi.AllocateRequest{
		ContainerRequests: []*deviceapi.ContainerAllocateRequest{{DevicesIds: ids}},
	})
	if err != nil {
		return nil, err
	}
	return out.GetContainerResponses()[0].GetEnvs(), nil
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(callTimeout); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, callTimeout)
		}
	}
}

// socketDir is a folder with a path short enough for sockets (unix(7)).
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dp")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
