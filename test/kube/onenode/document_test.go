package onenode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

type fence struct {
	line int
	kind string
	// excuse is the reason, from the comment above, why commands are not run.
	excuse string
	text   string
}

var excuseOf = regexp.MustCompile(`^<!-- not run: (.+) -->$`)

// fences returns a document's blocks in order. It refuses a command that is neither run nor excused.
func fences(document string) (all []fence, err error) {
	var open *fence
	before := ""
	var errs []error
	for n, line := range strings.Split(document, "\n") {
		kind, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && open != nil:
			all, open = append(all, *open), nil
		case isFence:
			open = &fence{line: n + 1, kind: kind}
			if m := excuseOf.FindStringSubmatch(before); m != nil {
				open.excuse = m[1]
			}
			if kind != "sh" && (kind != "text" || len(all) == 0 || all[len(all)-1].kind != "sh" || all[len(all)-1].excuse != "") && open.excuse == "" {
				errs = append(errs, fmt.Errorf("line %d: a block of %q is neither commands (sh) that are run, nor their output (text), nor excused", n+1, kind))
			}
		case open != nil:
			open.text += line + "\n"
		case strings.HasPrefix(line, "    ") && before == "":
			errs = append(errs, fmt.Errorf("line %d: an indented block; fence it, so that it is run or excused", n+1))
		}
		before = line
	}
	if open != nil {
		errs = append(errs, fmt.Errorf("line %d: the block has no end", open.line))
	}
	return all, errors.Join(errs...)
}

func TestFences(t *testing.T) {
	const good = "# x\n```sh\nls\n```\n\n```text\na\n```\n<!-- not run: no network -->\n```sh\ncurl x\n```\n"
	got, err := fences(good)
	want := []fence{{2, "sh", "", "ls\n"}, {6, "text", "", "a\n"}, {10, "sh", "no network", "curl x\n"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(fence{})); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for name, bad := range map[string]string{
		"no kind":                    "```\nls\n```\n",
		"another kind":               "```console\n$ ls\n```\n",
		"output of nothing":          "```text\na\n```\n",
		"output of what was not run": "<!-- not run: x -->\n```sh\nls\n```\n```text\na\n```\n",
		"an excuse without a reason": "<!-- not run: -->\n```bash\nls\n```\n",
		"an indented block":          "Do:\n\n    ls\n",
		"no end":                     "```sh\nls\n",
	} {
		if _, err := fences(bad); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// TestRemovalIsAsInstallSays: the quickstart removes the product by the install guide's commands, in order.
func TestRemovalIsAsInstallSays(t *testing.T) {
	repo, err := nstest.Repo()
	cluster.Must(t, err)
	commands := func(document, after string) (all []string) {
		text, err := os.ReadFile(filepath.Join(repo, "docs", document))
		cluster.Must(t, err)
		_, section, found := strings.Cut(string(text), after)
		if !found {
			t.Fatalf("docs/%s has no %q", document, after)
		}
		inside := false
		for line := range strings.Lines(section) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "```") {
				inside = line == "```sh"
			} else if inside {
				all = append(all, line)
			}
		}
		return all
	}
	guide := commands("install.md", "\n## Remove\n")
	quickstart := commands("quickstart.md", "\nThen remove the product")
	if n := len(quickstart) - 1; n < 1 || quickstart[n] != "kubectl label node $NODE ng-" {
		t.Fatalf("the last command of the quickstart is not that of its own label: %q", quickstart)
	}
	if diff := cmp.Diff(guide, quickstart[:len(quickstart)-1]); diff != "" {
		t.Errorf("commands that remove the product (-install.md +quickstart.md):\n%s", diff)
	}
}

type reader struct {
	*stage
	env     []string
	instead map[string]string
	state   string
}

func (s *stage) newReader(programs map[string]string) *reader {
	s.Helper()
	bin := s.path("programs")
	s.must(os.Mkdir(bin, 0o755))
	for name, path := range programs {
		s.must(os.Symlink(path, filepath.Join(bin, name)))
	}
	if _, err := s.kubectl("version"); err != nil { // writes its kubeconfig
		s.Fatal(err)
	}
	return &reader{
		stage: s, state: s.path("variables"), instead: map[string]string{},
		env: []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + s.dir, "KUBECONFIG=" + s.path("kubeconfig")},
	}
}

