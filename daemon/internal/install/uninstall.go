package install

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// Removal removes the files that install and run have put on a node.
type Removal struct {
	From, Policy                                  string
	AttachmentsDir, LeaseDir, StateDir, Inventory string
	HostRoot                                      string
	// DevicePlugins has the kubelet's and the daemon's sockets, DeviceInfo the device-info files of device plugins.
	DevicePlugins, DeviceInfo string
	// Force removes them even if pods have devices or addresses.
	Force bool
	// Out gets a line for each file.
	Out io.Writer
}

// Run removes the plugins first: no ADD begins without them. If the node is still in use, it removes nothing, and says why.
func (r Removal) Run() error {
	from, err := filepath.Abs(r.From)
	if err != nil {
		return fmt.Errorf("--from %q: %w", r.From, err)
	}
	stop, err := LockState(r.StateDir)
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
	if len(uses) > 0 && !r.Force {
		return fmt.Errorf("nothing is removed, for this node still has:\n  %s\nDelete the pods and NodeENIs and wait for `multi-enid status` to show none, or "+
			"give --force", strings.Join(uses, "\n  "))
	}
	for _, use := range uses {
		fmt.Fprintf(r.Out, "left behind: %s\n", use)
	}
	for _, name := range plugins() {
		for _, path := range []string{filepath.Join(from, name), atomicfile.TempPath(filepath.Join(from, name))} {
			// A plugin that stays keeps its policy: without one it would believe its netconfs.
			if err := r.removeFile(path); err != nil {
				return err
			}
		}
	}
	errs := []error{r.removePolicy(r.Policy, from), removeHostFiles(r.HostRoot, func(path, outcome string, _ bool) {
		fmt.Fprintf(r.Out, "%s: %s\n", path, outcome)
	})}
	// Once more: an ADD may have begun before the plugin was gone.
	if left, err := r.uses(); err == nil && len(left) == 0 {
		errs = append(errs, r.removeState())
	}
	return errors.Join(errs...)
}

// removeState removes the files of the daemon and the plugins by name, and their folders if nothing else is in them.
func (r Removal) removeState() error {
	locks, err := filepath.Glob(filepath.Join(r.AttachmentsDir, "locks", "*.lock"))
	offered, offeredErr := r.offered()
	errs := []error{err, offeredErr, leases.Dir(r.LeaseDir).RemoveAll()}
	for _, path := range append(slices.Concat(offered, locks),
		r.LeaseDir, filepath.Join(r.AttachmentsDir, "locks"), filepath.Join(r.AttachmentsDir, "restore"), r.AttachmentsDir,
		r.Inventory, filepath.Join(filepath.Dir(r.Inventory), status.SocketName), filepath.Dir(r.Inventory),
		nodestate.CheckpointPath(r.StateDir), filepath.Join(r.StateDir, stateLock), r.StateDir,
	) {
		errs = append(errs, r.remove(path))
	}
	return errors.Join(errs...)
}

// offered returns the files of the daemon's own offer: the sockets that a killed daemon leaves, and the device-info files of the resources
// that the checkpoint names. In the mode pcidp these files are the SR-IOV device plugin's.
func (r Removal) offered() ([]string, error) {
	all, err := filepath.Glob(filepath.Join(r.DevicePlugins, "multi-eni-*.sock"))
	if err != nil {
		return nil, fmt.Errorf("look for sockets: %w", err)
	}
	c, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(r.StateDir))
	if err != nil || c.Offer.Mode != nodestate.OfferDevicePlugin {
		return all, nil //nolint:nilerr // without a checkpoint nobody knows which files are ours
	}
	for _, name := range c.Offer.Names {
		prefix := strings.ReplaceAll(name.String(), "/", "-") + "-"
		files, err := filepath.Glob(filepath.Join(r.DeviceInfo, prefix+"????:??:??.?-device.json"))
		if err != nil {
			return nil, fmt.Errorf("look for device-info files: %w", err)
		}
		all = append(all, files...)
	}
	return all, nil
}

// uses returns the reasons not to uninstall.
func (r Removal) uses() (uses []string, err error) {
	records, bad, err := nodestate.AttachmentDir(r.AttachmentsDir).List()
	if err != nil {
		return nil, err
	}
	for _, a := range records {
		uses = append(uses, fmt.Sprintf("attachment %s of device %s", a.AttachmentID, a.Device.PCIAddress))
	}
	for _, err := range bad {
		uses = append(uses, "an attachment record that cannot be read: "+err.Error())
	}
	held, err := leases.Dir(r.LeaseDir).Held()
	if err != nil {
		return uses, err
	}
	for _, l := range held {
		uses = append(uses, fmt.Sprintf("address %s, leased to %s", l.Address, l.AttachmentID))
	}
	restores, err := nodestate.AttachmentDir(r.AttachmentsDir).Restores()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return uses, err
	}
	for _, pci := range restores {
		uses = append(uses, fmt.Sprintf("device %s, not given back yet as it was", pci))
	}
	c, err := nodestate.ReadCheckpoint(nodestate.CheckpointPath(r.StateDir))
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
func (r Removal) removePolicy(path, binDir string) error {
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
		fmt.Fprintf(r.Out, "%s: kept, it has been changed\n", path)
		return nil
	}
	return r.removeFile(path)
}

// remove is removeFile, except that it leaves a folder that is not empty or is a mount of the container.
func (r Removal) remove(path string) error {
	err := r.removeFile(path)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY) {
		fmt.Fprintf(r.Out, "%s: left, it is not empty or in use\n", path)
		return nil
	}
	return err
}

// removeFile removes a file or an empty folder. It need not exist.
func (r Removal) removeFile(path string) error {
	err := os.Remove(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("remove: %w", err)
	}
	fmt.Fprintf(r.Out, "%s: removed\n", path)
	return nil
}
