package attach

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// TestUserspaceDevice: a NIC on vfio-pci stays; result and device info give its place. Interface delegates are refused.
func TestUserspaceDevice(t *testing.T) {
	guest.Clean(t)
	pci, _ := guest.WaitNIC(t, nic2)
	before := device(pci)
	t.Cleanup(func() { same(t, pci, before) })
	guest.BindVFIO(t, pci)
	info := filepath.Join(t.TempDir(), "device-info.json")
	p := newPod(t, "userspace", conf{
		"deviceID": pci, "ipam": static("10.0.2.9/24"), "runtimeConfig": conf{"CNIDeviceInfoFile": info},
	})
	p.add()
	if i := p.result.Interfaces[0]; i.Name != ifName || i.PciID != pci || i.Sandbox != p.netns {
		t.Errorf("the result's interface is %+v", i)
	}
	if got := p.ip(0).String(); got != "10.0.2.9" {
		t.Errorf("the result's address is %s", got)
	}
	data, err := os.ReadFile(info)
	guest.Must(t, err)
	var got map[string]any
	guest.Must(t, json.Unmarshal(data, &got))
	link, err := os.Readlink(filepath.Join(guest.Devices, pci, "iommu_group"))
	guest.Must(t, err)
	group, err := strconv.ParseFloat(filepath.Base(link), 64) // as JSON numbers are decoded
	guest.Must(t, err)
	want := map[string]any{
		"type": "pci", "version": "1.1.0", "pci": map[string]any{"pci-address": pci},
		"multi-eni": map[string]any{"addresses": []any{"10.0.2.9/24"}, "driver": "vfio-pci", "iommuGroup": group},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("device info (-want +got):\n%s", d)
	}
	p.check()
	if got := guest.Driver(pci); got != "vfio-pci" {
		t.Errorf("the driver is %q now", got)
	}
	p.in(func() error {
		if n := len(guest.Links(t)); n != 1 {
			t.Errorf("the pod has %d links, want lo alone", n)
		}
		return nil
	})
	v := guest.OpenVFIO(t, pci) // as the pod's process does
	if vendor, dev, err := v.IDs(); err != nil || vendor != 0x8086 || dev != 0x10d3 {
		t.Errorf("the device says %04x:%04x, %v; want an 8086:10d3", vendor, dev, err)
	}
	v.Close()
	newPod(t, "second", p.conf).refused(101, pci, p.id)
	p.del()
	if _, err := os.Stat(info); err == nil {
		t.Error("the device info is still there after DEL")
	}
	newPod(t, "shared", conf{"deviceID": pci, "delegate": conf{"type": "ipvlan"}}).refused(102, pci, "vfio-pci", "ipvlan")
}
