// Package cniresult reads and completes the results of CNI plugins.
package cniresult

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// From converts a result of any version.
func From(r types.Result) (*types100.Result, error) {
	out, err := types100.NewResultFromResult(r)
	if err != nil {
		return nil, fmt.Errorf("convert result: %w", err)
	}
	return out, nil
}

// InVersion converts a result to a CNI version. Versions before 0.3.0 need an address in it.
func InVersion(result *types100.Result, version string) (types.Result, error) {
	versioned, err := result.GetAsVersion(version)
	if err != nil {
		return nil, refusal.New(refusal.Invalid, "cniVersion: %q: the result cannot be written in this version: %v; take 0.3.1 or later", version, err)
	}
	return versioned, nil
}

// Recorded decodes the result in an attachment record.
func Recorded(a nodestate.Attachment) (*types100.Result, error) {
	var result types100.Result
	if err := json.Unmarshal(a.Result, &result); err != nil {
		return nil, fmt.Errorf("recorded result: %w", err)
	}
	return &result, nil
}

// FindInterface returns the index of the container's interface of that name; -1 for none.
func FindInterface(result *types100.Result, name string) int {
	return slices.IndexFunc(result.Interfaces, func(i *types100.Interface) bool { return i.Sandbox != "" && i.Name == name })
}

// AddRoutes appends routes of the netconf to a result.
func AddRoutes(result *types100.Result, routes []netconf.Route) {
	for _, r := range routes {
		out := &types.Route{Dst: *IPNet(r.Dst), MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority, Scope: r.Scope}
		if r.Gateway.IsValid() {
			out.GW = r.Gateway.AsSlice()
		}
		if r.Table != 0 {
			table := r.Table
			out.Table = &table
		}
		result.Routes = append(result.Routes, out)
	}
}

// FillGateways gives routes without a gateway that of the first address of their family, like
// the reference plugins, unless the scope needs none.
func FillGateways(result *types100.Result) {
	gateways := map[bool]net.IP{}
	for _, ip := range result.IPs {
		if v4 := ip.Gateway.To4() != nil; gateways[v4] == nil {
			gateways[v4] = ip.Gateway
		}
	}
	for _, r := range result.Routes {
		if len(r.GW) == 0 && (r.Scope == nil || *r.Scope == 0) {
			r.GW = gateways[r.Dst.IP.To4() != nil]
		}
	}
}

// Routes fills in the gateways of a result's routes and converts the routes.
func Routes(result *types100.Result) ([]routing.Route, error) {
	FillGateways(result)
	out := make([]routing.Route, 0, len(result.Routes))
	for _, r := range result.Routes {
		dst, ok := prefix(r.Dst)
		if !ok {
			return nil, fmt.Errorf("result of the address plugin: route %s: not a network", r.Dst.String())
		}
		lr := routing.Route{Dst: dst.Masked(), MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority, Scope: r.Scope}
		if r.Table != nil {
			lr.Table = *r.Table
		}
		if gw, ok := netip.AddrFromSlice(r.GW); ok {
			lr.Gateway = gw.Unmap()
		}
		out = append(out, lr)
	}
	return out, nil
}

// Addresses converts a result's addresses, in their order.
func Addresses(result *types100.Result) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, 0, len(result.IPs))
	for _, ip := range result.IPs {
		p, ok := prefix(ip.Address)
		if !ok {
			return nil, fmt.Errorf("result of the address plugin: address %s: not an address with a mask", ip.Address.String())
		}
		out = append(out, p)
	}
	return out, nil
}

func prefix(n net.IPNet) (netip.Prefix, bool) {
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	p := netip.PrefixFrom(addr.Unmap(), ones)
	return p, p.IsValid()
}

// IPNet converts an address with its length.
func IPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
