package addresses

import (
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// TestCorrectTellsWhoseAnENIIs: an ENI that EC2 has described has its tag or surely none. Any other ENI's tag is unknown.
func TestCorrectTellsWhoseAnENIIs(t *testing.T) {
	m := New(Options{})
	m.truth = map[device.ENIID]vpc.Attached{"eni-1": {ID: "eni-1", NodeENI: "a"}, "eni-2": {ID: "eni-2"}, "eni-3": {ID: "eni-3", NodeENI: "b"}}
	got := map[device.ENIID]vpc.ENI{}
	for _, e := range m.Correct([]vpc.ENI{{ID: "eni-1"}, {ID: "eni-2"}, {ID: "eni-4"}}) {
		got[e.ID] = e
	}
	for id, want := range map[device.ENIID]vpc.ENI{
		"eni-1": {Described: true, NodeENI: "a"}, "eni-2": {Described: true}, "eni-3": {Described: true, NodeENI: "b"}, "eni-4": {},
	} {
		if e, listed := got[id]; !listed || e.Described != want.Described || e.NodeENI != want.NodeENI {
			t.Errorf("%s: %+v, want %+v", id, e, want)
		}
	}
}
