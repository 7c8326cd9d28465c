package ethtool_test

import (
	"errors"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link/ethtool"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// set is an ethtool command that knows nothing of the package.
func set(t *testing.T, fd int, name string, words ...uint32) {
	t.Helper()
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&words[0])}
	copy(req.name[:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		t.Fatalf("ethtool command %#x of %s: %v", words[0], name, errno)
	}
}

// TestKernel changes settings of the kernel's virtual devices: a tap's coalescing and
// message level, and a veth's channels and features.
func TestKernel(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tap1"}, Mode: netlink.TUNTAP_MODE_TAP}
	if err := netlink.LinkAdd(tap); err != nil {
		t.Skip("no tap devices here: ", err)
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth1", NumTxQueues: 4, NumRxQueues: 4}, PeerName: "peer"}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	coalesce := make([]uint32, 23)
	coalesce[0], coalesce[2] = unix.ETHTOOL_SCOALESCE, 8
	for name, tt := range map[string]struct {
		setting string
		words   []uint32
	}{
		"tap1": {"message level", []uint32{unix.ETHTOOL_SMSGLVL, 5}},
		"eth1": {"features", []uint32{unix.ETHTOOL_SFEATURES, 2, 1, 0, 0, 0}}, // scatter-gather off
	} {
		d := ethtool.Device{FD: fd, Name: name}
		before, err := d.Settings()
		if err != nil || before[tt.setting] == "" {
			t.Fatalf("%s: %v, %v; want %s", name, before, err, tt.setting)
		}
		set(t, fd, name, tt.words...)
		if name == "tap1" {
			set(t, fd, name, coalesce...)
		} else {
			set(t, fd, name, unix.ETHTOOL_SCHANNELS, 0, 0, 0, 0, 2, 2, 0, 0)
		}
		changed, err := d.Settings()
		if differing := before.Differing(changed); len(differing) != 2 || err != nil {
			t.Errorf("%s: %q has changed, %v; want two settings", name, differing, err)
		}
		if failed := d.Restore(before); len(failed) > 0 {
			t.Errorf("%s: %v", name, failed)
		}
		after, err := d.Settings()
		if diff := cmp.Diff(before, after); diff != "" || err != nil {
			t.Errorf("%s: %v (-before +after):\n%s", name, err, diff)
		}
	}

	if s, err := (ethtool.Device{FD: fd, Name: "eth9"}).Settings(); !errors.Is(err, unix.ENODEV) || s != nil {
		t.Errorf("settings of no link: %v, %v; want ENODEV", s, err)
	}
	failed := ethtool.Device{FD: fd, Name: "eth1"}.Restore(nodestate.Settings{"channels": "1000 1000 0 0", "timestamps": "0 0 0"})
	if failed["channels"] == nil || len(failed) != 1 {
		t.Errorf("more channels than queues: %v; want an error, and none for a setting that a veth lacks", failed)
	}
}
