package doctor

import (
	"context"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
)

// TestPluginPrefix: doctor reads the config with the device plugin's own prefix,
// and names the entries on which the plugin ends.
func TestPluginPrefix(t *testing.T) {
	for prefix, ends := range map[string]bool{"openshift.io": true, "intel.com": false} {
		w := newWorld(t)
		w.write("etc/pcidp/config.json", `{"resourceList":[{"resourceName":"nic-1","selectors":{"drivers":["none"]}},{"resourcePrefix":"openshift.io","resourceName":"nic-1","selectors":{"drivers":["none"]}}]}`, 0o644)
		w.o.DevicePlugin = func(context.Context) (pluginrestart.PluginReport, error) {
			return pluginrestart.PluginReport{Pods: []string{"kube-system/dp"}, Prefixes: []string{prefix}}, nil
		}
		said, named := false, false
		for _, f := range Run(t.Context(), w.o) {
			if f.Check == "device plugin" {
				named = named || f.Level == OK && strings.Contains(f.Detail, "resource prefix "+prefix)
				said = said || f.Level == Warn && strings.Contains(f.Detail, "openshift.io/nic-1")
			}
		}
		if said != ends || !named {
			t.Errorf("prefix %s: named %t, entry found %t; want true, %t", prefix, named, said, ends)
		}
	}
}
