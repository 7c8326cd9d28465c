package deviceplugin

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/offer"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// resource serves one resource. The embedded type refuses unknown calls.
type resource struct {
	deviceapi.UnimplementedDevicePluginServer
	plugin *Plugin
	name   device.ResourceName
	kicked chan struct{} // holds a token when keep has to look

	cancel context.CancelFunc // cancel ends keep; nil before it began. Of Plugin.mu.

	mu        sync.Mutex
	list      []offer.Device
	version   int // of list
	streams   map[*stream]bool
	newest    *stream
	lingering bool
	suspect   bool               // whether the kubelet has dropped it unseen is to be asked
	fault     error              // why the kubelet has not accepted the resource; nil for none
	infoFault error              // why device-info files could not be written the last time; nil for none
	abort     context.CancelFunc // ends the registration under way; nil for none
}

// stream is one connection of a kubelet that listens to the list of devices.
type stream struct {
	end    chan struct{} // holds a token when the daemon is to hang up
	update chan struct{} // holds a token when there is a newer list
	sent   int           // the version that was sent last
	since  time.Time
}

func newResource(p *Plugin, name device.ResourceName) *resource {
	return &resource{plugin: p, name: name, kicked: make(chan struct{}, 1), streams: map[*stream]bool{}, version: 1}
}

func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (r *resource) kick() { token(r.kicked) }

func (r *resource) setAbort(abort context.CancelFunc) {
	r.mu.Lock()
	r.abort = abort
	r.mu.Unlock()
}

// restart has keep begin anew, for another kubelet. That one would look for a removed socket for 10 s.
func (r *resource) restart() {
	r.mu.Lock()
	if r.abort != nil {
		r.abort()
	}
	r.mu.Unlock()
	r.kick()
}

// hangUp ends the newest connection, so that the daemon registers once more. The older ones stay: the kubelet must not have the ends of
// several under way when it gets the registration. Hold mu.
func (r *resource) hangUp() {
	if r.newest != nil {
		token(r.newest.end)
	}
}

// end stops serving. Plugin.mu is held.
func (r *resource) end() {
	if r.cancel != nil {
		r.cancel()
	}
}

func (r *resource) devices() []offer.Device {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list
}

// set replaces the devices, and returns the devices that have left the list.
func (r *resource) set(devices []offer.Device, lingering bool) (gone []offer.Device) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lingering != lingering {
		if r.lingering { // another plugin may have registered since
			r.hangUp()
		}
		r.lingering = lingering
		r.kick()
	}
	if slices.Equal(r.list, devices) {
		return nil
	}
	for _, d := range r.list {
		if !slices.ContainsFunc(devices, func(n offer.Device) bool { return n.ID == d.ID }) {
			gone = append(gone, d)
		}
	}
	r.list = devices
	r.version++
	for s := range r.streams {
		token(s.update)
	}
	return gone
}

// state also says whether each connection has been sent the list.
func (r *resource) state() (_ offer.Resource, sent bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := offer.Resource{Name: r.name, Registered: r.newest != nil, Lingering: r.lingering, Fault: r.fault, InfoFault: r.infoFault}
	for _, d := range r.list {
		if d.Healthy() {
			s.Healthy++
		} else {
			s.Unhealthy++
		}
	}
	sent = true
	for c := range r.streams {
		sent = sent && c.sent == r.version
	}
	return s, sent
}

// ListAndWatch implements the device-plugin API: it sends each list until the kubelet hangs up.
func (r *resource) ListAndWatch(_ *deviceapi.Empty, to grpc.ServerStreamingServer[deviceapi.ListAndWatchResponse]) error {
	s := &stream{update: make(chan struct{}, 1), end: make(chan struct{}, 1), since: r.plugin.Now()}
	r.mu.Lock()
	r.streams[s], r.newest = true, s
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.streams, s)
		if r.newest == s {
			r.newest = nil
		}
		r.mu.Unlock()
		r.kick()
		r.plugin.Changed()
	}()
	for {
		r.mu.Lock()
		list, version := r.list, r.version
		r.mu.Unlock()
		if err := to.Send(listOf(list)); err != nil {
			return err
		}
		r.mu.Lock()
		s.sent = version
		r.mu.Unlock()
		r.kick()
		r.plugin.Changed()
		select {
		case <-s.update:
		case <-s.end:
			return nil
		case <-to.Context().Done():
			return nil
		}
	}
}

