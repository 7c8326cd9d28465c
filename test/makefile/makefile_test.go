// Package makefile tests a person's first commands: the Makefile in a folder with an odd name, on a
// machine with only Debian's base system, and with the wrong Go.
package makefile

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const timeout = 10 * time.Minute

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func repo(t *testing.T) string {
	t.Helper()
	dir, err := nstest.Repo()
	must(t, err)
	return dir
}

// command runs in dir as a person types it: without the variables of an outer make.
func command(t *testing.T, dir string, env []string, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool {
		name, _, _ := strings.Cut(s, "=")
		return strings.HasPrefix(name, "SUDO_") || slices.Contains([]string{"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "VERSION", "COMMIT", "IMAGE",
			"GO", "PWD"}, name)
	})
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func look(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	t.Skip(err)
	return ""
}

// baseCommands are in every Debian: packages of priority "required" have them. git, make and Go are besides.
func baseCommands() []string {
	return strings.Fields(`sh bash awk mount unshare find xargs grep sed tar diff
		cat chmod chown cp cut date dirname env false head id ls mkdir mktemp mv paste pwd rm sha256sum sleep sort tail test touch tr true uname wc`)
}

func basePath(t *testing.T, more ...string) string {
	t.Helper()
	bin := t.TempDir()
	for _, name := range append(baseCommands(), more...) {
		must(t, os.Symlink(look(t, name), filepath.Join(bin, name)))
	}
	return bin
}

func copyTree(t *testing.T, to string) {
	t.Helper()
	from := repo(t)
	must(t, filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(from, path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // another test's temporary file
			return nil
		case err != nil || relErr != nil:
			return errors.Join(err, relErr)
		case d.IsDir() && slices.Contains([]string{".git", "bin", ".cache"}, rel):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		return copyFile(path, filepath.Join(to, rel))
	}))
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, data, info.Mode().Perm()))
}

// copyTools copies the pinned tools, whose sources have not changed: building them again would show little.
func copyTools(t *testing.T, to string) {
	t.Helper()
	from := filepath.Join(repo(t), "bin")
	for _, dir := range []string{"cni", "tools"} {
		files, err := filepath.Glob(filepath.Join(from, dir, "*"))
		must(t, err)
		for _, f := range files {
			if name := filepath.Base(f); dir == "cni" || name == "cnitool" || name == "ec2-metadata-mock" {
				must(t, copyFile(f, filepath.Join(to, "bin", dir, name)))
			}
		}
	}
	must(t, os.WriteFile(filepath.Join(to, "bin/.tools"), nil, 0o600))
}

// TestDemoOnBareMachine runs `make demo` and `make clean` with Debian's base commands, in an oddly named folder.
func TestDemoOnBareMachine(t *testing.T) {
	t.Parallel()
	look(t, "make")
	if err := nstest.Denied(nstest.Command(t.Context(), "true").Run()); err != nil && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	above := t.TempDir()
	dir := filepath.Join(above, "a b", "ü (c) {d}!,=~^@+-")
	neighbours := []string{filepath.Join(above, "a", "keep"), filepath.Join(above, "a b", "ü", "keep"), filepath.Join(above, "b", "keep")}
	for _, n := range neighbours {
		must(t, os.MkdirAll(filepath.Dir(n), 0o755))
		must(t, os.WriteFile(n, nil, 0o600))
	}
	copyTree(t, dir)
	copyTools(t, dir)
	temp := filepath.Join(above, "t m p")
	must(t, os.Mkdir(temp, 0o700))
	owner := os.Geteuid()
	if owner == 0 {
		owner = 65534
	}
	env := []string{"PATH=" + basePath(t, "git", "make", "go"), "TMPDIR=" + temp, "SUDO_UID=" + strconv.Itoa(owner), "SUDO_GID=" + strconv.Itoa(os.Getegid())}
	out, err := command(t, dir, env, "make", "demo")
	if err != nil || !strings.Contains(out, "All steps held") {
		t.Fatalf("make demo: %v\n%s", err, out)
	}
	if got := ownerOf(t, filepath.Join(dir, "bin/multi-enid")); got != owner {
		t.Errorf("after sudo make demo uid %d has bin/multi-enid, want %d", got, owner)
	}
	if out, err := command(t, dir, env, "test/prereq", "check", "sudo make test"); err != nil {
		t.Errorf("test/prereq check: %v\n%s", err, out)
	}
	if out, err := command(t, dir, env, "make", "clean"); err != nil {
		t.Errorf("make clean: %v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "bin")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("make clean left bin: %v", err)
	}
	for _, n := range neighbours {
		if got := ownerOf(t, n); got != os.Geteuid() {
			t.Errorf("uid %d has %s, want %d", got, n, os.Geteuid())
		}
	}
}

func ownerOf(t *testing.T, path string) int {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatalf("stat %s: no uid", path)
	}
	return int(stat.Uid)
}

func small(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{"Makefile", "test/prereq", "go.mod"} {
		must(t, copyFile(filepath.Join(repo(t), name), filepath.Join(dir, name)))
	}
	more, err := filepath.Glob(filepath.Join(repo(t), "*.mk"))
	must(t, err)
	for _, name := range more {
		must(t, copyFile(name, filepath.Join(dir, filepath.Base(name))))
	}
}

