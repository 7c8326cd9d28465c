package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var programs = map[string]struct {
	pkg     string
	systems []string
}{
	"multi-eni":   {"./plugins/multi-eni", []string{"linux"}},
	"eni-ipam":    {"./plugins/eni-ipam", []string{"linux"}},
	"multi-enid":  {"./daemon", []string{"linux"}},
	kubectlPlugin: {"./daemon/" + kubectlPlugin, []string{"linux", "darwin"}},
}

var legal = regexp.MustCompile(`(?i)^(licen[cs]e|copying|copyright|notice|patents|authors)([.-].*)?$`)

// goModule stands for the standard library and the runtime.
const goModule = "std"

type linked struct {
	path, version, dir string
	packages           []string // folders of the packages
}

type text struct{ module, file, content string }

func writeNotices(ctx context.Context, o options, args []string) error {
	tags := ""
	if len(args) > 0 {
		tags = args[0]
	}
	modules, err := linkedModules(ctx, tags)
	if err != nil {
		return err
	}
	data, err := notices(modules)
	if err != nil {
		return err
	}
	licence, err := os.ReadFile("LICENSE")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(o.out, "LICENSE"), licence, 0o644), os.WriteFile(filepath.Join(o.out, "THIRD_PARTY_NOTICES"), data, 0o644))
}

// linkedModules asks the go command for the modules of all programs on all platforms. The result is sorted.
func linkedModules(ctx context.Context, tags string) ([]linked, error) {
	all := map[string]*linked{}
	packages := map[string][]string{} // by system
	for _, p := range programs {
		for _, system := range p.systems {
			packages[system] = append(packages[system], p.pkg)
		}
	}
	for system, pkgs := range packages {
		for _, arch := range []string{"amd64", "arm64"} {
			args := append([]string{"list", "-deps", "-json=Dir,Standard,Module", "-tags", tags}, pkgs...)
			cmd := exec.CommandContext(ctx, goCommand(), args...)
			cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0", "GOFLAGS=-mod=readonly")
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				return nil, fmt.Errorf("go list: %w", err)
			}
			if err := addPackages(all, out); err != nil {
				return nil, err
			}
		}
	}
	goroot, err := exec.CommandContext(ctx, goCommand(), "env", "GOROOT", "GOVERSION").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	root, version, _ := strings.Cut(strings.TrimSpace(string(goroot)), "\n")
	// A distribution's Go has its licence elsewhere; golang.org/x/sys has the same one.
	if _, err := os.Stat(filepath.Join(root, "LICENSE")); err != nil && all["golang.org/x/sys"] != nil {
		root = all["golang.org/x/sys"].dir
	}
	all[goModule] = &linked{path: goModule, version: version, dir: root}
	var modules []linked
	for _, path := range slices.Sorted(maps.Keys(all)) {
		modules = append(modules, *all[path])
	}
	return modules, nil
}

// addPackages adds the packages of other modules that `go list -json` has printed.
func addPackages(all map[string]*linked, listed []byte) error {
	for in := json.NewDecoder(bytes.NewReader(listed)); ; {
		var p struct {
			Dir      string
			Standard bool
			Module   *struct {
				Path, Version, Dir string
				Main               bool
				Replace            *struct{ Path, Version, Dir string }
			}
		}
		if err := in.Decode(&p); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("go list: %w", err)
		}
		if p.Standard || p.Module == nil || p.Module.Main {
			continue
		}
		m := all[p.Module.Path]
		if m == nil {
			m = &linked{path: p.Module.Path, version: p.Module.Version, dir: p.Module.Dir}
			all[m.path] = m
		}
		if !slices.Contains(m.packages, p.Dir) {
			m.packages = append(m.packages, p.Dir)
		}
	}
}

// texts are a module's legal files: beside the linked packages, and in the folders above them.
func (m linked) texts() ([]text, error) {
	folders := map[string]bool{m.dir: true}
	for _, dir := range m.packages {
		for ; dir != m.dir && strings.HasPrefix(dir, m.dir); dir = filepath.Dir(dir) {
			folders[dir] = true
		}
	}
	var all []text
	licensed := false
	for _, folder := range slices.Sorted(maps.Keys(folders)) {
		entries, err := os.ReadDir(folder)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() || filepath.Ext(e.Name()) == ".go" || !legal.MatchString(e.Name()) {
				continue
			}
			content, err := os.ReadFile(filepath.Join(folder, e.Name()))
			if err != nil {
				return nil, err
			}
			name, err := filepath.Rel(m.dir, filepath.Join(folder, e.Name()))
			if err != nil {
				return nil, err
			}
			lower := strings.ToLower(e.Name())
			licensed = licensed || strings.HasPrefix(lower, "licen") || strings.HasPrefix(lower, "copying")
			all = append(all, text{m.path, filepath.ToSlash(name), strings.TrimSpace(strings.ReplaceAll(string(content), "\r\n", "\n"))})
		}
	}
	if !licensed {
		return nil, fmt.Errorf("%s@%s: no licence in %s", m.path, m.version, m.dir)
	}
	return all, nil
}

func notices(modules []linked) ([]byte, error) {
	var out, bodies strings.Builder
	fmt.Fprintf(&out, "Third-party notices of multi-eni-cni\n\nThe programs of this project contain code of these modules. The numbers are those of the "+
		"texts below.\n\n")
	numbers := map[string]int{}
	owners := map[int][]string{}
	var contents []string
	for _, m := range modules {
		texts, err := m.texts()
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, "%s %s:", m.path, m.version)
		for _, t := range texts {
			n := numbers[t.content]
			if n == 0 {
				contents = append(contents, t.content)
				n = len(contents)
				numbers[t.content] = n
			}
			owners[n] = append(owners[n], t.file+" of "+t.module)
			fmt.Fprintf(&out, " [%d]", n)
		}
		fmt.Fprintln(&out)
	}
	for i, content := range contents {
		fmt.Fprintf(&bodies, "\n%s\n[%d] %s\n%s\n\n%s\n", strings.Repeat("=", 80), i+1, strings.Join(owners[i+1], ",\n    "), strings.Repeat("=", 80), content)
	}
	return []byte(out.String() + bodies.String()), nil
}

// goCommand is the go command that built this program's caller.
func goCommand() string {
	if path := os.Getenv("GO"); path != "" {
		return path
	}
	return "go"
}
