package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// writePolicy writes the default policy, unless anything is at path.
func writePolicy(path, binDir string) (outcome string, changed bool, err error) {
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
