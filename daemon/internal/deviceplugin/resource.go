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
	others    []offer.Device // the devices that the kubelet may list besides, while the resource lingers
	replan    bool           // the looks at the kubelet's list while the resource lingers are to be planned anew
	// leaving are devices that are listed no more by the daemon's wish, and still are for leaveTime, as unfit.
	leaving   map[device.PCIAddress]leaving
	given     map[device.PCIAddress]time.Time // when Allocate last gave a device
	ending    bool                            // the resource is served until nothing is leaving
	detached  bool                            // the kubelet does not close the newest connection at the end of another plugin's
	suspect   bool                            // whether the kubelet has dropped it unseen is to be asked
	fault     error                           // why the kubelet has not accepted the resource; nil for none
	infoFault error                           // why device-info files could not be written the last time; nil for none
	abort     context.CancelFunc              // ends the registration under way; nil for none
}

// leaving is a device that is about to be listed no more.
type leaving struct {
	offer.Device
	until time.Time
}

// leaveTime is how long a device is listed after it has left the offer. A kubelet up to v1.36 at least ends with a panic if
// it has a device that it has just been given by Allocate in no list (allocateContainerResources in manager.go).
const leaveTime = 10 * time.Second

// givenTime is how long a device counts as held after Allocate has given it: the kubelet lists its holder only later.
const givenTime = 10 * time.Second

// stream is one connection of a kubelet that listens to the list of devices.
type stream struct {
	end    chan struct{} // holds a token when the daemon is to hang up
	update chan struct{} // holds a token when there is a newer list
	sent   int           // the version that was sent last
	since  time.Time
}

func newResource(p *Plugin, name device.ResourceName) *resource {
	return &resource{plugin: p, name: name, kicked: make(chan struct{}, 1), streams: map[*stream]bool{}, version: 1, leaving: map[device.PCIAddress]leaving{},
		given: map[device.PCIAddress]time.Time{}}
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

// end has the resource served no more once nothing is leaving.
func (r *resource) end() {
	r.set(nil, false)
	r.mu.Lock()
	r.ending = true
	r.mu.Unlock()
	r.kick()
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
		r.lingering, r.replan = lingering, true
		r.kick()
	}
	r.ending = false
	if slices.Equal(r.list, devices) {
		return nil
	}
	for _, d := range r.list {
		if !slices.ContainsFunc(devices, func(n offer.Device) bool { return n.ID == d.ID }) {
			gone = append(gone, d)
			d.Unfit = "it has left the offer"
			r.leaving[d.ID] = leaving{d, r.plugin.Now().Add(leaveTime)}
		}
	}
	for _, d := range devices {
		delete(r.leaving, d.ID)
	}
	r.list, r.replan = devices, true
	r.changed()
	r.kick()
	return gone
}

// allow sets the devices that the kubelet may list besides.
func (r *resource) allow(others []offer.Device) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.others, others) {
		r.others, r.replan = others, true
		r.kick()
	}
}

// changed has each connection told of the list. Hold mu.
func (r *resource) changed() {
	r.version++
	for s := range r.streams {
		token(s.update)
	}
}

// leave drops the devices whose time is over. It returns the time until the next one, 0 for none, and whether the
// resource has ended: it is wanted no more, nothing is leaving, and each connection has been told.
func (r *resource) leave(now time.Time) (wait time.Duration, ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := len(r.leaving)
	for pci, l := range r.leaving {
		if left := l.until.Sub(now); left <= 0 {
			delete(r.leaving, pci)
		} else if wait == 0 || left < wait {
			wait = left
		}
	}
	if len(r.leaving) < before && !r.lingering { // else the list is another plugin's by now
		r.changed()
	}
	return wait, r.ending && !r.detached && len(r.leaving) == 0 && r.sent()
}

// sent says whether each connection has been sent the list. Hold mu.
func (r *resource) sent() bool {
	for c := range r.streams {
		if c.sent != r.version {
			return false
		}
	}
	return true
}

// told is the list for the kubelet: the devices, and those that are leaving. Hold mu.
func (r *resource) told() []offer.Device {
	all := slices.Clone(r.list)
	for _, l := range r.leaving {
		all = append(all, l.Device)
	}
	return all
}

// state also says whether each connection has been sent the list, and whether the resource is wanted no more. It is
// registered when it is detached, too, if that is wanted.
func (r *resource) state(detach bool) (_ offer.Resource, sent, ending bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := offer.Resource{Name: r.name, Registered: r.newest != nil && (r.detached || !detach), Lingering: r.lingering, Detached: r.detached,
		Fault: r.fault, InfoFault: r.infoFault}
	for _, d := range r.list {
		if d.Healthy() {
			s.Healthy++
		} else {
			s.Unhealthy++
		}
	}
	return s, r.sent(), r.ending
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
		list, version := r.told(), r.version
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
		devices, err := r.give(c.GetDevicesIds())
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

// give returns the devices that a container may get, and counts them as held from now on.
func (r *resource) give(ids []string) ([]offer.Device, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found, err := r.find(ids)
	for _, d := range found {
		r.given[d.ID] = r.plugin.Now()
	}
	return found, err
}

// givenLately returns the devices that count as held. Hold mu.
func (r *resource) givenLately(now time.Time) (all []device.PCIAddress) {
	for pci, at := range r.given {
		if now.Sub(at) >= givenTime {
			delete(r.given, pci)
			continue
		}
		all = append(all, pci)
	}
	return all
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

// find returns the devices, if a container may get each. Hold mu.
func (r *resource) find(ids []string) (found []offer.Device, err error) {
	list := r.list
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
