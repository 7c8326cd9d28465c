// Package protocol is what the host side of a machine and the guest in it have
// to agree on: the file that tells PID 1 what to do, the requests that tests
// make, and the codes with which a boot ends.
package protocol

import "time"

// ConfigPath is where PID 1 finds its Config, as JSON.
const ConfigPath = "/machine/config.json"

// KeptPath is a tar archive of the files that an earlier boot kept, relative to
// the root folder. There is none in the first boot.
const KeptPath = "/machine/kept.tar"

// RequestPort is the guest's serial port for requests and replies, one JSON
// value a line.
const RequestPort = "/dev/ttyS1"

// Ready begins the line by which PID 1 says that the tests begin.
const Ready = "machine: boot "

// Environment of the test binary.
const (
	// GuestEnv is "1" inside a machine.
	GuestEnv = "HARDWARE_GUEST"
	// BootEnv is the number of the boot, from 1.
	BootEnv = "GUEST_BOOT"
)

// Config tells PID 1 what to do.
type Config struct {
	// Args are the arguments of the test binary.
	Args []string `json:"args"`
	// Boot is the number of the boot, from 1.
	Boot int `json:"boot"`
	// Limit is how long the boot may take, in nanoseconds from QEMU's start on.
	// The tests get less, to say themselves where they hang.
	Limit time.Duration `json:"limit"`
	// Modules are the kernel modules to load, in order, as paths relative to
	// /lib/modules/<release>.
	Modules []string `json:"modules"`
	// Hugepages is how many pages of 2 MiB to reserve; 0 for none.
	Hugepages int `json:"hugepages,omitempty"`
}

// Op is what a Request asks for.
type Op string

// The requests.
const (
	// Attach plugs an e1000e in: ID, Slot and MAC. It is answered when QEMU has it.
	Attach Op = "attach"
	// Detach pulls the NIC ID out; answered when the guest has let go of it.
	Detach Op = "detach"
	// Reboot has the machine boot again after this boot's end: Kept, Moves and Run.
	Reboot Op = "reboot"
	// Record keeps Data as the file Name of the test's folder, when the tests
	// run with -update.
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
	// Kept is a tar archive of the files that the next boot finds again.
	Kept []byte `json:"kept,omitempty"`
	// Run is the -test.run of the next boot: the test that asks, and those after it.
	Run  string `json:"run,omitempty"`
	Name string `json:"name,omitempty"`
	Data []byte `json:"data,omitempty"`
}

// Reply answers the Request with the same Number.
type Reply struct {
	Number int `json:"number"`
	// Error is why it was not done; "" when it was.
	Error string `json:"error,omitempty"`
}

// RebootStatus is the exit status with which the test binary asks PID 1 for the
// reboot that it has arranged with the host. `go test` binaries use 0, 1 and 2.
const RebootStatus = 77

// The codes that PID 1 writes to the isa-debug-exit device.
const (
	// TestsEnded plus the test binary's exit status.
	TestsEnded = 0x10
	// Rebooting: the machine boots again.
	Rebooting = 0x20
	// NotReady: the machine could not be made ready for the tests.
	NotReady = 0x21
)

// ExitStatus is QEMU's exit status after the guest has written code.
func ExitStatus(code int) int { return code<<1 | 1 }
