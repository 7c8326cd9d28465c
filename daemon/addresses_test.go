package main

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// share runs a verb of the built plugin for a pod that shares an ENI, and returns its output. The pod's netns exists.
func (m *machine) share(verb, nodeENI, container string) string {
	m.Helper()
	plugin, err := nstest.Binary("multi-eni")
	must(m, err)
	macvlan, err := nstest.Binary("cni/macvlan")
	must(m, err)
	conf, err := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "name": "shared", "type": "multi-eni", "select": map[string]any{"nodeENI": nodeENI},
		"delegate": map[string]any{"type": "macvlan", "mode": "passthru"},
		"ipam":     map[string]any{"type": "eni-ipam", "dataDir": m.path("leases")},
		"dataDir":  m.path("records"), "inventory": m.path("run/inventory.json"), "sysfs": m.node.Sysfs,
	})
	must(m, err)
	cmd := exec.CommandContext(m.Context(), plugin)
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+container, "CNI_NETNS=/run/netns/"+container, "CNI_IFNAME=net1",
		"CNI_PATH="+filepath.Dir(macvlan))
	cmd.Stdin = strings.NewReader(string(conf))
	out, _ := cmd.CombinedOutput() // an error is in the output
	return string(out)
}

// TestManageAddresses: the daemon has an address assigned when a pod finds none on the ENI that it shares. The pod's next attempt gets it.
func TestManageAddresses(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMachine(t, 1)
	e := imdsOf(1)
	ec2 := fakeec2.Start(t, fakeec2.Config{
		DryRun: true, Subnets: []fakeec2.Subnet{{ID: e.SubnetID, IPv4: netip.MustParsePrefix(e.SubnetIPv4CIDR)}},
		ENIs: []fakeec2.ENI{{
			ID: e.ID, MAC: e.MAC, SubnetID: e.SubnetID, Instance: "i-0a1b2c3d4e5f60718", DeviceIndex: 1,
			Tags: map[string]string{vpc.NodeENITag: "shared"}, IPv4: []netip.Addr{netip.MustParseAddr(e.IPv4s[0])},
		}},
	})
	t.Setenv("AWS_REGION", "eu-central-1")
	m.declare("shared", 1)
	m.start("--manage-addresses", "--addresses-low=2", "--addresses-high=4")
	m.until("shared ready")

	must(m, nstest.NewNetns("/run/netns/c1"))
	run := func(verb string) string { return m.share(verb, "shared", "c1") }
	if out := run("ADD"); !strings.Contains(out, `"code": 11`) || !strings.Contains(out, "has no ipv4 address for pods") {
		t.Errorf("ADD before there is an address: %s", out)
	}
	begin := time.Now()
	var out string
	for out = run("ADD"); !strings.Contains(out, "10.0.1.4/24"); out = run("ADD") {
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("no address: %s\n%s", out, m.stderr.String())
		}
		<-time.After(20 * time.Millisecond)
	}
	t.Logf("the pod's second attempt could succeed after %v", time.Since(begin).Round(time.Millisecond))
	if got := ec2.ENI(e.ID).IPv4; len(got) != 4 {
		t.Errorf("EC2 has assigned %v, want three more than the primary one", got)
	}
	if calls := ec2.Calls(); slices.Contains(calls, "UnassignPrivateIpAddresses "+e.ID) || slices.Index(calls, "AssignPrivateIpAddresses "+e.ID) < 0 ||
		len(calls) > 3 {
		t.Errorf("calls: %q", calls)
	}
	_, stdout, _ := call(t.Context(), nil, "status", "--inventory", m.path("run/inventory.json"), "--attachments-dir", m.path("records"), "--lease-dir",
		m.path("leases"))
	if !strings.Contains(stdout, e.ID+"  ipv4    2     1       0        0") {
		t.Errorf("status:\n%s", stdout)
	}
	code, report, _ := m.doctor("--manage-addresses=")
	wantLine(t, report, "ok    EC2: not asked, since nobody manages addresses")
	if calls := ec2.Calls(); calls != nil {
		t.Errorf("doctor without the flag has asked EC2: %q", calls)
	}
	before := ec2.ENI(e.ID)
	_, report, _ = m.doctor("--manage-addresses")
	wantLine(t, report, "ok    EC2 tags: ENIs with the name of their NodeENI: 1")
	wantLine(t, report, "ok    EC2 rights: AssignPrivateIpAddresses, UnassignPrivateIpAddresses, AssignIpv6Addresses, UnassignIpv6Addresses allowed on "+e.ID)
	if diff := cmp.Diff(before, ec2.ENI(e.ID), cmpopts.EquateComparable(netip.Addr{})); diff != "" || code == cli.Usage {
		t.Errorf("exit code %d; doctor has changed the ENI (-want +got):\n%s", code, diff)
	}
	run("DEL")
	if held, err := leases.Dir(m.path("leases")).Held(); err != nil || len(held) != 0 {
		t.Errorf("held: %v, %v", held, err)
	}
	m.end()
}

