package netconf

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/version"
)

// VersionError says that the netconf's CNI version is unknown.
type VersionError struct{ Version string }

func (e *VersionError) Error() string {
	return fmt.Sprintf("cniVersion: %q: want one of %s", e.Version, strings.Join(version.All.SupportedVersions(), ", "))
}

// check faults combinations of keys.
func (d *decoder) check(c *Config) {
	for _, key := range slices.Sorted(maps.Keys(d.fields)) {
		if !slices.Contains(specKeys, key) && !slices.Contains(ownKeys, key) && !strings.HasPrefix(key, "cni.dev/") && !d.faultAt(key) {
			d.fault(key, "unknown key%s; remove it", suggest(key, suggestions()))
		}
	}
	if c.ENIIPAM != nil {
		c.ENIIPAM.checkSharing(d, c.Delegate)
	}
	d.checkRequests(c)
	if c.Delegate != nil && c.Delegate.OwnMTU() && c.MTU != 0 {
		d.fault("mtu", "%d, but delegate has an mtu of its own; remove one of them", c.MTU)
	}
	if s := c.Select.PCIAddress; s != "" && c.DeviceID != "" && s != c.DeviceID {
		d.fault("select.pciAddress", "%s, but the runtime allocated %s; remove one of them", s, c.DeviceID)
	}
}

// refused returns the error with which ADD refuses the netconf; nil if it does not.
func (d *decoder) refused(c *Config) error {
	if c.CNIVersion != "" && !slices.Contains(version.All.SupportedVersions(), c.CNIVersion) {
		return &VersionError{c.CNIVersion}
	}
	return d.err()
}
