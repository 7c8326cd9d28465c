package view

import (
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func TestOwn(t *testing.T) {
	for _, tt := range []struct {
		offer OfferView
		want  bool
	}{
		{OfferView{}, false},
		{OfferView{Mode: nodestate.OfferPCIDP}, false},
		{OfferView{Mode: nodestate.OfferPCIDP, State: OfferUnknown}, false},
		{OfferView{Mode: nodestate.OfferDevicePlugin, State: OfferUnknown}, true},
		{OfferView{State: OfferUnknown}, true},
		{OfferView{Mode: nodestate.OfferPCIDP, State: OfferHandingBack}, true},
		{OfferView{Mode: nodestate.OfferPCIDP, Wanted: nodestate.OfferDevicePlugin, State: OfferRefused}, true},
		{OfferView{Mode: nodestate.OfferDevicePlugin, State: OfferOffered}, true},
	} {
		if got := tt.offer.Own(); got != tt.want {
			t.Errorf("%+v: %v, want %v", tt.offer, got, tt.want)
		}
	}
}
