package podlink

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/cniresult"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/presence"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/refusal"
)

// Check compares an attachment's interface with prev, the runtime's prevResult.
func Check(a nodestate.Attachment, ns *link.Netns, prev *types100.Result) error {
	at := cniresult.FindInterface(prev, a.IfName)
	if at < 0 {
		return refusal.New(refusal.Invalid, "prevResult: interfaces has no %s in a sandbox; give the result of this container's ADD", a.IfName)
	}
	in, err := ns.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	all, err := in.Links()
	if err != nil {
		return err
	}
	l, err := presence.FindInterface(all, a)
	if errors.Is(err, link.ErrNotFound) || err == nil && l.Name != a.IfName {
		return refusal.New(refusal.OtherDevice, "the container no longer has the interface %s of this attachment; run DEL, then ADD", a.IfName)
	}
	if err != nil {
		return err
	}
	// Tuning reports a MAC that it changes, but no MTU, which cannot be checked therefore. A reset
	// may give a VF another MAC.
	if mac := prev.Interfaces[at].Mac; mac != "" && !a.Device.VF && !strings.EqualFold(mac, l.MAC.String()) {
		return refusal.New(refusal.OtherDevice, "interface %s has MAC %s, want %s; run DEL, then ADD", l.Name, l.MAC, mac)
	}
	if !l.Up && a.Mode != nodestate.ModeShared { // the delegate checks its own
		return refusal.New(refusal.OtherDevice, "interface %s is down; set it up, or run DEL, then ADD", l.Name)
	}
	if err := checkAddresses(in, l, prev, at); err != nil {
		return err
	}
	recorded, err := cniresult.Recorded(a)
	if err != nil {
		return err
	}
	return checkRoutes(in, l, prev, recorded)
}

// checkAddresses looks for the result's addresses, but not for another interface's than at.
func checkAddresses(in *link.Handle, l link.Link, prev *types100.Result, at int) error {
	have, err := in.Addresses(l.Index)
	if err != nil {
		return err
	}
	addrs, err := cniresult.Addresses(prev)
	if err != nil {
		return err
	}
	for i, p := range addrs {
		if of := prev.IPs[i].Interface; of != nil && *of != at {
			continue
		}
		if !slices.Contains(have, p) {
			return refusal.New(refusal.OtherDevice, "interface %s has lost its address %s; run DEL, then ADD", l.Name, p)
		}
	}
	return nil
}

// checkRoutes looks for the routes of prevResult. Routes that ADD recorded must lead out of
// the interface. A later plugin's may lead anywhere, and without a gateway be on the link.
func checkRoutes(in *link.Handle, l link.Link, prev, recorded *types100.Result) error {
	var bare []bool
	for _, r := range prev.Routes {
		bare = append(bare, len(r.GW) == 0)
	}
	routes, err := cniresult.Routes(prev)
	if err != nil {
		return err
	}
	own, err := cniresult.Routes(recorded)
	if err != nil {
		return err
	}
	for i, r := range routes {
		index := routing.Any
		if slices.ContainsFunc(own, func(o routing.Route) bool { return o.Dst == r.Dst && o.Gateway == r.Gateway }) {
			index = l.Index
		}
		ok, err := in.HasRoute(index, r)
		if err == nil && !ok && bare[i] && index == routing.Any {
			onLink := r
			onLink.Gateway = netip.Addr{}
			ok, err = in.HasRoute(index, onLink)
		}
		if err != nil {
			return err
		}
		if !ok {
			return refusal.New(refusal.OtherDevice, "interface %s has lost its route %s; run DEL, then ADD", l.Name, r)
		}
	}
	return nil
}
