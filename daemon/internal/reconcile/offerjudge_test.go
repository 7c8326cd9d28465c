package reconcile

import (
	"maps"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kubeletmodel"
)

// offers says whether only the daemon offers devices.
func (w *offerWorld) offers() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wish.Mode == nodestate.OfferDevicePlugin && w.view.Offer.State == view.OfferOffered
}

// judgeHolder fails if a pod has got a device that another has, under whatever name.
func (g *offerGenerator) judgeHolder(pod string) {
	held, _ := g.k.List()
	var mine []string
	for _, ids := range held[kubeletmodel.Holder{Pod: pod, Container: "c"}] {
		mine = append(mine, ids...)
	}
	for h, devices := range held {
		for _, ids := range devices {
			if h.Pod != pod && slices.ContainsFunc(ids, func(id string) bool { return slices.Contains(mine, id) }) {
				g.Errorf("%s has got %v, and %v has %v", pod, mine, h, ids)
			}
		}
	}
}

// judge fails unless each held resource is served, and the kubelet lives.
func (g *offerGenerator) judge() {
	held, _ := g.k.List()
	for h, devices := range held {
		for resource := range devices {
			if !g.ours[h.Pod] {
				continue // the SR-IOV device plugin may have left its resource
			}
			if !g.k.Known(resource) {
				g.Errorf("%s is not served, and %v has one of its devices", resource, h)
			}
			if g.calm() && !g.unseen(resource) && g.daemon.plugin != nil && g.mode() == nodestate.OfferDevicePlugin && !g.k.Registered(resource) {
				g.Errorf("%s has no plugin, and %v has one of its devices", resource, h)
			}
		}
	}
	if crash := g.k.Crashed(); crash != "" {
		g.Error(crash)
	}
}

func (w *offerWorld) mode() nodestate.OfferMode {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wish.Mode
}

// heal ends all troubles. Then the kubelet lists each declared device, and nothing moves any more.
func (g *offerGenerator) heal() {
	g.mu.Lock()
	g.unreadable, g.guard = false, nil
	g.mu.Unlock()
	if g.mode() == nodestate.OfferPCIDP { // anew, since its stand-in does not register again after a kubelet that hung at its start
		g.sriov.install(false)
		time.Sleep(5 * time.Second)
		g.sriov.install(true)
	}
	if g.rng.IntN(2) == 0 || g.mode() == nodestate.OfferPCIDP {
		for _, p := range g.node.Pods() {
			if p.UID != "daemon" {
				g.node.EndPod(p.UID)
			}
		}
	}
	g.tell("all is well, with %s", g.mode())
	within := 7 * time.Minute // a kubelet forgets devices that nobody serves after 5 minutes
	if g.mode() == nodestate.OfferPCIDP {
		within = 15 * time.Minute
	}
	time.Sleep(within)
	g.judge()
	g.judgeEnd()
	time.Sleep(6 * time.Minute) // the last look of the device plugin
	g.mu.Lock()
	lists, logged := g.lists, g.logged
	g.mu.Unlock()
	registrations := g.daemon.plugin.State().Registrations
	time.Sleep(10 * time.Minute)
	g.mu.Lock()
	lists = g.lists - lists
	g.mu.Unlock()
	if n := g.daemon.plugin.State().Registrations - registrations; lists+n > 0 {
		g.Errorf("at rest the kubelet has got %d lists and %d registrations", lists, n)
	}
	if n := g.logged - logged; n > 0 {
		g.Errorf("%d lines are logged at rest", n)
	}
	g.judgeEnd()
}

// judgeEnd compares the kubelet's list with the NodeENIs.
func (g *offerGenerator) judgeEnd() {
	want, got := map[string][]string{}, g.k.Allocatable()
	held, _ := g.k.List()
	for e := 1; e <= offerSlots; e++ {
		id, name, as := pci(e).String(), g.declared[e], map[string]bool{}
		for _, devices := range held {
			for resource, ids := range devices {
				as[resource] = as[resource] || slices.Contains(ids, id)
			}
		}
		switch {
		case as[offerResources[0]] && as[offerResources[1]]: // the SR-IOV device plugin did that
			for resource := range got {
				got[resource] = slices.DeleteFunc(got[resource], func(other string) bool { return other == id })
			}
		case name != "" && (as[name] || !as[offerResources[0]] && !as[offerResources[1]]):
			want[name] = append(want[name], id)
		}
	}
	maps.DeleteFunc(got, func(_ string, ids []string) bool { return len(ids) == 0 })
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		g.Errorf("the kubelet's list in the end (-want +got):\n%s\nthe view is %+v", diff, g.view.Offer)
	}
}
