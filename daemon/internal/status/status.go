// Package status is the state of a node as people see it: asked of the running daemon, or else read from its files.
package status

import (
	"slices"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Status is the state of a node.
type Status struct {
	Inventory nodestate.Inventory `json:"inventory"`
	// EarlierBoot: the inventory was written before the node's last start, and is void.
	EarlierBoot bool          `json:"earlierBoot"`
	Holders     []view.Holder `json:"holders"`
	// Pools are the addresses for pods that share an ENI.
	Pools []leases.PoolState `json:"pools"`
	// Unreadable are records that may be holders. The daemon reports them as problems instead.
	Unreadable []string `json:"unreadable"`
	// Live is nil if the daemon did not answer.
	Live *Live `json:"live,omitempty"`
}

// Live is the part of a Status that is in no file.
type Live struct {
	Version   string    `json:"version"`
	StartedAt time.Time `json:"startedAt"`
	// SyncedAt is when the node was last looked at.
	SyncedAt time.Time `json:"syncedAt"`
	// InventoryPath is where the daemon writes the inventory.
	InventoryPath string          `json:"inventoryPath"`
	Config        view.ConfigView `json:"config"`
	DevicePlugin  view.PluginView `json:"devicePlugin"`
	// Offer is zero before the daemon knows how the devices are offered.
	Offer view.OfferView `json:"offer,omitzero"`
	// ByController: ENIs are found by the lifecycle controller's list, whose entries Slots are.
	ByController bool        `json:"byController,omitempty"`
	Slots        []view.Slot `json:"slots,omitempty"`
	// API is nil where the daemon has no API server.
	API *API `json:"api,omitempty"`
}

// API says whether the API server is followed. Reason tells why not; it is "" before the first answer.
type API struct {
	Reachable bool   `json:"reachable"`
	Reason    string `json:"reason,omitempty"`
}

// SetPools reads the leases of the inventory's devices. If Live is nil, it adds a problem for
// leases that cannot be read: the inventory's file may lack it.
func (s *Status) SetPools(dir leases.Dir) {
	pools, err := dir.Pools(s.Inventory.BootID, s.Inventory.Devices)
	s.Pools = append([]leases.PoolState{}, pools...)
	known := slices.ContainsFunc(s.Inventory.Problems, func(p nodestate.Problem) bool { return p.Reason == reason.LeasesUnreadable })
	if err != nil && s.Live == nil && !known {
		s.Inventory.Problems = append(s.Inventory.Problems, nodestate.Problem{Reason: reason.LeasesUnreadable, Message: strings.ReplaceAll(err.Error(), "\n", "; ")})
	}
}
