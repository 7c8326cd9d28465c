package pluginpods

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestOwnNodePolicyHasTheSelectors: the policy allows deletion of exactly the pods that the daemon looks for.
func TestOwnNodePolicyHasTheSelectors(t *testing.T) {
	for _, path := range []string{"../../../../deploy/admission/own-node.yaml", "../../../../deploy/chart/templates/admission.yaml"} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var allowed []string
		label := regexp.MustCompile(`variables\.labels\.\?(\w+)\.orValue\(''\) (?:in|==) (\[[^]]*\]|'[^']*')`)
		for _, m := range label.FindAllStringSubmatch(string(data), -1) {
			for _, value := range regexp.MustCompile(`'([^']*)'`).FindAllStringSubmatch(m[2], -1) {
				allowed = append(allowed, m[1]+"="+value[1])
			}
		}
		want := DefaultSelectors()
		slices.Sort(want)
		slices.Sort(allowed)
		if diff := cmp.Diff(want, allowed); diff != "" {
			t.Errorf("%s (-searched +allowed):\n%s", path, diff)
		}
	}
}
