package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
)

// plugin answers as a CNI plugin does to install.
func plugin(version string) string {
	return `#!/bin/sh
if [ "$CNI_COMMAND" = VERSION ]; then echo '{"cniVersion":"1.1.0","supportedVersions":["1.1.0"]}'; exit; fi
echo "CNI multi-eni plugin ` + version + `" >&2
`
}

type installation struct {
	*testing.T
	from, to, policy string
}

func newInstallation(t *testing.T) installation {
	t.Helper()
	dir := t.TempDir()
	i := installation{t, filepath.Join(dir, "from"), filepath.Join(dir, "opt", "cni", "bin"), filepath.Join(dir, "etc", "policy.json")}
	for _, dir := range []string{i.from, i.to} {
		must(t, os.MkdirAll(dir, 0o755))
	}
	i.provide(plugin("v1"))
	return i
}

func (i installation) provide(content string) {
	i.Helper()
	must(i, os.WriteFile(filepath.Join(i.from, "multi-eni"), []byte(content), 0o755))
}

func (i installation) install(args ...string) (code int, stdout, stderr string) {
	return call(i.Context(), nil, append([]string{"install", "--from", i.from, "--to", i.to, "--policy", i.policy}, args...)...)
}

// want installs, and checks the output and the target folder.
func (i installation) want(said, content string) {
	i.Helper()
	code, stdout, stderr := i.install()
	if code != 0 || stderr != "" || !strings.Contains(stdout, said) {
		i.Errorf("exit code %d, %q, %q; want %q", code, stdout, stderr, said)
	}
	i.holds(content)
}

func (i installation) holds(content string) {
	i.Helper()
	got, err := os.ReadFile(filepath.Join(i.to, "multi-eni"))
	if err != nil || string(got) != content {
		i.Errorf("target holds %q, %v", got, err)
	}
	entries, err := os.ReadDir(i.to)
	if err != nil || len(entries) != 1 {
		i.Errorf("target folder has %v, %v; want the plugin only", entries, err)
	}
}

func TestInstall(t *testing.T) {
	i := newInstallation(t)
	i.want("installed, none → v1", plugin("v1"))
	i.want("already installed, v1", plugin("v1"))
	i.provide(plugin("v2"))
	i.want("installed, v1 → v2", plugin("v2"))
	target := filepath.Join(i.to, "multi-eni")
	must(t, os.Chmod(target, 0o600))
	i.want("→ v2", plugin("v2"))
	if info, err := os.Stat(target); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, %v; want 0755", info.Mode(), err)
	}
}

func TestInstallReplacesWhatIsNoPlugin(t *testing.T) {
	i := newInstallation(t)
	must(t, os.MkdirAll(i.to, 0o755))
	must(t, os.WriteFile(filepath.Join(i.to, "multi-eni"), []byte("half a bin"), 0o755))
	i.want("installed, an unknown version → v1", plugin("v1"))
}

func TestInstallRefusesWhatDoesNotRun(t *testing.T) {
	for name, content := range map[string]string{
		"not a program": "\x7fELF and no more",
		"fails":         "#!/bin/sh\necho no such library >&2\nexit 1\n",
		"says nothing":  "#!/bin/sh\n",
		"no versions":   "#!/bin/sh\necho '{}'\n",
	} {
		t.Run(name, func(t *testing.T) {
			i := newInstallation(t)
			i.want("installed", plugin("v1"))
			i.provide(content)
			code, _, stderr := i.install()
			if code != cli.Failure || !strings.Contains(stderr, "the old one stays") {
				t.Errorf("exit code %d: %s", code, stderr)
			}
			i.holds(plugin("v1"))
		})
	}
}

func TestInstallOverARunningPlugin(t *testing.T) {
	sleeper, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip(err)
	}
	i := newInstallation(t)
	content, err := os.ReadFile(sleeper) // a program, not a script: its text would be busy
	must(t, err)
	must(t, os.MkdirAll(i.to, 0o755))
	target := filepath.Join(i.to, "multi-eni")
	must(t, os.WriteFile(target, content, 0o755))
	running := exec.CommandContext(t.Context(), target, "600")
	must(t, running.Start())
	i.want("→ v1", plugin("v1"))
	if err := running.Process.Signal(os.Interrupt); err != nil {
		t.Errorf("the running plugin ended: %v", err)
	}
	var exit *exec.ExitError
	if err := running.Wait(); !errors.As(err, &exit) {
		t.Errorf("the running plugin ended: %v", err)
	}
}

func TestInstallErrors(t *testing.T) {
	tests := []struct {
		name    string
		arrange func(i *installation) error
		want    []string
	}{
		{"nothing to install", func(i *installation) error { return os.Remove(filepath.Join(i.from, "multi-eni")) }, []string{"install multi-eni", "from/multi-eni"}},
		{"target is below a file", func(i *installation) error { i.to = filepath.Join(i.from, "multi-eni", "bin"); return nil },
			[]string{"make folder of plugins", "not a directory"}},
		{"target is a folder", func(i *installation) error { return os.MkdirAll(filepath.Join(i.to, "multi-eni"), 0o755) },
			[]string{"install multi-eni", "read the old one"}},
		{"target is a device", func(i *installation) error { i.to = "/dev/full"; return nil }, []string{"make folder of plugins", "/dev/full"}},
		{"policy is below a file", func(i *installation) error { i.policy = filepath.Join(i.from, "multi-eni", "policy.json"); return nil }, []string{"policy"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i := newInstallation(t)
			must(t, tt.arrange(&i))
			code, _, stderr := i.install()
			if code != cli.Failure {
				t.Errorf("exit code %d", code)
			}
			for _, w := range tt.want {
				if !strings.Contains(stderr, w) {
					t.Errorf("message lacks %q: %s", w, stderr)
				}
			}
		})
	}
}

