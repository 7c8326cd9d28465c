package hostnet

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// assignment is one line of a config: a key of a section, and its value.
type assignment struct{ section, key, value string }

// parse reads the syntax that both managers share. It joins a line that continues (networkd) with the next one.
func parse(text string) (all []assignment) {
	section, pending := "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		line = pending + line
		pending = ""
		if head, more := strings.CutSuffix(line, `\`); more {
			pending = head + " "
			continue
		}
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			section = line[1 : len(line)-1]
			continue
		}
		if key, value, found := strings.Cut(line, "="); found {
			all = append(all, assignment{section, strings.TrimSpace(key), strings.TrimSpace(value)})
		}
	}
	return all
}

type found struct {
	path   string // absolute, on the host
	values []assignment
}

// largest bounds the read of a config file of the host, in bytes.
const largest = 1 << 20

// read returns the files in folders whose names end in suffix, sorted by name. A file hides files of the same name in later folders, also
// if it is empty or a link to /dev/null. A folder that does not exist has no files.
func read(host fs.FS, suffix string, folders ...string) ([]found, error) {
	byName := map[string]found{}
	for _, folder := range folders {
		entries, err := fs.ReadDir(host, folder)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read folder of configs: %w", err)
		}
		for _, e := range entries {
			if _, hidden := byName[e.Name()]; hidden || !strings.HasSuffix(e.Name(), suffix) || e.IsDir() {
				continue
			}
			f, err := readFile(host, path.Join(folder, e.Name()))
			if err != nil {
				return nil, err
			}
			byName[e.Name()] = f
		}
	}
	var all []found
	for _, f := range byName {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b found) int { return strings.Compare(path.Base(a.path), path.Base(b.path)) })
	return all, nil
}

// readFile reads one file. A link to /dev/null is an empty file. Any other link that leads
// nowhere in this tree is an error: it may lead somewhere on the host.
func readFile(host fs.FS, name string) (found, error) {
	f := found{path: "/" + name}
	if target, err := fs.ReadLink(host, name); err == nil && target == "/dev/null" {
		return f, nil
	}
	file, err := host.Open(name)
	if err != nil {
		return f, fmt.Errorf("read config: %w", err)
	}
	defer file.Close() //nolint:errcheck // opened for reading only
	text, err := io.ReadAll(bufio.NewReader(io.LimitReader(file, largest)))
	if err != nil {
		return f, fmt.Errorf("read config %s: %w", f.path, err)
	}
	f.values = parse(string(text))
	return f, nil
}

// values returns all values that are assigned to a key, in order. An empty value empties the list.
func values(all []assignment, section, key string) (list []string) {
	for _, a := range all {
		if a.section == section && a.key == key {
			if list = append(list, a.value); a.value == "" {
				list = nil
			}
		}
	}
	return list
}

// last returns the last value of a key; "" without one.
func last(all []assignment, section, key string) string {
	if list := values(all, section, key); len(list) > 0 {
		return list[len(list)-1]
	}
	return ""
}

// boolean reads a boolean of systemd or of glib; known is false for anything else.
func boolean(s string) (value, known bool) {
	switch strings.ToLower(s) {
	case "1", "yes", "y", "true", "t", "on":
		return true, true
	case "0", "no", "n", "false", "f", "off":
		return false, true
	}
	return false, false
}
