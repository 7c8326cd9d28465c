package main

import (
	"context"
	"net"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/go-logr/logr"
	"google.golang.org/grpc"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
)

// plugin is a device plugin whose lists come from commands.
type plugin struct {
	pluginapi.UnimplementedDevicePluginServer

	resource string
	prefers  bool
	refuse   atomic.Bool
	server   *grpc.Server

	mu      sync.Mutex
	list    []*pluginapi.Device
	streams map[*stream]bool
}

type stream struct{ more, end chan struct{} }

func serve(path, resource string, devices []string, prefers bool) (*plugin, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	p := &plugin{resource: resource, prefers: prefers, server: grpc.NewServer(), list: list(devices), streams: map[*stream]bool{}}
	pluginapi.RegisterDevicePluginServer(p.server, p)
	go func() { _ = p.server.Serve(l) }()
	return p, nil
}

func list(ids []string) []*pluginapi.Device {
	var out []*pluginapi.Device
	for _, id := range ids {
		d := &pluginapi.Device{ID: id, Health: pluginapi.Healthy}
		if id[0] == '!' {
			d = &pluginapi.Device{ID: id[1:], Health: pluginapi.Unhealthy}
		}
		out = append(out, d)
	}
	return out
}

// send sends a list to each open stream.
func (p *plugin) send(devices []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = list(devices)
	for s := range p.streams {
		s.more <- struct{}{}
	}
}

// end ends all streams, and leaves the connections.
func (p *plugin) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.streams {
		close(s.end)
		delete(p.streams, s)
	}
}

func (p *plugin) ListAndWatch(_ *pluginapi.Empty, to grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	s := &stream{more: make(chan struct{}, 100), end: make(chan struct{})}
	s.more <- struct{}{}
	p.mu.Lock()
	p.streams[s] = true
	p.mu.Unlock()
	changes.Add(1)
	defer func() {
		p.mu.Lock()
		delete(p.streams, s)
		p.mu.Unlock()
		changes.Add(1)
	}()
	for {
		select {
		case <-s.more:
			p.mu.Lock()
			devices := p.list
			p.mu.Unlock()
			if err := to.Send(&pluginapi.ListAndWatchResponse{Devices: devices}); err != nil {
				return err
			}
		case <-s.end:
			return nil
		case <-to.Context().Done():
			return nil
		}
	}
}

func (p *plugin) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return &pluginapi.DevicePluginOptions{GetPreferredAllocationAvailable: p.prefers}, nil
}

// GetPreferredAllocation prefers the last devices.
func (p *plugin) GetPreferredAllocation(_ context.Context, r *pluginapi.PreferredAllocationRequest) (*pluginapi.PreferredAllocationResponse, error) {
	out := &pluginapi.PreferredAllocationResponse{}
	for _, c := range r.ContainerRequests {
		ids := slices.Sorted(slices.Values(c.AvailableDeviceIDs))
		ids = ids[len(ids)-int(c.AllocationSize):]
		out.ContainerResponses = append(out.ContainerResponses, &pluginapi.ContainerPreferredAllocationResponse{DeviceIDs: ids})
	}
	return out, nil
}

func (p *plugin) Allocate(_ context.Context, r *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	if p.refuse.Load() {
		return nil, errRefused
	}
	out := &pluginapi.AllocateResponse{}
	for range r.ContainerRequests {
		out.ContainerResponses = append(out.ContainerResponses, &pluginapi.ContainerAllocateResponse{})
	}
	return out, nil
}

// changes counts the device manager's messages and the streams' begins and ends.
var changes atomic.Int64

// settle waits until nothing has changed for a while.
func settle() {
	for last, calm := changes.Load(), 0; calm < 4; {
		time.Sleep(500 * time.Microsecond)
		if now := changes.Load(); now != last {
			last, calm = now, 0
		} else {
			calm++
		}
	}
}

// sink counts messages.
type sink struct{}

func (sink) Init(logr.RuntimeInfo)            {}
func (sink) Enabled(int) bool                 { return true }
func (sink) Info(int, string, ...any)         { changes.Add(1) }
func (sink) Error(error, string, ...any)      { changes.Add(1) }
func (s sink) WithValues(...any) logr.LogSink { return s }
func (s sink) WithName(string) logr.LogSink   { return s }

// pass lets time pass for the endpoints that have stopped: it puts their stopTime back. Nothing else in the device manager depends on time.
func pass(m *devicemanager.ManagerImpl, d time.Duration) {
	endpoints := reflect.ValueOf(m).Elem().FieldByName("endpoints")
	for e := endpoints.MapRange(); e.Next(); {
		at := e.Value().FieldByName("e").Elem().Elem().FieldByName("stopTime")
		stopped := (*time.Time)(unsafe.Pointer(at.UnsafeAddr()))
		if !stopped.IsZero() {
			*stopped = stopped.Add(-d)
		}
	}
}
