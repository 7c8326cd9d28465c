// Package integration drives the built binaries as a runtime does: through cnitool and libcni.
package integration

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func binary(t *testing.T, name string) string {
	t.Helper()
	path, err := nstest.Binary(name)
	must(t, err)
	return path
}

type cluster struct {
	t       *testing.T
	node    *nstest.Node
	netconf string // folder
	args    string // CNI_ARGS
}

var eni = nstest.ENI{PCI: "0000:00:06.0", Name: "eth1", MAC: "02:00:00:00:00:01"}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	n, err := nstest.NewNode(t.TempDir())
	must(t, err)
	must(t, n.Attach(eni))
	must(t, n.AddPeerAddress("10.0.2.1/24"))
	must(t, n.AddPeerAddress("fd00:2::1/64"))
	c := &cluster{t: t, node: n, netconf: filepath.Join(n.Dir, "net.d"), args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart"}
	c.inventory()
	return c
}

func (c *cluster) inventory(addresses ...string) {
	c.t.Helper()
	boot, err := nodestate.BootID()
	must(c.t, err)
	d := nodestate.Device{
		ENIID: "eni-0a1b2c3d4e5f60001", NodeENI: "dataplane-a", MAC: "02:00:00:00:00:01", PCIAddress: "0000:00:06.0",
		InterfaceName: "eth1", Driver: "ena", DeviceIndex: 1, SubnetID: "subnet-0a1b2c3d4e5f60001",
		SubnetCIDR: netip.MustParsePrefix("10.0.2.0/24"), Phase: nodestate.PhaseReady,
	}
	for _, a := range addresses {
		d.Addresses = append(d.Addresses, netip.MustParsePrefix(a))
	}
	must(c.t, nodestate.WriteInventory(nodestate.DefaultInventoryPath, nodestate.Inventory{NodeName: "node", BootID: boot, Devices: []nodestate.Device{d}}))
}

func (c *cluster) conflist(version string, plugins ...map[string]any) {
	c.t.Helper()
	data, err := json.Marshal(map[string]any{"cniVersion": version, "name": "dataplane", "plugins": plugins})
	must(c.t, err)
	must(c.t, os.MkdirAll(c.netconf, 0o755))
	must(c.t, os.WriteFile(filepath.Join(c.netconf, "10-dataplane.conflist"), data, 0o644))
}

func (c *cluster) multiENI() map[string]any {
	return map[string]any{
		"type": "multi-eni", "sysfs": c.node.Sysfs, "select": map[string]any{"nodeENI": "dataplane-a"},
		"ipam": map[string]any{"type": "host-local", "ranges": []any{
			[]any{map[string]any{"subnet": "10.0.2.0/24", "rangeStart": "10.0.2.50"}}, []any{map[string]any{"subnet": "fd00:2::/64", "rangeStart": "fd00:2::50"}},
		}, "routes": []any{map[string]any{"dst": "10.50.0.0/16", "gw": "10.0.2.1"}}},
	}
}

func (c *cluster) pod(name string) string {
	c.t.Helper()
	path := "/run/netns/" + name
	must(c.t, nstest.NewNetns(path))
	return path
}

func (c *cluster) tool(verb, netns string, env ...string) *exec.Cmd {
	cmd := exec.CommandContext(c.t.Context(), binary(c.t, "tools/cnitool"), verb, "dataplane", netns)
	cmd.Env = []string{
		"CNI_PATH=" + filepath.Dir(binary(c.t, "multi-eni")) + ":" + filepath.Dir(binary(c.t, "cni/host-local")),
		"NETCONFPATH=" + c.netconf, "CNI_IFNAME=net1", "CNI_ARGS=" + c.args, "PATH=" + os.Getenv("PATH"),
	}
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

func (c *cluster) cnitool(verb, netns string, env ...string) (string, error) {
	out, err := c.tool(verb, netns, env...).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		out = append(out, failed.Stderr...)
	}
	return strings.TrimSpace(string(out)), err
}

// stderrOf is a verb's standard error, which is the plugin's.
func (c *cluster) stderrOf(verb, netns string) (string, error) {
	cmd := c.tool(verb, netns)
	var said strings.Builder
	cmd.Stderr = &said
	err := cmd.Run()
	return said.String(), err
}

func (c *cluster) mustTool(verb, netns string) string {
	c.t.Helper()
	out, err := c.cnitool(verb, netns)
	if err != nil {
		c.t.Fatalf("cnitool %s: %v\n%s", verb, err, out)
	}
	return out
}

func (c *cluster) reach(netns, from, addr string) error {
	return nstest.Reach(c.t.Context(), netns, netip.MustParsePrefix(from).Addr(), c.node.VPC, netip.MustParseAddr(addr))
}

