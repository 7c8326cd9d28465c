// Package protocol is the contract between the host side of a machine and its guest: PID 1's config file,
// the requests of tests, and the codes at a boot's end.
package protocol

import "time"

// ConfigPath is the path of PID 1's Config, as JSON.
const ConfigPath = "/machine/config.json"

// KeptPath is a tar archive of the files of an earlier boot, relative to the root folder. The first boot has none.
const KeptPath = "/machine/kept.tar"

// RequestPort is the guest's serial port for requests and replies, one JSON value a line.
const RequestPort = "/dev/ttyS1"

// Ready begins PID 1's line before the tests.
const Ready = "machine: boot "

// Environment of the test binary.
const (
	// GuestEnv is "1" inside a machine.
	GuestEnv = "HARDWARE_GUEST"
	// BootEnv is the number of the boot, from 1.
	BootEnv = "GUEST_BOOT"
)

// Config configures PID 1.
type Config struct {
	// Args are the arguments of the test binary.
	Args []string `json:"args"`
	// Boot is the number of the boot, from 1.
	Boot int `json:"boot"`
	// Limit bounds the boot, in nanoseconds from QEMU's start. The tests get less, to report where they hang.
	Limit time.Duration `json:"limit"`
	// Modules are the kernel modules to load, in order, as paths relative to /lib/modules/<release>.
	Modules []string `json:"modules"`
	// Hugepages is how many pages of 2 MiB to reserve; 0 for none.
	Hugepages int `json:"hugepages,omitempty"`
}

// Op is the kind of a Request.
type Op string

// The requests.
const (
	// Attach plugs an e1000e in: ID, Slot and MAC. The reply comes when QEMU has it.
	Attach Op = "attach"
	// Detach pulls the NIC ID out. The reply comes when the guest has released it.
	Detach Op = "detach"
	// Reboot makes the machine boot again after this boot's end: Kept, Moves and Run.
	Reboot Op = "reboot"
	// Record writes Data as the file Name of the test's folder, when the tests run with -update.
	Record Op = "record"
)

// Request is one request of a test. Fields that the Op does not name are empty.
type Request struct {
	// Number is echoed in the Reply: several requests may be under way.
	Number int    `json:"number"`
	Op     Op     `json:"op"`
	ID     string `json:"id,omitempty"`
	Slot   string `json:"slot,omitempty"`
	MAC    string `json:"mac,omitempty"`
	// Moves are the new slots of NICs, by ID.
	Moves map[string]string `json:"moves,omitempty"`
	// Kept is a tar archive of the files for the next boot.
	Kept []byte `json:"kept,omitempty"`
	// Run is the -test.run of the next boot: the calling test, and the later ones.
	Run  string `json:"run,omitempty"`
	Name string `json:"name,omitempty"`
	Data []byte `json:"data,omitempty"`
}

// Reply answers the Request with the same Number.
type Reply struct {
	Number int `json:"number"`
	// Error is the failure's reason, or "".
	Error string `json:"error,omitempty"`
}

// RebootStatus is the test binary's exit status for an arranged reboot. `go test` binaries use 0, 1 and 2.
const RebootStatus = 77

// Codes that PID 1 writes to the isa-debug-exit device.
const (
	// TestsEnded plus the test binary's exit status.
	TestsEnded = 0x10
	// Rebooting: the machine boots again.
	Rebooting = 0x20
	// NotReady: PID 1 could not prepare the machine.
	NotReady = 0x21
)

// ExitStatus is QEMU's exit status after the guest has written code.
func ExitStatus(code int) int { return code<<1 | 1 }
