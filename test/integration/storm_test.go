package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestStorm: pods come and go over too few devices, and the plugin is killed. In the end the node is as before.
func TestStorm(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	const devices, pods, rounds = 4, 6, 40
	s := newStorm(t, devices)
	before := s.links()
	var wg sync.WaitGroup
	for i := range pods {
		name := fmt.Sprintf("pod%d", i)
		must(t, nstest.NewNetns("/run/netns/"+name))
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 2026)) //nolint:gosec // reproducible, not secret
			for round := range rounds {
				kill := min(round%4, 1) // each fourth round ends by itself, however slow the machine is
				s.run("ADD", name, time.Duration(kill*random.IntN(50))*time.Millisecond)
				s.run("DEL", name, time.Duration(kill*random.IntN(80))*time.Millisecond)
			}
		})
	}
	wg.Wait()
	if s.whole.Load() < rounds || s.cut.Load() < rounds {
		t.Errorf("%d verbs ended and %d were killed: that is no storm", s.whole.Load(), s.cut.Load())
	}
	for i := range pods {
		for range 2 {
			if out := s.run("DEL", fmt.Sprintf("pod%d", i), 0); out != "" {
				t.Errorf("last DEL: %s", out)
			}
		}
	}
	if diff := cmp.Diff(before, s.links()); diff != "" {
		t.Errorf("the host's links (-before +after):\n%s", diff)
	}
	if left := s.files(); len(left) != 0 {
		t.Errorf("left behind: %s", strings.Join(left, ", "))
	}
}

type storm struct {
	t             *testing.T
	node          *nstest.Node
	plugin, path  string
	conf, ipamDir string
	whole, cut    atomic.Int64
}

func newStorm(t *testing.T, devices int) *storm {
	t.Helper()
	n, err := nstest.NewNode(t.TempDir())
	must(t, err)
	boot, err := nodestate.BootID()
	must(t, err)
	inv := nodestate.Inventory{NodeName: "node", BootID: boot}
	for i := range devices {
		e := nstest.ENI{PCI: fmt.Sprintf("0000:00:%02x.0", 6+i), Name: fmt.Sprintf("eth%d", i), MAC: fmt.Sprintf("02:00:00:00:00:%02x", i+1)}
		must(t, n.Attach(e))
		inv.Devices = append(inv.Devices, nodestate.Device{
			ENIID: device.ENIID(fmt.Sprintf("eni-0000000%d", i)), NodeENI: "pool", MAC: device.MAC(e.MAC), PCIAddress: device.PCIAddress(e.PCI),
			InterfaceName: e.Name, DeviceIndex: i + 1, SubnetCIDR: netip.MustParsePrefix("10.0.2.0/24"), Phase: nodestate.PhaseReady,
		})
	}
	must(t, nodestate.WriteInventory(nodestate.DefaultInventoryPath, inv))
	s := &storm{t: t, node: n, plugin: binary(t, "multi-eni"), path: filepath.Dir(binary(t, "cni/host-local")), ipamDir: filepath.Join(n.Dir, "ipam")}
	conf, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "name": "pool", "type": "multi-eni", "sysfs": n.Sysfs, "select": map[string]any{"nodeENI": "pool"},
		"ipam": map[string]any{"type": "host-local", "dataDir": s.ipamDir, "subnet": "10.0.2.0/24"},
	})
	must(t, err)
	s.conf = string(conf)
	return s
}

// run runs a verb, kills it after a while unless that is 0, and returns the output of a verb that failed by itself.
func (s *storm) run(verb, pod string, after time.Duration) string {
	cmd := exec.CommandContext(s.t.Context(), s.plugin)
	cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + pod, "CNI_NETNS=/run/netns/" + pod, "CNI_IFNAME=net1", "CNI_PATH=" + s.path}
	cmd.Stdin = strings.NewReader(s.conf)
	var out strings.Builder
	cmd.Stdout = &out
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		s.t.Error(err)
		return ""
	}
	if after > 0 {
		killer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		defer killer.Stop()
	}
	err := cmd.Wait()
	switch {
	case err == nil:
		s.whole.Add(1)
	case err.Error() == "signal: killed":
		s.cut.Add(1)
	case after == 0:
		return fmt.Sprintf("%v: %s", err, out.String())
	}
	return ""
}

func (s *storm) links() []string {
	s.t.Helper()
	h, err := link.Open()
	must(s.t, err)
	defer h.Close()
	all, err := h.Links()
	must(s.t, err)
	var out []string
	for _, l := range all {
		out = append(out, fmt.Sprintf("%+v", l.State()))
	}
	slices.Sort(out)
	return out
}

func (s *storm) files() []string {
	s.t.Helper()
	var left []string
	for _, pattern := range []string{s.ipamDir + "/pool/10.*", nodestate.DefaultAttachmentsDir + "/*.json", nodestate.DefaultAttachmentsDir + "/.*",
		nodestate.DefaultAttachmentsDir + "/restore/*"} {
		found, err := filepath.Glob(pattern)
		must(s.t, err)
		left = append(left, found...)
	}
	return slices.DeleteFunc(left, func(p string) bool {
		info, err := os.Stat(p)
		return err == nil && info.IsDir()
	})
}
