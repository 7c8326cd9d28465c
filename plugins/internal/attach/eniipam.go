package attach

import (
	"errors"
	"net/netip"
	"strings"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/plugins/internal/netconf"
)

// ownAddresses are those that a pod gets with the ENI, by ipam.type eni-ipam;
// nil without it.
func (c *call) ownAddresses(cand candidate) ([]netip.Prefix, error) {
	if c.cfg.ENIIPAM == nil {
		return nil, nil
	}
	if cand.row == nil {
		return nil, refuse(codeTryAgain, "ipam.type %s: the inventory has no device %s, whose addresses it would say; see that multi-enid runs and that a NodeENI declares it", netconf.ENIIPAMType, cand.pci)
	}
	requested, err := c.requestedIPs()
	if err != nil {
		return nil, err
	}
	addresses, err := c.cfg.ENIIPAM.Pick(*cand.row, requested...)
	switch {
	case errors.Is(err, netconf.ErrNoAddressYet):
		return nil, refuse(codeTryAgain, "ipam.type %s: device %s: %v", netconf.ENIIPAMType, cand.pci, err)
	case err != nil:
		return nil, &refusal{code: codeUnsupported, msg: "ipam.type " + netconf.ENIIPAMType, err: err}
	}
	if route, ok := c.cfg.ENIIPAM.Unroutable(addresses); ok {
		return nil, refuse(codeUnsupported, "ipam.routes: %s has no gateway, and the pod gets no address whose subnet's router it could take; give gw, or add its family to ipam.families", route)
	}
	return addresses, nil
}

// requestedIPs are IP of CNI_ARGS (CNI conventions): none, or several with commas
// between them.
func (c *call) requestedIPs() (out []netip.Addr, err error) {
	for s := range strings.SplitSeq(c.env["IP"], ",") {
		if s == "" {
			continue
		}
		addr, err := netconf.ParseRequestedIP(s)
		if err != nil {
			return nil, &refusal{code: codeEnvironment, msg: "CNI_ARGS: IP", err: err}
		}
		out = append(out, addr)
	}
	return out, nil
}

// ownResult is what an IPAM plugin would say of the device's own addresses.
func (c *call) ownResult(d *claimed) *types100.Result {
	result := &types100.Result{}
	for _, p := range d.own {
		ip := &types100.IPConfig{Address: *ipNet(p)}
		if router := netconf.Router(p); router.IsValid() {
			ip.Gateway = router.AsSlice()
		}
		result.IPs = append(result.IPs, ip)
	}
	addRoutes(result, c.cfg.ENIIPAM.Routes)
	return result
}
