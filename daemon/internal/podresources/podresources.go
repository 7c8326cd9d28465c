// Package podresources asks the kubelet for its devices and their holders. It is the only importer of the kubelet's API.
package podresources

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// SocketPath is where the kubelet listens, in its root folder.
const SocketPath = "pod-resources/kubelet.sock"

const (
	// timeout bounds one call of Devices. The kubelet answers from memory.
	timeout = 10 * time.Second
	// maxAnswer is the limit of the kubelet's own tests: gRPC's 4 MiB are too few for a node full of pods with many devices.
	maxAnswer = 16 << 20
)

// Client asks one kubelet. It is safe for concurrent use and holds nothing open.
type Client struct {
	socket, own string
	options     []grpc.DialOption
	age         socketAge
}

// New returns a client of the kubelet that listens at the socket. own is this process's pod as namespace/name, "" for none.
func New(socket, own string, now func() time.Time) *Client {
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, own: own, age: socketAge{now: now}, options: []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dial),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
	}}
}

// Devices asks the kubelet (podresources v1). After an error nothing is known; the error wraps fs.ErrNotExist if the socket is missing.
// Each call connects anew, since a restarted kubelet makes a new socket. The kubelet admits 100 calls per second from all its clients.
//
// The answer, as of v1.36:
//   - Allocatable is GetAllocatableResources: the devices that a registered device plugin calls healthy, allocated or not. When a device
//     plugin's connection ends, its devices go at once. A resource without devices is not named. A restarted kubelet names none until
//     device plugins have registered again.
//   - Allocated is List: the pods that have not ended (KubeletPodResourcesListUseActivePods, the default since v1.34; an older kubelet also
//     lists ended pods, without devices). A pod being deleted has its devices until its last container stops, and a restarted container
//     keeps them. A restarted kubelet knows them from its checkpoint. The only init containers listed are sidecars; another one's device
//     is not seen, though it is the pod's.
//   - A kubelet that has just started lists no pod until the API server names them, which takes as long as that does not answer. It may list
//     static pods before, from files (NewSourceFile in pkg/kubelet/config of Kubernetes). Hence Fresh, which lasts until the kubelet lists
//     this process's pod, too. No pod at all is an error while Fresh; a node whose daemon runs outside a pod may have none.
//   - A device for which the kubelet awaits the device plugin's Allocate answer is not yet listed.
//
// Allocatable is asked for first. So a device in neither list has not been allocated by then, and will not be.
func (c *Client) Devices(ctx context.Context) (inventory.Kubelet, error) {
	info, err := os.Stat(c.socket)
	if err != nil {
		return inventory.Kubelet{}, fmt.Errorf("find the kubelet's podresources socket: %w; mount its folder, or correct --podresources-socket", err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///kubelet", c.options...)
	if err != nil {
		return inventory.Kubelet{}, fmt.Errorf("connect to the kubelet at %s: %w", c.socket, err)
	}
	defer func() { _ = conn.Close() }()

	kubelet := podresourcesv1.NewPodResourcesListerClient(conn)
	offered, err := kubelet.GetAllocatableResources(ctx, &podresourcesv1.AllocatableResourcesRequest{})
	if err != nil {
		return inventory.Kubelet{}, fmt.Errorf("ask the kubelet at %s for allocatable devices: %w", c.socket, err)
	}
	given, err := kubelet.List(ctx, &podresourcesv1.ListPodResourcesRequest{})
	if err != nil {
		return inventory.Kubelet{}, fmt.Errorf("ask the kubelet at %s for allocated devices: %w", c.socket, err)
	}
	fresh := c.age.fresh(info) || c.own != "" && !slices.ContainsFunc(given.GetPodResources(), func(p *podresourcesv1.PodResources) bool {
		return p.GetNamespace()+"/"+p.GetName() == c.own
	})
	if len(given.GetPodResources()) == 0 && fresh {
		return inventory.Kubelet{}, fmt.Errorf("ask the kubelet at %s for allocated devices: %w", c.socket, inventory.ErrNoPods)
	}
	return inventory.Kubelet{Allocatable: allocatable(offered), Allocated: allocated(given), Held: held(given), Fresh: fresh}, nil
}

func allocatable(answer *podresourcesv1.AllocatableResourcesResponse) map[device.ResourceName][]device.PCIAddress {
	all := map[device.ResourceName][]device.PCIAddress{}
	for _, d := range answer.GetDevices() {
		name, err := device.ParseResourceName(d.GetResourceName())
		if err != nil {
			continue // nobody of ours
		}
		if found := addresses(d); len(found) > 0 {
			all[name] = append(all[name], found...)
		}
	}
	return sorted(all)
}

func sorted(all map[device.ResourceName][]device.PCIAddress) map[device.ResourceName][]device.PCIAddress {
	for name, found := range all {
		slices.Sort(found)
		all[name] = slices.Compact(found)
	}
	return all
}

func allocated(answer *podresourcesv1.ListPodResourcesResponse) map[device.PCIAddress][]inventory.Container {
	all := map[device.PCIAddress][]inventory.Container{}
	for _, p := range answer.GetPodResources() {
		for _, c := range p.GetContainers() {
			holder := inventory.Container{Namespace: p.GetNamespace(), Pod: p.GetName(), Container: c.GetName()}
			for _, d := range c.GetDevices() {
				for _, address := range addresses(d) {
					all[address] = append(all[address], holder)
				}
			}
		}
	}
	for address, holders := range all {
		slices.SortFunc(holders, compareContainers)
		all[address] = slices.Compact(holders)
	}
	return all
}

// held lists the devices that containers have, by resource.
func held(answer *podresourcesv1.ListPodResourcesResponse) map[device.ResourceName][]device.PCIAddress {
	all := map[device.ResourceName][]device.PCIAddress{}
	for _, p := range answer.GetPodResources() {
		for _, c := range p.GetContainers() {
			for _, d := range c.GetDevices() {
				name, err := device.ParseResourceName(d.GetResourceName())
				if found := addresses(d); err == nil && len(found) > 0 {
					all[name] = append(all[name], found...)
				}
			}
		}
	}
	return sorted(all)
}

func compareContainers(a, b inventory.Container) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Container, b.Container))
}

// addresses are the ids that are PCI addresses. A device with several NUMA nodes is listed more than once.
func addresses(d *podresourcesv1.ContainerDevices) []device.PCIAddress {
	var all []device.PCIAddress
	for _, id := range d.GetDeviceIds() {
		if address, err := device.ParsePCIAddress(id); err == nil {
			all = append(all, address)
		}
	}
	return all
}

// freshFor is how long after a start the kubelet may not know all of its pods.
const freshFor = time.Minute

// socketAge tells a kubelet's age by its socket, which each kubelet makes anew (CreateListener in pkg/kubelet/util of Kubernetes): the process
// is in another PID namespace. It is safe for concurrent use.
type socketAge struct {
	now func() time.Time

	mu    sync.Mutex
	seen  socketID
	since time.Time
}

// socketID tells one socket from the next of its name.
type socketID struct {
	dev, ino uint64
	ctime    syscall.Timespec
}

// fresh: the kubelet started within freshFor. The first seen socket is as old as its ctime; a replacement begins when it is seen.
func (a *socketAge) fresh(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	id := socketID{dev: st.Dev, ino: st.Ino, ctime: st.Ctim}
	if id != a.seen {
		first := a.seen == socketID{}
		a.seen, a.since = id, now
		if made := time.Unix(st.Ctim.Unix()); first && made.Before(now) {
			a.since = made
		}
	}
	return now.Sub(a.since) < freshFor
}
