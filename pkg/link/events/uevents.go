package events

import (
	"bytes"
	"context"

	"golang.org/x/sys/unix"
)

// SubscribeUevents is Subscribe for the kernel's own uevents of PCI functions and network devices
// (NETLINK_KOBJECT_UEVENT, group 1): hot-plug, bind and unbind. The kernel sends them to the initial network namespace
// and to those of the same user namespace.
func SubscribeUevents(ctx context.Context) (<-chan struct{}, error) {
	return follow(ctx, "uevent", unix.NETLINK_KOBJECT_UEVENT, 1, 0, relevant)
}

// relevant says whether a uevent (ACTION@DEVPATH and KEY=VALUE strings, each
// ended by a NUL) concerns a PCI function or a network device.
func relevant(msg []byte) bool {
	for field := range bytes.SplitSeq(msg, []byte{0}) {
		if subsystem, ok := bytes.CutPrefix(field, []byte("SUBSYSTEM=")); ok {
			return string(subsystem) == "pci" || string(subsystem) == "net"
		}
	}
	return false
}
