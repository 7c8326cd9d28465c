package machine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// arguments is QEMU's command line.
//
// The accelerator is always TCG, so that all machines give the same results. A machine with hot-plug has one
// processor: with several threads QEMU 10 now and then writes a device's register to another device while PCI
// functions come and go. If that is the local APIC's EOI, a processor loses its timer.
//
// With kernel-irqchip=split and caching-mode=on the IOMMU serves passed-through devices, and vfio-pci has its
// groups (docs/specs: "VT-d" of QEMU's wiki).
func (h *host) arguments() []string {
	args := []string{
		"-machine", "q35,kernel-irqchip=split", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", strconv.Itoa(h.spec.Processors),
		"-m", strconv.Itoa(h.spec.MemoryMB),
		"-display", "none", "-no-reboot", "-nodefaults", "-no-user-config",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
		"-serial", "stdio",
		"-chardev", "socket,id=requests,path=" + h.path("requests"), "-serial", "chardev:requests",
		"-chardev", "socket,id=qmp,path=" + h.path("qmp"), "-mon", "chardev=qmp,mode=control",
		"-kernel", h.kernel.image, "-initrd", h.path("initramfs"),
	}
	// A kernel with an oops cannot be tested further. It would panic if a busy host delays the I/O APIC's timer check.
	line := "console=ttyS0 panic=-1 oops=panic quiet loglevel=4 net.ifnames=0 no_timer_check"
	if h.spec.Processors == 1 {
		// A periodic timer costs a fifth of one that is set for each event.
		line += " highres=off nohz=off"
	}
	if !h.spec.NoIOMMU {
		args = append(args, "-device", "intel-iommu,intremap=on,caching-mode=on")
		line += " intel_iommu=on"
	}
	args = append(args, "-append", line)
	// NICs with an address come before the ones that QEMU places.
	for _, n := range h.nics {
		if n.Address != "" {
			args = append(args, n.plugged(",addr="+n.Address)...)
		}
	}
	chassis := slots + 1
	for _, port := range sharedPorts(h.nics) {
		args = append(args, "-device", fmt.Sprintf("%s,%s", rootPort(port.bus, chassis), port.properties))
		chassis++
	}
	for i := range slots {
		args = append(args, "-device", rootPort(slotName(i), i+1))
	}
	for _, n := range h.nics {
		if n.Address != "" {
			continue
		}
		if n.Slot == "" && n.Group == "" {
			args = append(args, "-device", rootPort(n.bus(), chassis))
			chassis++
		}
		args = append(args, n.plugged("")...)
	}
	return args
}

func slotName(i int) string { return "slot" + strconv.Itoa(i) }

func rootPort(id string, chassis int) string {
	return fmt.Sprintf("pcie-root-port,id=%s,bus=pcie.0,chassis=%d,slot=%[2]d", id, chassis)
}

func (n NIC) bus() string {
	switch {
	case n.Address != "":
		return "pcie.0"
	case n.Slot != "":
		return n.Slot
	}
	return "port-" + n.ID
}

// sharedPort is a root port with a fixed place on the root bus.
type sharedPort struct{ bus, properties string }

// firstShared is the device number of the first group's ports, above QEMU's own.
const firstShared = 0x1a

func sharedPorts(nics []NIC) []sharedPort {
	var ports []sharedPort
	var groups []string
	functions := map[string]int{}
	for _, n := range nics {
		if n.Group == "" {
			continue
		}
		if !slices.Contains(groups, n.Group) {
			groups = append(groups, n.Group)
		}
		ports = append(ports, sharedPort{n.bus(), fmt.Sprintf("disable-acs=on,multifunction=on,addr=%02x.%d",
			firstShared+slices.Index(groups, n.Group), functions[n.Group])})
		functions[n.Group]++
	}
	return ports
}

func (n NIC) plugged(more string) []string {
	return []string{"-netdev", "hubport,hubid=0,id=" + n.wire(), "-device", properties(n.device()) + more}
}

func (n NIC) wire() string { return "wire-" + n.ID }

func (n NIC) device() map[string]any {
	return map[string]any{"driver": n.Model, "id": n.ID, "bus": n.bus(), "netdev": n.wire(), "mac": n.MAC, "romfile": ""}
}

func properties(device map[string]any) string {
	text := []string{fmt.Sprint(device["driver"])}
	for _, key := range []string{"id", "bus", "netdev", "mac", "romfile"} {
		text = append(text, fmt.Sprintf("%s=%v", key, device[key]))
	}
	return strings.Join(text, ",")
}