func TestInstallPolicy(t *testing.T) {
	i := newInstallation(t)
	i.want(i.policy+": written", plugin("v1"))
	data, err := os.ReadFile(i.policy)
	must(t, err)
	var got map[string]any
	must(t, json.Unmarshal(data, &got))
	want := map[string]any{
		"schemaVersion": 1.0, "binDir": i.to, "dataDir": "/var/lib/cni/multi-eni", "inventory": "/run/multi-eni/inventory.json",
		"sysfs": "/sys", "logFile": "", "delegates": []any{"ipvlan", "macvlan", "vlan", "host-device", "sriov"},
		"ipam":       []any{"host-local", "static", "dhcp", "whereabouts", "eni-ipam"},
		"restricted": map[string]any{"sriov": map[string]any{"trust": []any{"off"}, "spoofchk": []any{"on"}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(i.policy); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v, %v; want 0644", info.Mode(), err)
	}
	own := []byte("{\"mine\": true}\n")
	must(t, os.WriteFile(i.policy, own, 0o600))
	i.want(i.policy+": kept as it is", plugin("v1"))
	if data, err = os.ReadFile(i.policy); err != nil || !bytes.Equal(data, own) {
		t.Errorf("policy is %q, %v", data, err)
	}
	must(t, os.Remove(i.policy))
	if code, _, stderr := i.install("--policy="); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if _, err := os.Stat(i.policy); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a policy was written: %v", err)
	}
}

// keeper is an install --keep that runs.
type keeper struct {
	*testing.T
	out, errOut lockedBuffer
	end         func() (code int)
}

func (i installation) keep() *keeper {
	ctx, cancel := context.WithCancel(i.Context())
	k, ended := &keeper{T: i.T}, make(chan int, 1)
	p := program{stdout: &k.out, stderr: &k.errOut, getenv: func(string) string { return "" }}
	go func() {
		ended <- p.main(ctx, []string{"install", "--keep", "--from", i.from, "--to", i.to, "--policy", i.policy})
	}()
	k.end = func() int { cancel(); return <-ended }
	return k
}

// said waits until the output has the text n times.
func (k *keeper) said(n int, what string) {
	k.Helper()
	for deadline := time.Now().Add(40 * time.Second); strings.Count(k.out.String(), what) != n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			k.Fatalf("want %q %d times in %q; errors %q", what, n, k.out.String(), k.errOut.String())
		}
	}
}

// TestInstallKeep: a changed or removed file comes back until the end, which removes nothing.
func TestInstallKeep(t *testing.T) {
	i := newInstallation(t)
	k := i.keep()
	out, errOut, said := &k.out, &k.errOut, k.said
	target := filepath.Join(i.to, "multi-eni")
	said(1, target+": installed, none → v1")
	said(1, i.policy+": written")
	if code, _, stderr := i.install(); code != cli.Failure || !strings.Contains(stderr, "another install") {
		t.Errorf("a second install: exit code %d: %s", code, stderr)
	}
	must(t, os.WriteFile(target, []byte("half a bin"), 0o755))
	said(1, target+": installed, an unknown version → v1")
	i.holds(plugin("v1"))
	for _, path := range []string{target, i.policy} {
		must(t, os.Remove(path))
	}
	said(2, i.policy+": written")
	said(2, target+": installed, none → v1")
	busy := time.Now()
	for ; strings.Count(out.String(), "an unknown version → v1") < 2 && time.Since(busy) < 20*time.Second; time.Sleep(100 * time.Millisecond) {
		must(t, os.WriteFile(target, []byte("again and again"), 0o755))
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) { // the last write may have come after the look
		if data, err := os.ReadFile(target); err == nil && string(data) == plugin("v1") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("what is changed again and again is not put back: %q", out.String())
		}
	}
	if err := os.WriteFile(filepath.Join(i.to, "other"), nil, 0o755); err != nil { // no business of ours
		t.Fatal(err)
	}
	if code := k.end(); code != 0 || errOut.String() != "" {
		t.Errorf("exit code %d, %q", code, errOut.String())
	}
	if got := strings.Count(out.String(), "\n"); got < 6 || got > 7 { // likewise
		t.Errorf("%d lines, want one for each change:\n%s", got, out.String())
	}
	must(t, os.Remove(filepath.Join(i.to, "other")))
	i.want("already installed", plugin("v1"))
}

// TestInstallKeepEnds: a plugin that does not work ends install --keep with an error.
func TestInstallKeepEnds(t *testing.T) {
	i := newInstallation(t)
	i.provide("#!/bin/sh\nexit 1\n")
	if code, _, stderr := i.install("--keep"); code != cli.Failure || !strings.Contains(stderr, "the old one stays") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// TestInstallIntoNothing: a misspelt folder is not made, unless --mkdir says so.
func TestInstallIntoNothing(t *testing.T) {
	i := newInstallation(t)
	i.to = filepath.Join(i.to, "bni")
	code, _, stderr := i.install()
	if code != cli.Usage || !strings.Contains(stderr, i.to) || !strings.Contains(stderr, "--mkdir") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	for _, path := range []string{i.to, i.policy} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was made: %v", path, err)
		}
	}
	if code, _, stderr := i.install("--mkdir"); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if _, err := os.Stat(filepath.Join(i.to, "multi-eni")); err != nil {
		t.Error(err)
	}
}
