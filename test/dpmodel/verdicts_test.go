package dpmodel

import (
	"strconv"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/dpmodel/verdicts"
)

func TestVerdicts(t *testing.T) {
	devices := []Device{{Address: "0000:00:03.0", Vendor: 0x1af4, Device: 0x1041, Class: 0x020000, Driver: "virtio-pci", VFID: -1}}
	for _, measured := range []struct {
		where Machine
		cases []verdicts.Case
	}{
		{Machine{NoKubelet: true, Devices: devices}, verdicts.All(t)},
		{Machine{Devices: devices}, verdicts.Served(t)},
	} {
		for _, c := range measured.cases {
			t.Run(c.Case, func(t *testing.T) {
				v := measured.where.Judge(c.Content(), c.Args...)
				got := "runs"
				if !v.Runs() {
					got = "exits " + strconv.Itoa(v.Status)
				}
				if got != c.Verdict {
					t.Errorf("%s %v: the model says %q (%+v), the plugin %q", c.Content(), c.Args, got, v, c.Verdict)
				}
			})
		}
	}
}
