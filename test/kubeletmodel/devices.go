package kubeletmodel

import (
	"maps"
	"slices"

	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// receive stores a list. It takes the list of any open connection, also of one that is no longer the current one.
func (k *Kubelet) receive(resource string, devices []*deviceapi.Device) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.healthy[resource], k.unhealthy[resource], k.all[resource] = set{}, set{}, set{}
	for _, d := range devices {
		k.all[resource].add(d.GetID())
		if d.GetHealth() == deviceapi.Healthy {
			k.healthy[resource].add(d.GetID())
		} else {
			k.unhealthy[resource].add(d.GetID())
		}
	}
	k.o.Changed(resource, len(k.healthy[resource]))
	k.write()
}

func (k *Kubelet) markUnhealthy(resource string) {
	was, known := k.healthy[resource]
	if known {
		k.healthy[resource] = set{}
	}
	if k.unhealthy[resource] == nil {
		k.unhealthy[resource] = set{}
	}
	maps.Copy(k.unhealthy[resource], was)
	k.o.Changed(resource, 0)
}

// Capacity reports the numbers that the kubelet writes into the Node's status, as often as it does (every 10 s): of all devices, and
// of the healthy ones. It forgets each resource whose grace period has passed.
func (k *Kubelet) Capacity() (capacity, allocatable map[string]int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.o.Now()
	capacity, allocatable = map[string]int{}, map[string]int{}
	gone := set{}
	for resource, devices := range k.healthy {
		if e := k.endpoints[resource]; e == nil || e.expired(now) {
			gone.add(resource)
			continue
		}
		allocatable[resource] = len(devices)
		capacity[resource] += len(devices)
	}
	for resource, devices := range k.unhealthy {
		if e := k.endpoints[resource]; e == nil || e.expired(now) {
			gone.add(resource)
			continue
		}
		capacity[resource] += len(devices)
	}
	for resource := range gone {
		delete(k.endpoints, resource)
		delete(k.healthy, resource)
		delete(k.unhealthy, resource)
	}
	if len(gone) > 0 {
		k.write()
	}
	return capacity, allocatable
}

// Allocatable returns the answer of podresources' GetAllocatableResources: the healthy devices of each resource that has some, sorted.
func (k *Kubelet) Allocatable() map[string][]string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[string][]string{}
	for resource, devices := range k.healthy {
		for _, id := range devices.sorted() {
			if k.all[resource][id] {
				out[resource] = append(out[resource], id)
			}
		}
	}
	return out
}

// Holder is a container with devices.
type Holder struct{ Pod, Container string }

// List returns the answer of podresources' List: the devices of the active pods by pod, container and resource. Pods that have ended
// lose theirs. The second result has the known pods, also those without devices.
func (k *Kubelet) List() (held map[Holder]map[string][]string, pods []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.free()
	held = map[Holder]map[string][]string{}
	for uid, pod := range k.activePods() {
		pods = append(pods, uid)
		for _, c := range pod.Containers {
			for resource, devices := range k.held[uid][c.Name] {
				h := Holder{Pod: uid, Container: c.Name}
				if held[h] == nil {
					held[h] = map[string][]string{}
				}
				held[h][resource] = devices.sorted()
			}
		}
	}
	slices.Sort(pods)
	return held, pods
}

// free takes the devices of pods that have ended. A kubelet that does not know all pods takes none.
func (k *Kubelet) free() {
	if !k.ready {
		return
	}
	active, freed := k.activePods(), false
	for uid := range k.held {
		if _, there := active[uid]; !there {
			delete(k.held, uid)
			freed = true
		}
	}
	if freed {
		k.allocated = k.held.devices()
	}
}

// Registered says whether a plugin of the resource is connected, by the kubelet's own memory.
func (k *Kubelet) Registered(resource string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.endpoints[resource]
	return e != nil && e.stopped.IsZero()
}

// Known says whether the kubelet has an endpoint of the resource, connected or within its grace period: without one it starts no container
// of the resource.
func (k *Kubelet) Known(resource string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.endpoints[resource] != nil
}
