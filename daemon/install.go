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

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/filewatch"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

func (p program) installCommand(ctx context.Context) *cobra.Command {
	i := installer{host: &hostNetwork{}}
	var keep bool
	cmd := &cobra.Command{
		Use:   "install --to DIR",
		Short: "Install the CNI plugins, and the default policy",
		Long: `Install the CNI plugins multi-eni and eni-ipam into the runtime's folder of plugins. A
plugin that runs meanwhile is not disturbed. install also writes the default policy,
unless there is a policy.`,
		Example: `  multi-enid install --to /opt/cni/bin
  multi-enid install --to /opt/cni/bin --keep`,
		Args: cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if i.to == "" {
				return cli.Usagef("--to %q: want the runtime's folder of CNI plugins, such as /opt/cni/bin", i.to)
			}
			if err := i.host.check(); err != nil {
				return err
			}
			return p.install(ctx, i, keep)
		},
	}
	f := cmd.Flags()
	f.StringVar(&i.to, "to", "", "`Folder` of CNI plugins to install into. Required.")
	f.BoolVar(&i.mkdir, "mkdir", false, "Make the folder of --to if it does not exist.")
	f.StringVar(&i.from, "from", "", "`Folder` to install from. Defaults to the folder of multi-enid itself.")
	f.StringVar(&i.policy, "policy", nodestate.DefaultPolicyPath, "Policy `file` to write unless it exists; empty writes none.")
	f.BoolVar(&keep, "keep", false, "Stay, and install again after somebody has changed or removed a file. Removes nothing at the end.")
	i.host.add(f)
	return cmd
}

// installed are the plugins, in order; only the first must be there.
func installed() []string { return []string{"multi-eni", "eni-ipam"} }

// installer is what is installed from where to where.
type installer struct {
	from, to string
	policy   string // "" for none
	mkdir    bool   // make the folder that to names
	host     *hostNetwork
}

// install installs once and, to keep it so, until ctx is done.
func (p program) install(ctx context.Context, i installer, keep bool) error {
	if i.from == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find the folder of multi-enid: %w; give --from", err)
		}
		i.from = filepath.Dir(self)
	}
	i.host.primaryMAC = awsnode.New(awsnode.Config{}).PrimaryMAC
	var err error
	if i.to, err = filepath.Abs(i.to); err != nil {
		return fmt.Errorf("--to %q: %w", i.to, err)
	}
	if i.policy != "" {
		if i.policy, err = filepath.Abs(i.policy); err != nil {
			return fmt.Errorf("--policy %q: %w", i.policy, err)
		}
	}
	if _, err := os.Stat(i.to); errors.Is(err, fs.ErrNotExist) && !i.mkdir {
		return cli.Usagef("--to %q: there is no such folder; give the folder that the runtime reads, or --mkdir to make this one", i.to)
	}
	for n, dir := range i.folders() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make folder of %s: %w", []string{"plugins", "policy"}[n], err)
		}
	}
	unlock, err := lockFolder(i.to)
	if err != nil {
		return err
	}
	defer unlock()
	if !keep {
		tell := func(path, what string, _ bool) { fmt.Fprintf(p.stdout, "%s: %s\n", path, what) }
		if err := i.run(ctx, tell); err != nil {
			return err
		}
		return i.host.run(ctx, tell)
	}
	return p.keepInstalled(ctx, i)
}

// folders are those that are written to.
func (i installer) folders() []string {
	if i.policy == "" {
		return []string{i.to}
	}
	return []string{i.to, filepath.Dir(i.policy)}
}

// run installs, and tells of each file what became of it. The folder is locked.
func (i installer) run(ctx context.Context, tell func(path, what string, changed bool)) error {
	if i.policy != "" { // first: without it the plugin believes its netconfs
		what, changed, err := writePolicy(i.policy, i.to)
		if err != nil {
			return err
		}
		tell(i.policy, what, changed)
	}
	for n, name := range installed() {
		target := filepath.Join(i.to, name)
		what, changed, err := installPlugin(ctx, filepath.Join(i.from, name), target)
		if errors.Is(err, fs.ErrNotExist) && n > 0 {
			continue
		}
		if err != nil {
			return fmt.Errorf("install %s: %w", name, err)
		}
		tell(target, what, changed)
	}
	return nil
}

