package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/doctor"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// doctor runs multi-enid doctor with the daemon's flags. The output has the machine's folder as /node.
func (m *machine) doctor(more ...string) (code int, stdout, stderr string) {
	m.Helper()
	args := append([]string{"doctor", "--policy=" + m.path("policy.json"), "--cni-bin-dir=" + m.path("bin")}, m.args()[1:]...)
	code, stdout, stderr = call(m.Context(), nil, append(args, more...)...)
	return code, strings.ReplaceAll(stdout, m.node.Dir, "/node"), stderr
}

func wantLine(t *testing.T, report, line string) {
	t.Helper()
	if !strings.Contains("\n"+report, "\n"+line) {
		t.Errorf("report lacks %q:\n%s", line, report)
	}
}

// TestDoctorOfAFolder goes from a fresh machine to a healthy one, with NodeENIs from a folder and without a cluster.
func TestDoctorOfAFolder(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMachine(t, 1)
	code, report, stderr := m.doctor()
	if code != cli.Failure || !strings.Contains(stderr, "1 of ") {
		t.Errorf("exit code %d, %q; want %d and one check failed\n%s", code, stderr, cli.Failure, report)
	}
	for _, line := range []string{
		"ok    node name: node-a",
		"ok    Kubernetes API: not asked, nor RBAC and CRDs, since NodeENIs come from dir:",
		"ok    instance metadata: token granted, ENIs readable: 2",
		"warn  inventory: there is no folder /node/run; ",
		`FAIL  CNI plugin: plugin "/node/bin/multi-eni": no such file or directory; run: multi-enid install --to /node/bin`,
		"warn  policy: /node/policy.json is not there",
		"warn  daemon: multi-enid is not running here",
	} {
		wantLine(t, report, line)
	}

	plugin, err := nstest.Binary("multi-eni")
	must(m, err)
	if code, _, stderr := call(t.Context(), nil, "install", "--mkdir", "--to="+m.path("bin"), "--from="+filepath.Dir(plugin),
		"--policy="+m.path("policy.json")); code != 0 {
		t.Fatal(stderr)
	}
	_, report, _ = m.doctor()
	wantLine(t, report, `FAIL  policy: dataDir of /node/policy.json is "`+nodestate.DefaultAttachmentsDir+`", --attachments-dir is "/node/records"`)
	wantLine(t, report, `FAIL  policy: inventory of /node/policy.json is "`+nodestate.DefaultInventoryPath+`", --inventory is "/node/run/inventory.json"`)
	data, err := json.Marshal(nodestate.Policy{SchemaVersion: 1, BinDir: m.path("bin"), DataDir: m.path("records"), LeaseDir: m.path("leases"),
		Inventory: m.path("run/inventory.json")})
	must(m, err)
	must(m, os.WriteFile(m.path("policy.json"), data, 0o600))

	m.declare("fast", 1, "dpdkResourceName: intel.com/fast")
	m.start()
	m.until("fast ready")
	m.pools("intel.com/fast", "0000:00:06.0")
	code, report, stderr = m.doctor()
	if code != 0 || stderr != "" || strings.Contains(report, "FAIL") {
		t.Errorf("exit code %d, %q\n%s", code, stderr, report)
	}
	for _, line := range []string{
		"ok    drivers: no NodeENI of this node wants a userspace driver",
		"ok    device plugin config: /node/pcidp/config.json is a plain file in a writable folder",
		"ok    inventory: devices: 1 ready, 0 pending, 0 draining; no problems",
		"ok    state folder: /node/state has mode 0700",
		"ok    sysfs: /node/sys, PCI functions: 2",
		"ok    host network: /node/sys does not show which network managers run",
		`ok    host network: files that would keep network managers off the other ENIs: for systemd-networkd write /etc/systemd/network/05-multi-eni.network: ` +
			`'[Match]\nDriver=ena\nProperty=!INTERFACE=eth0\n`,
		"ok    CNI plugin: /node/bin/multi-eni: ",
		"ok    policy: /node/policy.json is valid and agrees with the daemon's paths",
	} {
		wantLine(t, report, line)
	}
	m.end()

	m.declare("dpdk", 1, "enableDPDK: true")
	code, report, _ = m.doctor("-o", "json")
	var parsed struct{ Findings []doctor.Finding }
	if err := json.Unmarshal([]byte(report), &parsed); err != nil {
		t.Fatalf("%v:\n%s", err, report)
	}
	var failed []string
	for _, f := range parsed.Findings {
		if f.Level == doctor.Fail {
			failed = append(failed, f.String())
		}
	}
	// This machine has neither the driver nor, by its sysfs, an IOMMU.
	if len(failed) != 2 || code != cli.Failure ||
		!strings.HasPrefix(failed[0], "FAIL  drivers: vfio-pci is not loaded, which NodeENI dpdk wants; run: modprobe vfio-pci") ||
		!strings.HasPrefix(failed[1], "FAIL  IOMMU: there is none") {
		t.Errorf("exit code %d, failed %q; want %d and driver and IOMMU\n%s", code, failed, cli.Failure, report)
	}
}

