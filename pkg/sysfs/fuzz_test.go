package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func FuzzParseHex(f *testing.F) {
	for _, s := range []string{"0x1d0f", "0x020000", "0x", "1d0f", "0X1", "0x-1", "0x+1", "0x1_0", "0xfffffffffffffffff"} {
		f.Add(s, 16)
		f.Add(s, 24)
	}
	f.Fuzz(func(t *testing.T, s string, bits int) {
		bits = 1 + bits&31
		v, err := parseHex(s, bits)
		if err != nil {
			return
		}
		if v>>bits != 0 {
			t.Errorf("parseHex(%q, %d) = %#x: out of range", s, bits, v)
		}
		if again, err := parseHex(fmt.Sprintf("%#x", v), bits); err != nil || again != v {
			t.Errorf("parseHex(%q) = %#x, which reads back as %#x, %v", s, v, again, err)
		}
	})
}

func FuzzParseIndex(f *testing.F) {
	for _, s := range []string{"-1", "0", "7", "-2", "", "x", "99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := parseIndex(s)
		if err != nil {
			return
		}
		if again, err := parseIndex(fmt.Sprint(v)); v < -1 || err != nil || again != v {
			t.Errorf("parseIndex(%q) = %d, which reads back as %d, %v", s, v, again, err)
		}
	})
}

// FuzzPCI feeds every attribute of one function: with any content, the result
// is a function with sane values or an error, never a panic or "gone".
func FuzzPCI(f *testing.F) {
	f.Add("0x1d0f\n", "0xec20\n", "0x020000\n", "0\n", "(null)\n")
	f.Add("", "\n", "0x\n", "-1", "vfio-pci\n")
	f.Fuzz(func(t *testing.T, vendor, dev, class, numa, override string) {
		root := t.TempDir()
		dir := filepath.Join(root, "bus/pci/devices/0000:00:06.0")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{"vendor": vendor, "device": dev, "class": class, "numa_node": numa, "driver_override": override} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if o, err := NewFS(root).DriverOverride("0000:00:06.0"); errors.Is(err, fs.ErrNotExist) || o == "(null)" {
			t.Errorf("DriverOverride = %q, %v", o, err)
		}
		p, err := NewFS(root).PCI("0000:00:06.0")
		if errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("a listed function is gone: %v", err)
		}
		if err == nil && (p.Class>>24 != 0 || p.NUMANode < -1) {
			t.Errorf("PCI = %+v", p)
		}
	})
}
