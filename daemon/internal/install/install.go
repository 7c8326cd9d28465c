// Package install puts the CNI plugins, their policy and the host's network files on a node, and removes them again.
package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
)

// plugins are the names of the plugins, in order. Only the first is required.
func plugins() []string { return []string{"multi-eni", "eni-ipam"} }

// Installer installs the plugins of one folder into another.
type Installer struct {
	// From and To are folders. An empty From is the folder of the running program.
	From, To string
	// Policy is the path of the plugins' policy; "" for none.
	Policy string
	// Mkdir makes the folder To if it is missing.
	Mkdir bool
	Host  HostNetwork
	// Out gets a line for each file, Err the failures that Keep goes on after.
	Out, Err io.Writer
}

// report takes the outcome for one file.
type report func(path, outcome string, changed bool)

// Once installs once.
func (i *Installer) Once(ctx context.Context) error {
	unlock, err := i.prepare()
	if err != nil {
		return err
	}
	defer unlock()
	tell := func(path, outcome string, _ bool) { fmt.Fprintf(i.Out, "%s: %s\n", path, outcome) }
	if err := i.run(ctx, tell); err != nil {
		return err
	}
	return i.Host.run(ctx, tell)
}

// prepare makes all paths absolute, and makes and locks the folders.
func (i *Installer) prepare() (unlock func(), err error) {
	if i.From == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find the folder of multi-enid: %w; give --from", err)
		}
		i.From = filepath.Dir(self)
	}
	if i.To, err = filepath.Abs(i.To); err != nil {
		return nil, fmt.Errorf("--to %q: %w", i.To, err)
	}
	if i.Policy != "" {
		if i.Policy, err = filepath.Abs(i.Policy); err != nil {
			return nil, fmt.Errorf("--policy %q: %w", i.Policy, err)
		}
	}
	if _, err := os.Stat(i.To); errors.Is(err, fs.ErrNotExist) && !i.Mkdir {
		return nil, cli.Usagef("--to %q: there is no such folder; give the folder that the runtime reads, or --mkdir to make this one", i.To)
	}
	for n, dir := range i.folders() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make folder of %s: %w", []string{"plugins", "policy"}[n], err)
		}
	}
	return lockFolder(i.To)
}

func (i *Installer) folders() []string {
	if i.Policy == "" {
		return []string{i.To}
	}
	return []string{i.To, filepath.Dir(i.Policy)}
}

// run installs policy and plugins. The folder is locked.
func (i *Installer) run(ctx context.Context, tell report) error {
	if i.Policy != "" { // first: without it the plugin believes its netconfs
		outcome, changed, err := writePolicy(i.Policy, i.To)
		if err != nil {
			return err
		}
		tell(i.Policy, outcome, changed)
	}
	for n, name := range plugins() {
		target := filepath.Join(i.To, name)
		outcome, changed, err := installPlugin(ctx, filepath.Join(i.From, name), target)
		if errors.Is(err, fs.ErrNotExist) && n > 0 {
			continue
		}
		if err != nil {
			return fmt.Errorf("install %s: %w", name, err)
		}
		tell(target, outcome, changed)
	}
	return nil
}
