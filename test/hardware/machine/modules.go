package machine

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"
)

type module struct {
	name  string // with underscores, as /sys/module has it
	path  string // below /lib/modules/<release>, without the compression's suffix
	image []byte // ELF
	needs []string
}

type moduleTree struct {
	dir     string
	files   map[string]string // name -> path in dir
	builtin map[string]bool
}

func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

func openModules(dir string) (*moduleTree, error) {
	t := &moduleTree{dir: dir, files: map[string]string{}, builtin: map[string]bool{}}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(d.Name(), ".ko") {
			t.files[moduleName(path)], err = filepath.Rel(dir, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the kernel's modules: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("read the kernel's modules: %w", err)
	}
	for path := range strings.Lines(string(builtin)) {
		t.builtin[moduleName(strings.TrimSpace(path))] = true
	}
	return t, nil
}

// closure returns the named modules after their dependencies. It leaves out built-in ones.
func (t *moduleTree) closure(names ...string) ([]module, error) {
	var out []module
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = strings.ReplaceAll(name, "-", "_")
		if seen[name] || t.builtin[name] {
			return nil
		}
		seen[name] = true
		m, err := t.read(name)
		if err != nil {
			return err
		}
		for _, n := range m.needs {
			if err := add(n); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		m.needs = slices.DeleteFunc(m.needs, func(n string) bool { return t.builtin[n] })
		out = append(out, m)
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (t *moduleTree) read(name string) (module, error) {
	file, ok := t.files[name]
	if !ok {
		return module{}, fmt.Errorf("the kernel package has no module %s: is it the generic flavour?", name)
	}
	image, err := os.ReadFile(filepath.Join(t.dir, file))
	if err != nil {
		return module{}, err
	}
	if plain, ok := strings.CutSuffix(file, ".xz"); ok {
		file = plain
		r, err := xz.NewReader(bytes.NewReader(image))
		if err == nil {
			image, err = io.ReadAll(r)
		}
		if err != nil {
			return module{}, fmt.Errorf("decompress module %s: %w", name, err)
		}
	}
	needs, err := moduleNeeds(image)
	if err != nil {
		return module{}, fmt.Errorf("read module %s: %w", name, err)
	}
	return module{name: name, path: file, image: image, needs: needs}, nil
}

// moduleNeeds reads a module's .modinfo: its dependencies, and softdep's modules to load before (include/linux/module.h).
func moduleNeeds(image []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	var out []string
	for entry := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(entry, "=")
		switch key {
		case "depends":
			out = append(out, strings.Fields(strings.ReplaceAll(value, ",", " "))...)
		case "softdep":
			pre, _, _ := strings.Cut(strings.TrimPrefix(value, "pre:"), "post:")
			if strings.HasPrefix(value, "pre:") {
				out = append(out, strings.Fields(pre)...)
			}
		}
	}
	for i, n := range out {
		if !validModule.MatchString(n) {
			return nil, fmt.Errorf(".modinfo needs %q, which names no module", n)
		}
		out[i] = strings.ReplaceAll(n, "-", "_")
	}
	return out, nil
}

var validModule = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// modulesDep is modules.dep for modules in closure's order: each with its dependencies, last first (modules.dep(5)).
func modulesDep(modules []module) string {
	byName := map[string]module{}
	for _, m := range modules {
		byName[m.name] = m
	}
	var text strings.Builder
	for at, m := range modules {
		before := map[string]bool{}
		var add func(m module)
		add = func(m module) {
			for _, n := range m.needs {
				before[n] = true
				add(byName[n])
			}
		}
		add(m)
		text.WriteString(m.path + ":")
		for _, b := range slices.Backward(modules[:at]) {
			if before[b.name] {
				text.WriteString(" " + b.path)
			}
		}
		text.WriteString("\n")
	}
	return text.String()
}
