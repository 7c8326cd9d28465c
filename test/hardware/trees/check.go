// Package trees records the machine's sysfs trees for the tests that need no
// machine, and shows that the recorded ones are what the machine shows.
package trees

import (
	"flag"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
	"github.com/multi-eni/multi-eni-cni/test/sysfstree"
)

// folder is where the trees are, from a package of test/hardware.
const folder = "../../sysfstree/recorded/"

var update = flag.Bool("update", false, "write the recorded sysfs trees anew")

// Check compares the machine's sysfs with the recorded tree of that name, or
// with -update writes it.
func Check(t testing.TB, name string) {
	t.Helper()
	got, err := sysfstree.Record("/sys")
	if err != nil {
		t.Fatal(err)
	}
	got = append([]byte("# Recorded by test/hardware/trees; to record anew, in test/hardware: go test ./trees ./noiommu -update\n"), got...)
	guest.Record(t, folder+name+".tree", got)
	want, err := sysfstree.Recorded(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" && !*update {
		t.Errorf("sysfs is not as recorded in %s%s.tree (-recorded +machine):\n%s", folder, name, diff)
	}
}
