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
		tt.offer.Resources = []OfferedResource{{Name: "intel.com/a"}}
		if got := tt.offer.Own(); got != tt.want || (len(tt.offer.Served()) > 0) != tt.want {
			t.Errorf("%+v: %v with %v, want %v", tt.offer, got, tt.offer.Served(), tt.want)
		}
	}
}