func TestDoctorAsksTheDaemon(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	m := newMachine(t, 1)
	doctor := func(more ...string) (code int, report string) {
		t.Helper()
		code, stdout, stderr := call(t.Context(), nil, append([]string{"doctor", "--inventory=" + m.path("run/inventory.json")}, more...)...)
		return code, strings.ReplaceAll(stdout, m.node.Dir, "/node") + stderr
	}
	if code, report := doctor(); code != cli.Usage || !strings.Contains(report, "no multi-enid answers at /node/run/multi-enid.sock") &&
		!strings.Contains(report, "no multi-enid answers at "+m.path("run/multi-enid.sock")) || !strings.Contains(report, "--nodeeni-source=kube") {
		t.Errorf("without a daemon: exit code %d\n%s", code, report)
	}
	m.declare("fast", 1, "dpdkResourceName: intel.com/fast")
	m.start()
	m.until("fast ready")
	_, report := doctor()
	for _, line := range []string{
		"ok    configuration: flags of the running multi-enid " + version + ", NodeENIs from dir:/node/",
		"ok    node name: node-a",
		"ok    attachment records: /node/records",
		"ok    state folder: /node/state has mode 0700",
		"ok    sysfs: /node/sys, PCI functions: 2",
	} {
		wantLine(t, report, line)
	}
	_, report = doctor("--state-dir=" + t.TempDir())
	if strings.Contains(report, "state folder: /node/state") {
		t.Errorf("a flag that was given does not win:\n%s", report)
	}
	m.end()
}

// TestDoctorBesideAnotherVersion: one daemon does not tell its flags, another has flags that this version lacks.
func TestDoctorBesideAnotherVersion(t *testing.T) {
	inCluster := map[string]string{"KUBERNETES_SERVICE_HOST": "10.0.0.1", "NODE_NAME": "node-a"}
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		env    map[string]string
		want   string
	}{
		"older": {http.NotFound, nil, "of a version that does not tell its flags: give the flags of multi-enid run"},
		"older, in its pod": {http.NotFound, inCluster,
			"warn  configuration: the running multi-enid is of a version that does not tell its flags, so that flags that were not given have their defaults"},
		"newer": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"version":"v99","flags":{"nodeeni-source":"dir:/none","warp":"9","orphan-grace":"forever","node-name":"node-a"}}`)
		}, nil, "warn  configuration: multi-enid v99 runs here, and this is " + version + ", which does not know its --orphan-grace, --warp"},
		"garbled": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{") }, nil, "--nodeeni-source=kube"},
	} {
		t.Run(name, func(t *testing.T) {
			inventory := filepath.Join(t.TempDir(), "inventory.json")
			l, err := net.Listen("unix", filepath.Join(filepath.Dir(inventory), status.SocketName))
			must(t, err)
			srv := &http.Server{Handler: tt.answer}
			go srv.Serve(l) //nolint:errcheck // it ends with Close
			defer srv.Close()
			var c nodeFlags
			p := program{getenv: func(k string) string { return tt.env[k] }}
			f := pflag.NewFlagSet("doctor", pflag.ContinueOnError)
			c.add(f, p)
			must(t, f.Set("inventory", inventory))
			got, err := doctor.Configure(t.Context(), f, version, p.getenv("KUBERNETES_SERVICE_HOST") != "")
			text := got.String()
			if err != nil {
				text = err.Error()
			}
			if !strings.Contains(text, tt.want) {
				t.Errorf("%q, want %q", text, tt.want)
			}
		})
	}
}

// TestFlagsGoRound: the values that a daemon tells can be given again.
func TestFlagsGoRound(t *testing.T) {
	p := program{getenv: func(string) string { return "" }}
	set := func(args ...string) map[string]string {
		t.Helper()
		cmd := p.runCommand(t.Context())
		must(t, cmd.ParseFlags(args))
		return cli.Values(cmd.Flags())
	}
	values := set("--nodeeni-source=dir:/a b", `--dp-selectors=app=x,"app in (a,b)"`, "--orphan-grace=3m", "--startup-taint", "--manage-addresses",
		"--podresources-socket=")
	var args []string
	for name, value := range values {
		args = append(args, "--"+name+"="+value)
	}
	again := set(args...)
	for name, value := range values {
		if again[name] != value {
			t.Errorf("--%s is %q, then %q", name, value, again[name])
		}
	}
	if len(values) < 30 || values["dp-selectors"] != `app=x,"app in (a,b)"` {
		t.Errorf("%d flags: %v", len(values), values)
	}
	if _, given := set()["podresources-socket"]; given {
		t.Error("a default that depends on other flags is told as a value")
	}
}
