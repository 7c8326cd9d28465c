package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/doctor"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// doctor runs multi-enid doctor with the daemon's flags. The output has the machine's folder
// as /node.
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

// TestDoctorOfAFolder goes from a fresh machine to a healthy one, with NodeENIs from a folder
// and without a cluster.
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
