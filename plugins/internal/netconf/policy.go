package netconf

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// Policy is the node's policy; nil allows everything.
type Policy nodestate.Policy

// PolicyError names the rule of the policy that forbids a value.
type PolicyError struct{ Rule, Value, Advice string }

func (e *PolicyError) Error() string {
	return fmt.Sprintf("policy forbids %s %q: %s", e.Rule, e.Value, e.Advice)
}

// ParsePolicy reads the policy file's content strictly, since an unknown rule must not be
// ignored.
func ParsePolicy(data []byte) (*Policy, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var p Policy
	if err := dec.Decode(&p); err != nil {
		return nil, fmt.Errorf("parse %s: %w", nodestate.DefaultPolicyPath, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("parse %s: got more after the object; want one JSON object", nodestate.DefaultPolicyPath)
	}
	if p.SchemaVersion != nodestate.SchemaVersion {
		return nil, fmt.Errorf("parse %s: schemaVersion %d, want %d", nodestate.DefaultPolicyPath, p.SchemaVersion, nodestate.SchemaVersion)
	}
	var errs []error
	for _, f := range []struct{ name, path string }{
		{"binDir", p.BinDir}, {"dataDir", p.DataDir}, {"inventory", p.Inventory}, {"sysfs", p.Sysfs}, {"logFile", p.LogFile}, {"leaseDir", p.LeaseDir},
	} {
		if (f.path != "" || f.name == "binDir") && (!filepath.IsAbs(f.path) || filepath.Clean(f.path) != f.path) {
			errs = append(errs, fmt.Errorf("parse %s: %s %q: want %s", nodestate.DefaultPolicyPath, f.name, f.path, wantPath))
		}
	}
	for _, t := range twins(data, mostTwins) {
		errs = append(errs, fmt.Errorf("parse %s: %s %s", nodestate.DefaultPolicyPath, t.path, t.problem()))
	}
	if p.LogLevel != "" && !slices.Contains(logLevels, p.LogLevel) {
		errs = append(errs, fmt.Errorf("parse %s: logLevel %q: want one of %s", nodestate.DefaultPolicyPath, p.LogLevel, strings.Join(logLevels, ", ")))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return &p, nil
}

// SalvagePolicy reads the paths of a policy that ParsePolicy refuses, so that DEL finds
// the records. The result allows nothing; it is nil if the paths are unreadable too.
func SalvagePolicy(data []byte) *Policy {
	var paths struct {
		SchemaVersion                               int
		BinDir, DataDir, LeaseDir, Inventory, Sysfs string
	}
	if json.Unmarshal(data, &paths) != nil || paths.SchemaVersion != nodestate.SchemaVersion || len(twins(data, 1)) > 0 {
		return nil
	}
	for _, path := range []string{paths.BinDir, paths.DataDir, paths.LeaseDir, paths.Inventory, paths.Sysfs} {
		if path != "" && !filepath.IsAbs(path) {
			return nil
		}
	}
	return &Policy{BinDir: paths.BinDir, DataDir: paths.DataDir, LeaseDir: paths.LeaseDir, Inventory: paths.Inventory, Sysfs: paths.Sysfs}
}

// ResolvePaths returns the paths to use: the policy's, or without a policy the netconf's.
// It never fails.
func (p *Policy) ResolvePaths(c *Config) Paths {
	if p == nil {
		return c.Paths
	}
	out := DefaultPaths()
	for dst, v := range map[*string]string{
		&out.DataDir: p.DataDir, &out.Inventory: p.Inventory, &out.Sysfs: p.Sysfs, &out.LogFile: p.LogFile, &out.LogLevel: p.LogLevel, &out.LeaseDir: p.LeaseDir,
	} {
		if v != "" {
			*dst = v
		}
	}
	return out
}

// BinDirs returns the folders of other plugins: the policy's, or without a policy those in
// CNI_PATH.
func (p *Policy) BinDirs(cniPath string) []string {
	if p != nil {
		return []string{p.BinDir}
	}
	return filepath.SplitList(cniPath)
}

// CheckTypes refuses a delegate or an IPAM plugin that the policy does not list; a nil
// policy allows all.
func (p *Policy) CheckTypes(c *Config) error {
	if p == nil {
		return nil
	}
	if c.Delegate != nil {
		if err := p.CheckPlugin("delegate.type", c.Delegate.Type, p.Delegates); err != nil {
			return err
		}
	}
	if c.ENIIPAM != nil {
		return p.CheckPlugin("ipam.type", ENIIPAMType, p.IPAM)
	}
	if c.IPAM != nil {
		return p.CheckPlugin("ipam.type", c.IPAM.Type, p.IPAM)
	}
	return nil
}

// CheckPlugin refuses a plugin type that is not in allowed.
func (p *Policy) CheckPlugin(rule, typ string, allowed []string) error {
	if slices.Contains(allowed, typ) {
		return nil
	}
	return &PolicyError{rule, typ,
		fmt.Sprintf("%s allows %s; use an allowed type, or have an administrator add this one", nodestate.DefaultPolicyPath, orNone(allowed))}
}

// Check refuses a netconf that the policy does not allow; a nil policy allows all. Errors
// are *PolicyError.
func (p *Policy) Check(c *Config) error {
	if p == nil {
		return nil
	}
	keys := c.PathKeys()
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		return &PolicyError{key, keys[key], fixedPaths}
	}
	if err := p.CheckTypes(c); err != nil {
		return err
	}
	plugins := map[string]*Plugin{"ipam": c.IPAM}
	if c.Delegate != nil {
		plugins["delegate"] = &c.Delegate.Plugin
	}
	for at, plugin := range plugins {
		if plugin == nil {
			continue
		}
		if key, v := findPath(at, plugin.Raw); key != "" {
			return &PolicyError{key, v, "a netconf must not choose another plugin's paths; remove the key"}
		}
		if err := p.checkRestricted(at, plugin); err != nil {
			return err
		}
	}
	return nil
}

// checkRestricted refuses values that an administrator has reserved. Keys match in any
// case, because plugins ignore case.
func (p *Policy) checkRestricted(at string, plugin *Plugin) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(plugin.Raw, &fields); err != nil {
		return fmt.Errorf("%s: %w", at, err) // it was read as an object before
	}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		for restricted, values := range p.Restricted[plugin.Type] {
			if !strings.EqualFold(key, restricted) || bytes.Equal(fields[key], []byte("null")) {
				continue
			}
			v := cmp.Or(unquote(fields[key]), string(fields[key]))
			if !slices.Contains(values, v) {
				return &PolicyError{at + "." + key, v, fmt.Sprintf("%s allows %s for this key of %s; remove the key, or use an allowed value",
					nodestate.DefaultPolicyPath, orNone(values), plugin.Type)}
			}
		}
	}
	return nil
}