// listOf tells the kubelet of the devices. The kubelet knows no other health than these two.
func listOf(devices []offer.Device) *deviceapi.ListAndWatchResponse {
	list := &deviceapi.ListAndWatchResponse{Devices: []*deviceapi.Device{}}
	for _, d := range devices {
		health := deviceapi.Healthy
		if !d.Healthy() {
			health = deviceapi.Unhealthy
		}
		entry := &deviceapi.Device{ID: d.ID.String(), Health: health}
		if d.NUMANode >= 0 {
			entry.Topology = &deviceapi.TopologyInfo{Nodes: []*deviceapi.NUMANode{{ID: int64(d.NUMANode)}}}
		}
		list.Devices = append(list.Devices, entry)
	}
	return list
}

// GetDevicePluginOptions implements the device-plugin API.
func (*resource) GetDevicePluginOptions(context.Context, *deviceapi.Empty) (*deviceapi.DevicePluginOptions, error) {
	return &deviceapi.DevicePluginOptions{GetPreferredAllocationAvailable: true}, nil
}

// GetPreferredAllocation implements the device-plugin API.
func (r *resource) GetPreferredAllocation(_ context.Context, in *deviceapi.PreferredAllocationRequest) (*deviceapi.PreferredAllocationResponse, error) {
	out := &deviceapi.PreferredAllocationResponse{}
	known := r.devices()
	for _, c := range in.GetContainerRequests() {
		out.ContainerResponses = append(out.ContainerResponses, &deviceapi.ContainerPreferredAllocationResponse{
			DeviceIDs: offer.Preferred(known, c.GetAvailableDeviceIDs(), c.GetMustIncludeDeviceIDs(), int(c.GetAllocationSize())),
		})
	}
	return out, nil
}

// Allocate implements the device-plugin API. It refuses a device that no new pod may get.
func (r *resource) Allocate(_ context.Context, in *deviceapi.AllocateRequest) (*deviceapi.AllocateResponse, error) {
	out := &deviceapi.AllocateResponse{}
	for _, c := range in.GetContainerRequests() {
		devices, err := r.find(c.GetDevicesIds())
		if err != nil {
			return nil, err
		}
		answer, err := answerFor(r.name, devices, r.plugin.Devices)
		if err == nil {
			err = r.writeInfo(devices)
		}
		if err != nil {
			return nil, status.Errorf(codes.FailedPrecondition, "allocate %s: %v", r.name, err)
		}
		out.ContainerResponses = append(out.ContainerResponses, answer)
	}
	return out, nil
}

// writeInfo writes the device-info files that are missing.
func (r *resource) writeInfo(devices []offer.Device) error {
	err := r.plugin.info.write(devices)
	r.mu.Lock()
	same := (r.infoFault == nil) == (err == nil)
	r.infoFault = err
	r.mu.Unlock()
	if !same {
		r.plugin.Changed()
	}
	return err
}

func (r *resource) find(ids []string) ([]offer.Device, error) {
	var found []offer.Device
	list := r.devices()
	for _, id := range ids {
		i := slices.IndexFunc(list, func(d offer.Device) bool { return d.ID.String() == id })
		switch {
		case i < 0:
			return nil, status.Errorf(codes.NotFound, "device %q is not offered as %s; delete the pod, and its owner makes a new one", id, r.name)
		case !list[i].Healthy():
			return nil, status.Errorf(codes.FailedPrecondition, "device %s of %s is not for new pods: %s; delete the pod, and its owner makes a new one",
				id, r.name, list[i].Unfit)
		}
		found = append(found, list[i])
	}
	return found, nil
}