// TestNobodyAsksEC2: without --manage-addresses no call is made, however much a pod lacks an address.
func TestNobodyAsksEC2(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMachine(t, 1, 2)
	e := imdsOf(1)
	ec2 := fakeec2.Start(t, fakeec2.Config{
		Subnets: []fakeec2.Subnet{{ID: e.SubnetID, IPv4: netip.MustParsePrefix(e.SubnetIPv4CIDR)}},
		ENIs: []fakeec2.ENI{{
			ID: e.ID, MAC: e.MAC, SubnetID: e.SubnetID, Instance: "i-0a1b2c3d4e5f60718", DeviceIndex: 1,
			Tags: map[string]string{vpc.NodeENITag: "shared"},
		}},
	})
	t.Setenv("AWS_REGION", "eu-central-1")
	m.declare("shared", 1)
	m.start()
	m.until("shared ready")
	must(m, nstest.NewNetns("/run/netns/c1"))
	if out := m.share("ADD", "shared", "c1"); !strings.Contains(out, `"code": 11`) {
		t.Errorf("ADD without an address: %s", out)
	}
	m.declare("other", 2) // has the daemon look at everything once more
	m.until("other ready", "shared ready")
	if calls := ec2.Calls(); calls != nil {
		t.Errorf("calls: %q", calls)
	}
	m.share("DEL", "shared", "c1")
	m.end()
}

// TestLeasedAddressStays: a leased address stays in the inventory while IMDS lacks it, after
// a restart without a checkpoint, and while the leases cannot be read. It goes with the pod.
func TestLeasedAddressStays(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMachine(t, 1)
	e := imdsOf(1)
	e.IPv4s = append(e.IPv4s, "10.0.1.16")
	m.imds.Attach(e)
	m.declare("shared", 1)
	m.start()
	m.until("shared ready")
	must(m, nstest.NewNetns("/run/netns/c1"))
	if out := m.share("ADD", "shared", "c1"); !strings.Contains(out, "10.0.1.16/24") {
		t.Fatalf("ADD: %s", out)
	}
	m.end()
	m.imds.Attach(imdsOf(1))
	must(m, os.RemoveAll(m.path("state")))
	m.start()
	both := []netip.Prefix{netip.MustParsePrefix("10.0.1.15/24"), netip.MustParsePrefix("10.0.1.16/24")}
	until := func(problem string, want []netip.Prefix) {
		t.Helper()
		for begin := time.Now(); ; <-time.After(5 * time.Millisecond) {
			inv, err := nodestate.ReadInventory(m.path("run/inventory.json"))
			must(m, err)
			var reasons []string
			for _, p := range inv.Problems {
				if p.Reason != "OrphansUnwatched" { // this namespace's /run is not shared with others
					reasons = append(reasons, string(p.Reason))
				}
			}
			if len(inv.Devices) == 1 && slices.Equal(inv.Devices[0].Addresses, want) && strings.Join(reasons, " ") == problem {
				return
			}
			if time.Since(begin) > 30*time.Second {
				t.Fatalf("devices %+v, problems %+v; want %v, %s\n%s", inv.Devices, inv.Problems, want, problem, m.stderr.String())
			}
		}
	}
	until("LeasedAddressGone", both)
	boot := thisBoot(m.T)
	file := m.path("leases/" + boot + "/" + e.ID + ".json")
	leases, err := os.ReadFile(file)
	must(m, err)
	must(m, os.WriteFile(file, []byte("{"), 0o600))
	until("LeasesUnreadable", both)
	must(m, os.WriteFile(file, leases, 0o600))
	until("LeasedAddressGone", both)
	m.share("DEL", "shared", "c1")
	until("", both[:1])
	m.end()
}

// TestManageAddressesFlags: a senseless value is refused, and the message names the flag.
func TestManageAddressesFlags(t *testing.T) {
	for _, tt := range []struct{ flag, want string }{
		{"--manage-addresses=all", `--manage-addresses "all": want addresses or prefixes`},
		{"--addresses-low=0", "--addresses-low 0, --addresses-high 12: want"},
		{"--addresses-high=4", "--addresses-low 4, --addresses-high 4: want"},
	} {
		code, _, stderr := call(t.Context(), nil, "run", "--node-name=a", "--nodeeni-source=dir:/nodeenis", tt.flag)
		if code != cli.Usage || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: exit code %d, %q; want %q", tt.flag, code, stderr, tt.want)
		}
	}
}

// TestSourceRouting: an ENI's rules and routes come with its NodeENI and go with it, or with the flag.
func TestSourceRouting(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMachine(t, 1)
	rules := func() (out []string) {
		all, err := netlink.RuleList(netlink.FAMILY_ALL)
		must(m, err)
		for _, r := range all {
			if r.Protocol == routing.SourceProtocol {
				out = append(out, r.Src.String())
			}
		}
		return out
	}
	until := func(what string, want ...string) {
		t.Helper()
		for begin := time.Now(); !slices.Equal(rules(), want); <-time.After(5 * time.Millisecond) {
			if time.Since(begin) > 20*time.Second {
				t.Fatalf("%s: rules from %v, want %v\n%s", what, rules(), want, m.stderr.String())
			}
		}
	}
	m.declare("a", 1)
	m.start("--source-routing")
	m.until("a ready")
	until("ready", "10.0.1.15/32")
	_, report, _ := m.doctor("--source-routing")
	wantLine(t, report, "ok    source routing: rules and routes may be made")
	must(m, os.Remove(m.path("nodeenis/a.yaml")))
	until("removed")
	m.declare("a", 1)
	until("declared again", "10.0.1.15/32")
	m.end()
	until("while the daemon is down", "10.0.1.15/32")
	m.start()
	until("without the flag")
	m.end()
}
