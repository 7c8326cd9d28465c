package reconcile

import (
	"errors"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/problem"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reason"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// ErrUseUnseen says that the kernel does not tell whether a program has a function
// of this driver open.
var ErrUseUnseen = errors.New("open devices are not to be seen")

// useUnknown says why a device keeps its userspace driver of which err says that
// nobody knows whether it is open. It is nothing where more cannot be known than
// that no record and no allocation has it.
func useUnknown(d nodestate.Device, fn sysfs.PCIFunction, fresh bool, err error) []problem.Finding {
	remedy := "see the daemon's log"
	switch {
	case errors.Is(err, ErrUseUnseen) && !fresh:
		return nil
	case errors.Is(err, ErrUseUnseen):
		remedy = "the kubelet has started a moment ago and may not know its pods yet, it is asked again within a minute"
	case fn.Driver == "vfio-pci":
		remedy = "give the daemon the host's /dev/vfio"
	}
	f := problem.About(d, reason.DeviceUseUnknown, "the daemon cannot see whether a program has %s open, so it stays bound to %s; %s", fn.Address, fn.Driver, remedy)
	f.Err = err
	return []problem.Finding{f}
}
