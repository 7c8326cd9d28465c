package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

func (p program) installCommand(ctx context.Context) *cobra.Command {
	var to, from, policy string
	cmd := &cobra.Command{
		Use:   "install --to DIR",
		Short: "Install the CNI plugin, and its policy where there is none",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			if to == "" {
				return usagef("--to %q: want the runtime's folder of CNI plugins, such as /opt/cni/bin", to)
			}
			return p.install(ctx, from, to, policy)
		},
	}
	f := cmd.Flags()
	f.StringVar(&to, "to", "", "folder of CNI plugins to install into")
	f.StringVar(&from, "from", "", "folder to install from (default: that of multi-enid itself)")
	f.StringVar(&policy, "policy", nodestate.DefaultPolicyPath, "policy file to write unless it exists; empty writes none")
	return cmd
}

// installed are the plugins, in order; only the first must be there.
func installed() []string { return []string{"multi-eni", "eni-ipam"} }

func (p program) install(ctx context.Context, from, to, policy string) error {
	if from == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find the folder of multi-enid: %w; give --from", err)
		}
		from = filepath.Dir(self)
	}
	to, err := filepath.Abs(to)
	if err != nil {
		return fmt.Errorf("--to %q: %w", to, err)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("make folder of plugins: %w", err)
	}
	unlock, err := lockFolder(to)
	if err != nil {
		return err
	}
	defer unlock()
	if policy != "" { // first: without it the plugin believes its netconfs
		what, err := writePolicy(policy, to)
		if err != nil {
			return err
		}
		fmt.Fprintf(p.stdout, "%s: %s\n", policy, what)
	}
	for i, name := range installed() {
		what, err := installPlugin(ctx, filepath.Join(from, name), filepath.Join(to, name))
		if errors.Is(err, fs.ErrNotExist) && i > 0 {
			continue
		}
		if err != nil {
			return fmt.Errorf("install %s: %w", name, err)
		}
		fmt.Fprintf(p.stdout, "%s: %s\n", filepath.Join(to, name), what)
	}
	return nil
}

// writePolicy writes the default policy, unless there is anything at path.
func writePolicy(path, binDir string) (what string, err error) {
	_, err = os.Lstat(path)
	if err == nil {
		return "kept as it is", nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("look for policy: %w", err)
	}
	data, err := json.MarshalIndent(nodestate.Policy{
		SchemaVersion: nodestate.SchemaVersion, BinDir: binDir,
		Delegates: []string{"ipvlan", "macvlan", "vlan", "host-device", "sriov"},
		IPAM:      []string{"host-local", "static", "dhcp", "whereabouts", "eni-ipam"},
		DataDir:   nodestate.DefaultAttachmentsDir, Inventory: nodestate.DefaultInventoryPath, Sysfs: sysfs.DefaultRoot,
	}, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode policy: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("make folder of policy: %w", err)
	}
	if err := nodestate.WriteFile(path, append(data, '\n'), 0o644, nodestate.Durable); err != nil {
		return "", fmt.Errorf("write policy: %w", err)
	}
	return "written", nil
}

// installPlugin puts source in target's place: complete, or not at all. A
// target that is running goes on with its old content.
func installPlugin(ctx context.Context, source, target string) (what string, err error) {
	data, err := os.ReadFile(source)
	if err != nil {
		return "", fmt.Errorf("read the new one: %w", err)
	}
	old, err := os.ReadFile(target)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the old one: %w", err)
	}
	info, statErr := os.Lstat(target)
	if err == nil && statErr == nil && info.Mode() == 0o755 && bytes.Equal(old, data) {
		return "already installed, " + pluginVersion(ctx, target), nil
	}
	before := "none"
	if err == nil {
		before = pluginVersion(ctx, target)
	}
	tmp, err := writeExecutable(filepath.Dir(target), filepath.Base(target), data)
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp) //nolint:errcheck // gone after the rename
	if err := probe(ctx, tmp); err != nil {
		return "", fmt.Errorf("the new one does not work here, the old one stays: %w", err)
	}
	after := pluginVersion(ctx, tmp)
	if err := os.Rename(tmp, target); err != nil {
		return "", fmt.Errorf("put the new one in place: %w", err)
	}
	if err := syncFolder(filepath.Dir(target)); err != nil {
		return "", err
	}
	return fmt.Sprintf("installed, %s → %s", before, after), nil
}

// lockFolder makes this the only install into a folder until unlock.
func lockFolder(path string) (unlock func(), err error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("lock folder of plugins: %w", err)
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		dir.Close() //nolint:errcheck,gosec // opened for reading only
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock folder of plugins %q: another install into it is at work; try again when that has ended", path)
		}
		return nil, fmt.Errorf("lock folder of plugins %q: %w", path, err)
	}
	return func() { dir.Close() }, nil //nolint:errcheck,gosec // opened for reading only
}

// writeExecutable writes a temporary file that is on the disk when it returns.
// Its name is fixed, so that what a killed install has left is taken away. The
// folder is locked.
func writeExecutable(dir, name string, data []byte) (path string, err error) {
	path = filepath.Join(dir, "."+name+".tmp")
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("remove what a killed install has left: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("write beside the old one: %w", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o755)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("write %s: %w", f.Name(), err), os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open folder: %w", err)
	}
	defer dir.Close() //nolint:errcheck // opened for reading only
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("sync folder %s: %w", path, err)
	}
	return nil
}

// probeTimeout bounds one run of a plugin that only prints something.
const probeTimeout = 10 * time.Second

// probe asks the plugin for its CNI versions.
func probe(ctx context.Context, path string) error {
	stdout, _, err := runPlugin(ctx, path, "CNI_COMMAND=VERSION")
	if err != nil {
		return err
	}
	var answer struct {
		SupportedVersions []string `json:"supportedVersions"`
	}
	if err := json.Unmarshal(stdout, &answer); err != nil || len(answer.SupportedVersions) == 0 {
		return fmt.Errorf("CNI command VERSION answers %q, want supportedVersions", bytes.TrimSpace(stdout))
	}
	return nil
}

// pluginVersion is the first line that the plugin says of itself when it is
// called without a command, less the words that all of them share.
func pluginVersion(ctx context.Context, path string) string {
	_, stderr, err := runPlugin(ctx, path)
	line, _, _ := strings.Cut(string(stderr), "\n")
	fields := strings.Fields(line)
	if err != nil || len(fields) == 0 {
		return "an unknown version"
	}
	return fields[len(fields)-1]
}

func runPlugin(ctx context.Context, path string, env ...string) (stdout, stderr []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = env
	cmd.Stdin = strings.NewReader(`{"cniVersion":"1.1.0"}`)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return nil, nil, fmt.Errorf("run %s: %w%s", path, err, because(errOut.Bytes()))
	}
	return out.Bytes(), errOut.Bytes(), nil
}

func because(stderr []byte) string {
	if text := bytes.TrimSpace(stderr); len(text) > 0 {
		return ": " + string(text)
	}
	return ""
}