// TestConflist runs the life of a pod under every CNI version, with the plugins that people chain after multi-eni.
func TestConflist(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	c := newCluster(t)
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		c.conflist(version, c.multiENI(),
			map[string]any{"type": "tuning", "sysctl": map[string]any{"net.ipv4.conf.net1.log_martians": "1"}},
			map[string]any{"type": "sbr"},
			map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}})
		netns := c.pod("pod-" + version)
		out := c.mustTool("add", netns)
		var result struct {
			CNIVersion string
			Interfaces []struct{ Name, Mac, PciID string }
			IPs        []struct{ Address string }
		}
		if err := json.Unmarshal([]byte(out), &result); err != nil {
			t.Fatalf("%s: result %s: %v", version, out, err)
		}
		if result.CNIVersion != version || len(result.Interfaces) == 0 || result.Interfaces[0].Mac != eni.MAC || len(result.IPs) != 2 {
			t.Errorf("%s: result = %s", version, out)
		}
		if version == "1.1.0" && result.Interfaces[0].PciID != eni.PCI {
			t.Errorf("%s: pciID = %q", version, result.Interfaces[0].PciID)
		}
		must(t, c.reach(netns, result.IPs[0].Address, "10.0.2.1"))
		must(t, c.reach(netns, result.IPs[1].Address, "fd00:2::1"))
		if version != "0.3.1" {
			c.mustTool("check", netns)
		}
		other := c.pod("other-" + version)
		c.args = strings.Replace(c.args, "=cart", "=till", 1)
		if out, err := c.cnitool("add", other); err == nil || !strings.Contains(out, "held by pod shop/cart") {
			t.Errorf("%s: second pod: %v, %s; want a refusal that names the holder", version, err, out)
		}
		c.mustTool("del", other)
		c.args = strings.Replace(c.args, "=till", "=cart", 1)
		if version == "1.1.0" {
			c.mustTool("status", netns)
			c.mustTool("gc", netns)
		}
		c.mustTool("del", netns)
		c.mustTool("del", netns)
	}
	left, err := os.ReadDir(nodestate.DefaultAttachmentsDir)
	must(t, err)
	for _, e := range left {
		if !e.IsDir() {
			t.Errorf("left in %s: %s", nodestate.DefaultAttachmentsDir, e.Name())
		}
	}
}

func TestVersionAndAbout(t *testing.T) {
	run := func(env ...string) string {
		cmd := exec.CommandContext(t.Context(), binary(t, "multi-eni"))
		cmd.Env = append([]string{}, env...) // nil would be the environment of the test
		out, err := cmd.CombinedOutput()
		must(t, err)
		return string(out)
	}
	if out := run("CNI_COMMAND=VERSION"); !strings.Contains(out, `"0.3.1"`) || !strings.Contains(out, `"1.1.0"`) || !strings.Contains(out, `"0.1.0"`) {
		t.Errorf("VERSION = %s", out)
	}
	commit := "[0-9a-f]{40}( [(]modified[)])?"
	repo, err := nstest.Repo()
	must(t, err)
	if _, err := os.Stat(filepath.Join(repo, ".git")); err != nil {
		commit = "unknown" // built from an archive
	}
	if out := run(); !strings.HasPrefix(out, "CNI multi-eni plugin ") || !regexp.MustCompile("\nCommit: "+commit+"\n$").MatchString(out) {
		t.Errorf("about = %s", out)
	}
}

func TestPolicyOfTheNode(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	c := newCluster(t)
	must(t, unix.Mount("tmpfs", "/etc", "tmpfs", 0, "mode=0755"))
	bin := filepath.Join(c.node.Dir, "bin")
	must(t, os.MkdirAll(bin, 0o755))
	must(t, os.Symlink(binary(t, "cni/host-local"), filepath.Join(bin, "host-local")))
	policy, err := json.Marshal(map[string]any{
		"schemaVersion": 1, "binDir": bin, "delegates": []string{"ipvlan"}, "ipam": []string{"host-local"},
		"dataDir": nodestate.DefaultAttachmentsDir, "inventory": nodestate.DefaultInventoryPath, "sysfs": c.node.Sysfs, "logFile": "",
	})
	must(t, err)
	must(t, os.MkdirAll("/etc/multi-eni", 0o755))
	must(t, os.WriteFile("/etc/multi-eni/policy.json", policy, 0o644))
	netns := c.pod("pod")
	conf := c.multiENI()
	c.conflist("1.1.0", conf)
	if out, err := c.cnitool("add", netns); err == nil || !strings.Contains(out, "policy forbids sysfs") {
		t.Errorf("a path key under a policy: %v, %s", err, out)
	}
	delete(conf, "sysfs")
	c.conflist("1.1.0", conf)
	c.mustTool("add", netns)
	c.mustTool("del", netns)
}
