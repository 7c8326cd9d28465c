package deviceplugin

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/offer"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/sysfstree"
)

// socketKubelet is the part of a kubelet that takes registrations on a socket, connects, and listens.
type socketKubelet struct {
	deviceapi.UnimplementedRegistrationServer
	t   *testing.T
	dir string

	mu      sync.Mutex
	refusal error
	conns   map[string]*grpc.ClientConn
	lists   map[string][]*deviceapi.Device
	count   int
	server  *grpc.Server
}

func startKubelet(t *testing.T, dir string) *socketKubelet {
	t.Helper()
	k := &socketKubelet{t: t, dir: dir, conns: map[string]*grpc.ClientConn{}, lists: map[string][]*deviceapi.Device{}}
	k.start()
	t.Cleanup(k.stop)
	return k
}

// start removes every socket first, as a kubelet does.
func (k *socketKubelet) start() {
	k.t.Helper()
	there, err := filepath.Glob(filepath.Join(k.dir, "*.sock"))
	if err != nil {
		k.t.Fatal(err)
	}
	for _, s := range there {
		if err := os.Remove(s); err != nil {
			k.t.Fatal(err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(k.dir, kubeletSocket), Net: "unix"})
	if err != nil {
		k.t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	k.server = grpc.NewServer()
	deviceapi.RegisterRegistrationServer(k.server, k)
	go k.server.Serve(l) //nolint:errcheck // it ends with the test
}

func (k *socketKubelet) stop() {
	k.server.Stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, c := range k.conns {
		c.Close()
		delete(k.conns, name)
		delete(k.lists, name)
	}
}

// Register implements the kubelet's API.
func (k *socketKubelet) Register(ctx context.Context, r *deviceapi.RegisterRequest) (*deviceapi.Empty, error) {
	k.mu.Lock()
	refusal := k.refusal
	k.mu.Unlock()
	if refusal != nil {
		return nil, refusal
	}
	conn, err := grpc.NewClient("unix:"+filepath.Join(k.dir, r.GetEndpoint()), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	client := deviceapi.NewDevicePluginClient(conn)
	if _, err := client.GetDevicePluginOptions(ctx, &deviceapi.Empty{}); err != nil {
		conn.Close()
		return nil, err
	}
	k.mu.Lock()
	k.count++
	k.conns[r.GetResourceName()] = conn
	k.mu.Unlock()
	go k.listen(context.WithoutCancel(ctx), r.GetResourceName(), client)
	return &deviceapi.Empty{}, nil
}

func (k *socketKubelet) listen(ctx context.Context, name string, client deviceapi.DevicePluginClient) {
	stream, err := client.ListAndWatch(ctx, &deviceapi.Empty{})
	for err == nil {
		var list *deviceapi.ListAndWatchResponse
		if list, err = stream.Recv(); err == nil {
			k.mu.Lock()
			k.lists[name] = list.GetDevices()
			k.mu.Unlock()
		}
	}
}

// hangUp closes the connection of a resource.
func (k *socketKubelet) hangUp(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conns[name].Close()
	delete(k.lists, name)
}

// healthy returns the healthy devices of a resource; false if nobody offers it.
func (k *socketKubelet) healthy(name string) ([]string, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	list, there := k.lists[name]
	var ids []string
	for _, d := range list {
		if d.GetHealth() == deviceapi.Healthy {
			ids = append(ids, d.GetID())
		}
	}
	return ids, there
}

// of returns the connection of a resource, and its last list.
func (k *socketKubelet) of(name string) (deviceapi.DevicePluginClient, []*deviceapi.Device) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return deviceapi.NewDevicePluginClient(k.conns[name]), k.lists[name]
}

func (k *socketKubelet) await(name string, want ...string) {
	k.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		got, there := k.healthy(name)
		if there && slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			k.t.Fatalf("%s: healthy %q (offered: %t), want %q", name, got, there, want)
		}
	}
}

// socketDir is a folder with a path short enough for sockets (unix(7)).
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

const resourceA, resourceB = "intel.com/a", "intel.com/b"

func enaDevice(name device.ResourceName, pci device.PCIAddress) offer.Device {
	return offer.Device{Resource: name, ID: pci, Driver: "ena", NUMANode: -1}
}

