package inventory

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// A leased address stays in its ENI's row, whatever the metadata say, until it is released.
func TestLeasedAddressesStay(t *testing.T) {
	w := newWorld(1)
	w.declare("a", 1)
	e := w.enis[1]
	own, leased, free := e.Addresses[0], netip.MustParsePrefix("10.0.1.77/24"), netip.MustParsePrefix("10.0.1.78/24")
	used, unused := netip.MustParsePrefix("10.0.1.96/28"), netip.MustParsePrefix("10.0.1.112/28")
	e.Addresses, e.Prefixes = []netip.Prefix{own, leased, free}, []netip.Prefix{used, unused}
	w.enis[1] = e
	lease := func(state leases.State) {
		id := nodestate.AttachmentID{ContainerID: "c1", IfName: "net1"}
		w.Leases = Known(map[device.ENIID]leases.Leases{eniID(1): {ENIID: eniID(1), Leases: []leases.Lease{
			{Address: leased.Addr(), State: state, AttachmentID: id, Pod: "shop/web-0"}, {Address: netip.MustParseAddr("10.0.1.100"), State: state, AttachmentID: id},
		}}})
	}
	lease(leases.Held)
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
			got += string(p.Reason) + ": " + p.Message
		}
		if (problem == "") != (got == "") || !strings.Contains(got, problem) {
			t.Errorf("%s: problems %q, want %q", what, got, problem)
		}
	}
	for range 2 {
		check("while leased", w.sync(), []netip.Prefix{own, leased}, []netip.Prefix{used}, "LeasedAddressGone: the ENI has lost")
	}
	r := w.sync()
	check("with who has it", r, []netip.Prefix{own, leased}, []netip.Prefix{used}, "10.0.1.77 (shop/web-0), 10.0.1.100 (container c1)")
	w.Leases = Fact[map[device.ENIID]leases.Leases]{}
	check("while leases cannot be read", w.sync(), []netip.Prefix{own, leased}, []netip.Prefix{used}, "")
	lease(leases.Cooling)
	check("released", w.sync(), []netip.Prefix{own}, []netip.Prefix{}, "")
	w.enis[1] = vpc.ENI{ID: e.ID, MAC: e.MAC, DeviceIndex: 1, SubnetID: e.SubnetID} // the metadata do not list it, EC2 does
	check("known from EC2 only", w.sync(), []netip.Prefix{own}, []netip.Prefix{}, "")
	w.enis[1] = e
	check("assigned again", w.sync(), []netip.Prefix{own, leased, free}, []netip.Prefix{used, unused}, "")
}

// A leased address is in the row though no earlier row had it: the checkpoint was lost, or the lease began after the
// last look at the leases.
func TestLeasedWithoutARowBefore(t *testing.T) {
	w := newWorld(1)
	w.declare("a", 1)
	e := w.enis[1]
	own, own6 := e.Addresses[0], netip.MustParsePrefix("fd00:1::15/64")
	e.Addresses, e.Prefixes = []netip.Prefix{own, own6}, []netip.Prefix{netip.MustParsePrefix("10.0.1.96/28")}
	w.enis[1] = e
	id := nodestate.AttachmentID{ContainerID: "c1", IfName: "net1"}
	lease := func(addresses ...string) {
		var all []leases.Lease
		for _, a := range addresses {
			all = append(all, leases.Lease{Address: netip.MustParseAddr(a), State: leases.Held, AttachmentID: id, Pod: "shop/web-0"})
		}
		all = append(all, leases.Lease{Address: netip.MustParseAddr("fd00:1::99"), State: leases.Cooling})
		w.Leases = Known(map[device.ENIID]leases.Leases{eniID(1): {ENIID: eniID(1), Leases: all}})
	}
	check := func(what string, r Result, want ...netip.Prefix) {
		t.Helper()
		if d := r.Devices[0]; !slices.Equal(d.Addresses, want) || !slices.Equal(d.Prefixes, e.Prefixes) {
			t.Errorf("%s: addresses %v, prefixes %v; want %v, %v", what, d.Addresses, d.Prefixes, want, e.Prefixes)
		}
	}
	lease("10.0.1.77", "10.0.1.100", "fd00:1::77")
	for range 2 {
		r := w.sync()
		check("leased", r, own, own6, netip.MustParsePrefix("10.0.1.77/24"), netip.MustParsePrefix("fd00:1::77/64"))
		if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Message, "10.0.1.77 (shop/web-0), fd00:1::77 (shop/web-0);") {
			t.Errorf("problems %v", r.Problems)
		}
	}
	lease("10.0.1.100")
	check("released", w.sync(), own, own6)
}
