package guest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctls of VFIO (include/uapi/linux/vfio.h): _IO(';', 100 + n).
const (
	vfioBase              = ';'<<8 | 100
	vfioGetAPIVersion     = vfioBase + 0
	vfioSetIOMMU          = vfioBase + 2
	vfioGroupGetStatus    = vfioBase + 3
	vfioGroupSetContainer = vfioBase + 4
	vfioGroupGetDeviceFD  = vfioBase + 6
	vfioDeviceGetRegion   = vfioBase + 8
	vfioDeviceReset       = vfioBase + 11

	vfioType1       = 1
	vfioGroupViable = 1
	vfioRegionBAR0  = 0
	vfioRegionPCI   = 7 // configuration space
)

// VFIO is a PCI function that this process has open as a userspace driver does: container, group and device.
type VFIO struct {
	container, group, device *os.File
}

// OpenVFIO opens a function that is bound to vfio-pci. The test's end closes it.
func OpenVFIO(t testing.TB, pci string) *VFIO {
	t.Helper()
	v, err := openVFIO(pci)
	if err != nil {
		t.Fatalf("open %s by VFIO: %v", pci, err)
	}
	t.Cleanup(v.Close)
	return v
}

func openVFIO(pci string) (v *VFIO, err error) {
	v = &VFIO{}
	defer func() {
		if err != nil {
			v.Close()
		}
	}()
	if v.container, err = os.OpenFile("/dev/vfio/vfio", os.O_RDWR, 0); err != nil {
		return nil, err
	}
	if version, err := ioctl(v.container, vfioGetAPIVersion, 0); err != nil || version != 0 {
		return nil, fmt.Errorf("VFIO has API version %d, want 0: %w", version, err)
	}
	target, err := os.Readlink(filepath.Join(Devices, pci, "iommu_group"))
	if err != nil {
		return nil, err
	}
	if v.group, err = os.OpenFile(filepath.Join("/dev/vfio", filepath.Base(target)), os.O_RDWR, 0); err != nil {
		return nil, err
	}
	status := struct{ size, flags uint32 }{size: 8}
	if _, err := ioctl(v.group, vfioGroupGetStatus, uintptr(unsafe.Pointer(&status))); err != nil {
		return nil, fmt.Errorf("read the group's status: %w", err)
	}
	if status.flags&vfioGroupViable == 0 {
		return nil, errors.New("the group is not viable: a device of it has another driver")
	}
	fd := int32(v.container.Fd())
	if _, err := ioctl(v.group, vfioGroupSetContainer, uintptr(unsafe.Pointer(&fd))); err != nil {
		return nil, fmt.Errorf("put the group into the container: %w", err)
	}
	if _, err := ioctl(v.container, vfioSetIOMMU, vfioType1); err != nil {
		return nil, fmt.Errorf("set the container's IOMMU: %w", err)
	}
	name, err := unix.BytePtrFromString(pci)
	if err != nil {
		return nil, err
	}
	dev, err := ioctl(v.group, vfioGroupGetDeviceFD, uintptr(unsafe.Pointer(name)))
	if err != nil {
		return nil, fmt.Errorf("open the device: %w", err)
	}
	v.device = os.NewFile(dev, pci)
	return v, nil
}

func ioctl(f *os.File, request, argument uintptr) (uintptr, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, argument)
	if errno != 0 {
		return 0, errno
	}
	return r, nil
}

// IDs are vendor and device from configuration space.
func (v *VFIO) IDs() (vendor, device uint16, err error) {
	data, err := v.read(vfioRegionPCI, 0)
	return uint16(data), uint16(data >> 16), err
}

// Register reads a 32-bit register of BAR 0: the device itself answers.
func (v *VFIO) Register(offset int64) (uint32, error) { return v.read(vfioRegionBAR0, offset) }

// Reset resets the function.
func (v *VFIO) Reset() error {
	_, err := ioctl(v.device, vfioDeviceReset, 0)
	return err
}

func (v *VFIO) read(region uint32, offset int64) (uint32, error) {
	// struct vfio_region_info
	info := struct {
		size, flags, index, capOffset uint32
		length, offset                uint64
	}{size: 32, index: region}
	if _, err := ioctl(v.device, vfioDeviceGetRegion, uintptr(unsafe.Pointer(&info))); err != nil {
		return 0, fmt.Errorf("find region %d: %w", region, err)
	}
	var data [4]byte
	if _, err := v.device.ReadAt(data[:], int64(info.offset)+offset); err != nil {
		return 0, fmt.Errorf("read region %d: %w", region, err)
	}
	return binary.LittleEndian.Uint32(data[:]), nil
}

