package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/driver"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
	"github.com/multi-eni/multi-eni-cni/test/sysfstree"
)

func TestBindDriver(t *testing.T) {
	program, err := nstest.Binary("multi-enid")
	must(t, err)
	dir := sysfstree.Unpack(t, "kernel")
	efa := sysfstree.Function{Address: "0000:00:06.0", Device: "0xefa1", Driver: "efa"}
	must(t, sysfstree.Plug(dir, efa))
	open := func() *os.File {
		f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	lock := open()
	must(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	order := driver.Order{Address: device.PCIAddress(efa.Address), Driver: "vfio-pci", Sysfs: dir}
	refused := func(o driver.Order, lock *os.File, want string) {
		t.Helper()
		err := driver.Runner{Program: program}.Do(o, lock)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "multi-enid: ") {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	refused(order, lock, "0000:00:06.0 is an Elastic Fabric Adapter")
	refused(order, open(), "the claim lock of the device is another's")
	refused(driver.Order{Driver: "vfio-pci"}, lock, `order's address ""`)

	order = driver.Order{Address: "0000:01:00.0", Driver: "e1000e", Sysfs: dir} // its present driver
	if err := (driver.Runner{Program: program}).Do(order, lock); err != nil {
		t.Error(err)
	}

	cmd := exec.Command(program, driver.Command)
	cmd.Stdin = strings.NewReader(`{"address":"0000:01:00.0","driver":"e1000e","sysfs":"` + dir + `"}`)
	if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.ExitCode() != cli.Failure ||
		!strings.Contains(string(out), "only for multi-enid run") || strings.Count(string(out), "\n") != 1 {
		t.Errorf("by hand: %v, %q", err, out)
	}
	if _, help, _ := call(t.Context(), nil, "help"); strings.Contains(help, driver.Command) {
		t.Errorf("help shows it:\n%s", help)
	}
}
