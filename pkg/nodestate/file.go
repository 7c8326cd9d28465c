package nodestate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
)

// Errors that readers of this package's files can tell apart. A missing file is fs.ErrNotExist.
var (
	// ErrCorrupt is returned when the content breaks the schema (empty,
	// torn). For an attachment record this means an intent was lost.
	ErrCorrupt = errors.New("corrupt file")
	// ErrUntrusted is atomicfile's: others may have written the file.
	ErrUntrusted = atomicfile.ErrUntrusted
	// ErrTooLarge is returned by writers for content that no reader would take.
	ErrTooLarge = fmt.Errorf("larger than %d octets", maxFileSize)
)

// maxFileSize bounds the content read into memory, in octets. An inventory row
// takes about 600 octets; the largest EC2 instance has fewer than 500 ENIs.
const maxFileSize = 4 << 20

// ReadTrusted returns the content of a regular file of at most 4 MiB that belongs to root or the effective user and
// that neither group nor others may write. The last component is not followed when it is a symbolic link.
func ReadTrusted(path string) ([]byte, error) {
	f, err := atomicfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // opened for reading only
	return readBounded(f)
}

// readBounded reads f to its end into a buffer of its size: one allocation, as long as
// the file is not written meanwhile.
func readBounded(f *os.File) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	var data bytes.Buffer
	data.Grow(int(min(max(st.Size, 0), maxFileSize)) + bytes.MinRead) // the last read finds the end
	if _, err := data.ReadFrom(io.LimitReader(f, maxFileSize+1)); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if data.Len() > maxFileSize {
		return nil, fmt.Errorf("read %s: %w: larger than %d octets", f.Name(), ErrCorrupt, maxFileSize)
	}
	return data.Bytes(), nil
}

// maxIndented bounds the memory for an indented file, in octets: indentation grows with the square of the depth, and a
// tenant's netconf, which is in the attachment records, may be as deep as it likes.
const maxIndented = 16 * maxFileSize

// Encode gives the canonical form of every file: indented, for the people who read it on a node, unless that would be
// too large, and ending in a newline. Error: ErrTooLarge.
func Encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	data = append(data, '\n')
	if len(data) > maxFileSize {
		return nil, fmt.Errorf("encode %T: %d octets: %w", v, len(data), ErrTooLarge)
	}
	const indent = "  "
	if len(data)*len(indent)*nesting(data) > maxIndented {
		return data, nil
	}
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", indent); err != nil {
		return nil, fmt.Errorf("indent %T: %w", v, err)
	}
	if out.Len() > maxFileSize {
		return data, nil
	}
	return out.Bytes(), nil
}

// nesting returns how deep the objects and arrays of valid JSON go.
func nesting(data []byte) (deepest int) {
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch b := data[i]; {
		case quoted && b == '\\':
			i++
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '{' || b == '[':
			depth++
			deepest = max(deepest, depth)
		case b == '}' || b == ']':
			depth--
		}
	}
	return deepest
}

const bootIDPath = "/proc/sys/kernel/random/boot_id"

// BootID returns the id of the running boot, from /proc/sys/kernel/random/boot_id.
func BootID() (string, error) {
	data, err := os.ReadFile(bootIDPath)
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// Uptime is the time since boot, suspension included (CLOCK_BOOTTIME).
func Uptime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read the time since boot: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}
