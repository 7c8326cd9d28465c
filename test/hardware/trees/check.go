// Package trees records the machine's sysfs trees for tests without a machine, and checks that the records
// are still true.
package trees

import (
	"flag"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
	"github.com/multi-eni/multi-eni-cni/test/sysfstree"
)

const folder = "../../sysfstree/recorded/"

var update = flag.Bool("update", false, "write the recorded sysfs trees anew")

// Check compares the machine's sysfs with the recorded tree of that name. With -update it writes the tree.
func Check(t testing.TB, name string) {
	t.Helper()
	got, err := sysfstree.Record("/sys")
	guest.Must(t, err)
	got = append([]byte("# Recorded by test/hardware/trees; to record anew, in test/hardware: go test ./trees ./noiommu -update\n"), got...)
	guest.Record(t, folder+name+".tree", got)
	want, err := sysfstree.Recorded(name)
	guest.Must(t, err)
	if diff := cmp.Diff(string(want), string(got)); diff != "" && !*update {
		t.Errorf("sysfs is not as recorded in %s%s.tree (-recorded +machine):\n%s", folder, name, diff)
	}
}