// Close releases the function. It may be called again.
func (v *VFIO) Close() {
	for _, f := range []*os.File{v.device, v.group, v.container} {
		if f != nil {
			f.Close()
		}
	}
}

// holdEnv is the variable with the PCI function of a child process.
const holdEnv = "GUEST_HOLD_VFIO"

// Holder is a separate process that has a PCI function open by VFIO, like a pod's.
type Holder struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.Closer
}

// HoldVFIO starts a Holder, and returns when it has opened the function. The test's end kills it.
func HoldVFIO(t testing.TB, pci string) *Holder {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), holdEnv+"="+pci)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	Must(t, err)
	stdout, err := cmd.StdoutPipe()
	Must(t, err)
	if err := cmd.Start(); err != nil {
		t.Fatalf("start a process that holds %s: %v", pci, err)
	}
	h := &Holder{t: t, cmd: cmd, stdin: stdin}
	t.Cleanup(h.Kill)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("a process that is to hold %s says %q, %v", pci, line, err)
	}
	return h
}

// PID is the process's.
func (h *Holder) PID() int { return h.cmd.Process.Pid }

// Release makes the process close the function and exit.
func (h *Holder) Release() {
	h.t.Helper()
	if h.cmd.ProcessState != nil {
		return
	}
	h.stdin.Close()
	if err := h.cmd.Wait(); err != nil {
		h.t.Errorf("the process that held a function: %v", err)
	}
}

// Kill ends the process with SIGKILL, if it is running.
func (h *Holder) Kill() {
	if h.cmd.ProcessState != nil {
		return
	}
	h.cmd.Process.Kill() //nolint:errcheck,gosec // it may have ended by itself
	h.cmd.Wait()         //nolint:errcheck,gosec // a signal is no success
}

// RunChild does the work of a child process of this package, in TestMain, and says whether this process is one.
func RunChild() bool {
	if s := os.Getenv(containerEnv); s != "" {
		fmt.Fprintln(os.Stderr, "container:", enterContainer(s))
		os.Exit(1)
	}
	if s := os.Getenv(openEnv); s != "" {
		if err := openNodes(strings.Split(s, ",")); err != nil {
			fmt.Fprintln(os.Stderr, "open nodes:", err)
		}
		return true
	}
	pci := os.Getenv(holdEnv)
	if pci == "" {
		return false
	}
	v, err := openVFIO(pci)
	if err != nil {
		fmt.Fprintln(os.Stderr, "hold", pci+":", err)
		return true
	}
	defer v.Close()
	fmt.Println("holding", pci)
	io.Copy(io.Discard, os.Stdin) //nolint:errcheck,gosec // any end of it is the sign to go
	return true
}

// BindVFIO binds a function to vfio-pci without the daemon. The test's end returns it to the kernel's driver.
func BindVFIO(t testing.TB, pci string) {
	t.Helper()
	was := Driver(pci)
	Bind(t, pci, "vfio-pci")
	t.Cleanup(func() {
		if _, err := os.Stat(Devices + pci); err == nil && Driver(pci) != was {
			Bind(t, pci, was)
		}
	})
}

// Bind binds a function by driver_override. It clears the override again unless the driver is a userspace one.
func Bind(t testing.TB, pci, driver string) {
	t.Helper()
	dir := Devices + pci
	WriteSys(t, dir+"/driver_override", driver+"\n")
	if Driver(pci) != "" {
		WriteSys(t, dir+"/driver/unbind", pci)
	}
	WriteSys(t, "/sys/bus/pci/drivers_probe", pci)
	Eventually(t, pci+" is bound to "+driver, settleTime, func() bool { return Driver(pci) == driver })
	if driver != "vfio-pci" && driver != "uio_pci_generic" {
		WriteSys(t, dir+"/driver_override", "\n")
		Eventually(t, pci+" has an interface", settleTime, func() bool { return Netdev(pci) != "" })
	}
}

// LoadModule loads a module that Spec left unloaded, by its file below /lib/modules, without its dependencies.
func LoadModule(t testing.TB, name string) {
	t.Helper()
	if err := loadModule(name); err != nil {
		t.Fatalf("load module %s: %v", name, err)
	}
}

func loadModule(name string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	root := filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]))
	return filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Name() != name+".ko" {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
			return err
		}
		return filepath.SkipAll
	})
}

// UnloadModule removes an unused kernel module.
func UnloadModule(t testing.TB, name string) {
	t.Helper()
	Eventually(t, "module "+name+" is unloaded", settleTime, func() bool {
		err := unix.DeleteModule(name, unix.O_NONBLOCK)
		return err == nil || errors.Is(err, unix.ENOENT)
	})
}
