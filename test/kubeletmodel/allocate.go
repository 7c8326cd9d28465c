package kubeletmodel

import (
	"context"
	"errors"
	"fmt"
	"slices"

	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// The refusals of Admit and StartContainer.
var (
	ErrUnregistered = errors.New("the resource is not registered")
	ErrNoneHealthy  = errors.New("the resource has no healthy device")
	ErrHeldSick     = errors.New("the container's devices are not healthy any more")
	ErrTooFew       = errors.New("too few devices are free")
	ErrStopped      = errors.New("the endpoint has stopped")
	ErrNoEndpoint   = errors.New("the resource has no endpoint")
	ErrChanged      = errors.New("the container wants another number of devices than it has")
	ErrPlugin       = errors.New("the device plugin refused")
)

// Admit allocates the devices of a container before it runs for the first time, or of a pod that a restarted kubelet meets again. A
// resource that the kubelet has never known counts for nothing. An error is an UnexpectedAdmissionError of the pod.
func (k *Kubelet) Admit(ctx context.Context, pod string, c Container) error {
	for _, resource := range sortedKeys(c.Wants) {
		if err := k.admit(ctx, pod, c.Name, resource, c.Wants[resource]); err != nil {
			return fmt.Errorf("%s: %w", resource, err)
		}
	}
	return nil
}

func (k *Kubelet) admit(ctx context.Context, pod, container, resource string, n int) error {
	k.mu.Lock()
	if !k.isPluginResource(resource) {
		k.mu.Unlock()
		return nil
	}
	k.free()
	picked, err := k.pick(ctx, pod, container, resource, n)
	e := k.endpoints[resource]
	k.mu.Unlock()
	if err != nil || len(picked) == 0 {
		return err
	}
	if e == nil {
		k.restore()
		return ErrNoEndpoint
	}
	k.o.Pause(DevicesPicked, resource)
	if err := k.allocate(ctx, e, picked); err != nil {
		k.restore()
		return err
	}
	k.o.Pause(Answered, resource)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range picked {
		if !k.all[resource][id] { // it reads the device's NUMA node without a look whether it is still listed
			k.crash = fmt.Sprintf("%s of %s was unlisted while it was being allocated", id, resource)
			return fmt.Errorf("%w: %s", ErrCrashed, k.crash)
		}
	}
	k.held.insert(pod, container, resource, picked)
	k.write()
	return nil
}

func (k *Kubelet) isPluginResource(resource string) bool {
	_, registered := k.healthy[resource]
	_, allocated := k.allocated[resource]
	return registered || allocated
}

// pick chooses devices for a container. None are needed if it has its devices.
func (k *Kubelet) pick(ctx context.Context, pod, container, resource string, n int) ([]string, error) {
	has, allocated := k.held[pod][container][resource]
	needed := n
	if allocated {
		if needed -= len(has); needed != 0 {
			return nil, ErrChanged
		}
	}
	if !k.ready && k.running[pod][container] {
		return nil, nil
	}
	healthy, registered := k.healthy[resource]
	switch {
	case !registered:
		return nil, ErrUnregistered
	case len(healthy) == 0:
		return nil, ErrNoneHealthy
	case len(has.minus(healthy)) > 0:
		return nil, ErrHeldSick
	case needed == 0:
		return nil, nil
	}
	available := healthy.minus(k.allocated[resource])
	if k.allocated[resource] == nil {
		k.allocated[resource] = set{}
	}
	if len(available) < needed {
		return nil, ErrTooFew
	}
	picked, err := k.preferred(ctx, resource, available, n)
	if err != nil {
		return nil, err
	}
	if rest := slices.DeleteFunc(available, func(id string) bool { return slices.Contains(picked, id) }); len(picked) < needed {
		picked = append(picked, k.o.Pick(rest, needed-len(picked))...)
	}
	if k.allocated[resource] == nil { // podresources' List can have come between
		k.allocated[resource] = set{}
	}
	k.allocated[resource].add(picked...)
	return picked, nil
}

// preferred asks the plugin for its choice. The lock is not held meanwhile.
func (k *Kubelet) preferred(ctx context.Context, resource string, available []string, n int) ([]string, error) {
	e := k.endpoints[resource]
	switch {
	case e == nil:
		return nil, ErrNoEndpoint
	case !e.prefers:
		return nil, nil
	case !e.stopped.IsZero():
		return nil, ErrStopped
	}
	k.mu.Unlock()
	answer, err := e.conn.GetPreferredAllocation(ctx, &deviceapi.PreferredAllocationRequest{
		ContainerRequests: []*deviceapi.ContainerPreferredAllocationRequest{{AvailableDeviceIDs: available, AllocationSize: int32(n)}}, //nolint:gosec // small
	})
	k.mu.Lock()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPlugin, err)
	}
	if len(answer.GetContainerResponses()) == 0 {
		return nil, nil
	}
	wanted := answer.GetContainerResponses()[0].GetDeviceIDs()
	good := slices.DeleteFunc(slices.Clone(available), func(id string) bool { return !slices.Contains(wanted, id) })
	if len(good) > n {
		good = k.o.Pick(good, n)
	}
	return good, nil
}

func (k *Kubelet) allocate(ctx context.Context, e *endpoint, devices []string) error {
	k.mu.Lock()
	stopped := !e.stopped.IsZero()
	k.mu.Unlock()
	if stopped {
		return ErrStopped
	}
	answer, err := e.conn.Allocate(ctx, &deviceapi.AllocateRequest{ContainerRequests: []*deviceapi.ContainerAllocateRequest{{DevicesIds: devices}}})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPlugin, err)
	}
	if len(answer.GetContainerResponses()) == 0 {
		return fmt.Errorf("%w: its answer is empty", ErrPlugin)
	}
	return nil
}

// restore forgets devices that were picked in vain.
func (k *Kubelet) restore() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.allocated = k.held.devices()
}

// StartContainer is the kubelet's step before it creates a container of an admitted pod, at each restart, too. It only looks for
// an endpoint, unless the container has no devices yet.
func (k *Kubelet) StartContainer(ctx context.Context, pod string, c Container) error {
	again := false
	for _, resource := range sortedKeys(c.Wants) {
		k.mu.Lock()
		ours, e := k.isPluginResource(resource), k.endpoints[resource]
		_, active := k.activePods()[pod]
		_, has := k.held[pod][c.Name][resource]
		k.mu.Unlock()
		if !ours || c.Wants[resource] == 0 {
			continue
		}
		if e == nil {
			return fmt.Errorf("%s: %w", resource, ErrNoEndpoint)
		}
		again = again || active && !has
	}
	if again {
		return k.Admit(ctx, pod, c)
	}
	return nil
}
