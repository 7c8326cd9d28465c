package problem

import (
	"errors"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestServices: the loop is woken when a service begins to fail, fails otherwise, or works again.
func TestServices(t *testing.T) {
	woken, err := 0, errors.New("refused")
	s := &Services{Wake: func() { woken++ }}
	for i, step := range []struct {
		problem  nodestate.Problem
		err      error
		problems int
		woken    int
	}{
		{nodestate.Problem{Message: "a"}, nil, 0, 0},
		{nodestate.Problem{Message: "a"}, err, 1, 1},
		{nodestate.Problem{Message: "a"}, errors.New("refused again"), 1, 1},
		{nodestate.Problem{Message: "b"}, err, 1, 2},
		{nodestate.Problem{Message: "b"}, nil, 0, 3},
	} {
		s.Report("files", step.problem, step.err)
		if got := s.Problems(); len(got) != step.problems || woken != step.woken || len(got) > 0 && got[0] != step.problem {
			t.Errorf("step %d: problems %+v, woken %d times", i, got, woken)
		}
	}
	var none *Services
	none.Report("files", nodestate.Problem{}, err)
	if len(none.Findings()) > 0 {
		t.Error("nil keeps reports")
	}
}
