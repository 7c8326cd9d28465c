package reconcile

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// replaceConfig puts a file with an old modification time in the config's place, as mv, cp -p and rsync -a do.
func (n *testNode) replaceConfig(content string) {
	n.Helper()
	old := n.now.Add(-24 * time.Hour)
	n.write(content, "pcidp/kept")
	n.must(os.Chtimes(n.path("pcidp/kept"), old, old))
	n.must(os.Rename(n.path("pcidp/kept"), n.path("pcidp/config.json")))
}

func (n *testNode) config() string {
	n.Helper()
	content, err := os.ReadFile(n.path("pcidp/config.json"))
	n.must(err)
	return string(content)
}

// A run that started before the daemon saw a config has not read it, whatever the file's modification time.
func TestConfigWithAnOldTime(t *testing.T) {
	n := settledNode(t, "dpdkResourceName: intel.com/a")
	n.now = n.now.Add(time.Hour)
	at := n.now
	n.replaceConfig(strings.Replace(n.config(), `"resourceList": [`, `"resourceList": [{"resourceName":"people","selectors":{"vendors":["8086"]}},`, 1))
	n.settle()
	if got := n.restarts.last; len(n.restarts.wanted) != 2 || !got.Written.Equal(at) {
		t.Errorf("asked %d times, the last for a config of %v, want 2 and %v", len(n.restarts.wanted), got.Written, at)
	}
}

// The served config is another file now, so a third content may have been there meanwhile. The device plugin is asked
// which it has read.
func TestConfigReplacedBetweenTwoDaemons(t *testing.T) {
	n := settledNode(t, "dpdkResourceName: intel.com/a")
	n.start()
	n.settle()
	if got := len(n.restarts.wanted); got != 1 {
		t.Fatalf("asked %d times for a file that nobody has touched, want once", got)
	}
	whole := n.config()
	n.replaceConfig(`{"resourceList":[{"resourceName":"people","selectors":{"vendors":["8086"]}}]}`)
	n.replaceConfig(whole)
	n.now = n.now.Add(time.Hour)
	n.start()
	n.sync()
	if got := n.view().Plugin; got.ServedHash != "" || got.State == view.PluginServing {
		t.Errorf("%+v, want it not said to serve a config that it may not have read", got)
	}
	n.settle()
	if got := n.restarts.wanted; len(got) != 2 || got[1] != got[0] || n.view().Plugin.State != view.PluginServing {
		t.Errorf("asked for %v, want the same config again; %+v", got, n.view().Plugin)
	}
	n.logged()
	before := n.files()
	for range 10 {
		n.syncAfter(time.Minute)
	}
	if diff := cmp.Diff(before, n.files()); diff != "" || len(n.logged()) > 0 {
		t.Errorf("at rest something was written or said (-before +after):\n%s", diff)
	}
}

// The least time between restarts, and the backoff, hold across daemons and changes of the clock.
func TestRestartsAreSpacedAcrossDaemons(t *testing.T) {
	t.Run("spacing", func(t *testing.T) {
		n := newNode(t, 1, 2)
		n.declare("a", 1, "dpdkResourceName: intel.com/a")
		n.settle()
		at := n.now
		n.declare("b", 2, "dpdkResourceName: intel.com/a")
		n.start()
		for len(n.restarts.wanted) == 1 {
			n.sync()
			n.now = n.now.Add(time.Second)
		}
		if got := n.now.Sub(at); got < restartApart || got > restartApart+restartQuiet {
			t.Errorf("the second restart came %v after the first, want %v", got, restartApart)
		}
	})
	t.Run("killed during a restart", func(t *testing.T) {
		n := newNode(t, 1, 2)
		n.declare("a", 1, "dpdkResourceName: intel.com/a")
		n.restarts.hold = make(chan struct{})
		n.sync()
		n.syncAfter(restartLatest)
		at := n.now
		n.waitRestart(1)
		n.start()
		n.restarts.release()
		for len(n.restarts.wanted) == 1 {
			n.sync()
			n.now = n.now.Add(time.Second)
		}
		if got := n.now.Sub(at); got < restartApart {
			t.Errorf("the second restart came %v after the first began, want %v", got, restartApart)
		}
	})
	for name, back := range map[string]time.Duration{"back-off": 0, "clock set back": 10 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 1)
			n.declare("a", 1, "dpdkResourceName: intel.com/a")
			n.restarts.err = errors.New("refused")
			for range 40 {
				n.sync()
				n.now = n.now.Add(30 * time.Second)
			}
			n.now = n.now.Add(-back)
			tried := len(n.restarts.wanted)
			for range 20 { // daemons, a minute each
				n.start()
				for range 6 {
					n.sync()
					n.now = n.now.Add(10 * time.Second)
				}
			}
			if got := len(n.restarts.wanted) - tried; got < 3 || got > 5 {
				t.Errorf("%d tries in 20 minutes, want one in %v", got, restartApartMost)
			}
		})
	}
}

