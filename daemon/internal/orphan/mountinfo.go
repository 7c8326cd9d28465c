package orphan

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ownMountInfo is that of this process.
const ownMountInfo = "/proc/self/mountinfo"

// mount is one line of mountinfo.
type mount struct {
	id, parent int
	// root is the mounted part of the filesystem, point where it is in this
	// process's tree; both without the kernel's escapes.
	root, point string
	// propagated: it receives what is mounted in its peers or its master.
	propagated bool
	fsType     string
}

func readMounts(path string) ([]mount, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return parseMounts(string(data))
}

// parseMounts reads the whole of a mountinfo file. Format (proc(5)):
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//	id parent  root  point options [optional fields …] - type source super-options
func parseMounts(data string) ([]mount, error) {
	var all []mount
	for line := range strings.Lines(data) {
		m, err := parseMount(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("parse mountinfo line %q: %w", line, err)
		}
		all = append(all, m)
	}
	return all, nil
}

func parseMount(line string) (mount, error) {
	f := strings.Split(line, " ")
	const optional = 6 // index of the first optional field, or of the separator
	if len(f) < optional+3 {
		return mount{}, fmt.Errorf("%d fields, want %d or more", len(f), optional+3)
	}
	m := mount{root: unescape(f[3]), point: unescape(f[4])}
	var err error
	if m.id, err = strconv.Atoi(f[0]); err != nil {
		return mount{}, fmt.Errorf("mount id: %w", err)
	}
	if m.parent, err = strconv.Atoi(f[1]); err != nil {
		return mount{}, fmt.Errorf("parent id: %w", err)
	}
	for i, field := range f[optional:] {
		if field == "-" {
			if i+optional+1 == len(f) {
				return mount{}, fmt.Errorf("no filesystem type")
			}
			m.fsType = f[i+optional+1]
			return m, nil
		}
		m.propagated = m.propagated || strings.HasPrefix(field, "shared:") || strings.HasPrefix(field, "master:")
	}
	return mount{}, fmt.Errorf("no separator")
}

// unescape replaces the octal escapes of blank, tab, newline, backslash and
// hash (fs/proc_namespace.c, mangle). What is no such escape stays as it is.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
