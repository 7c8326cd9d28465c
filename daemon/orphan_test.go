package main

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// attach runs the built plugin's ADD for a new pod and returns its netns' path.
func (m *machine) attach(container, nodeENI string) string {
	m.Helper()
	plugin, err := nstest.Binary("multi-eni")
	must(m, err)
	ipam, err := nstest.Binary("cni/host-local")
	must(m, err)
	netns := "/run/netns/" + container
	must(m, nstest.NewNetns(netns))
	conf, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "name": "dataplane", "type": "multi-eni", "select": map[string]any{"nodeENI": nodeENI},
		"dataDir": m.path("records"), "inventory": m.path("run/inventory.json"), "sysfs": m.node.Sysfs, "logFile": m.path("plugin.log"),
		"ipam": map[string]any{"type": "host-local", "dataDir": m.path("ipam"), "subnet": "10.0.1.0/24"},
	})
	must(m, err)
	cmd := exec.CommandContext(m.Context(), plugin)
	cmd.Env = []string{
		"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + container, "CNI_NETNS=" + netns, "CNI_IFNAME=net1", "CNI_PATH=" + filepath.Dir(ipam),
		"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=" + container,
	}
	cmd.Stdin = strings.NewReader(string(conf))
	if out, err := cmd.CombinedOutput(); err != nil {
		m.Fatalf("ADD: %v\n%s", err, out)
	}
	return netns
}

func TestDaemonReleasesOrphan(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMachine(t, 1, 2)
	must(m, unix.Mount("", "/run", "", unix.MS_SHARED, "")) // as systemd makes it
	plugin, err := nstest.Binary("multi-eni")
	must(m, err)
	m.declare("a", 1)
	m.declare("b", 2)
	if code, _, stderr := call(t.Context(), nil, "install", "--mkdir", "--to="+m.path("bin"), "--from="+filepath.Dir(plugin), "--policy="); code != 0 {
		t.Fatal(stderr)
	}
	m.start("--cni-bin-dir="+m.path("bin"), "--orphan-grace=1s")
	m.until("a ready", "b ready")
	m.attach("living", "b")
	netns := m.attach("dead", "a")
	must(m, nstest.DeleteNetns(netns))
	records := nodestate.AttachmentDir(m.path("records"))
	for deadline := time.Now().Add(30 * time.Second); ; <-time.After(20 * time.Millisecond) {
		all, _, err := records.List()
		must(m, err)
		if len(all) == 1 && all[0].ContainerID == "living" && strings.Contains(m.stderr.String(), "orphaned attachment released") {
			break // the record goes first, then the plugin ends
		}
		if time.Now().After(deadline) {
			t.Fatalf("records %+v after 30 s; want that of the living pod\n%s", all, m.stderr.String())
		}
	}
	m.end()
	for _, words := range []string{"orphaned attachment found", "orphaned attachment released"} {
		if n := strings.Count(m.stderr.String(), words); n != 1 {
			t.Errorf("%q is logged %d times; want once\n%s", words, n, m.stderr.String())
		}
	}
	leases, err := filepath.Glob(m.path("ipam/dataplane/10.*"))
	must(m, err)
	if len(leases) != 1 {
		t.Errorf("leases %q; want that of the living pod", leases)
	}
}
