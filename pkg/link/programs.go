package link

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrUnfit is among Restore's errors when no pod may get the link. A program of an earlier pod is on it, the VPC drops
// packets of its MAC, or its PF still treats it as that pod's.
var ErrUnfit = errors.New("the device cannot be used like this")

// dropPrograms takes the XDP and tcx programs off the link that are not the host's own: keep is the id of its XDP
// program, 0 for none. Filters of tc and netfilter need nothing: they end when a link changes netns.
func (h *Handle) dropPrograms(l Link, keep uint32) error {
	if !l.MayRunPrograms() {
		return nil
	}
	now, err := h.ByIndex(l.Index) // l may have been read before it left the pod
	if err != nil {
		return err
	}
	return errors.Join(h.dropXDP(now, keep), dropTCX(l.Index))
}

// MayRunPrograms says whether BPF programs may be on the link. Such a link is to be kept down until Restore has taken
// them off. It asks which programs are loaded: to ask the link would have to wait for RTNL, behind the moves of others.
func (l Link) MayRunPrograms() bool {
	if l.XDPMode != 0 {
		return true
	}
	for id := uint32(0); ; {
		next := struct{ id, next, flags uint32 }{id: id}
		if _, err := bpf(unix.BPF_PROG_GET_NEXT_ID, unsafe.Pointer(&next), unsafe.Sizeof(next)); err != nil {
			return false // at the end; nor can one who may not ask (a test's user namespace) have loaded any
		}
		id = next.next
		if typ, err := programType(id); err == nil && (typ == unix.BPF_PROG_TYPE_XDP || typ == unix.BPF_PROG_TYPE_SCHED_CLS) {
			return true
		}
	}
}

// programType reads the type of the program of that id.
func programType(id uint32) (typ uint32, err error) {
	var info struct {
		typ, id uint32
		_       [256]byte
	}
	err = withID(unix.BPF_PROG_GET_FD_BY_ID, id, func(fd uint32) error { return objectInfo(fd, unsafe.Pointer(&info), unsafe.Sizeof(info)) })
	return info.typ, err
}

