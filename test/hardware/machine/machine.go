// Package machine runs a package of tests in a QEMU machine with real PCI NICs, SR-IOV and vfio-pci. The
// package's TestMain calls Main, and `go test` is the runner: outside a machine Main boots one with the
// test binary in it and serves it, inside it runs the tests.
package machine

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
	"github.com/multi-eni/multi-eni-cni/test/hardware/internal/protocol"
	"github.com/multi-eni/multi-eni-cni/test/hardware/pid1"
)

const (
	defaultMemory  = 1024 // MiB
	defaultTimeout = 8 * time.Minute
	// hugepages is the number of 2 MiB pages for a DPDK application.
	hugepages = 64
	// slots is the number of hot-plug slots: "slot0", "slot1" and so on.
	slots = 8
)

// Spec is a machine. The zero value has the NICs of DefaultNICs, an IOMMU, one processor, and 1 GiB of memory.
type Spec struct {
	// NICs are there from the start; nil is DefaultNICs.
	NICs []NIC
	// NoIOMMU boots without the IOMMU that is otherwise on.
	NoIOMMU bool
	// MemoryMB is the memory in MiB; 0 is 1024.
	MemoryMB int
	// Processors is their number; 0 is one. With several, hot-plug is unreliable.
	Processors int
	// DPDK adds dpdk-testpmd, and reserves hugepages.
	DPDK bool
	// Unloaded are modules to leave unloaded besides uio_pci_generic. Their files are still below /lib/modules.
	Unloaded []string
	// Timeout bounds all boots together; 0 is eight minutes.
	Timeout time.Duration
}

// Models of NICs.
const (
	E1000E = "e1000e" // stands in for an ENI
	IGB    = "igb"    // a PF with up to seven VFs
	// VirtioRSS has a hash key for its queues. Its interface belongs to a child of the PCI function, so
	// the product does not take it for an ENI. It cannot be hot-plugged.
	VirtioRSS = "virtio-net-pci,rss=on,hash=on"
)

// NIC is a network card. All are on one wire.
type NIC struct {
	// ID names it in requests: letters, digits and dashes.
	ID string
	// Model is E1000E or IGB; "" is E1000E.
	Model string
	// MAC is the permanent address.
	MAC string
	// Slot is a hot-plug slot, "slot0" to "slot7"; "" is a slot of its own, without hot-plug.
	Slot string
	// Address is device and function on the root bus, such as "07.0" for 0000:00:07.0. It replaces Slot.
	Address string
	// Group puts the NICs of that name into one IOMMU group (ports without ACS). "" is a group of its own.
	Group string
}

// DefaultNICs are the node's primary ENI, three e1000e and an igb PF, each outside the hot-plug slots.
func DefaultNICs() []NIC {
	return []NIC{
		{ID: "primary", MAC: "02:00:00:00:00:01"},
		{ID: "nic0", MAC: "02:00:00:00:01:00"},
		{ID: "nic1", MAC: "02:00:00:00:01:01"},
		{ID: "nic2", MAC: "02:00:00:00:01:02"},
		{ID: "pf", Model: IGB, MAC: "02:00:00:00:02:00"},
	}
}

// Main is for TestMain; it does not return. Outside a machine it boots one with this test binary in it, copies
// the guest's output to standard output, serves the guest's requests, and exits with the tests' status. The
// flags of `go test` hold for the guest's tests.
//
// A machine that cannot be made is a failure that names the missing part: whoever runs these tests wants one.
func Main(m *testing.M, s Spec) {
	switch {
	case os.Getpid() == 1:
		pid1.Main()
	case os.Getenv(protocol.GuestEnv) != "" && guest.RunChild():
		os.Exit(0)
	case os.Getenv(protocol.GuestEnv) != "" || listing(os.Args[1:]):
		os.Exit(m.Run())
	}
	flag.Parse()
	if nothingToRun() {
		os.Exit(m.Run()) // says so
	}
	// QEMU is to die with this thread, the first of the process.
	runtime.LockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	status, err := run(ctx, s.withDefaults())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "machine:", err)
		status = cmp.Or(status, 1)
	}
	os.Exit(status)
}

func (s Spec) withDefaults() Spec {
	if s.NICs == nil {
		s.NICs = DefaultNICs()
	}
	s.NICs = slices.Clone(s.NICs)
	for i := range s.NICs {
		s.NICs[i].Model = cmp.Or(s.NICs[i].Model, E1000E)
	}
	s.MemoryMB = cmp.Or(s.MemoryMB, defaultMemory)
	s.Processors = cmp.Or(s.Processors, 1)
	s.Timeout = cmp.Or(s.Timeout, defaultTimeout)
	return s
}

// listing says whether go test only lists the tests.
func listing(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "-test.list=") && a != "-test.list=" })
}

// nothingToRun says whether -test.run matches no test of this binary, so that no machine is needed.
func nothingToRun() bool {
	run := flag.Lookup("test.run")
	if run == nil || run.Value.String() == "" {
		return false
	}
	pattern, _, _ := strings.Cut(run.Value.String(), "/")
	out, err := exec.Command("/proc/self/exe", "-test.list="+pattern).Output()
	return err == nil && len(out) == 0
}

// guestArgs are the test binary's arguments without files of the host and time limit. run replaces -test.run unless "".
func guestArgs(args []string, run string) []string {
	var out []string
	if run != "" {
		out = append(out, "-test.run="+run)
	}
	for _, a := range args {
		name, _, _ := strings.Cut(a, "=")
		switch name {
		case "-test.testlogfile", "-test.outputdir", "-test.coverprofile", "-test.gocoverdir", "-test.fuzzcachedir",
			"-test.cpuprofile", "-test.memprofile", "-test.blockprofile", "-test.mutexprofile", "-test.trace", "-test.timeout":
			continue
		case "-test.run":
			if run != "" {
				continue
			}
		}
		out = append(out, a)
	}
	return out
}
