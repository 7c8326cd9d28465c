package reconcile

import (
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
)

// With a NodeENI that comes or goes each hour and news of the API server, at most two lines are logged. Retries of
// every 30 s would give 2,880.
func TestADayWithoutADevicePlugin(t *testing.T) {
	n := newNode(t, 1, 2)
	n.restarts.err = pluginrestart.ErrNoDevicePlugin
	n.declare("a", 1, "dpdkResourceName: intel.com/a")
	n.settle()
	declared := false
	for begin, hour := n.now, 0; n.now.Sub(begin) < 24*time.Hour; n.now = n.now.Add(30 * time.Second) {
		if h := int(n.now.Sub(begin) / time.Hour); h > hour {
			hour = h
			if declared = !declared; declared {
				n.declare("b", 2, "dpdkResourceName: intel.com/b")
			} else {
				n.undeclare("b")
			}
			n.daemon.Nudge()
		}
		n.sync()
	}
	var about []string
	for _, line := range n.logged() {
		if strings.Contains(line, "device plugin") && line != "device plugin config written" { // which each change of NodeENIs gives
			about = append(about, line)
		}
	}
	if len(about) == 0 || len(about) > 2 {
		t.Errorf("%d lines about the device plugin in a day, want one or two:\n%s", len(about), strings.Join(about, "\n"))
	}
	n.restarts.mu.Lock()
	defer n.restarts.mu.Unlock()
	if tried := len(n.restarts.wanted) + n.restarts.looks; tried < 24*12/2 {
		t.Errorf("looked for %d times in a day, want it looked for every %v", tried, lookEvery)
	}
	if got := n.view().Plugin.State; got != view.PluginNotFound {
		t.Errorf("state %s, want %s", got, view.PluginNotFound)
	}
}
