package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func inRepo(t *testing.T) {
	t.Helper()
	root, err := nstest.Repo()
	must(t, err)
	t.Chdir(root)
}

func TestVersions(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3": "1.2.3", "v0.1.0": "0.1.0", "v1.2.3-rc.1": "1.2.3-rc.1", "v10.20.30-alpha-1.2": "10.20.30-alpha-1.2",
		"1.2.3": "0.0.0-dev.x1-2-3", "v1.2": "0.0.0-dev.xv1-2", "v01.2.3": "0.0.0-dev.xv01-2-3", "v1.2.3-01": "0.0.0-dev.xv1-2-3-01",
		"v1.2.3+build": "0.0.0-dev.xv1-2-3-build", "0123456-dirty": "0.0.0-dev.x0123456-dirty", "dev": "0.0.0-dev.xdev",
	} {
		if got := chartVersion(version); got != want {
			t.Errorf("chart of %s has the version %s, want %s", version, got, want)
		}
		if isRelease := !strings.HasPrefix(want, "0.0.0-dev"); semver.MatchString(version) != isRelease {
			t.Errorf("%s is taken for a release: %v", version, !isRelease)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Chdir(t.TempDir())
	const changelog = "# Changelog\n\n## [Unreleased]\n\n- c\n\n## [1.2.3] - 2026-11-29\n\n### Added\n- b\n\n## [1.2.2]\n\n## [1.2.1]\n- a\n"
	must(t, os.WriteFile("CHANGELOG.md", []byte(changelog), 0o600))
	git := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"},
			args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", args, err, out)
		}
	}
	git("init", "-q")
	git("add", ".")
	git("commit", "-q", "-m", "x")
	refused := func(version string, want ...string) {
		t.Helper()
		err := run(t.Context(), []string{"check", "-version", version})
		if err == nil && len(want) == 0 {
			return
		}
		for _, part := range want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want %q", version, err, part)
			}
		}
		if err != nil && len(want) == 0 {
			t.Errorf("%s: %v", version, err)
		}
	}
	refused("v1.2.3")
	refused("1.2.3", `VERSION "1.2.3"`, "UNRELEASED=1")
	refused("v1.2", "semantic version")
	refused("v1.2.2", "no text", "## [1.2.2]")
	refused("v1.3.0", "## [1.3.0]")
	must(t, os.WriteFile("new", nil, 0o600))
	refused("v1.2.3", "no commit has", "?? new")
	if err := run(t.Context(), []string{"check", "-unreleased", "-version", "x"}); err != nil {
		t.Errorf("a trial: %v", err)
	}
	got, err := notes(options{version: "v1.2.3"})
	if err != nil || got != "### Added\n- b\n" {
		t.Errorf("notes %q, %v", got, err)
	}
	got, err = notes(options{version: "v1.2.3", unreleased: true})
	if err != nil || got != "- c\n" {
		t.Errorf("notes of a trial %q, %v", got, err)
	}
}

func TestSourceDate(t *testing.T) {
	for epoch, want := range map[string]int64{"": 0, "0": 0, "1795987019": 1795987019} {
		if got, err := sourceDate(epoch); err != nil || got.Unix() != want {
			t.Errorf("%q: %v, %v", epoch, got, err)
		}
	}
	if _, err := sourceDate("now"); err == nil {
		t.Error("now is taken for a time")
	}
}

func headers(t *testing.T, data []byte) (all []tar.Header, contents map[string]string) {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(data))
	must(t, err)
	contents = map[string]string{}
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return all, contents
		}
		must(t, err)
		content, err := io.ReadAll(in)
		must(t, err)
		all = append(all, *h)
		contents[h.Name] = string(content)
	}
}

func TestChart(t *testing.T) {
	inRepo(t)
	o := options{version: "v1.2.3", repository: "registry.example/multi-eni-cni", unreleased: true, built: time.Unix(1795987019, 0)}
	data, err := chart(o)
	again, errAgain := chart(o)
	if err != nil || errAgain != nil || !bytes.Equal(data, again) {
		t.Fatalf("packages are the same: %v; %v, %v", bytes.Equal(data, again), err, errAgain)
	}
	all, contents := headers(t, data)
	if all[0].Name != "multi-eni-cni/Chart.yaml" {
		t.Errorf("first member %s", all[0].Name)
	}
	for _, h := range all {
		if !h.ModTime.Equal(o.built) || h.Uid != 0 || h.Mode != 0o644 || h.Typeflag != tar.TypeReg {
			t.Errorf("%+v", h)
		}
	}
	for file, parts := range map[string][]string{
		"Chart.yaml": {"\nversion: 1.2.3\n", "\nappVersion: \"v1.2.3\"\n", "      image: registry.example/multi-eni-cni:v1.2.3\n",
			"artifacthub.io/changes: |\n    - kind: added\n      description: \""},
		"values.yaml":                                {"\n  repository: registry.example/multi-eni-cni\n"},
		"crds/networking.k8s.aws_nodeenis.yaml":      {"kind: CustomResourceDefinition"},
		"templates/daemon.yaml":                      {"kind: DaemonSet"},
		"monitoring/alerts.yaml":                     {"kind: PrometheusRule"},
		"README.md":                                  {"# multi-eni-cni"},
		"values.schema.json":                         {"{"},
		"templates/NOTES.txt":                        {"is installed"},
		"crds/networking.k8s.aws_eninodestates.yaml": {"kind: CustomResourceDefinition"},
	} {
		for _, part := range parts {
			if !strings.Contains(contents["multi-eni-cni/"+file], part) {
				t.Errorf("%s of the package has no %q:\n%s", file, part, contents["multi-eni-cni/"+file])
			}
		}
	}
	if _, there := contents["multi-eni-cni/README.md.gotmpl"]; there {
		t.Error("the package has what .helmignore names")
	}
}

