package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/server"
	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// removal is what uninstall takes away.
type removal struct {
	from, policy                                  string
	attachmentsDir, leaseDir, stateDir, inventory string
	hostRoot                                      string
	force                                         bool
}

func (p program) uninstallCommand() *cobra.Command {
	var r removal
	cmd := &cobra.Command{
		Use:   "uninstall --from DIR",
		Short: "Remove what install and run have put on this node",
		Long: `Remove the CNI plugins and all files that install and run have put on this node. If a
pod has a device or an address, uninstall says so and removes nothing.`,
		Example: `  multi-enid uninstall --from /opt/cni/bin`,
		Args:    cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if r.from == "" {
				return cli.Usagef("--from %q: want the runtime's folder of CNI plugins, such as /opt/cni/bin", r.from)
			}
			return p.uninstall(r)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.from, "from", "", "`Folder` of CNI plugins to remove from. Required.")
	f.StringVar(&r.policy, "policy", nodestate.DefaultPolicyPath, "Policy `file` to remove unless somebody has changed it; empty leaves it.")
	f.StringVar(&r.attachmentsDir, "attachments-dir", nodestate.DefaultAttachmentsDir, "`Folder` of the plugin's attachment records.")
	f.StringVar(&r.leaseDir, "lease-dir", nodestate.DefaultLeaseDir, "`Folder` of the address leases.")
	f.StringVar(&r.stateDir, "state-dir", nodestate.DefaultStateDir, "`Folder` of the daemon's checkpoint.")
	f.StringVar(&r.inventory, "inventory", nodestate.DefaultInventoryPath, "`File` of the inventory.")
	f.StringVar(&r.hostRoot, "host-root", "/", "`Folder` where the host's etc is mounted. The files of install --host-network are removed from it.")
	f.BoolVar(&r.force, "force", false, "Remove it even if pods have attachments or devices were not given back. Their records stay.")
	return cmd
}

// uninstall removes the plugin first: no ADD begins when it is gone.
func (p program) uninstall(r removal) error {
	from, err := filepath.Abs(r.from)
	if err != nil {
		return fmt.Errorf("--from %q: %w", r.from, err)
	}
	stop, err := lockStateDir(r.stateDir)
	if err != nil {
		return fmt.Errorf("multi-enid runs on this node, and would make its files anew; delete its DaemonSet first: %w", err)
	}
	defer stop()
	unlock, err := lockFolder(from)
	if errors.Is(err, fs.ErrNotExist) {
		unlock, err = func() {}, nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	uses, err := r.uses()
	if err != nil {
		uses = append(uses, err.Error())
	}
	if len(uses) > 0 && !r.force {
		return fmt.Errorf("nothing is removed, for this node still has:\n  %s\nDelete the pods and NodeENIs and wait for `multi-enid status` to show none, or give --force", strings.Join(uses, "\n  "))
	}
	for _, use := range uses {
		fmt.Fprintf(p.stdout, "left behind: %s\n", use)
	}
	for _, name := range installed() {
		for _, path := range []string{filepath.Join(from, name), atomicfile.TempPath(filepath.Join(from, name))} {
			// A plugin that stays keeps its policy: without one it would believe its netconfs.
			if err := p.removeFile(path); err != nil {
				return err
			}
		}
	}
	errs := []error{p.removePolicy(r.policy, from), removeHostFiles(r.hostRoot, func(path, what string, _ bool) {
		fmt.Fprintf(p.stdout, "%s: %s\n", path, what)
	})}
	// Once more: an ADD may have begun before the plugin was gone.
	if left, err := r.uses(); err == nil && len(left) == 0 {
		errs = append(errs, p.removeState(r))
	}
	return errors.Join(errs...)
}

// removeState removes what the daemon and the plugin have written, by name, and
// the folders if nothing else is in them.
func (p program) removeState(r removal) error {
	locks, err := filepath.Glob(filepath.Join(r.attachmentsDir, "locks", "*.lock"))
	errs := []error{err, nodestate.LeaseDir(r.leaseDir).RemoveAll()}
	for _, path := range append(locks,
		r.leaseDir, filepath.Join(r.attachmentsDir, "locks"), filepath.Join(r.attachmentsDir, "restore"), r.attachmentsDir,
		r.inventory, filepath.Join(filepath.Dir(r.inventory), server.SocketName), filepath.Dir(r.inventory),
		nodestate.CheckpointPath(r.stateDir), filepath.Join(r.stateDir, lockName), r.stateDir,
	) {
		errs = append(errs, p.remove(path))
	}
	return errors.Join(errs...)
}

// uses are the reasons not to uninstall.
func (r removal) uses() (uses []string, err error) {
	records, bad, err := nodestate.AttachmentDir(r.attachmentsDir).List()
	if err != nil {
		return nil, err
	}
	for _, a := range records {
		uses = append(uses, fmt.Sprintf("attachment %s of device %s", a.AttachmentID, a.Device.PCIAddress))
	}
	for _, err := range bad {
		uses = append(uses, "an attachment record that cannot be read: "+err.Error())
	}
	held, err := nodestate.LeaseDir(r.leaseDir).Held()
	if err != nil {
		return uses, err
	}
	for _, l := range held {
		uses = append(uses, fmt.Sprintf("address %s, leased to %s", l.Address, l.AttachmentID))
	}
	restores, err := nodestate.AttachmentDir(r.attachmentsDir).Restores()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return uses, err
	}
	for _, pci := range restores {
		uses = append(uses, fmt.Sprintf("device %s, not given back yet as it was", pci))
	}
	c, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(r.stateDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return uses, err
	}
	for _, d := range c.Devices {
		if (sysfs.PCIFunction{Driver: d.Driver}).UserspaceDriver() {
			uses = append(uses, fmt.Sprintf("device %s of NodeENI %s, bound to %s", d.PCIAddress, d.NodeENI, d.Driver))
		}
	}
	return uses, nil
}

// removePolicy removes the policy unless somebody has written another one.
func (p program) removePolicy(path, binDir string) error {
	if path == "" {
		return nil
	}
	got, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at policy: %w", err)
	}
	want, err := defaultPolicy(binDir)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		fmt.Fprintf(p.stdout, "%s: kept, it has been changed\n", path)
		return nil
	}
	return p.removeFile(path)
}

// remove is removeFile, but that a folder with something in it stays, and one that
// is a container's mount.
func (p program) remove(path string) error {
	err := p.removeFile(path)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY) {
		fmt.Fprintf(p.stdout, "%s: left, it is not empty or in use\n", path)
		return nil
	}
	return err
}

// removeFile removes what is at a path; there need be nothing.
func (p program) removeFile(path string) error {
	err := os.Remove(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("remove: %w", err)
	}
	fmt.Fprintf(p.stdout, "%s: removed\n", path)
	return nil
}
