package kubeletmodel

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// fake is a device plugin whose lists come from the test.
type fake struct {
	deviceapi.UnimplementedDevicePluginServer
	registerapi.UnimplementedRegistrationServer

	resource, socket string
	prefers          bool
	refuse           bool // Allocate does

	mu      sync.Mutex
	list    []*deviceapi.Device
	streams map[chan struct{}]bool
	opened  int
}

func newFake(resource, socket string, devices ...string) *fake {
	return &fake{resource: resource, socket: socket, list: list(devices...), streams: map[chan struct{}]bool{}}
}

// list makes devices of ids; "!" before one says that it is not healthy.
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

func (f *fake) send(devices ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = list(devices...)
	for s := range f.streams {
		s <- struct{}{}
	}
}

func (f *fake) ListAndWatch(_ *deviceapi.Empty, to grpc.ServerStreamingServer[deviceapi.ListAndWatchResponse]) error {
	more := make(chan struct{}, 100)
	more <- struct{}{}
	f.mu.Lock()
	f.streams[more] = true
	f.opened++
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.streams, more)
		f.mu.Unlock()
	}()
	for {
		select {
		case <-more:
			f.mu.Lock()
			devices := f.list
			f.mu.Unlock()
			if err := to.Send(&deviceapi.ListAndWatchResponse{Devices: devices}); err != nil {
				return err
			}
		case <-to.Context().Done():
			return nil
		}
	}
}

func (f *fake) GetDevicePluginOptions(context.Context, *deviceapi.Empty) (*deviceapi.DevicePluginOptions, error) {
	return &deviceapi.DevicePluginOptions{GetPreferredAllocationAvailable: f.prefers}, nil
}

// GetPreferredAllocation prefers the last devices.
func (f *fake) GetPreferredAllocation(_ context.Context, r *deviceapi.PreferredAllocationRequest) (*deviceapi.PreferredAllocationResponse, error) {
	out := &deviceapi.PreferredAllocationResponse{}
	for _, c := range r.GetContainerRequests() {
		ids := c.GetAvailableDeviceIDs()
		out.ContainerResponses = append(out.ContainerResponses, &deviceapi.ContainerPreferredAllocationResponse{DeviceIDs: ids[len(ids)-int(c.GetAllocationSize()):]})
	}
	return out, nil
}

func (f *fake) Allocate(_ context.Context, r *deviceapi.AllocateRequest) (*deviceapi.AllocateResponse, error) {
	if f.refuse {
		return nil, errors.New("not now")
	}
	out := &deviceapi.AllocateResponse{}
	for range r.GetContainerRequests() {
		out.ContainerResponses = append(out.ContainerResponses, &deviceapi.ContainerAllocateResponse{})
	}
	return out, nil
}

func (f *fake) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{Type: registerapi.DevicePlugin, Name: f.resource, Endpoint: f.socket, SupportedVersions: []string{deviceapi.Version}}, nil
}

func (f *fake) NotifyRegistrationStatus(context.Context, *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	return &registerapi.RegistrationStatusResponse{}, nil
}
