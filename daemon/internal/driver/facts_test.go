package driver

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

type host struct {
	*testing.T
	root, dir string
}

func newHost(t *testing.T, lib string) host {
	t.Helper()
	var uts unix.Utsname
	must(t, unix.Uname(&uts))
	root := t.TempDir()
	return host{t, root, filepath.Join(root, lib, unix.ByteSliceToString(uts.Release[:]))}
}

func (h host) put(name, content string) {
	h.Helper()
	path := filepath.Join(h.dir, name)
	must(h, os.MkdirAll(filepath.Dir(path), 0o755))
	must(h, os.WriteFile(path, []byte(content), 0o644))
}

const (
	vfioFile = "kernel/drivers/vfio/pci/vfio-pci.ko.xz"
	dep      = vfioFile + ": kernel/drivers/vfio/vfio.ko.xz\nkernel/drivers/vfio/vfio.ko.xz:\n" +
		"kernel/drivers/uio/uio_pci_generic.ko: kernel/drivers/uio/uio.ko\n"
)

func TestReadFacts(t *testing.T) {
	k := newKernel(t)
	f := sysfs.NewFS(k.root)
	want := func(modules string, want Facts) {
		t.Helper()
		got, err := ReadFacts(f, modules)
		must(t, err)
		same(t, "facts", want, got)
	}
	loaded := map[string]bool{vfioPCI: true}
	want(t.TempDir(), Facts{Loaded: loaded, NoIOMMU: NoIOMMUOff, Loadable: map[string]bool{}})
	k.put("module/vfio/parameters/enable_unsafe_noiommu_mode", "Y")
	for _, lib := range []string{"lib/modules", "usr/lib/modules"} {
		h := newHost(t, lib)
		h.put("modules.dep", dep)
		h.put(vfioFile, "") // the file of uio_pci_generic is not there
		want(h.root, Facts{Loaded: loaded, NoIOMMU: NoIOMMUOn, Loadable: map[string]bool{vfioPCI: true}})
	}
	k.removeAll("module/vfio")
	k.removeAll("bus/pci/drivers/vfio-pci")
	want(t.TempDir(), Facts{Loaded: map[string]bool{}, Loadable: map[string]bool{}})
}

func TestReadFactsUnknown(t *testing.T) {
	unknown := func(root, modules, what string) {
		t.Helper()
		facts, err := ReadFacts(sysfs.NewFS(root), modules)
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("facts %+v, error %v; want %q", facts, err, what)
		}
	}
	unknown(t.TempDir(), "", "look for drivers")
	k := newKernel(t)
	h := newHost(t, "lib/modules")
	h.put("modules.dep", dep+"garbage\n")
	unknown(k.root, h.root, `line "garbage"`)
	k.put("module/vfio/parameters/enable_unsafe_noiommu_mode", "2")
	unknown(k.root, "", `"2", want Y or N`)
	k.removeAll("module")
	unknown(k.root, "", "no-IOMMU mode")
}

func TestLoadModule(t *testing.T) {
	h := newHost(t, "lib/modules")
	if _, err := findModules(h.root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no modules at all: error %v", err)
	}
	h.put("modules.dep", dep)
	m, err := findModules(h.root)
	must(t, err)
	for _, name := range []string{"igb_uio", "uio_pci_generic"} { // not listed; listed, but its file is not there
		if err := m.load(name); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), name) {
			t.Errorf("load %s: error %v", name, err)
		}
	}
	h.put(vfioFile, "no module")
	h.put("kernel/drivers/vfio/vfio.ko.xz", "no module")
	if err := m.load(vfioPCI); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), vfioPCI) {
		t.Errorf("load a file that is no module: error %v", err)
	}
}

func FuzzModulesDep(f *testing.F) {
	for _, s := range []string{dep, "", "a.ko", ":", "a.ko:", "a/b-c.ko.zst: d.ko", "\n", "/updates/dkms/igb_uio.ko:\n", "x.ko/y:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		files, err := parseModulesDep(strings.NewReader(s))
		if err != nil {
			return
		}
		for name, path := range files {
			if strings.ContainsAny(name, "-/") || !strings.Contains(s, path+":") || !strings.HasPrefix(moduleName(filepath.Base(path)), name+".ko") {
				t.Errorf("%q: %q is %q", s, name, path)
			}
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
