package view

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestHolderAddresses: a holder has the addresses that its own interface got, and its
// leases before there is a result.
func TestHolderAddresses(t *testing.T) {
	leased := []netip.Addr{netip.MustParseAddr("10.0.1.20")}
	for name, tt := range map[string]struct {
		result string
		want   []string
	}{
		"intent":     {"", []string{"10.0.1.20"}},
		"unreadable": {`{"ips":7}`, []string{"10.0.1.20"}},
		"no address": {`{"cniVersion":"1.1.0","interfaces":[{"name":"net1"}]}`, nil},
		"dual stack": {`{"interfaces":[{"name":"net1"}],"ips":[{"address":"10.0.1.16/24","interface":0},{"address":"2600::1/64","interface":0}]}`,
			[]string{"10.0.1.16", "2600::1"}},
		"no interface": {`{"ips":[{"address":"10.0.1.16/24"}]}`, []string{"10.0.1.16"}},
		"chained": {`{"interfaces":[{"name":"eth0"},{"name":"net1"}],` +
			`"ips":[{"address":"10.9.0.1/16","interface":0},{"address":"10.0.1.16/24","interface":1}]}`, []string{"10.0.1.16"}},
		"index too large": {`{"interfaces":[{"name":"net1"}],"ips":[{"address":"10.0.1.16/24","interface":1},{"address":"10.0.1.17/24","interface":-1}]}`, nil},
		"CNI 0.2.0":       {`{"cniVersion":"0.2.0","ip4":{"ip":"10.0.1.16/24"}}`, []string{"10.0.1.16"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := &nodestate.Attachment{AttachmentID: nodestate.AttachmentID{IfName: "net1"}, LeasedAddresses: leased}
			if tt.result != "" {
				a.Result = json.RawMessage(tt.result)
			}
			var got []string
			for _, addr := range HolderOf(a).Addresses {
				got = append(got, addr.String())
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
