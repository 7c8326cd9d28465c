package inventory

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestLeasedAddressesStay: what a pod has leased stays in its ENI's row, whatever
// the metadata say, and goes once nobody has it.
func TestLeasedAddressesStay(t *testing.T) {
	w := newWorld(1)
	w.declare("a", 1)
	e := w.enis[1]
	own, leased, free := e.Addresses[0], netip.MustParsePrefix("10.0.1.77/24"), netip.MustParsePrefix("10.0.1.78/24")
	used, unused := netip.MustParsePrefix("10.0.1.96/28"), netip.MustParsePrefix("10.0.1.112/28")
	e.Addresses, e.Prefixes = []netip.Prefix{own, leased, free}, []netip.Prefix{used, unused}
	w.enis[1] = e
	lease := func(state nodestate.LeaseState) {
		id := nodestate.AttachmentID{ContainerID: "c1", IfName: "net1"}
		w.Leases = Known(map[device.ENIID]nodestate.Leases{eniID(1): {ENIID: eniID(1), Leases: []nodestate.Lease{
			{Address: leased.Addr(), State: state, AttachmentID: id, Pod: "shop/web-0"}, {Address: netip.MustParseAddr("10.0.1.100"), State: state, AttachmentID: id},
		}}})
	}
	lease(nodestate.LeaseHeld)
	w.sync()
	shrunk := e
	shrunk.Addresses, shrunk.Prefixes = []netip.Prefix{own}, nil
	w.enis[1] = shrunk
	check := func(what string, r Result, addresses, prefixes []netip.Prefix, problem string) {
		t.Helper()
		d := r.Devices[0]
		if !slices.Equal(d.Addresses, addresses) || !slices.Equal(d.Prefixes, prefixes) {
			t.Errorf("%s: addresses %v, prefixes %v; want %v, %v", what, d.Addresses, d.Prefixes, addresses, prefixes)
		}
		got := ""
		for _, p := range r.Problems {
			got += p.Reason + ": " + p.Message
		}
		if (problem == "") != (got == "") || !strings.Contains(got, problem) {
			t.Errorf("%s: problems %q, want %q", what, got, problem)
		}
	}
	for range 2 {
		check("while leased", w.sync(), []netip.Prefix{own, leased}, []netip.Prefix{used}, "LeasedAddressGone: the ENI has no longer")
	}
	r := w.sync()
	check("with who has it", r, []netip.Prefix{own, leased}, []netip.Prefix{used}, "10.0.1.77 (shop/web-0), 10.0.1.100 (container c1)")
	w.Leases = Fact[map[device.ENIID]nodestate.Leases]{}
	check("while leases cannot be read", w.sync(), []netip.Prefix{own, leased}, []netip.Prefix{used}, "")
	lease(nodestate.LeaseCooling)
	check("released", w.sync(), []netip.Prefix{own}, []netip.Prefix{}, "")
	w.enis[1] = awsnode.ENI{ID: e.ID, MAC: e.MAC, DeviceIndex: 1, SubnetID: e.SubnetID} // the metadata do not list it, EC2 does
	check("known from EC2 only", w.sync(), []netip.Prefix{own}, []netip.Prefix{}, "")
	w.enis[1] = e
	check("assigned again", w.sync(), []netip.Prefix{own, leased, free}, []netip.Prefix{used, unused}, "")
}
