package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// SocketName is that of the status socket, in the folder of the inventory.
const SocketName = "multi-enid.sock"

// statusPath is where the socket has the Status.
const statusPath = "/v1/status"

// maxStatus bounds, in bytes, what Ask reads: some thousand devices.
const maxStatus = 16 << 20

// errNotStatus is an answer that no daemon of this version gives.
var errNotStatus = errors.New("answer is not a status")

// Status is the state of the node, as the daemon knows it or as its files say.
type Status struct {
	Inventory nodestate.Inventory `json:"inventory"`
	// EarlierBoot: the inventory was written before the node's last start, and
	// nothing in it holds any more.
	EarlierBoot bool          `json:"earlierBoot"`
	Holders     []view.Holder `json:"holders"`
	// Pools are the addresses for pods that share an ENI.
	Pools []nodestate.PoolState `json:"pools"`
	// Unreadable are records that may be holders; the daemon has them among the
	// problems instead.
	Unreadable []string `json:"unreadable"`
	// Live is what only the running daemon knows; nil when it did not answer.
	Live *Live `json:"live,omitempty"`
}

// Live is what is in no file.
type Live struct {
	Version   string    `json:"version"`
	StartedAt time.Time `json:"startedAt"`
	// SyncedAt is when the node was last looked at.
	SyncedAt time.Time `json:"syncedAt"`
	// InventoryPath is where the daemon writes the inventory.
	InventoryPath string          `json:"inventoryPath"`
	Config        view.ConfigView `json:"config"`
	DevicePlugin  view.PluginView `json:"devicePlugin"`
	// API is nil where the daemon has no API server.
	API *API `json:"api,omitempty"`
}

// API says whether the API server is followed, and why not; Reason is "" before
// its first answer.
type API struct {
	Reachable bool   `json:"reachable"`
	Reason    string `json:"reason,omitempty"`
}

// SetPools looks at the leases of the inventory's devices. Without the running daemon,
// leases that cannot be read are a problem that the inventory's file may lack.
func (s *Status) SetPools(leases nodestate.LeaseDir) {
	pools, err := leases.Pools(s.Inventory.BootID, s.Inventory.Devices)
	s.Pools = append([]nodestate.PoolState{}, pools...)
	known := slices.ContainsFunc(s.Inventory.Problems, func(p nodestate.Problem) bool { return p.Reason == reason.LeasesUnreadable })
	if err != nil && s.Live == nil && !known {
		s.Inventory.Problems = append(s.Inventory.Problems, nodestate.Problem{Reason: reason.LeasesUnreadable, Message: strings.ReplaceAll(err.Error(), "\n", "; ")})
	}
}

// status returns false before the first View.
func (s *Server) status() (Status, bool) {
	v := s.last()
	if v == nil {
		return Status{}, false
	}
	out := Status{Inventory: v.Inventory, Holders: append([]view.Holder{}, v.Holders...), Unreadable: []string{}, Live: &Live{
		Version: s.Version, StartedAt: s.started, SyncedAt: v.At, InventoryPath: s.Inventory, Config: v.Config, DevicePlugin: v.Plugin,
	}}
	out.SetPools(s.Leases)
	if s.API != nil {
		reachable, reason := s.API()
		out.Live.API = &API{reachable, reason}
	}
	return out, true
}

// Ask returns the Status of the daemon that listens on the socket. Only ctx
// bounds how long that takes.
func Ask(ctx context.Context, socket string) (Status, error) {
	body, err := ask(ctx, socket, statusPath)
	if err != nil {
		return Status{}, err
	}
	return decode(body)
}

// ask returns what the daemon that listens on the socket has at a path.
func ask(ctx context.Context, socket, path string) ([]byte, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, socket) },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://multi-enid"+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("ask daemon: %w", err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask daemon: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	if err != nil {
		return nil, fmt.Errorf("read daemon's answer: %w", err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return body, nil
	case http.StatusNotFound:
		return nil, fmt.Errorf("ask daemon: %w", errNotServed)
	}
	return nil, fmt.Errorf("ask daemon: %s: %.200q", resp.Status, body)
}

// decode accepts what status has made, later additions included.
func decode(body []byte) (Status, error) {
	var s Status
	if err := json.Unmarshal(body, &s); err != nil {
		return Status{}, fmt.Errorf("decode daemon's answer: %w", err)
	}
	if s.Inventory.NodeName == "" || s.Live == nil {
		return Status{}, fmt.Errorf("decode daemon's answer: %w", errNotStatus)
	}
	return s, nil
}
