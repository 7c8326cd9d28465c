package adversary

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Program is a loaded BPF program: an XDP program that drops all packets, or one for tcx and tc that passes all.
type Program int

// Errors of kernel or permission mean that there is nothing to try (ErrCannot).

// LoadXDP loads an XDP program that drops every packet.
func LoadXDP() (Program, error) { return load(unix.BPF_PROG_TYPE_XDP, 1) }

// LoadTC loads a classifier that returns TC_ACT_SHOT: it drops every packet.
func LoadTC() (Program, error) { return load(unix.BPF_PROG_TYPE_SCHED_CLS, 2) }

// Close releases the program; it stays where it is attached.
func (p Program) Close() { unix.Close(int(p)) }

// load loads "return verdict".
func load(typ, verdict uint32) (Program, error) {
	instructions := []uint64{0xb7 | uint64(verdict)<<32, 0x95} // r0 = verdict; exit
	license := []byte("GPL\x00")
	attr := struct {
		typ, count            uint32
		instructions, license unsafe.Pointer
		_                     [96]byte
	}{typ: typ, count: uint32(len(instructions)), instructions: unsafe.Pointer(&instructions[0]), license: unsafe.Pointer(&license[0])}
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		return -1, fmt.Errorf("load a BPF program: %w: %w", ErrCannot, err)
	}
	return Program(fd), err
}

// XDP attaches the program to a link of the calling thread's netns in a mode:
// unix.XDP_FLAGS_SKB_MODE or unix.XDP_FLAGS_DRV_MODE.
func (p Program) XDP(index int, mode uint32) error {
	return netlink.LinkSetXdpFdWithFlags(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}, int(p), int(mode))
}

// Link attaches the program by a bpf_link, which lasts until the returned function
// is called: to an XDP hook, or to one of tcx (unix.BPF_TCX_INGRESS …).
func (p Program) Link(index int, hook uint32) (end func(), err error) {
	attr := struct {
		prog, index, hook, flags uint32
		_                        [48]byte
	}{prog: uint32(p), index: uint32(index), hook: hook}
	fd, err := bpf(unix.BPF_LINK_CREATE, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return nil, err
	}
	return func() { unix.Close(fd) }, nil
}

// HookXDP is BPF_XDP of enum bpf_attach_type.
const HookXDP = 37

// TCX attaches the program without a bpf_link.
func (p Program) TCX(index int, hook uint32) error {
	attr := struct {
		index, prog, hook, flags, replace, relative uint32
		revision                                    uint64
	}{index: uint32(index), prog: uint32(p), hook: hook}
	_, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

// TCXPrograms counts the programs on both tcx hooks of a link of the calling thread's netns.
func TCXPrograms(index int) (n int, err error) {
	for _, hook := range []uint32{unix.BPF_TCX_INGRESS, unix.BPF_TCX_EGRESS} {
		attr := struct {
			index, hook, flags, attached uint32
			progs                        uint64
			count, _                     uint32
			_                            [4]uint64
		}{index: uint32(index), hook: hook}
		if _, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil && !errors.Is(err, unix.ENOENT) {
			return 0, err
		}
		n += int(attr.count)
	}
	return n, nil
}

func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