// follow runs the commands of a document below docs/ and compares their output with the samples.
func (r *reader) follow(document string) {
	r.Helper()
	repo, err := nstest.Repo()
	r.must(err)
	text, err := os.ReadFile(filepath.Join(repo, "docs", document))
	r.must(err)
	all, err := fences(string(text))
	if err != nil {
		r.Fatalf("docs/%s: %v", document, err)
	}
	for old := range r.instead {
		if !strings.Contains(string(text), old) {
			r.Errorf("docs/%s has no %q any more, for which the test has something else", document, old)
		}
	}
	for i, f := range all {
		if f.kind != "sh" || f.excuse != "" {
			continue
		}
		var sample string
		if i+1 < len(all) && all[i+1].kind == "text" {
			sample = all[i+1].text
		}
		from := time.Now()
		r.try(fmt.Sprintf("docs/%s:%d", document, f.line), repo, f, sample)
		r.Logf("docs/%s:%d took %v", document, f.line, time.Since(from).Round(100*time.Millisecond))
	}
}

// look marks a block that only looks; it is repeated until it prints the sample.
var look = regexp.MustCompile(`\A(kubectl (get|describe|logs|exec|-n kube-system (get|exec|logs)) [^\n|;]*\n)+\z`)

// try runs a block, and repeats it if it only looks.
func (r *reader) try(where, repo string, f fence, sample string) {
	r.Helper()
	attempt := func() error {
		out, err := r.sh(repo, f.text)
		if err != nil {
			return fmt.Errorf("%s: %w\n%s%s", where, err, f.text, out)
		}
		if sample == "" {
			return nil
		}
		if diff := cmp.Diff(strings.Split(typical(sample), "\n"), strings.Split(typical(out), "\n")); diff != "" {
			return fmt.Errorf("%s prints something else than the sample (-sample +printed):\n%s\nas it is:\n%s", where, diff, out)
		}
		return nil
	}
	if look.MatchString(f.text) {
		cluster.Eventually(r.T, where, settle, attempt)
		return
	}
	r.must(attempt())
}

// sh runs commands with the variables of earlier ones.
func (r *reader) sh(dir, commands string) (string, error) {
	for old, with := range r.instead {
		commands = strings.ReplaceAll(commands, old, with)
	}
	ctx, cancel := context.WithTimeout(r.Context(), lookAgain)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c",
		fmt.Sprintf("set -a\n[ ! -e %[1]s ] || . %[1]s\n%[2]s\nexport -p >%[1]s\n", r.state, commands))
	cmd.Dir, cmd.Env = dir, r.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// odd maps parts of an output that differ from run to run, or from a veth pair to an ENI, to their placeholders.
var odd = []struct {
	part *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "TIME"},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "HASH"},
	{regexp.MustCompile(`\b[0-9a-f]{16}\b`), "SLOT"},
	{regexp.MustCompile(`\beni-[0-9a-f]{17}\b`), "ENI"},
	{regexp.MustCompile(`\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b`), "MAC"},
	{regexp.MustCompile(`(?m)^\d+: (\w+)(?:@if\d+)?: <[A-Z,_-]+> mtu \d+ qdisc \w+(?: qlen \d+)?`), "N: $1: <FLAGS> mtu N qdisc Q"},
	{regexp.MustCompile(`\b(multi-enid|multi-eni-installer|multi-eni-local|kube-sriov-device-plugin)-[a-z0-9]{5}\b`), "$1-POD"},
	{regexp.MustCompile(`time=[0-9.]+ ms`), "time=T ms"},
	{regexp.MustCompile(`= [0-9.]+/[0-9.]+/[0-9.]+ ms`), "= T/T/T ms"},
	{regexp.MustCompile(`\bmulti-enid (?:v\d|local|dev)?[0-9a-z.-]*,`), "multi-enid VERSION,"},
	{regexp.MustCompile(`\b(?:\d+[dhms]){1,2}\b`), "AGE"},
	{regexp.MustCompile(` +`), " "},
	{regexp.MustCompile(`(?m) $`), ""},
}

func typical(out string) string {
	for _, o := range odd {
		out = o.part.ReplaceAllString(out, o.with)
	}
	return strings.TrimSpace(out)
}

func TestTypical(t *testing.T) {
	const a = "NAME      AGE\nmulti-enid-f44mx   19s\n7: net1: <UP> mtu 9001 qdisc mq qlen 1000\n  eni-0a1b2c3d4e5f6000a at 10.0.2.10"
	const b = "NAME            AGE\nmulti-enid-00000   2m1s\n3: net1@if2: <UP,M-DOWN> mtu 1500 qdisc noqueue\n  eni-00000000000000000 at 10.0.2.10\n"
	if diff := cmp.Diff(typical(a), typical(b)); diff != "" {
		t.Error(diff)
	}
	if typical(a) == typical(strings.Replace(a, "10.0.2.10", "10.0.2.1", 1)) {
		t.Error("an address does not matter")
	}
}
