package orphan

import (
	"fmt"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// ownMountInfo lists the mounts that this process sees.
const ownMountInfo = "/proc/self/mountinfo"

// readMounts reads a mountinfo file (proc(5)) to its end. If any line is odd, it returns an
// error, and nothing is known.
func readMounts(path string) ([]*mountinfo.Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	defer f.Close() //nolint:errcheck // opened for reading only
	odd := false
	all, err := mountinfo.GetMountsFromReader(f, func(m *mountinfo.Info) (skip, stop bool) {
		// The parser takes 0 for an id that is no number. The parent of the root mount is 0
		// in older kernels.
		odd = odd || m.ID == 0 || m.Parent == 0 && m.Mountpoint != "/"
		return false, odd
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("read mounts: %w", err)
	case odd:
		return nil, fmt.Errorf("read mounts: %s has a mount without an id", path)
	}
	return all, nil
}

// propagated says that a mount receives the mounts of its peers or of its master.
func propagated(m *mountinfo.Info) bool {
	for field := range strings.FieldsSeq(m.Optional) {
		if strings.HasPrefix(field, "shared:") || strings.HasPrefix(field, "master:") {
			return true
		}
	}
	return false
}
