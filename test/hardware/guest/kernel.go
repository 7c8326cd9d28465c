package guest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// Devices is the folder of PCI functions in sysfs.
const Devices = "/sys/bus/pci/devices/"

const (
	pollInterval = 20 * time.Millisecond
	// settleTime bounds the kernel's own work.
	settleTime = 15 * time.Second
)

// Eventually waits until done returns true, and returns the time that it took. The bound fails the test.
func Eventually(t testing.TB, what string, within time.Duration, done func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		ok, took := done(), time.Since(began)
		if ok {
			return took
		}
		if took > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(pollInterval)
	}
}

// NewNetns makes /run/netns/<name> with lo up, and returns its path. The test's end deletes it unless DeleteNetns has.
func NewNetns(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join("/run/netns", name)
	if err := nstest.NewNetns(path); err != nil {
		t.Fatalf("make netns %s: %v", name, err)
	}
	t.Cleanup(func() {
		if _, err := os.Lstat(path); err == nil {
			DeleteNetns(t, path)
		}
	})
	return path
}

// DeleteNetns deletes a namespace's path. The namespace ends with its last process.
func DeleteNetns(t testing.TB, path string) {
	t.Helper()
	if err := nstest.DeleteNetns(path); err != nil {
		t.Errorf("delete netns: %v", err)
	}
}

// In runs f on a thread in the netns at path. There the test may use Error but not Fatal, which would leave the thread.
func In(t testing.TB, path string, f func()) {
	t.Helper()
	if err := nstest.In(path, func() error { f(); return nil }); err != nil {
		t.Fatalf("enter netns %s: %v", path, err)
	}
}

// Links are the links of the calling thread's netns.
func Links(t testing.TB) []netlink.Link {
	t.Helper()
	for {
		links, err := netlink.LinkList()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue // a link came or went; the next dump may be whole
		}
		if err != nil {
			t.Fatalf("list links: %v", err)
		}
		return links
	}
}

// ByMAC finds the device by address in the thread's netns. It skips links on a device, which may share its address.
func ByMAC(mac string) (netlink.Link, bool) {
	return find(func(a *netlink.LinkAttrs) bool {
		return a.HardwareAddr.String() == mac && a.ParentIndex == 0
	})
}

// ByName finds a link in the calling thread's netns.
func ByName(name string) (netlink.Link, bool) {
	return find(func(a *netlink.LinkAttrs) bool { return a.Name == name })
}

func find(wanted func(*netlink.LinkAttrs) bool) (netlink.Link, bool) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, false
	}
	for _, l := range links {
		if wanted(l.Attrs()) {
			return l, true
		}
	}
	return nil, false
}

// Driver is the driver of a PCI function, "" without one or without the function.
func Driver(pci string) string {
	target, err := os.Readlink(filepath.Join(Devices, pci, "driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// Netdev is the interface of a PCI function in the host's netns, or "".
func Netdev(pci string) string {
	entries, err := os.ReadDir(filepath.Join(Devices, pci, "net"))
	if err != nil || len(entries) == 0 {
		return ""
	}
	return entries[0].Name()
}

// PCIOf is the PCI function of an interface in the host's netns, or "".
func PCIOf(ifname string) string {
	target, err := filepath.EvalSymlinks(filepath.Join("/sys/class/net", ifname, "device"))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// WaitNIC waits until the NIC with the address has an interface. It returns the PCI function and the interface's name.
func WaitNIC(t testing.TB, mac string) (pci, ifname string) {
	t.Helper()
	Eventually(t, "an interface with MAC "+mac, settleTime, func() bool {
		l, ok := ByMAC(mac)
		if ok {
			ifname = l.Attrs().Name
			pci = PCIOf(ifname)
		}
		return pci != ""
	})
	return pci, ifname
}

// VFs enables n VFs on the igb PF until the test's end, and waits for their interfaces. VFs are in order.
func VFs(t testing.TB, n int) (pf string, vfs []string) {
	t.Helper()
	found, err := filepath.Glob("/sys/bus/pci/drivers/igb/*:*")
	if err != nil || len(found) != 1 {
		t.Fatalf("find the igb PF: there are %q, %v", found, err)
	}
	pf = filepath.Base(found[0])
	count := filepath.Join(Devices, pf, "sriov_numvfs")
	WriteSys(t, count, strconv.Itoa(n))
	t.Cleanup(func() {
		if _, err := os.Stat(count); !errors.Is(err, fs.ErrNotExist) {
			WriteSys(t, count, "0")
		}
	})
	Eventually(t, strconv.Itoa(n)+" VFs with an interface each", settleTime, func() bool {
		vfs = nil
		for i := range n {
			target, err := os.Readlink(filepath.Join(Devices, pf, "virtfn"+strconv.Itoa(i)))
			if err != nil || Netdev(filepath.Base(target)) == "" {
				return false
			}
			vfs = append(vfs, filepath.Base(target))
		}
		return true
	})
	return pf, vfs
}

// WriteSys writes a value to a file of the kernel's.
func WriteSys(t testing.TB, path, value string) {
	t.Helper()
	// Neither created nor truncated: it is a kernel file.
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(value)
		f.Close()
	}
	if err != nil {
		t.Fatalf("write %q: %v", value, err)
	}
}

// ReadSys is the content of a kernel file without the line's end.
func ReadSys(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("read a value: %v", err)
	}
	return strings.TrimSpace(string(data))
}

// SetUp sets a link of the host up.
func SetUp(t testing.TB, ifname string) {
	t.Helper()
	change(t, ifname, netlink.LinkSetUp)
}

// SetDown sets a link of the host down.
func SetDown(t testing.TB, ifname string) {
	t.Helper()
	change(t, ifname, netlink.LinkSetDown)
}

func change(t testing.TB, ifname string, set func(netlink.Link) error) {
	t.Helper()
	l, ok := ByName(ifname)
	if !ok {
		t.Fatalf("no link %s", ifname)
	}
	if err := set(l); err != nil {
		t.Fatalf("change link %s: %v", ifname, err)
	}
}