func objectInfo(fd uint32, info unsafe.Pointer, size uintptr) error {
	attr := struct {
		fd, size uint32
		info     unsafe.Pointer
	}{fd, uint32(size), info}
	_, err := bpf(unix.BPF_OBJ_GET_INFO_BY_FD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

// Values of IFLA_XDP_ATTACHED (linux/if_link.h).
const (
	xdpDriver = 1 + iota
	xdpGeneric
	xdpHardware
	xdpSeveral
)

// xdpFlags are the modes in RTM_SETLINK, by their values in IFLA_XDP_ATTACHED.
var xdpFlags = map[uint8]uint32{
	xdpDriver: unix.XDP_FLAGS_DRV_MODE, xdpGeneric: unix.XDP_FLAGS_SKB_MODE, xdpHardware: unix.XDP_FLAGS_HW_MODE,
}

// dropXDP takes off the program in each mode. RTM_SETLINK cannot take off
// the program of a bpf_link, whose owner may be a process that outlives the pod.
func (h *Handle) dropXDP(l Link, keep uint32) error {
	if l.XDPMode == 0 || l.XDP != 0 && l.XDP == keep {
		return nil
	}
	var errs []error
	for mode, flag := range xdpFlags {
		if l.XDPMode != mode && l.XDPMode != xdpSeveral {
			continue
		}
		xdp := nl.NewRtAttr(unix.IFLA_XDP|unix.NLA_F_NESTED, nil)
		xdp.AddRtAttr(nl.IFLA_XDP_FD, nl.Uint32Attr(^uint32(0)))
		xdp.AddRtAttr(nl.IFLA_XDP_FLAGS, nl.Uint32Attr(flag))
		if err := h.setLink(l.Index, xdp); err != nil {
			errs = append(errs, err)
		}
	}
	now, err := h.ByIndex(l.Index)
	if err == nil && now.XDP != 0 && now.XDP != keep { // a bpf_link has it there
		errs = append(errs, detachXDPLink(now))
		now, err = h.ByIndex(l.Index)
	}
	if err != nil || now.XDPMode == 0 || now.XDP != 0 && now.XDP == keep {
		return err
	}
	return fmt.Errorf("XDP program %d: %w", now.XDP, errors.Join(errs...))
}

// detachXDPLink detaches the bpf_link by which an XDP program is on l. The kernel
// lists the bpf_links of all netns, each with its program and an interface index. So
// an interface in another netns may look the same: then none is touched.
func detachXDPLink(l Link) error {
	var found []uint32
	for id := uint32(0); ; {
		next := struct{ id, next, flags uint32 }{id: id}
		if _, err := bpf(unix.BPF_LINK_GET_NEXT_ID, unsafe.Pointer(&next), unsafe.Sizeof(next)); errors.Is(err, unix.ENOENT) {
			break
		} else if err != nil {
			return fmt.Errorf("list bpf_links: %w", err)
		}
		id = next.next
		if info, err := linkInfo(id); err == nil && info.typ == unix.BPF_LINK_TYPE_XDP && info.prog == l.XDP && info.ifindex == uint32(l.Index) {
			found = append(found, id)
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("%d bpf_links hold it on an interface of index %d, and which is not to be told", len(found), l.Index)
	}
	return detachLink(found[0])
}

// bpfLinkInfo is struct bpf_link_info of an XDP link.
type bpfLinkInfo struct {
	typ, id, prog, _ uint32
	ifindex          uint32
	_                [64]byte
}

func linkInfo(id uint32) (info bpfLinkInfo, err error) {
	err = withLink(id, func(fd uint32) error { return objectInfo(fd, unsafe.Pointer(&info), unsafe.Sizeof(info)) })
	return info, err
}

func detachLink(id uint32) error {
	return withLink(id, func(fd uint32) error {
		_, err := bpf(unix.BPF_LINK_DETACH, unsafe.Pointer(&fd), unsafe.Sizeof(fd))
		return err
	})
}

// withLink opens the bpf_link of that id, which ends meanwhile at any time.
func withLink(id uint32, f func(fd uint32) error) error {
	return withID(unix.BPF_LINK_GET_FD_BY_ID, id, f)
}

func withID(cmd int, id uint32, f func(fd uint32) error) error {
	attr := struct{ id, next, flags uint32 }{id: id}
	fd, err := bpf(cmd, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	return f(uint32(fd))
}

// maxTCX is as many programs as the kernel has on one hook (BPF_MPROG_MAX).
const maxTCX = 64

// dropTCX takes all tcx programs off the link of the calling thread's netns. Without
// the right to ask (EPERM: a user namespace of a test) there is none of ours.
func dropTCX(index int) error {
	var errs []error
	for _, hook := range []uint32{unix.BPF_TCX_INGRESS, unix.BPF_TCX_EGRESS} {
		progs, links, err := queryTCX(index, hook)
		if err != nil {
			errs = append(errs, err)
		}
		for i, prog := range progs {
			var err error
			if links[i] != 0 {
				err = detachLink(links[i])
			} else {
				err = detachTCX(index, hook, prog)
			}
			if err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("tcx program %d: %w", prog, err))
			}
		}
	}
	return errors.Join(errs...)
}

// queryTCX returns the programs on a hook, each with its bpf_link or 0. A kernel
// without tcx (before Linux 6.6) has none.
func queryTCX(index int, hook uint32) (progs, links []uint32, err error) {
	progs, links = make([]uint32, maxTCX), make([]uint32, maxTCX)
	attr := struct {
		index, hook, flags, attached uint32
		progs                        unsafe.Pointer
		count, _                     uint32
		progFlags                    unsafe.Pointer
		links, linkFlags             unsafe.Pointer
		revision                     uint64
	}{index: uint32(index), hook: hook, progs: unsafe.Pointer(&progs[0]), links: unsafe.Pointer(&links[0]), count: maxTCX}
	_, err = bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	switch {
	case slices.ContainsFunc([]error{unix.ENOENT, unix.EINVAL, unix.ENOSYS, unix.EPERM}, func(none error) bool { return errors.Is(err, none) }):
		return nil, nil, nil
	case err != nil:
		return nil, nil, fmt.Errorf("list tcx programs: %w", err)
	}
	return progs[:attr.count], links[:attr.count], nil
}

func detachTCX(index int, hook, prog uint32) error {
	return withID(unix.BPF_PROG_GET_FD_BY_ID, prog, func(fd uint32) error {
		attr := struct {
			index, prog, hook, flags, replace, relative uint32
			revision                                    uint64
		}{index: uint32(index), prog: fd, hook: hook}
		_, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
		return err
	})
}

// bpf is bpf(2). The attributes may point to memory that is reachable from the caller's stack only.
func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
