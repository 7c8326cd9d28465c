package driver

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// NoIOMMU is the switch of vfio's mode without an IOMMU, /sys/module/vfio/parameters/enable_unsafe_noiommu_mode.
type NoIOMMU int

// The states of the switch.
const (
	NoIOMMUAbsent NoIOMMU = iota // vfio is not loaded, or built without CONFIG_VFIO_NOIOMMU
	NoIOMMUOff                   // vfio-pci refuses functions without an IOMMU group
	NoIOMMUOn                    // vfio-pci takes them, too
)

// Facts describe a machine's support of userspace drivers. The zero value has none.
type Facts struct {
	Loaded   map[string]bool // the userspace drivers that the kernel has
	NoIOMMU  NoIOMMU         // the state of vfio's switch
	Loadable map[string]bool // the userspace drivers whose module file is there
}

// ReadFacts looks at a machine. modules is the folder with the host's lib/modules, "" for "/"; it may be missing.
func ReadFacts(f sysfs.FS, modules string) (Facts, error) {
	facts := Facts{Loaded: map[string]bool{}, Loadable: map[string]bool{}}
	for _, name := range userspaceDrivers() {
		loaded, err := f.PCIDriver(name)
		if err != nil {
			return Facts{}, fmt.Errorf("look for drivers: %w", err)
		}
		if loaded {
			facts.Loaded[name] = true
		}
	}
	var err error
	if facts.NoIOMMU, err = readNoIOMMU(f); err != nil {
		return Facts{}, err
	}
	m, err := findModules(modules)
	if errors.Is(err, fs.ErrNotExist) {
		return facts, nil
	}
	if err != nil {
		return Facts{}, err
	}
	for _, name := range userspaceDrivers() {
		there, err := m.has(name)
		if err != nil {
			return Facts{}, err
		}
		if there {
			facts.Loadable[name] = true
		}
	}
	return facts, nil
}

const (
	vfioModule      = "vfio"
	noIOMMUSwitch   = "enable_unsafe_noiommu_mode"
	noIOMMUEnabled  = "Y" // param_get_bool in kernel/params.c
	noIOMMUDisabled = "N"
)

func readNoIOMMU(f sysfs.FS) (NoIOMMU, error) {
	value, ok, err := f.ModuleParameter(vfioModule, noIOMMUSwitch)
	switch {
	case err != nil:
		return NoIOMMUAbsent, fmt.Errorf("look for vfio's no-IOMMU mode: %w", err)
	case !ok:
		return NoIOMMUAbsent, nil
	case value == noIOMMUEnabled:
		return NoIOMMUOn, nil
	case value == noIOMMUDisabled:
		return NoIOMMUOff, nil
	}
	return NoIOMMUAbsent, fmt.Errorf("parse parameter %s of vfio: %q, want Y or N", noIOMMUSwitch, value)
}