func TestChanges(t *testing.T) {
	got := changes("### Added\n- one\n  \"more\"\n\n#### Plugin\n- two\n\nText.\n\n### Fixed\n- three\n")
	want := "    - kind: added\n      description: \"one \\\"more\\\"\"\n    - kind: added\n      description: \"two\"\n    - kind: fixed\n      " +
		"description: \"three\"\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestKrew(t *testing.T) {
	const manifest = "spec:\n  version: v0.0.0\n  platforms:\n  - uri: https://x/v0.0.0/a_v0.0.0_linux.tar.gz\n    sha256: x\n  - bin: b\n    uri: " +
		"https://x/v0.0.0/a_v0.0.0_darwin.tar.gz\n    sha256: y\n"
	const want = "spec:\n  version: v1.2.3\n  platforms:\n  - uri: https://x/v1.2.3/a_v1.2.3_linux.tar.gz\n    sha256: sum of a_v1.2.3_linux.tar.gz\n  - " +
		"bin: b\n" +
		"    uri: https://x/v1.2.3/a_v1.2.3_darwin.tar.gz\n    sha256: sum of a_v1.2.3_darwin.tar.gz\n"
	sum := func(file string) (string, error) { return "sum of " + file, nil }
	got, err := krew(manifest, "v1.2.3", sum)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	missing := errors.New("no such archive")
	for name, faulty := range map[string]string{
		"no version": strings.Replace(manifest, "version: v0.0.0", "version: v1", 1), "no checksum": strings.ReplaceAll(manifest, "sha256:", "sha1:"),
		"no last checksum": strings.ReplaceAll(manifest, "    sha256: y\n", ""),
	} {
		if _, err := krew(faulty, "v1.2.3", sum); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := krew(manifest, "v1.2.3", func(string) (string, error) { return "", missing }); !errors.Is(err, missing) {
		t.Errorf("a missing archive: %v", err)
	}
}

func TestRepack(t *testing.T) {
	dir := t.TempDir()
	made := func(name string, seconds int64, members ...string) []byte {
		t.Helper()
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for _, m := range members {
			h := &tar.Header{Typeflag: tar.TypeReg, Name: m, Mode: 0o644, Size: int64(len(m)), ModTime: time.Unix(seconds, 0), Uid: int(seconds)}
			must(t, w.WriteHeader(h))
			if _, err := io.WriteString(w, m); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(dir, name)
		must(t, errors.Join(w.Close(), os.WriteFile(path, out.Bytes(), 0o600), repack(time.Unix(7, 0), path)))
		data, err := os.ReadFile(path)
		must(t, err)
		return data
	}
	one, other := made("one", 1, "index.json", "blobs/a"), made("other", 2, "blobs/a", "index.json")
	if !bytes.Equal(one, other) || !bytes.Contains(one, []byte("blobs/a")) {
		t.Errorf("%d and %d bytes differ", len(one), len(other))
	}
}

// moduleIn makes a module's folder of files, of which one folder is linked.
func moduleIn(t *testing.T, path, linkedFolder string, files map[string]string) linked {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		file := filepath.Join(dir, name)
		must(t, errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(content), 0o600)))
	}
	return linked{path: path, version: "v1.0.0", dir: dir, packages: []string{filepath.Join(dir, linkedFolder)}}
}

// TestNotices: each text occurs once, also a linked folder's. A module without a licence is refused.
func TestNotices(t *testing.T) {
	a := moduleIn(t, "example.org/a", "in/deep", map[string]string{
		"LICENSE": "Apache text\n", "NOTICE": "Notice of a\n", "in/license.txt": "MIT text", "in/deep/x.go": "", "other/LICENSE": "not linked",
		"license.go": "package a",
	})
	b := moduleIn(t, "example.org/b", "", map[string]string{"COPYING.md": "Apache text\r\n"})
	data, err := notices([]linked{a, b})
	must(t, err)
	text := string(data)
	for part, times := range map[string]int{
		"example.org/a v1.0.0: [1] [2] [3]\n": 1, "example.org/b v1.0.0: [1]\n": 1, "Apache text": 1, "Notice of a": 1, "MIT text": 1, "not linked": 0,
		"package a": 0,
		"[1] LICENSE of example.org/a,\n    COPYING.md of example.org/b\n": 1, "[3] in/license.txt of example.org/a\n": 1, "\r": 0,
	} {
		if got := strings.Count(text, part); got != times {
			t.Errorf("%q %d times, want %d:\n%s", part, got, times, text)
		}
	}
	if _, err := notices([]linked{moduleIn(t, "example.org/c", "", map[string]string{"README": "", "NOTICE": "x"})}); err == nil ||
		!strings.Contains(err.Error(), "example.org/c@v1.0.0: no licence") {
		t.Errorf("a module without a licence: %v", err)
	}
}

func TestNoticesAreOfAllModules(t *testing.T) {
	inRepo(t)
	modules, err := linkedModules(t.Context(), "grpcnotrace")
	must(t, err)
	data, err := notices(modules)
	must(t, err)
	checked := 0
	for program := range programs {
		path, err := nstest.Binary(program)
		must(t, err)
		info, err := buildinfo.ReadFile(path)
		must(t, err)
		for _, m := range info.Deps {
			checked++
			if !strings.Contains(string(data), fmt.Sprintf("\n%s %s: [", m.Path, m.Version)) {
				t.Errorf("%s has code of %s %s, of which the notices say nothing", program, m.Path, m.Version)
			}
		}
	}
	if checked < 50 || !strings.Contains(string(data), "\nstd go1.") {
		t.Errorf("%d modules in the programs, or no standard library", checked)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
