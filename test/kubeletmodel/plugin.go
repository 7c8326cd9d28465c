package kubeletmodel

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Plugin is a device plugin whose lists come from the test. Its methods are safe for concurrent use.
type Plugin struct {
	deviceapi.UnimplementedDevicePluginServer
	registerapi.UnimplementedRegistrationServer

	Resource, Socket string
	Prefers          bool        // whether it has a GetPreferredAllocation: it prefers the last devices
	Refuse           atomic.Bool // whether Allocate refuses

	mu      sync.Mutex
	list    []*deviceapi.Device
	streams map[*pluginStream]bool
	opened  int
}

type pluginStream struct{ more, end chan struct{} }

// NewPlugin returns a plugin with devices; "!" before an ID says that the device is not healthy.
func NewPlugin(resource, socket string, devices ...string) *Plugin {
	return &Plugin{Resource: resource, Socket: socket, list: list(devices...), streams: map[*pluginStream]bool{}}
}

func list(ids ...string) []*deviceapi.Device {
	out := []*deviceapi.Device{}
	for _, id := range ids {
		d := &deviceapi.Device{ID: id, Health: deviceapi.Healthy}
		if id[0] == '!' {
			d = &deviceapi.Device{ID: id[1:], Health: deviceapi.Unhealthy}
		}
		out = append(out, d)
	}
	return out
}

// Send replaces the devices, and sends them on all open streams.
func (p *Plugin) Send(devices ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = list(devices...)
	for s := range p.streams {
		s.more <- struct{}{}
	}
}

// EndStreams ends all open streams, and leaves their connections.
func (p *Plugin) EndStreams() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.streams {
		close(s.end)
		delete(p.streams, s)
	}
}

// Streams returns the numbers of streams that are open, and that were ever opened.
func (p *Plugin) Streams() (open, opened int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.streams), p.opened
}

// ListAndWatch implements the device-plugin API.
func (p *Plugin) ListAndWatch(_ *deviceapi.Empty, to grpc.ServerStreamingServer[deviceapi.ListAndWatchResponse]) error {
	s := &pluginStream{more: make(chan struct{}, 100), end: make(chan struct{})}
	s.more <- struct{}{}
	p.mu.Lock()
	p.streams[s] = true
	p.opened++
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.streams, s)
		p.mu.Unlock()
	}()
	for {
		select {
		case <-s.more:
			p.mu.Lock()
			devices := p.list
			p.mu.Unlock()
			if err := to.Send(&deviceapi.ListAndWatchResponse{Devices: devices}); err != nil {
				return err
			}
		case <-s.end:
			return nil
		case <-to.Context().Done():
			return nil
		}
	}
}

// GetDevicePluginOptions implements the device-plugin API.
func (p *Plugin) GetDevicePluginOptions(context.Context, *deviceapi.Empty) (*deviceapi.DevicePluginOptions, error) {
	return &deviceapi.DevicePluginOptions{GetPreferredAllocationAvailable: p.Prefers}, nil
}

// GetPreferredAllocation implements the device-plugin API.
func (p *Plugin) GetPreferredAllocation(_ context.Context, r *deviceapi.PreferredAllocationRequest) (*deviceapi.PreferredAllocationResponse, error) {
	out := &deviceapi.PreferredAllocationResponse{}
	for _, c := range r.GetContainerRequests() {
		ids := slices.Sorted(slices.Values(c.GetAvailableDeviceIDs()))
		out.ContainerResponses = append(out.ContainerResponses, &deviceapi.ContainerPreferredAllocationResponse{DeviceIDs: ids[len(ids)-int(c.GetAllocationSize()):]})
	}
	return out, nil
}

// Allocate implements the device-plugin API.
func (p *Plugin) Allocate(_ context.Context, r *deviceapi.AllocateRequest) (*deviceapi.AllocateResponse, error) {
	if p.Refuse.Load() {
		return nil, errors.New("not now")
	}
	out := &deviceapi.AllocateResponse{}
	for range r.GetContainerRequests() {
		out.ContainerResponses = append(out.ContainerResponses, &deviceapi.ContainerAllocateResponse{})
	}
	return out, nil
}

// GetInfo implements the registration by plugins_registry.
func (p *Plugin) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: registerapi.DevicePlugin, Name: p.Resource, Endpoint: p.Socket, SupportedVersions: []string{deviceapi.Version}}, nil
}

// NotifyRegistrationStatus implements the registration by plugins_registry.
func (p *Plugin) NotifyRegistrationStatus(context.Context, *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	return &registerapi.RegistrationStatusResponse{}, nil
}