// TestFolderRefused names the folder before a recipe can take it for two.
func TestFolderRefused(t *testing.T) {
	t.Parallel()
	look(t, "make")
	above := t.TempDir()
	for _, c := range "$#:'\"`\\%*?;&|<>[]\t\n" {
		dir := filepath.Join(above, "a"+string(c)+"b")
		small(t, dir)
		must(t, os.MkdirAll(filepath.Join(dir, "bin"), 0o755))
		out, err := command(t, dir, nil, "make", "clean")
		if err == nil || !strings.Contains(out, "which make cannot handle") {
			t.Errorf("make clean in a folder with %q: %v, %s; want a refusal", c, err, out)
		}
		if _, err := os.Stat(filepath.Join(dir, "bin")); err != nil {
			t.Errorf("make clean in a folder with %q: %v", c, err)
		}
	}
	elsewhere := t.TempDir()
	if out, err := command(t, elsewhere, nil, "make", "-f", filepath.Join(repo(t), "Makefile"), "clean"); err == nil || !strings.Contains(out, "make -C FOLDER") {
		t.Errorf("make -f from elsewhere: %v, %s; want a refusal", err, out)
	}
}

// TestGoVersion runs the check with a go command of another version.
func TestGoVersion(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(filepath.Join(repo(t), "go.mod"))
	must(t, err)
	_, rest, _ := strings.Cut(string(data), "\ngo ")
	need, _, _ := strings.Cut(rest, "\n")
	for name, c := range map[string]struct{ version, toolchain, want string }{
		"Debian 12":            {"go1.19.8", "", "is Go 1.19.8, this needs Go " + need + " or later: install it from https://go.dev/dl"},
		"two digits":           {"go1.9.7", "", "is Go 1.9.7, this needs Go " + need},
		"fetches the right":    {"go1.21.0", "auto", ""},
		"may not fetch":        {"go1.22.4", "local", "GOTOOLCHAIN=local forbids"},
		"new enough":           {"go" + need, "local", ""},
		"later":                {"go9.0", "local", ""},
		"release candidate":    {"go" + need[:strings.LastIndexByte(need, '.')] + "rc1", "local", "GOTOOLCHAIN=local forbids"},
		"from Go's repository": {"devel go1.99-0123456 Mon Jan 1 00:00:00 2029 +0000", "local", ""},
	} {
		// The blank in its path is on purpose.
		dir := filepath.Join(t.TempDir(), "g o")
		must(t, os.MkdirAll(dir, 0o755))
		script := "#!/bin/sh\ncase $1 in version) echo 'go version " + c.version + " linux/amd64';; env) echo '" + c.toolchain + "';; *) exit 3;; esac\n"
		must(t, os.WriteFile(filepath.Join(dir, "go"), []byte(script), 0o755))
		out, err := command(t, repo(t), nil, "make", "go-version", "GO="+filepath.Join(dir, "go"))
		if c.want == "" && (err != nil || strings.Contains(out, "needs Go")) {
			t.Errorf("%s: %v, %s; want no complaint", name, err, out)
		}
		if c.want != "" && (err == nil || !strings.Contains(out, c.want)) {
			t.Errorf("%s: %v, %s; want %q", name, err, out, c.want)
		}
	}
	if out, err := command(t, repo(t), nil, "make", "go-version", "GO=/nonexistent/go"); err == nil || !strings.Contains(out, "not found: install Go "+need) {
		t.Errorf("no Go: %v, %s", err, out)
	}
}

// TestSettingsOfThePerson gives make a person's settings for AWS and Kubernetes; no recipe may see them.
func TestSettingsOfThePerson(t *testing.T) {
	t.Parallel()
	look(t, "make")
	env := []string{"AWS_PROFILE=theirs", "AWS_REGION=theirs", "AWS_ACCESS_KEY_ID=theirs", "AWS_CONFIG_FILE=/theirs", "KUBECONFIG=/theirs", "NODE_NAME=theirs",
		"CNI_PATH=/theirs"}
	out, err := command(t, repo(t), env, "make", "--no-print-directory", "--eval", "show: ; @env", "show")
	if err != nil || strings.Contains(out, "theirs") || !strings.Contains(out, "AWS_CONFIG_FILE=/dev/null") {
		t.Errorf("a recipe's environment: %v\n%s", err, out)
	}
}

// TestVersionOfImage shows the linker's version.
func TestVersionOfImage(t *testing.T) {
	t.Parallel()
	look(t, "make")
	for args, want := range map[string]string{
		"IMAGE=registry.example/multi-eni-cni:v1":               "v1",
		"IMAGE=registry.example:5000/multi-eni-cni:v1.2.3-rc.1": "v1.2.3-rc.1",
		"IMAGE=registry.example:5000/multi-eni-cni":             "", // git's
		"IMAGE=registry.example/multi-eni-cni:v1 VERSION=v2":    "v2",
		"VERSION=v2": "v2",
	} {
		out, err := command(t, repo(t), nil, "make", append([]string{"-n", "build"}, strings.Fields(args)...)...)
		if err != nil || !strings.Contains(out, "-X main.version="+want) || want == "" && strings.Contains(out, "main.version=5000") {
			t.Errorf("make build %s: %v, want version %q\n%s", args, err, want, out)
		}
	}
	for args, want := range map[string]string{
		"IMAGE=registry.example/multi-eni-cni@sha256:0123": "name a tag", "VERSION=a b": "want one word", "VERSION=a'b": "want one word", "BIN=/usr": "always bin",
	} {
		if out, err := command(t, repo(t), nil, "make", "-n", "clean", args); err == nil || !strings.Contains(out, want) {
			t.Errorf("make %s: %v, %s; want %q", args, err, out, want)
		}
	}
}
