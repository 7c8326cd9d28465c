package guest

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/test/kubeletmodel"
)

// KubeletDir is the kubelet's root folder.
const KubeletDir = "/var/lib/kubelet"

// Kubelet is a kubelet's device manager, on its sockets below KubeletDir. It keeps the lists and answers of device plugins.
type Kubelet struct {
	*kubeletmodel.Kubelet
	t    testing.TB
	node *kubeletmodel.Node

	mu      sync.Mutex
	health  map[string][]Health // by device
	listed  map[string]int      // in how many connections' last lists a device is
	answers map[string]*deviceapi.ContainerAllocateResponse
}

// Health is a change in a device plugin's lists: deviceapi.Healthy, deviceapi.Unhealthy, or Unlisted.
type Health struct {
	Is string
	At time.Time
}

// Unlisted is the Health of a device that is in no list any more.
const Unlisted = "Unlisted"

// StartKubelet runs a kubelet until the test's end. Its node has one pod, without devices.
func StartKubelet(t testing.TB) *Kubelet {
	t.Helper()
	k := &Kubelet{
		t: t, node: kubeletmodel.NewNode(), health: map[string][]Health{}, listed: map[string]int{},
		answers: map[string]*deviceapi.ContainerAllocateResponse{},
	}
	folder, podresources := filepath.Join(KubeletDir, "device-plugins"), filepath.Join(KubeletDir, "pod-resources")
	for _, dir := range []string{folder, podresources} {
		Must(t, os.MkdirAll(dir, 0o750))
	}
	t.Cleanup(func() { Must(t, os.RemoveAll(KubeletDir)) })
	k.node.AddPod(kubeletmodel.Pod{UID: "agent"})
	k.Kubelet = kubeletmodel.Start(kubeletmodel.Options{Dial: k.dial, Node: k.node, Folder: folder})
	t.Cleanup(k.Kill)
	servers, err := k.Serve(folder, filepath.Join(podresources, "kubelet.sock"))
	Must(t, err)
	t.Cleanup(servers.Stop)
	return k
}

// Admit gives a new pod one device of a resource, and returns the device plugin's answer for it.
func (k *Kubelet) Admit(pod, resource string) (*deviceapi.ContainerAllocateResponse, error) {
	c := kubeletmodel.Container{Name: "main", Wants: map[string]int{resource: 1}}
	k.node.AddPod(kubeletmodel.Pod{UID: pod, Containers: []kubeletmodel.Container{c}})
	if err := k.Kubelet.Admit(k.t.Context(), pod, c); err != nil {
		k.node.EndPod(pod)
		return nil, err
	}
	held, _ := k.List()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.answers[held[kubeletmodel.Holder{Pod: pod, Container: c.Name}][resource][0]], nil
}

// EndPod frees the devices of a pod.
func (k *Kubelet) EndPod(pod string) { k.node.EndPod(pod) }

// AwaitHealthy waits until pods can get exactly these devices of a resource.
func (k *Kubelet) AwaitHealthy(within time.Duration, resource string, devices ...string) {
	k.t.Helper()
	slices.Sort(devices)
	var got []string
	for began := time.Now(); time.Since(began) < within; time.Sleep(pollInterval) {
		if got = k.Allocatable()[resource]; slices.Equal(got, devices) {
			return
		}
	}
	k.t.Fatalf("%s has the healthy devices %q after %v, want %q; the problems are %+v", resource, got, within, devices, Inventory(k.t).Problems)
}

// Healths are the changes of a device in its lists.
func (k *Kubelet) Healths(device string) []Health {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.health[device])
}

func (k *Kubelet) dial(ctx context.Context, socket string) (kubeletmodel.Conn, error) {
	conn, err := kubeletmodel.DialUnix(ctx, socket)
	return &listening{Conn: conn, k: k}, err
}

// listening is a connection whose lists and answers the kubelet keeps.
type listening struct {
	kubeletmodel.Conn
	k *Kubelet
}

// Allocate is a call of the device-plugin API.
func (l *listening) Allocate(ctx context.Context, in *deviceapi.AllocateRequest, o ...grpc.CallOption) (*deviceapi.AllocateResponse, error) {
	answer, err := l.Conn.Allocate(ctx, in, o...)
	if err != nil {
		return nil, err
	}
	l.k.mu.Lock()
	defer l.k.mu.Unlock()
	for i, c := range in.GetContainerRequests() {
		for _, id := range c.GetDevicesIds() {
			l.k.answers[id] = answer.GetContainerResponses()[i]
		}
	}
	return answer, nil
}

type listStream = grpc.ServerStreamingClient[deviceapi.ListAndWatchResponse]

// ListAndWatch is a call of the device-plugin API.
func (l *listening) ListAndWatch(ctx context.Context, in *deviceapi.Empty, o ...grpc.CallOption) (listStream, error) {
	stream, err := l.Conn.ListAndWatch(ctx, in, o...)
	return &lists{listStream: stream, k: l.k}, err
}

type lists struct {
	listStream
	k    *Kubelet
	last map[string]bool // the devices of the last list
}

// Recv returns the next list.
func (l *lists) Recv() (*deviceapi.ListAndWatchResponse, error) {
	list, err := l.listStream.Recv()
	l.k.mu.Lock()
	defer l.k.mu.Unlock()
	now := map[string]bool{}
	for _, d := range list.GetDevices() {
		now[d.GetID()] = true
		l.k.listed[d.GetID()]++
		l.k.note(d.GetID(), d.GetHealth())
	}
	for id := range l.last {
		if l.k.listed[id]--; l.k.listed[id] == 0 {
			l.k.note(id, Unlisted)
		}
	}
	l.last = now
	return list, err
}

// note needs mu.
func (k *Kubelet) note(device, is string) {
	if was := k.health[device]; len(was) == 0 || was[len(was)-1].Is != is {
		k.health[device] = append(was, Health{is, time.Now()})
	}
}
