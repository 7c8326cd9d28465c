package machine

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/multi-eni/multi-eni-cni/test/hardware/internal/protocol"
)

// defaultModules are loaded in every machine; offeredModules are only below /lib/modules.
func defaultModules() []string {
	return []string{
		"e1000e", "igb", "igbvf", "vfio_pci", "vfio_iommu_type1", "uio",
		"ipvlan", "macvlan", "8021q", "dummy", "veth", "bridge", "tun", "vrf", "vxlan", "sch_tbf", "sch_ingress", "cls_u32",
		"virtio_pci", "virtio_net",
	}
}

func offeredModules() []string { return []string{"uio_pci_generic"} }

type files struct {
	records map[string]cpio.Record
}

func newFiles() *files { return &files{records: map[string]cpio.Record{}} }

func (f *files) put(r cpio.Record) {
	f.records[r.Name] = r
	for dir := path.Dir(r.Name); dir != "."; dir = path.Dir(dir) {
		if _, ok := f.records[dir]; !ok {
			f.records[dir] = cpio.Directory(dir, 0o755)
		}
	}
}

func (f *files) folder(name string)             { f.put(cpio.Directory(name, 0o755)) }
func (f *files) link(name, target string)       { f.put(cpio.Symlink(name, target)) }
func (f *files) write(name string, data []byte) { f.put(cpio.StaticFile(name, string(data), 0o644)) }
func (f *files) program(name string, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f.put(cpio.StaticFile(name, string(data), 0o755))
	return nil
}

// save writes an initramfs archive (Documentation/driver-api/early-userspace/buffer-format.rst).
func (f *files) save(to string) (err error) {
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() {
		if closing := out.Close(); err == nil {
			err = closing
		}
	}()
	var records []cpio.Record
	for _, r := range f.records {
		records = append(records, r)
	}
	// A folder comes before its content.
	slices.SortFunc(records, func(a, b cpio.Record) int { return strings.Compare(a.Name, b.Name) })
	w := cpio.Newc.Writer(out)
	if err := cpio.WriteRecords(w, records); err != nil {
		return err
	}
	return cpio.WriteTrailer(w)
}

func (h *host) baseFiles() (*files, error) {
	f := newFiles()
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", "etc", "root", "var/lib", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"} {
		f.folder(dir)
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		f.link(dir, "usr/"+dir)
	}
	f.link("var/run", "/run")
	f.link("init", "/machine/tests")
	// Programs of Go's standard library look for these.
	f.write("etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\n"))
	f.write("etc/hosts", []byte("127.0.0.1 localhost node1\n::1 localhost\n"))
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// With cgo the test binary needs an interpreter and libraries.
	system, err := newLibraries("/", f)
	if err != nil {
		return nil, err
	}
	if err := system.addNeeds(self); err != nil {
		return nil, fmt.Errorf("put the libraries of the tests into the machine: %w", err)
	}
	if h.spec.DPDK {
		if err := h.addDPDK(system); err != nil {
			return nil, err
		}
	}
	programs := map[string]string{"machine/tests": self}
	for _, p := range []string{"multi-eni", "cni/host-local", "cni/static", "cni/ipvlan", "cni/macvlan", "cni/vlan", "cni/host-device",
		"cni/tuning", "hardware/sriov"} {
		programs["opt/cni/bin/"+path.Base(p)] = filepath.Join(h.bin, p)
	}
	for name, p := range map[string]string{"multi-enid": "multi-enid", "cnitool": "tools/cnitool"} {
		programs["usr/local/bin/"+name] = filepath.Join(h.bin, p)
	}
	for name, from := range programs {
		if err := f.program(name, from); err != nil {
			return nil, fmt.Errorf("put the programs into the machine: %w; run: make hardware-tools", err)
		}
	}
	return f, h.addModules(f)
}

// addModules adds the modules, and sets h.modules to the ones to load.
func (h *host) addModules(f *files) error {
	tree, err := openModules(h.kernel.modules)
	if err != nil {
		return err
	}
	loaded := slices.DeleteFunc(defaultModules(), func(m string) bool {
		return slices.Contains(h.spec.Unloaded, m) || slices.Contains(h.spec.Unloaded, strings.ReplaceAll(m, "_", "-"))
	})
	load, err := tree.closure(loaded...)
	if err != nil {
		return err
	}
	all, err := tree.closure(slices.Concat(loaded, defaultModules(), offeredModules())...)
	if err != nil {
		return err
	}
	root := path.Join("usr/lib/modules", filepath.Base(h.kernel.modules))
	for _, m := range all {
		f.write(path.Join(root, m.path), m.image)
	}
	f.write(path.Join(root, "modules.dep"), []byte(modulesDep(all)))
	builtin, err := os.ReadFile(filepath.Join(h.kernel.modules, "modules.builtin"))
	if err != nil {
		return err
	}
	f.write(path.Join(root, "modules.builtin"), builtin)
	for _, m := range load {
		h.modules = append(h.modules, m.path)
	}
	return nil
}

func (h *host) bootFiles(cfg protocol.Config, kept []byte) (*files, error) {
	data, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	f := newFiles()
	f.write(strings.TrimPrefix(protocol.ConfigPath, "/"), data)
	if kept != nil {
		f.write(strings.TrimPrefix(protocol.KeptPath, "/"), kept)
	}
	return f, nil
}