const (
	// keepSettle is how long after a change it is looked at: who replaces a file
	// does several things to it.
	keepSettle = time.Second
	// keepEvery is how often it is looked at without any event.
	keepEvery = 5 * time.Minute
	// hostNetworkFirst is the pause after the first failure of --host-network. Each further
	// pause is twice as long, up to keepEvery.
	hostNetworkFirst = 10 * time.Second
)

// keepInstalled installs, and again after each change by somebody else. An
// error ends it: whoever has started it starts it again, with a pause.
func (p program) keepInstalled(ctx context.Context, i installer) error {
	services := &problem.Services{}
	services.Wake = func() {
		for _, found := range services.Problems() {
			fmt.Fprintf(p.stderr, "multi-enid: watch what is installed: %s\n", found.Message)
		}
	}
	// Before the first look, so that no change is missed.
	watcher, err := filewatch.New(services, i.folders()...)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	changes, changed := newWake()
	go watcher.Run(ctx, changed)
	all := true // the first run reports unchanged files too
	host := keptHostNetwork{hostNetwork: i.host, told: map[string]string{}, pause: hostNetworkFirst}
	soon := false // a look at a change is due; more changes do not put it off
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
			if !soon {
				soon = true
				look.Reset(keepSettle)
			}
		case <-look.C:
			soon = false
			err := i.run(ctx, func(path, what string, changed bool) {
				if changed || all {
					fmt.Fprintf(p.stdout, "%s: %s\n", path, what)
				}
			})
			if err != nil {
				return err
			}
			all = false
			look.Reset(host.run(ctx, p))
		}
	}
}

// writePolicy writes the default policy, unless there is anything at path.
func writePolicy(path, binDir string) (what string, changed bool, err error) {
	_, err = os.Lstat(path)
	if err == nil {
		return "kept as it is", false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("look for policy: %w", err)
	}
	data, err := defaultPolicy(binDir)
	if err != nil {
		return "", false, err
	}
	if err := atomicfile.Write(path, data, 0o644, atomicfile.Durable); err != nil {
		return "", false, fmt.Errorf("write policy: %w", err)
	}
	return "written", true, nil
}

// defaultPolicy is the policy file's content for plugins in binDir.
func defaultPolicy(binDir string) ([]byte, error) {
	data, err := json.MarshalIndent(nodestate.Policy{
		SchemaVersion: nodestate.SchemaVersion, BinDir: binDir,
		Delegates:  []string{"ipvlan", "macvlan", "vlan", "host-device", "sriov"},
		IPAM:       []string{"host-local", "static", "dhcp", "whereabouts", "eni-ipam"},
		Restricted: nodestate.DefaultRestricted(),
		DataDir:    nodestate.DefaultAttachmentsDir, Inventory: nodestate.DefaultInventoryPath, Sysfs: sysfs.DefaultRoot,
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode policy: %w", err)
	}
	return append(data, '\n'), nil
}

// installPlugin puts source in target's place: complete, or not at all. A
// target that is running goes on with its old content.
func installPlugin(ctx context.Context, source, target string) (what string, changed bool, err error) {
	data, err := os.ReadFile(source)
	if err != nil {
		return "", false, fmt.Errorf("read the new one: %w", err)
	}
	old, err := os.ReadFile(target)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, fmt.Errorf("read the old one: %w", err)
	}
	info, statErr := os.Lstat(target)
	if err == nil && statErr == nil && info.Mode() == 0o755 && bytes.Equal(old, data) {
		return "already installed, " + pluginVersion(ctx, target), false, nil
	}
	before := "none"
	if err == nil {
		before = pluginVersion(ctx, target)
	}
	// A fixed name, from which a killed install may still run its probe.
	if err := atomicfile.Remove(atomicfile.TempPath(target)); err != nil {
		return "", false, fmt.Errorf("remove what a killed install has left: %w", err)
	}
	tmp, err := atomicfile.Prepare(target, data, 0o755, atomicfile.Durable)
	if err != nil {
		return "", false, fmt.Errorf("write beside the old one: %w", err)
	}
	defer tmp.Discard() // gone after the rename
	tmp.Close()         // a file that is open for writing cannot be executed
	if err := probe(ctx, tmp.Name()); err != nil {
		return "", false, fmt.Errorf("the new one does not work here, the old one stays: %w", err)
	}
	after := pluginVersion(ctx, tmp.Name())
	if err := tmp.Replace(); err != nil {
		return "", false, fmt.Errorf("put the new one in place: %w", err)
	}
	return fmt.Sprintf("installed, %s → %s", before, after), true, nil
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
