package nodestate

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// TestShareDevice: side by side with its kind, and never beside one who is alone.
func TestShareDevice(t *testing.T) {
	d := AttachmentDir(t.TempDir())
	const pci = device.PCIAddress("0000:00:07.0")
	p := start(t, "claim", string(d), pci.String())
	if _, err := d.ShareDevice(atOnce(t), pci); !errors.Is(err, ErrBusy) {
		t.Fatalf("ShareDevice beside LockDevice: %v; want ErrBusy", err)
	}
	p.kill()
	first, err := d.ShareDevice(soon(t), pci)
	if err != nil {
		t.Fatal(err)
	}
	second, err := d.ShareDevice(atOnce(t), pci)
	if err != nil {
		t.Fatalf("ShareDevice beside ShareDevice: %v", err)
	}
	for _, unlock := range []func(){first, second} {
		if _, err := d.LockDevice(atOnce(t), pci); !errors.Is(err, ErrBusy) {
			t.Errorf("LockDevice beside ShareDevice: %v; want ErrBusy", err)
		}
		unlock()
	}
	unlock, err := d.LockDevice(atOnce(t), pci)
	if err != nil {
		t.Fatalf("LockDevice after ShareDevice: %v", err)
	}
	unlock()
}

func TestLockDevice(t *testing.T) {
	d := AttachmentDir(filepath.Join(t.TempDir(), "records"))
	const pci, other = device.PCIAddress("0000:00:07.0"), device.PCIAddress("0000:00:08.0")
	p := start(t, "claim", string(d), pci.String())
	if _, err := d.LockDevice(atOnce(t), pci); !errors.Is(err, ErrBusy) {
		t.Fatalf("LockDevice of a claimed device: %v; want ErrBusy", err)
	}
	if unlock, err := d.LockDevice(atOnce(t), other); err != nil {
		t.Errorf("LockDevice of another device: %v", err)
	} else {
		unlock()
	}
	p.kill()
	unlock, err := d.LockDevice(soon(t), pci)
	if err != nil {
		t.Fatalf("LockDevice of a dead process's device: %v", err)
	}
	if _, err := d.LockDevice(atOnce(t), pci); !errors.Is(err, ErrBusy) {
		t.Errorf("LockDevice twice in one process: %v; want ErrBusy", err)
	}
	unlock()
	if unlock, err = d.LockDevice(atOnce(t), pci); err != nil {
		t.Fatalf("LockDevice after unlock: %v", err)
	}
	unlock()
	path := filepath.Join(string(d), "locks", pci.String()+".lock")
	if got := mode(t, path); got != 0o600 {
		t.Errorf("the lock file stays, with mode 0600; it has %v", got)
	}
	if err := errors.Join(os.Remove(path), os.Symlink("/dev/null", path)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.LockDevice(soon(t), pci); !errors.Is(err, unix.ELOOP) {
		t.Errorf("LockDevice through a symbolic link: %v; want ELOOP", err)
	}
}