// enaTree has the functions of the tests' devices.
func enaTree(t *testing.T) sysfs.FS {
	t.Helper()
	tree := t.TempDir()
	for _, pci := range []string{"0000:00:06.0", "0000:00:07.0"} {
		if err := sysfstree.Plug(tree, sysfstree.Function{Address: pci, Driver: "ena"}); err != nil {
			t.Fatal(err)
		}
	}
	return sysfs.NewFS(tree)
}

// testPlugin runs a plugin on a folder, with the functions of its devices in a sysfs tree.
func testPlugin(t *testing.T, dir string) (*Plugin, *logtest.Hook) {
	t.Helper()
	log, logs := logtest.NewNullLogger()
	log.SetLevel(logrus.InfoLevel)
	p := New(Options{Kubelet: NewSockets(dir, nil), Devices: enaTree(t), DeviceInfo: t.TempDir(), Now: time.Now, Log: log})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		p.Run(ctx)
		close(ended)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
		if left, _ := filepath.Glob(filepath.Join(dir, "multi-eni-*")); len(left) > 0 {
			t.Errorf("sockets are left: %q", left)
		}
	})
	return p, logs
}

// TestKubelets: the plugin's devices reach each kubelet, whenever it starts and whatever it does to a connection.
func TestKubelets(t *testing.T) {
	dir := filepath.Join(socketDir(t), SocketsDir)
	p, logs := testPlugin(t, dir)
	a, b := enaDevice(resourceA, "0000:00:06.0"), enaDevice(resourceB, "0000:00:07.0")
	p.Set([]device.ResourceName{resourceA, resourceB}, []offer.Device{a, b})
	if err := os.Mkdir(dir, 0o755); err != nil { // the folder comes later than the plugin
		t.Fatal(err)
	}
	k := startKubelet(t, dir)
	k.await(resourceA, "0000:00:06.0")
	k.await(resourceB, "0000:00:07.0")
	b.Unfit = "it is draining"
	p.Set([]device.ResourceName{resourceA, resourceB}, []offer.Device{a, b})
	k.await(resourceB)
	k.await(resourceA, "0000:00:06.0")
	k.hangUp(resourceA)
	k.await(resourceA, "0000:00:06.0")
	k.stop()
	k.start()
	k.await(resourceA, "0000:00:06.0")
	k.await(resourceB)
	p.Set([]device.ResourceName{resourceA}, []offer.Device{a})
	for deadline := time.Now().Add(10 * time.Second); len(p.State().Resources) != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still served: %+v", p.State())
		}
	}
	if n := len(logs.AllEntries()); n > 8 {
		t.Errorf("%d lines logged", n)
	}
}

// TestRefusal: a refusal is logged once, is in the state, and ends with the kubelet's consent.
func TestRefusal(t *testing.T) {
	dir := socketDir(t)
	k := startKubelet(t, dir)
	k.refusal = errors.New("requested API version not supported by kubelet")
	p, logs := testPlugin(t, dir)
	p.Set([]device.ResourceName{resourceA}, []offer.Device{enaDevice(resourceA, "0000:00:06.0")})
	for p.State().Resources[0].Fault == nil {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	warned := 0
	for _, e := range logs.AllEntries() {
		if e.Level == logrus.WarnLevel {
			warned++
		}
	}
	if warned != 1 || p.State().Registered() {
		t.Errorf("%d warnings, state %+v", warned, p.State())
	}
	k.mu.Lock()
	k.refusal = nil
	k.mu.Unlock()
	k.await(resourceA, "0000:00:06.0")
	for p.State().Resources[0].Fault != nil {
		time.Sleep(time.Millisecond)
	}
}

// TestTwoDaemons: a second daemon does not take the sockets of a living one.
func TestTwoDaemons(t *testing.T) {
	dir := socketDir(t)
	k := startKubelet(t, dir)
	first, _ := testPlugin(t, dir)
	list := []offer.Device{enaDevice(resourceA, "0000:00:06.0")}
	first.Set([]device.ResourceName{resourceA}, list)
	k.await(resourceA, "0000:00:06.0")
	log, _ := logtest.NewNullLogger()
	second := New(Options{Kubelet: NewSockets(dir, nil), Devices: sysfs.NewFS(t.TempDir()), Now: time.Now, Log: log})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go second.Run(ctx)
	second.Set([]device.ResourceName{resourceA}, list)
	var other *OtherDaemonError
	for deadline := time.Now().Add(10 * time.Second); !errors.As(second.State().Resources[0].Fault, &other); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("state %+v", second.State())
		}
	}
	if !first.State().Registered() {
		t.Errorf("the first lost its registration: %+v", first.State())
	}
}
