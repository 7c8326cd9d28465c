package pcidp

import (
	"math/rand/v2"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
)

// Each name that a NodeENI may ask for is an extended resource's by Kubernetes' own rule, and the device plugin serves
// it.
func TestOurNames(t *testing.T) {
	rng := rand.New(rand.NewPCG(rand.Uint64(), 1))
	const letters = "aZ09-_.-_aaa/"
	names := []string{"intel.com/eni-a", "a-b.c/D_e-f", "intel.com/a--b", "intel.com/-a", "intel.com/a-"}
	for range 30000 {
		b := make([]byte, 3+rng.IntN(75))
		for i := range b {
			b[i] = letters[rng.IntN(len(letters))]
		}
		if i := 1 + rng.IntN(len(b)-1); rng.IntN(2) == 0 {
			for j := range b { // one slash, to get far enough
				if b[j] == '/' || b[j] == '.' && j > i {
					b[j] = 'b'
				}
			}
			b[i] = '/'
		}
		names = append(names, string(b))
	}
	accepted, hyphens := 0, 0
	for _, text := range names {
		name, err := device.ParseResourceName(text)
		if err != nil {
			continue
		}
		accepted++
		if _, short := name.Split(); slices.Contains([]byte(short), '-') {
			hyphens++
		}
		if faults := validation.IsQualifiedName(text); len(faults) > 0 {
			t.Errorf("%q is accepted; Kubernetes: %q", text, faults)
		}
		entry := Entry{Resource: name, Selectors: []Selector{{[]string{"ena"}, []device.PCIAddress{"0000:00:06.0"}}}}
		r, err := Render(nil, []Entry{entry}, nil, here)
		if err != nil || len(r.Problems) > 0 {
			t.Fatalf("%q: %+v, %v", text, r.Problems, err)
		}
		if v := dpmodel.Judge(r.Content, modelDevices(machine)); !v.Runs() || v.Resources[text] == nil {
			t.Errorf("%q: the device plugin: %+v", text, v)
		}
	}
	if accepted < 100 || hyphens < 20 {
		t.Errorf("%d names accepted, %d of them with a hyphen; want more to try", accepted, hyphens)
	}
}