// CheckDeviceInfoFile refuses a device-info file that another attachment may have. Multus
// names an attachment's file network-containerID_interface (multus-cni v4,
// pkg/types/conf.go). A nil policy and an empty path are allowed.
func (p *Policy) CheckDeviceInfoFile(path string, id nodestate.AttachmentID) error {
	if p == nil || path == "" {
		return nil
	}
	if filepath.Dir(strings.TrimPrefix(path, "/var")) != deviceInfoDir || !strings.HasSuffix(path, "-"+id.ContainerID+"_"+id.IfName) {
		return &PolicyError{"runtimeConfig.CNIDeviceInfoFile", path,
			fmt.Sprintf("want a file in /var%s whose name ends in -%s_%s; leave it to Multus", deviceInfoDir, id.ContainerID, id.IfName)}
	}
	return nil
}

// deviceInfoDir is the folder of device-info files (device-info spec 1.1.0). A leading
// /var is ignored, since /var/run links to /run.
const deviceInfoDir = "/run/k8s.cni.cncf.io/devinfo/cni"

// othersPaths are the keys by which the plugins of the default policy take paths, at any
// depth and in any case. Under other keys a relative path leads nowhere, because plugins
// run in a removed folder.
var othersPaths = []string{
	"dataDir", "resolvConf", // host-local
	"daemonSocketPath",                             // dhcp
	"log_file", "configuration_path", "kubeconfig", // whereabouts
	"etcd_key_file", "etcd_cert_file", "etcd_ca_cert_file",
	"logFile", // sriov
}

// findPath returns the first string in a netconf that may be a path, and its place.
// Plugins run as root and read or write such a path. A string with a slash is a path
// unless it is a network.
func findPath(at string, raw json.RawMessage) (place, value string) {
	return findString(at, raw, func(key, v string) bool {
		return v != "" && containsFold(othersPaths, key) || v == ".." || strings.Contains(v, "/") && !isNetwork(v)
	})
}

// findString returns the first matching string in a JSON value at a place, and the
// string's own place. Key is the key of the string, or of its list.
func findString(at string, raw json.RawMessage, meant func(key, value string) bool) (place, value string) {
	var v any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber() // other plugins pass over a number that no float64 holds
	if dec.Decode(&v) != nil {
		return "", ""
	}
	return findStringIn(at, "", v, meant)
}

func findStringIn(at, key string, v any, meant func(key, value string) bool) (place, value string) {
	switch v := v.(type) {
	case string:
		if meant(key, v) {
			return at, v
		}
	case []any:
		for i, e := range v {
			if place, value = findStringIn(fmt.Sprintf("%s[%d]", at, i), key, e, meant); place != "" {
				return place, value
			}
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			inside := k
			if at != "" {
				inside = at + "." + k
			}
			if place, value = findStringIn(inside, k, v[k], meant); place != "" {
				return place, value
			}
		}
	}
	return "", ""
}

// isNetwork accepts 10.0.0.0/24 and whereabouts' range 10.0.0.5-10.0.0.9/24.
func isNetwork(s string) bool {
	if from, to, ok := strings.Cut(s, "-"); ok {
		if _, err := netip.ParseAddr(from); err != nil {
			return false
		}
		s = to
	}
	_, err := netip.ParsePrefix(s)
	return err == nil
}

// CheckNamespace refuses a device whose NodeENI allows only other namespaces than the
// pod's. An unknown namespace, "", is refused too. A nil policy allows all.
func (p *Policy) CheckNamespace(d nodestate.Device, namespace string) error {
	if p == nil || len(d.AllowedNamespaces) == 0 || namespace != "" && slices.Contains(d.AllowedNamespaces, namespace) {
		return nil
	}
	return &PolicyError{"K8S_POD_NAMESPACE", namespace, fmt.Sprintf("NodeENI %s allows these namespaces: %s "+
		"(annotation networking.k8s.aws/allowed-namespaces); run the pod there, or select another NodeENI",
		d.NodeENI, orNone(d.AllowedNamespaces))}
}

func orNone(names []string) string {
	return cmp.Or(strings.Join(names, ", "), "none")
}

// CheckIPAM is Check for another plugin's netconf that runs eni-ipam. It checks the key
// ipam only.
func (p *Policy) CheckIPAM(c *Config) error {
	if p == nil {
		return nil
	}
	keys := c.PathKeys()
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if strings.HasPrefix(key, "ipam.") {
			return &PolicyError{key, keys[key], fixedPaths}
		}
	}
	return p.CheckPlugin("ipam.type", ENIIPAMType, p.IPAM)
}

const fixedPaths = "the node's paths are fixed in " + nodestate.DefaultPolicyPath + "; remove the key"
