package view

import "github.com/multi-eni/multi-eni-cni/pkg/nodestate"

// OfferStates returns every state but "".
func OfferStates() []OfferState {
	return []OfferState{OfferUnknown, OfferWaiting, OfferRefused, OfferTakingOver, OfferOffered, OfferHandingBack}
}

// Own says whether the devices depend on the daemon's own offer. It is false while the SR-IOV device plugin offers
// them and nothing changes, also while a label that cannot be read may change that.
func (o OfferView) Own() bool {
	return o.State != "" && (o.State != OfferUnknown || o.Mode != nodestate.OfferPCIDP)
}

// Served returns the resources that pods get from the daemon. After a change to the mode pcidp there are none, though
// the daemon's connections to the kubelet linger.
func (o OfferView) Served() []OfferedResource {
	if !o.Own() {
		return nil
	}
	return o.Resources
}
