// Command devicemanager is the kubelet's real device manager as a program that does as it is told, for the comparison with
// test/kubeletmodel. It reads one command a line from stdin, as JSON, and answers each with one line.
//
// Its mount namespace must be private: it mounts a tmpfs over /var/lib.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"k8s.io/kubernetes/pkg/kubelet/cm/containermap"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
)

// command is one line of stdin.
type command struct {
	Op       string
	Socket   string   // of a plugin: its name in the folder
	Resource string   // of the plugin, or that a container wants
	Devices  []string // "!" before one says that it is not healthy
	On       bool
	Pod      string
	Number   int           // of devices
	Passed   time.Duration // for the op pass
}

// answer is one line of stdout.
type answer struct {
	Error                 string
	Capacity, Allocatable map[string]int
	Devices               map[string][]string                       // the allocatable ones, sorted
	Held                  map[string]map[string]map[string][]string // of active pods, by pod, container, resource; sorted
	Picked                map[string]map[string]map[string][]string // Held of all pods
}

const folder = "/var/lib/kubelet/device-plugins"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/var/lib", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	klog.SetLogger(logr.New(sink{}))
	n := &node{plugins: map[string]*plugin{}, pods: map[string]*v1.Pod{}, ever: map[string]*v1.Pod{}}
	if err := n.start(true); err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		a := answer{}
		if c.Op == "state" {
			a = n.state()
		} else if err := n.do(c); err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return nil
}

// node is a device manager, with plugins and pods.
type node struct {
	manager *devicemanager.ManagerImpl
	plugins map[string]*plugin // by socket
	pods    map[string]*v1.Pod // the active ones
	ever    map[string]*v1.Pod // all that there have been
	ready   atomic.Bool
}

// AddSource is a part of SourcesReady.
func (n *node) AddSource(string) {}

// AllReady is a part of SourcesReady.
func (n *node) AllReady() bool { return n.ready.Load() }

// restart ends all connections first, as the end of the process would.
func (n *node) restart(ready bool) error {
	for _, p := range n.plugins {
		p.server.Stop()
	}
	settle()
	return n.start(ready)
}

// start runs a new device manager on the checkpoint of the last one. It finds all held containers running.
func (n *node) start(ready bool) error {
	containers, running := containermap.NewContainerMap(), sets.New[string]()
	if n.manager != nil {
		for uid, byContainer := range n.held(slices.Collect(maps.Values(n.ever))) {
			for c := range byContainer {
				containers.Add(uid, c, uid+c)
				running.Insert(uid + c)
			}
		}
		if err := n.manager.Stop(klog.Background()); err != nil {
			return err
		}
	}
	manager, err := devicemanager.NewManagerImpl(nil, topologymanager.NewFakeManager())
	if err != nil {
		return err
	}
	n.manager = manager
	n.ready.Store(ready)
	return manager.Start(klog.Background(), n.active, n, containers, running)
}

func (n *node) active() []*v1.Pod {
	var all []*v1.Pod
	if n.ready.Load() {
		for _, p := range n.pods {
			all = append(all, p)
		}
	}
	return all
}

func (n *node) do(c command) error {
	p := n.plugins[c.Socket]
	switch c.Op {
	case "serve":
		var err error
		n.plugins[c.Socket], err = serve(filepath.Join(folder, c.Socket), c.Resource, c.Devices, c.On)
		return err
	case "register":
		return register(c)
	case "send":
		p.send(c.Devices)
	case "end":
		p.end()
	case "stop":
		p.server.Stop()
	case "refuse":
		p.refuse.Store(c.On)
	case "appear": // in plugins_registry
		return n.manager.GetWatcherHandler().RegisterPlugin(p.resource, filepath.Join(folder, c.Socket), []string{pluginapi.Version}, nil)
	case "vanish":
		n.manager.GetWatcherHandler().DeRegisterPlugin(p.resource, filepath.Join(folder, c.Socket))
	case "restart":
		return n.restart(c.On)
	case "ready":
		n.ready.Store(true)
	case "pass":
		pass(n.manager, c.Passed)
	case "admit":
		pod, container := n.pod(c)
		return n.manager.Allocate(pod, container)
	case "run":
		pod, container := n.pod(c)
		_, err := n.manager.GetDeviceRunContainerOptions(context.Background(), pod, container)
		return err
	case "delete":
		delete(n.pods, c.Pod)
	default:
		return fmt.Errorf("no such op %q", c.Op)
	}
	return nil
}

// register calls the Registration service. On stands for a call of 100 ms.
func register(c command) error {
	conn, err := grpc.NewClient("unix:"+folder+"/kubelet.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	if c.On {
		ctx, cancel = context.WithTimeout(context.Background(), 100*time.Millisecond)
	}
	defer cancel()
	r := &pluginapi.RegisterRequest{Version: pluginapi.Version, Endpoint: c.Socket, ResourceName: c.Resource}
	_, err = pluginapi.NewRegistrationClient(conn).Register(ctx, r)
	return err
}

// pod returns a pod and its container of a resource: each resource has a container of its own.
func (n *node) pod(c command) (*v1.Pod, *v1.Container) {
	p := n.pods[c.Pod]
	if p == nil {
		p = &v1.Pod{}
		p.UID = types.UID(c.Pod)
		n.pods[c.Pod], n.ever[c.Pod] = p, p
	}
	limits := v1.ResourceList{v1.ResourceName(c.Resource): *resource.NewQuantity(int64(c.Number), resource.DecimalSI)}
	container := v1.Container{Name: c.Resource, Resources: v1.ResourceRequirements{Limits: limits}}
	for i := range p.Spec.Containers {
		if p.Spec.Containers[i].Name == c.Resource {
			p.Spec.Containers[i] = container
			return p, &p.Spec.Containers[i]
		}
	}
	p.Spec.Containers = append(p.Spec.Containers, container)
	return p, &p.Spec.Containers[len(p.Spec.Containers)-1]
}

func (n *node) state() answer {
	a := answer{Capacity: map[string]int{}, Allocatable: map[string]int{}, Devices: map[string][]string{}}
	settle()
	capacity, allocatable, _ := n.manager.GetCapacity()
	for name, q := range capacity {
		a.Capacity[string(name)] = int(q.Value())
	}
	for name, q := range allocatable {
		a.Allocatable[string(name)] = int(q.Value())
	}
	for name, devices := range n.manager.GetAllocatableDevices() {
		if len(devices) > 0 {
			a.Devices[name] = sets.List(sets.KeySet(devices))
		}
	}
	n.manager.UpdateAllocatedDevices()
	a.Held, a.Picked = n.held(n.active()), n.held(slices.Collect(maps.Values(n.ever)))
	return a
}

func (n *node) held(pods []*v1.Pod) map[string]map[string]map[string][]string {
	out := map[string]map[string]map[string][]string{}
	for _, pod := range pods {
		for _, c := range pod.Spec.Containers {
			for name, devices := range n.manager.GetDevices(string(pod.UID), c.Name) {
				if out[string(pod.UID)] == nil {
					out[string(pod.UID)] = map[string]map[string][]string{}
				}
				out[string(pod.UID)][c.Name] = map[string][]string{name: sets.List(sets.KeySet(devices))}
			}
		}
	}
	return out
}

var errRefused = errors.New("not now")
