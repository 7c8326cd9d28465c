package kubeletmodel

import (
	"cmp"
	"maps"
	"slices"
)

type set map[string]bool

func (s set) add(all ...string) {
	for _, v := range all {
		s[v] = true
	}
}

func (s set) sorted() []string { return slices.Sorted(maps.Keys(s)) }

// minus returns the elements that are not in t, sorted.
func (s set) minus(t set) []string {
	return slices.DeleteFunc(s.sorted(), func(v string) bool { return t[v] })
}

func cmpString(a, b string) int { return cmp.Compare(a, b) }

func (h holders) clone() holders {
	out := make(holders, len(h))
	for pod, containers := range h {
		out[pod] = make(map[string]allocation, len(containers))
		for c, a := range containers {
			out[pod][c] = make(allocation, len(a))
			for resource, devices := range a {
				out[pod][c][resource] = maps.Clone(devices)
			}
		}
	}
	return out
}

// devices returns the held devices by resource.
func (h holders) devices() map[string]set {
	out := map[string]set{}
	for _, containers := range h {
		for _, a := range containers {
			for resource, devices := range a {
				if out[resource] == nil {
					out[resource] = set{}
				}
				maps.Copy(out[resource], devices)
			}
		}
	}
	return out
}

func (h holders) insert(pod, container, resource string, devices []string) {
	if h[pod] == nil {
		h[pod] = map[string]allocation{}
	}
	if h[pod][container] == nil {
		h[pod][container] = allocation{}
	}
	s := set{}
	s.add(devices...)
	h[pod][container][resource] = s
}
