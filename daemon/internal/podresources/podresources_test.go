package podresources

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// kubelet is the service. A call that the client does not need fails the test.
type kubelet struct {
	podresourcesv1.UnsafePodResourcesListerServer
	t *testing.T

	mu      sync.Mutex
	offered []*podresourcesv1.ContainerDevices
	pods    []*podresourcesv1.PodResources
	calls   []string
	hang    bool
}

func (k *kubelet) call(ctx context.Context, name string) {
	k.mu.Lock()
	k.calls = append(k.calls, name)
	hang := k.hang
	k.mu.Unlock()
	if hang {
		<-ctx.Done()
	}
}

func (k *kubelet) List(ctx context.Context, _ *podresourcesv1.ListPodResourcesRequest) (*podresourcesv1.ListPodResourcesResponse, error) {
	k.call(ctx, "List")
	return &podresourcesv1.ListPodResourcesResponse{PodResources: k.pods}, ctx.Err()
}

func (k *kubelet) GetAllocatableResources(ctx context.Context, _ *podresourcesv1.AllocatableResourcesRequest) (*podresourcesv1.AllocatableResourcesResponse,
	error) {
	k.call(ctx, "GetAllocatableResources")
	return &podresourcesv1.AllocatableResourcesResponse{Devices: k.offered}, ctx.Err()
}

func (k *kubelet) Get(context.Context, *podresourcesv1.GetPodResourcesRequest) (*podresourcesv1.GetPodResourcesResponse, error) {
	k.t.Error("Get was called")
	return nil, status.Error(codes.Unimplemented, "Get")
}

// listen serves until stop is called. The socket goes with it, as the kubelet's does.
func (k *kubelet) listen(socket string) (stop func()) {
	k.t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		k.t.Fatal(err)
	}
	s := grpc.NewServer()
	podresourcesv1.RegisterPodResourcesListerServer(s, k)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	return func() { s.Stop(); <-done }
}

func devices(resource string, ids ...string) *podresourcesv1.ContainerDevices {
	return &podresourcesv1.ContainerDevices{ResourceName: resource, DeviceIds: ids}
}

func pod(namespace, name string, containers ...*podresourcesv1.ContainerResources) *podresourcesv1.PodResources {
	return &podresourcesv1.PodResources{Namespace: namespace, Name: name, Containers: containers}
}

func container(name string, devices ...*podresourcesv1.ContainerDevices) *podresourcesv1.ContainerResources {
	return &podresourcesv1.ContainerResources{Name: name, Devices: devices}
}

func TestDevices(t *testing.T) {
	k := &kubelet{t: t,
		offered: []*podresourcesv1.ContainerDevices{
			devices("intel.com/b", "0000:00:07.0", "0000:00:06.0"),
			devices("intel.com/b", "0000:00:06.0"), // of another NUMA node
			devices("intel.com/a", "0000:00:08.0"),
			devices("nvidia.com/gpu", "GPU-4f1c"),
			devices("no name", "0000:00:09.0"),
		},
		pods: []*podresourcesv1.PodResources{
			pod("z", "one", container("b", devices("intel.com/b", "0000:00:06.0"))),
			pod("a", "two",
				container("c", devices("intel.com/b", "0000:00:06.0"), devices("intel.com/b", "0000:00:06.0"), devices("nvidia.com/gpu", "GPU-4f1c")),
				container("b", devices("intel.com/b", "0000:00:06.0", "0000:00:07.0"))),
			pod("a", "none", container("x")),
		},
	}
	socket := filepath.Join(t.TempDir(), "kubelet.sock")
	defer k.listen(socket)()
	got, err := New(socket, "", time.Now).Devices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := inventory.Kubelet{
		Allocatable: map[device.ResourceName][]device.PCIAddress{
			"intel.com/a": {"0000:00:08.0"},
			"intel.com/b": {"0000:00:06.0", "0000:00:07.0"},
		},
		Allocated: map[device.PCIAddress][]inventory.Container{
			"0000:00:06.0": {{Namespace: "a", Pod: "two", Container: "b"}, {Namespace: "a", Pod: "two", Container: "c"}, {Namespace: "z", Pod: "one", Container: "b"}},
			"0000:00:07.0": {{Namespace: "a", Pod: "two", Container: "b"}},
		},
		Held:  map[device.ResourceName][]device.PCIAddress{"intel.com/b": {"0000:00:06.0", "0000:00:07.0"}},
		Fresh: true, // its socket is new
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"GetAllocatableResources", "List"}, k.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestDevicesAcrossARestart(t *testing.T) {
	k := &kubelet{t: t, offered: []*podresourcesv1.ContainerDevices{devices("intel.com/a", "0000:00:06.0")}}
	socket := filepath.Join(t.TempDir(), "kubelet.sock")
	c := New(socket, "", time.Now)
	stop := k.listen(socket)
	if got, err := c.Devices(t.Context()); !errors.Is(err, inventory.ErrNoPods) {
		t.Fatalf("before it knows its pods: %+v, error %v; want that nothing is known", got, err)
	}
	stop()
	k.pods = []*podresourcesv1.PodResources{pod("kube-system", "daemon", container("x"))}
	for i := range 3 {
		if _, err := c.Devices(t.Context()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "--podresources-socket") {
			t.Fatalf("round %d, no socket: error %v, want fs.ErrNotExist and the way out", i, err)
		}
		stop := k.listen(socket)
		got, err := c.Devices(t.Context())
		if err != nil || len(got.Allocatable) != 1 {
			t.Fatalf("round %d: %+v, error %v", i, got, err)
		}
		stop()
	}
}

func TestDevicesOfADeadKubelet(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "kubelet.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false) // as after kill -9
	l.Close()
	if _, err := New(socket, "", time.Now).Devices(t.Context()); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("error %v, want Unavailable: connection refused", err)
	}
}

func TestDevicesEndsWithItsContext(t *testing.T) {
	k := &kubelet{t: t, hang: true}
	socket := filepath.Join(t.TempDir(), "kubelet.sock")
	defer k.listen(socket)()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := New(socket, "", time.Now).Devices(ctx); status.Code(err) != codes.Canceled {
		t.Errorf("%+v, error %v, want Canceled", got, err)
	}
}

// A full node's answer exceeds gRPC's default limit.
func TestDevicesOfAFullNode(t *testing.T) {
	k := &kubelet{t: t}
	ids := make([]string, 32)
	for i := range ids {
		ids[i] = fmt.Sprintf("0000:%02x:00.0", i)
	}
	long := strings.Repeat("n", 253)
	for range 500 {
		var containers []*podresourcesv1.ContainerResources
		for range 20 {
			containers = append(containers, container(long, devices("intel.com/a", ids...)))
		}
		k.pods = append(k.pods, pod("a", long, containers...))
	}
	socket := filepath.Join(t.TempDir(), "kubelet.sock")
	defer k.listen(socket)()
	got, err := New(socket, "", time.Now).Devices(t.Context())
	if err != nil || len(got.Allocated) != len(ids) {
		t.Errorf("%d devices, error %v, want %d", len(got.Allocated), err, len(ids))
	}
}
