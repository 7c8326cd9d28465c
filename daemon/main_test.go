package main

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
)

func call(ctx context.Context, env map[string]string, args ...string) (code int, stdout, stderr string) {
	var out, errOut lockedBuffer
	p := program{stdout: &out, stderr: &errOut, getenv: func(k string) string { return env[k] }}
	code = p.main(ctx, args)
	return code, out.String(), errOut.String()
}

// lockedBuffer may be read while the program still writes.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// TestUsage: a mistake in the call ends with 2 and names flag, value and way out.
func TestUsage(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want []string
	}{
		{"nothing", nil, []string{"no command", "completion, controller, doctor, install, kubectl, run, status, uninstall, version", "Try 'multi-enid --help'."}},
		{"unknown command", []string{"statsu"}, []string{`"statsu"`, "did you mean status?", "Try 'multi-enid --help'."}},
		{"swapped letters", []string{"stauts"}, []string{`"stauts"`, "did you mean status?"}},
		{"no command at all", []string{"frobnicate"}, []string{`unknown command "frobnicate"` + "\n"}},
		{"unknown flag", []string{"run", "--node"}, []string{"unknown flag: --node; did you mean --node-name or --nodeeni-source?", "Try 'multi-enid run --help'."}},
		{"misspelt flag", []string{"doctor", "--kubconfig=x"}, []string{"unknown flag: --kubconfig; did you mean --kubeconfig?", "Try 'multi-enid doctor --help'."}},
		{"unknown shell", []string{"completion", "zhs"}, []string{`"zhs"`, "did you mean zsh?", "Try 'multi-enid completion --help'."}},
		{"argument", []string{"status", "json"}, []string{`"json"`, "only flags", "Try 'multi-enid status --help'."}},
		{"no source", []string{"run"}, []string{"--nodeeni-source", "kube", "dir:PATH"}},
		{"source without a path", []string{"run", "--nodeeni-source=dir:"}, []string{`"dir:"`, "dir:PATH"}},
		{"cluster without a node name", []string{"run", "--nodeeni-source=kube"}, []string{"node name", "--node-name", "NODE_NAME"}},
		{"cluster with a bad node name", []string{"run", "--nodeeni-source=kube", "--node-name=A_b"}, []string{`"A_b"`}},
		{"attachments from elsewhere", []string{"run", "--nodeeni-source=kube", "--node-name=a", "--attachments-from=ec2"},
			[]string{`--attachments-from "ec2"`, "status, imds or controller"}},
		{"attachments of manifests", []string{"run", "--nodeeni-source=dir:/x", "--attachments-from=imds"}, []string{"--attachments-from", "--nodeeni-source=kube"}},
		{"relative sysfs", []string{"run", "--nodeeni-source=dir:/x", "--sysfs=sys"}, []string{`--sysfs "sys"`, "absolute"}},
		{"no grace", []string{"run", "--nodeeni-source=dir:/x", "--orphan-grace=0s"}, []string{"--orphan-grace 0s", "60s"}},
		{"restart without a cluster", []string{"run", "--nodeeni-source=dir:/x", "--restart=pods"}, []string{`--restart "pods"`, "--nodeeni-source=kube", "none"}},
		{"startup taint without a cluster", []string{"run", "--nodeeni-source=dir:/x", "--startup-taint"}, []string{"--startup-taint", "--nodeeni-source=kube"}},
		{"unknown restart", []string{"run", "--nodeeni-source=dir:/x", "--restart=all"}, []string{`--restart "all"`, "want pods or none"}},
		{"log level", []string{"run", "--nodeeni-source=dir:/x", "--log-level=loud"}, []string{`--log-level "loud"`, "info"}},
		{"log format", []string{"run", "--nodeeni-source=dir:/x", "--log-format=xml"}, []string{`--log-format "xml"`, "text or json"}},
		{"empty path", []string{"run", "--nodeeni-source=dir:/x", "--inventory="}, []string{"--inventory", "want a path"}},
		{"all at once", []string{"run", "--restart=all", "--log-level=loud"}, []string{"--nodeeni-source", "--restart", "--log-level"}},
		{"output", []string{"status", "-o", "xml"}, []string{`"xml"`, "table, wide, json or yaml"}},
		{"doctor's output", []string{"doctor", "--nodeeni-source=dir:/x", "-o", "table"}, []string{`"table"`, "text or json"}},
		{"doctor without a source", []string{"doctor"}, []string{"--nodeeni-source", "dir:PATH"}},
		{"controller's faults", []string{"controller", "--leak-sweep=all", "--ec2-qps=0", "--listen=x"},
			[]string{"--namespace", "--leak-sweep", "--ec2-qps", "--listen", "Try 'multi-enid controller --help'."}},
		{"controller's doctor", []string{"doctor", "--controller"}, []string{"--namespace", "POD_NAMESPACE"}},
		{"controller's doctor's output", []string{"doctor", "--controller", "-o", "table"}, []string{`"table"`, "text or json"}},
		{"install nowhere", []string{"install"}, []string{"--to", "/opt/cni/bin"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := call(t.Context(), nil, tt.args...)
			if code != cli.Usage || stdout != "" {
				t.Errorf("exit code %d with output %q, want %d and none", code, stdout, cli.Usage)
			}
			for _, w := range tt.want {
				if !strings.Contains(stderr, w) {
					t.Errorf("message lacks %q:\n%s", w, stderr)
				}
			}
		})
	}
}

func TestVersionCommand(t *testing.T) {
	code, stdout, stderr := call(t.Context(), nil, "version")
	if code != 0 || stderr != "" || !strings.HasPrefix(stdout, "multi-enid "+version+"\n") || !strings.Contains(stdout, "go1.") {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
