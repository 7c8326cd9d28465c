package reconcile

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
)

const theirNIC = `{"resourceList":[{"resourceName":"nic1","selectors":{"vendors":["8086"],"pfNames":["ens803f0"]}}]}`

func (n *testNode) setPrefixes(prefixes ...string) {
	n.restarts.mu.Lock()
	n.restarts.prefixes = prefixes
	n.restarts.mu.Unlock()
	n.daemon.Nudge()
	n.settle()
}

// A clash under the prefix of the device plugin's command line begins and ends with that prefix, which the daemon
// remembers over a restart.
func TestPluginPrefix(t *testing.T) {
	n := newNode(t, 1)
	n.restarts.prefixes = []string{"openshift.io"}
	n.write(theirNIC, "pcidp/config.json")
	n.declare("a", 1, "dpdkResourceName: openshift.io/nic1")
	n.settle()
	rows := []string{"a eth1 ready"}
	n.expect(rows, []string{"ResourceClash"}, nil)

	n.setPrefixes("intel.com")
	n.expect(rows, nil, pools{"openshift.io/nic1": {pci(1)}})

	n.setPrefixes("openshift.io")
	n.expect(rows, []string{"ResourceClash"}, nil)
	if !slices.Equal(n.daemon.files.Checkpoint.PluginPrefixes, []string{"openshift.io"}) {
		t.Errorf("checkpoint has %q", n.daemon.files.Checkpoint.PluginPrefixes)
	}
	before, err := os.ReadFile(n.path("pcidp/config.json"))
	n.must(err)
	if strings.Contains(string(before), `"openshift.io"`) || !strings.Contains(string(before), "ens803f0") {
		t.Errorf("config\n%s\nwant theirs alone", before)
	}

	// The daemon starts again, and no pod is seen.
	n.restarts.err = pluginrestart.ErrNoDevicePlugin
	n.start()
	n.settle()
	n.expect(rows, []string{"ResourceClash"}, nil)

	// Two device plugins, each with its prefix: neither may read a name twice.
	n.restarts.err = nil
	n.setPrefixes("intel.com", "openshift.io")
	n.expect(rows, []string{"ResourceClash"}, nil)
	n.declare("a", 1, "dpdkResourceName: intel.com/nic1")
	n.settle()
	n.expect(rows, []string{"ResourceClash"}, nil)
	n.declare("a", 1, "dpdkResourceName: example.com/nic1")
	n.settle()
	n.expect(rows, nil, pools{"example.com/nic1": {pci(1)}})
}

func TestConfigNeverSettles(t *testing.T) {
	n := settledNode(t, "dpdkResourceName: intel.com/fast")
	for i := range 30 {
		n.write(fmt.Sprintf("{garbage %d", i), "pcidp/config.json")
		n.daemon.Sync(t.Context())
		n.now = n.now.Add(time.Second)
	}
	if got := n.reasons(); !slices.Equal(got, []string{"ConfigUnsettled"}) {
		t.Errorf("problems %q", got)
	}
	n.now = n.now.Add(pcidp.SettleTime)
	n.daemon.Sync(t.Context())
	n.settle()
	n.expect([]string{"a eth1 ready"}, []string{"ConfigSetAside"}, pools{"intel.com/fast": {pci(1)}})
}
