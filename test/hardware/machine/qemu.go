package machine

import (
	"fmt"
	"strconv"
	"strings"
)

// arguments is QEMU's command line.
//
// The accelerator is TCG everywhere: what one machine shows, all show. With
// kernel-irqchip=split and caching-mode=on the IOMMU serves passed-through
// devices, and vfio-pci has its groups (docs/specs: "VT-d" of QEMU's wiki).
func (h *host) arguments() []string {
	args := []string{
		"-machine", "q35,kernel-irqchip=split", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", strconv.Itoa(h.spec.MemoryMB),
		"-display", "none", "-no-reboot", "-nodefaults", "-no-user-config",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
		"-serial", "stdio",
		"-chardev", "socket,id=requests,path=" + h.path("requests"), "-serial", "chardev:requests",
		"-chardev", "socket,id=qmp,path=" + h.path("qmp"), "-mon", "chardev=qmp,mode=control",
		"-kernel", h.kernel.image, "-initrd", h.path("initramfs"),
	}
	line := "console=ttyS0 panic=-1 quiet loglevel=4 net.ifnames=0"
	if !h.spec.NoIOMMU {
		args = append(args, "-device", "intel-iommu,intremap=on,caching-mode=on")
		line += " intel_iommu=on"
	}
	args = append(args, "-append", line)
	for i := range slots {
		args = append(args, "-device", rootPort(slotName(i), i+1))
	}
	chassis := slots + 1
	for _, n := range h.nics {
		if n.Slot == "" {
			args = append(args, "-device", rootPort(n.bus(), chassis))
			chassis++
		}
		args = append(args, "-netdev", "hubport,hubid=0,id="+n.wire(), "-device", properties(n.device()))
	}
	return args
}

func slotName(i int) string { return "slot" + strconv.Itoa(i) }

func rootPort(id string, chassis int) string {
	return fmt.Sprintf("pcie-root-port,id=%s,bus=pcie.0,chassis=%d,slot=%[2]d", id, chassis)
}

// bus is the root port that the NIC sits in.
func (n NIC) bus() string {
	if n.Slot != "" {
		return n.Slot
	}
	return "port-" + n.ID
}

// wire is the NIC's port of the hub.
func (n NIC) wire() string { return "wire-" + n.ID }

// device are the arguments of device_add.
func (n NIC) device() map[string]any {
	return map[string]any{"driver": n.Model, "id": n.ID, "bus": n.bus(), "netdev": n.wire(), "mac": n.MAC}
}

// properties is the form that -device wants.
func properties(device map[string]any) string {
	text := []string{fmt.Sprint(device["driver"])}
	for _, key := range []string{"id", "bus", "netdev", "mac"} {
		text = append(text, fmt.Sprintf("%s=%v", key, device[key]))
	}
	return strings.Join(text, ",")
}
