package controller

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// daemon is a node's daemon with its pods.
type daemon struct {
	*world
	node     string
	reaction time.Duration
	protocol int

	mu    sync.Mutex
	alive bool
	due   bool
	// offered are the ENIs that pods may get.
	offered map[string]bool
	// killed, if set, gets the next write to make it later: the daemon was killed while the write was under way.
	killed func(write func())
}

// wake lets the daemon look at its ENINodeState soon.
func (d *daemon) wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.due || !d.alive {
		return
	}
	d.due = true
	time.AfterFunc(d.reaction, d.look)
}

func (d *daemon) set(alive bool) {
	d.mu.Lock()
	d.alive = alive
	d.mu.Unlock()
	d.wake()
}

// look reports the devices, and then offers them, as the daemon does.
func (d *daemon) look() {
	d.mu.Lock()
	d.due = false
	alive := d.alive
	d.mu.Unlock()
	if !alive {
		return
	}
	var spec v1alpha1.ENINodeStateSpec
	if s := d.api.state(d.node); s != nil {
		spec = s.Spec
	}
	d.holdersMu.Lock()
	offered := map[string]bool{}
	var devices []fleet.Device
	var released []v1alpha1.ReleasedENI
	for _, e := range spec.Attachments {
		pod := d.holders[e.ENIID]
		switch {
		case e.ENIID == "" || e.InstanceID != instanceOf(d.node) && e.InstanceID == "":
		case e.Wanted == v1alpha1.WantedReleased && pod == "":
			released = append(released, v1alpha1.ReleasedENI{Slot: e.Slot, ENIID: e.ENIID, Release: e.Release})
		case e.Wanted == v1alpha1.WantedReleased:
			devices = append(devices, fleet.Device{ENI: e.ENIID, Phase: "draining", Holders: []string{pod}})
		case e.AttachmentID != "" && (e.Phase == "Attached" || e.Phase == "Ready"):
			offered[e.ENIID] = true
			dev := fleet.Device{ENI: e.ENIID, Phase: "ready"}
			if pod != "" {
				dev.Holders = []string{pod}
			}
			devices = append(devices, dev)
		}
	}
	// From here on no pod gets a device that is not offered; a new one waits for the report.
	d.mu.Lock()
	for eni := range d.offered {
		if !offered[eni] {
			delete(d.offered, eni)
		}
	}
	d.mu.Unlock()
	d.holdersMu.Unlock()
	write := func() bool {
		return d.setStatus(d.node, func(s *fleet.State) {
			s.Reported, s.Protocol, s.Released, s.Devices = true, d.protocol, released, devices
		})
	}
	if late := d.dies(); late != nil {
		late(func() {
			if d.api.state(d.node) != nil { // it may be another one
				write()
			}
		})
		return
	}
	if !write() {
		return
	}
	now := d.api.state(d.node)
	d.holdersMu.Lock()
	defer d.holdersMu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if now != nil && fmt.Sprint(now.Spec) == fmt.Sprint(spec) {
		d.offered = offered
	} else if !d.due && d.alive {
		d.due = true
		time.AfterFunc(d.reaction, d.look)
	}
}

// killNext kills the daemon in its next write, which lands when release is called.
func (d *daemon) killNext() (release func()) {
	var write func()
	d.mu.Lock()
	d.killed = func(w func()) {
		d.mu.Lock()
		write = w
		d.mu.Unlock()
	}
	d.mu.Unlock()
	return func() {
		d.mu.Lock()
		w := write
		d.mu.Unlock()
		if w != nil {
			w()
		}
	}
}

func (d *daemon) dies() (late func(write func())) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if late = d.killed; late != nil {
		d.killed, d.alive = nil, false
	}
	return late
}

// startPod gives a device to a new pod; it is "" if there is none.
func (d *daemon) startPod(pod string) string {
	d.holdersMu.Lock()
	defer d.holdersMu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, eni := range slices.Sorted(maps.Keys(d.offered)) {
		if d.holders[eni] == "" {
			d.holders[eni] = pod
			return eni
		}
	}
	return ""
}

func (w *world) endPod(pod string) {
	w.holdersMu.Lock()
	for eni, has := range w.holders {
		if has == pod {
			delete(w.holders, eni)
		}
	}
	w.holdersMu.Unlock()
	for _, d := range w.daemons {
		d.wake()
	}
}
