package main

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/doctor"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestDoctorAsksTheDaemon for all flags that were not given.
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

// TestDoctorBesideAnotherVersion: one daemon does not tell its flags, another has flags
// that this version lacks.
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
