package deviceplugin

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/offer"
	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// deviceInfo has the device-info files (device-info specification 1.1.0 of the Network Plumbing Working Group). Multus
// finds the file of a device by its name, and passes it to CNI plugins.
type deviceInfo struct{ dir string } // "" for none

const infoSuffix = "-device.json"

func infoPrefix(name device.ResourceName) string {
	return strings.ReplaceAll(name.String(), "/", "-") + "-"
}

func (i deviceInfo) path(name device.ResourceName, pci device.PCIAddress) string {
	return filepath.Join(i.dir, infoPrefix(name)+pci.String()+infoSuffix)
}

// write makes the files of the devices that have none, or an old one.
func (i deviceInfo) write(devices []offer.Device) error {
	if i.dir == "" || len(devices) == 0 {
		return nil
	}
	if err := os.MkdirAll(i.dir, 0o755); err != nil { //nolint:gosec // nothing in it is secret, and others read it
		return fmt.Errorf("make the folder of device-info files: %w", err)
	}
	for _, d := range devices {
		path := i.path(d.Resource, d.ID)
		content := fmt.Appendf(nil, `{"type":"pci","version":"1.1.0","pci":{"pci-address":%q}}`, d.ID)
		if was, err := os.ReadFile(path); err == nil && bytes.Equal(was, content) { //nolint:gosec // the name is made of checked values
			continue
		}
		if err := atomicfile.Write(path, content, 0o444, atomicfile.Volatile); err != nil {
			return fmt.Errorf("write device-info file: %w", err)
		}
	}
	return nil
}

func (i deviceInfo) remove(name device.ResourceName, pci device.PCIAddress) error {
	if i.dir == "" {
		return nil
	}
	if err := os.Remove(i.path(name, pci)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// clean removes the files of a resource's other devices, which an earlier daemon has left.
func (i deviceInfo) clean(name device.ResourceName, but []offer.Device) error {
	if i.dir == "" {
		return nil
	}
	entries, err := os.ReadDir(i.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, d := range but {
		keep[filepath.Base(i.path(name, d.ID))] = true
	}
	var errs []error
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), infoPrefix(name))
		pci, isInfo := strings.CutSuffix(rest, infoSuffix)
		addr, err := device.ParsePCIAddress(pci)
		if ours && isInfo && err == nil && !keep[e.Name()] {
			errs = append(errs, i.remove(name, addr))
		}
	}
	return errors.Join(errs...)
}