func TestFailedLookIsRepeated(t *testing.T) {
	n := settledNode(t, "dpdkResourceName: intel.com/a")
	n.restarts.lookErr = errors.New("connection refused")
	n.start()
	n.logged()
	looks, begin := n.restarts.looks, n.now
	var at []time.Duration
	for n.now.Sub(begin) < 15*time.Minute {
		out := n.sync()
		if n.restarts.looks > looks+len(at) {
			at = append(at, n.now.Sub(begin))
		}
		n.now = n.now.Add((&pace{}).next(out))
	}
	want := []time.Duration{0, 30 * time.Second, 90 * time.Second, 210 * time.Second, 450 * time.Second, 750 * time.Second}
	same(t, "looked at", want, at)
	if got := n.view().Plugin; got.State != view.PluginUnknown || !strings.Contains(got.Message, "cannot be looked for") {
		t.Errorf("%+v, want it not known", got)
	}
	n.restarts.lookErr = nil
	n.daemon.Nudge()
	n.sync()
	if got := n.view().Plugin.State; got != view.PluginServing {
		t.Errorf("after the news: %s, want %s", got, view.PluginServing)
	}
	said := slices.DeleteFunc(n.logged(), func(m string) bool { return !strings.Contains(m, "looked for") })
	same(t, "log", []string{"device plugin cannot be looked for, trying again", "device plugin can be looked for again"}, said)
}

// After a reboot links come one by one. The device plugin restarts once for all of them, and a missing link delays that
// by rebootWait at most.
func TestLateLinksCostOneRestart(t *testing.T) {
	for name, tt := range map[string]struct {
		late   []time.Duration // of the ENIs 1, 2 and 3; negative for never
		daemon bool            // it is restarted meanwhile
		want   int
	}{
		"all there":           {late: []time.Duration{0, 0, 0}, want: 0},
		"one late":            {late: []time.Duration{0, 0, 20 * time.Second}, want: 1},
		"one after the other": {late: []time.Duration{10 * time.Second, 50 * time.Second, 90 * time.Second}, want: 1},
		"and a new daemon":    {late: []time.Duration{0, 5 * time.Second, 50 * time.Second}, daemon: true, want: 1},
		"one never":           {late: []time.Duration{0, 20 * time.Second, -1}, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 1, 2, 3)
			for e, eni := range []string{"a", "b", "c"} {
				n.declare(eni, e+1, "dpdkResourceName: intel.com/"+eni)
			}
			n.settle()
			n.boot, n.now = "boot-2", n.now.Add(time.Hour)
			want := pools{}
			for e, d := range tt.late {
				if d != 0 {
					n.unplug(e + 1)
				}
				if d >= 0 {
					want["intel.com/"+string(rune('a'+e))] = []device.PCIAddress{pci(e + 1)}
				}
			}
			n.start()
			begin, restarts := n.now, len(n.restarts.wanted)
			for passed := time.Duration(0); passed < 4*time.Minute; passed = n.now.Sub(begin) {
				for e, d := range tt.late {
					if _, there := n.host.links[e+1]; d >= 0 && d <= passed && !there {
						n.plug(e+1, "ena")
					}
				}
				if tt.daemon && passed == 30*time.Second {
					n.start()
				}
				n.sync()
				n.now = n.now.Add(time.Second)
				if got := len(n.restarts.wanted) - restarts; passed > rebootWait+restartLatest && got != tt.want {
					t.Fatalf("%d restarts after %v, want %d", got, passed, tt.want)
				}
			}
			same(t, "pools", want, n.judge())
			if got := n.view().Plugin; got.State != view.PluginServing || got.ServedHash != n.view().Config.Hash {
				t.Errorf("%+v, want it to serve %s", got, n.view().Config.Hash)
			}
		})
	}
}
