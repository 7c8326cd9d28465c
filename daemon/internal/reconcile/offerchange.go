package reconcile

import (
	"cmp"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/offer"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// linger tells the kubelet, on connections that outlive the daemon's offer, of the same devices as the SR-IOV device
// plugin, which served says is verified to offer them. Until then it tells of none that the device plugin has not offered.
func (o *offering) linger(same []offer.Device, served bool) {
	if served {
		o.handed = same
	}
	var known, awaited []offer.Device
	for _, d := range same {
		if slices.ContainsFunc(o.handed, func(h offer.Device) bool { return h.ID == d.ID && h.Resource == d.Resource }) {
			known = append(known, d)
		} else {
			awaited = append(awaited, d)
		}
	}
	if !slices.Equal(o.before, known) || !slices.Equal(o.awaited, awaited) {
		o.before, o.awaited = known, awaited
		o.server.Linger(known, awaited)
	}
}

// done ends a change between the modes when the device plugin serves its config, and returns the view.
func (o *offering) done(config *pluginConfig, src inventory.Sources, rows []nodestate.Device, out *Outcome, did *view.Did) view.OfferView {
	if o.server == nil {
		return view.OfferView{Mode: nodestate.OfferPCIDP, Wanted: nodestate.OfferPCIDP}
	}
	served, withdrawn := config.serving, config.withdrawn
	same := offer.Desired(offer.Input{Rows: rows, Functions: src.Functions.Value}).Devices // as the SR-IOV device plugin tells of them
	s, m, wish := o.server.State(), o.memory(), o.wish()
	v := view.OfferView{Mode: cmp.Or(m.Mode, nodestate.OfferPCIDP)}
	if wish.Known && wish.Invalid == "" {
		v.Wanted = wish.Mode
	}
	for _, r := range s.Resources {
		if r.Lingering {
			continue
		}
		v.Resources = append(v.Resources, view.OfferedResource{Name: r.Name, Registered: r.Registered, Healthy: r.Healthy, Unhealthy: r.Unhealthy})
	}
	did.Registrations, o.accepted = s.Registrations-o.accepted, s.Registrations
	if m.Changing || m.Mode != nodestate.OfferDevicePlugin && len(m.Names) > 0 {
		o.server.Check() // the end of the SR-IOV device plugin drops a resource unseen that it has registered after the daemon
		out.sooner(time.Second)
	}
	switch {
	case m.Mode == nodestate.OfferDevicePlugin && !s.Registered():
		v.State, v.Message = view.OfferWaiting, "the kubelet does not have each resource of the daemon; the Problems say why"
	case m.Mode == nodestate.OfferDevicePlugin && o.unasked && m.Changing:
		v.State, v.Message = view.OfferWaiting, "the kubelet cannot be asked who has a device, so the takeover does not end; the Problems say why"
	case m.Mode == nodestate.OfferDevicePlugin && !withdrawn:
		v.State, v.Message = view.OfferTakingOver, "the daemon offers the devices, and the SR-IOV device plugin has not restarted without them yet"
	case m.Mode == nodestate.OfferDevicePlugin && o.unasked:
		v.State, v.Message = view.OfferWaiting, "the kubelet cannot be asked who has a device, so it is not offered; the Problems say why"
	case m.Mode == nodestate.OfferDevicePlugin:
		v.State = view.OfferOffered
		if m.Changing && o.save(out, func(m *nodestate.OfferMemory) { m.Changing = false }) {
			o.server.Detach(false)
			o.changed(did, m.Mode)
		}
	case m.Mode == nodestate.OfferPCIDP && len(m.Names) == 0:
		o.handedBack(s, nil, out, did) // nothing was offered, but connections may still be open
	case len(m.Names) > 0 && served && s.Registered() && !s.Detached(): // a registration under way would replace the SR-IOV device plugin's, and then end
		o.handedBack(s, same, out, did)
	case len(m.Names) > 0:
		v.State, v.Message = view.OfferHandingBack, "the SR-IOV device plugin is not verified to offer the devices yet, so the daemon goes on"
	case o.refused && o.unsure != nil:
		v.State, v.Message = view.OfferRefused, "the device plugin config cannot be understood, so it may offer a resource or a device of ours, too"
	case o.refused:
		v.State, v.Message = view.OfferRefused, "the device plugin config offers a resource or a device of ours, too; the Problems name the entry"
	case !wish.Known && wish.Mode == nodestate.OfferDevicePlugin:
		v.State, v.Message = view.OfferUnknown, "the Node's label networking.k8s.aws/offer has not been read yet"
	}
	if m.Mode != nodestate.OfferDevicePlugin && len(m.Names) == 0 && len(s.Resources) > 0 {
		o.linger(same, served)
	}
	if m.Lingering != "" && len(m.Names) == 0 && (len(s.Resources) == 0 || s.Kubelet != m.Lingering) {
		o.save(out, func(m *nodestate.OfferMemory) { m.Lingering = "" })
	}
	return v
}

func (o *offering) changed(did *view.Did, mode nodestate.OfferMode) {
	did.Offered = mode
	o.log.WithField("mode", mode).Info("the devices have changed hands")
}

// handedBack leaves the devices to the SR-IOV device plugin, and tells the kubelet of the same ones as that does.
func (o *offering) handedBack(s offer.State, same []offer.Device, out *Outcome, did *view.Did) {
	if !o.save(out, func(m *nodestate.OfferMemory) { *m = nodestate.OfferMemory{Lingering: s.Kubelet} }) {
		return
	}
	o.before, o.handed, o.awaited = same, same, nil
	o.server.Linger(same, nil)
	o.changed(did, nodestate.OfferPCIDP)
}

// outlived says whether the connections of an earlier daemon have ended with it, and dropped the SR-IOV device plugin
// from the kubelet, which still runs.
func (o *offering) outlived() bool {
	m := o.memory()
	return o.server != nil && m.Lingering != "" && len(m.Names) == 0 && o.server.State().Kubelet == m.Lingering
}
