package nodestate

import "github.com/multi-eni/multi-eni-cni/pkg/device"

// OfferMode says who offers the devices to the kubelet (--offer, and the Node label networking.k8s.aws/offer).
type OfferMode string

// The modes.
const (
	OfferPCIDP        OfferMode = "pcidp"        // the SR-IOV device plugin, by its config file
	OfferDevicePlugin OfferMode = "deviceplugin" // the daemon itself
)

// OfferMemory is the daemon's memory of the devices that it offers to the kubelet itself.
type OfferMemory struct {
	// Mode is the mode that the daemon acted on last; "" for OfferPCIDP, or for not known yet.
	Mode OfferMode `json:"mode,omitempty"`
	// Changing says that a change to Mode has begun and has not been told of as ended.
	Changing bool `json:"changing,omitempty"`
	// Names are the resources that the daemon serves, sorted. A name is added before the kubelet learns of it, and stays
	// until no pod has one of its devices.
	Names []device.ResourceName `json:"names,omitempty"`
	// Withheld are the ready devices that are not offered, because the device plugin's config offers them, sorted.
	Withheld []device.PCIAddress `json:"withheld,omitempty"`
	// Lingering identifies the kubelet that still has connections to the daemon for resources that the SR-IOV device
	// plugin serves again; "" for none. Kubelets up to 1.36 drop that plugin too when these connections end.
	Lingering string `json:"lingering,omitempty"`
}
