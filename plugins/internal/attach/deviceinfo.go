package attach

import (
	"encoding/json"
	"fmt"
	"io/fs"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/hold"
)

// deviceInfo is the device-info spec 1.1.0's file for a PCI device. Readers ignore the key
// multi-eni.
type deviceInfo struct {
	Type    string `json:"type"`
	Version string `json:"version"`
	PCI     struct {
		PCIAddress   string `json:"pci-address"`
		PFPCIAddress string `json:"pf-pci-address,omitempty"`
	} `json:"pci"`
	MultiENI struct {
		ENIID     string   `json:"eniID,omitempty"`
		NodeENI   string   `json:"nodeENI,omitempty"`
		MAC       string   `json:"mac,omitempty"`
		Addresses []string `json:"addresses,omitempty"`
		Driver    string   `json:"driver,omitempty"` // of the kernel or of userspace
		// IOMMUGroup is the number in /dev/vfio/<group>. Nil for none or unknown, like NUMANode.
		IOMMUGroup *int `json:"iommuGroup,omitempty"`
		NUMANode   *int `json:"numaNode,omitempty"`
	} `json:"multi-eni"`
}

func writeDeviceInfo(d *hold.Device, result *types100.Result) error {
	info := deviceInfo{Type: "pci", Version: "1.1.0"}
	dev, fn := &d.Record.Device, &d.Function
	info.PCI.PCIAddress, info.PCI.PFPCIAddress = dev.PCIAddress.String(), fn.PhysFn.String()
	m := &info.MultiENI
	m.ENIID, m.NodeENI, m.MAC = dev.ENIID.String(), dev.NodeENI, dev.MAC.String()
	m.Driver = fn.Driver
	if fn.IOMMUGroup >= 0 {
		m.IOMMUGroup = &fn.IOMMUGroup
	}
	if fn.NUMANode >= 0 {
		m.NUMANode = &fn.NUMANode
	}
	for _, ip := range result.IPs {
		m.Addresses = append(m.Addresses, ip.Address.String())
	}
	data, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return fmt.Errorf("encode device info: %w", err)
	}
	return atomicfile.Write(d.DeviceInfoFile, data, fs.FileMode(0o644), atomicfile.Volatile)
}
