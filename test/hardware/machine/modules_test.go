package machine

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"
)

func object(t testing.TB, info ...string) []byte {
	t.Helper()
	const header, section = 64, 64
	names := "\x00.modinfo\x00.shstrtab\x00"
	data := strings.Join(info, "\x00") + "\x00"
	at := header + len(data) + len(names)
	var out bytes.Buffer
	put := func(v any) {
		must(t, binary.Write(&out, binary.LittleEndian, v))
	}
	put(elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: 1, Machine: 62, Version: 1,
		Shoff: uint64(at), Ehsize: header, Shentsize: section, Shnum: 3, Shstrndx: 2,
	})
	out.WriteString(data + names)
	put(elf.Section64{})
	put(elf.Section64{Name: 1, Type: 1, Off: header, Size: uint64(len(data))})
	put(elf.Section64{Name: 10, Type: 3, Off: uint64(header + len(data)), Size: uint64(len(names))})
	return out.Bytes()
}

func compressed(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	must(t, err)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	must(t, w.Close())
	return out.Bytes()
}

func TestModules(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"modules.builtin":           []byte("kernel/lib/crc.ko\n"),
		"kernel/a/vfio-pci.ko":      object(t, "license=GPL", "depends=vfio-pci-core,vfio,crc", "name=vfio_pci"),
		"kernel/a/vfio-pci-core.ko": object(t, "depends=vfio,irqbypass"),
		"kernel/a/vfio.ko.xz":       compressed(t, object(t, "depends=")),
		"kernel/b/irqbypass.ko":     object(t, "depends="),
		"kernel/b/soft.ko":          object(t, "softdep=pre: irqbypass post: vfio", "depends="),
		"kernel/b/broken.ko":        []byte("no ELF"),
		"kernel/b/orphan.ko":        object(t, "depends=nothing_like_it"),
	} {
		write(t, filepath.Join(dir, name), data)
	}
	tree, err := openModules(dir)
	must(t, err)
	got, err := tree.closure("vfio-pci", "soft", "crc")
	must(t, err)
	want := `kernel/b/irqbypass.ko:
kernel/a/vfio.ko:
kernel/a/vfio-pci-core.ko: kernel/b/irqbypass.ko kernel/a/vfio.ko
kernel/a/vfio-pci.ko: kernel/a/vfio-pci-core.ko kernel/b/irqbypass.ko kernel/a/vfio.ko
kernel/b/soft.ko: kernel/b/irqbypass.ko
`
	dep := modulesDep(got)
	if diff := cmp.Diff(sorted(want), sorted(dep)); diff != "" {
		t.Errorf("modules.dep (-want +got):\n%s", diff)
	}
	// In the file's order, each module follows its dependencies.
	seen := ""
	for line := range strings.Lines(dep) {
		path, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		for n := range strings.FieldsSeq(needs) {
			if !strings.Contains(seen, n+"\n") {
				t.Errorf("%s comes before %s", path, n)
			}
		}
		seen += path + "\n"
	}
	for name, want := range map[string]string{"missing": "no module missing", "broken": "read module broken",
		"orphan": "orphan: the kernel package has no module nothing_like_it"} {
		if _, err := tree.closure(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("closure(%s) = %v, want %q", name, err, want)
		}
	}
}

func sorted(text string) []string {
	return slices.Sorted(strings.Lines(text))
}

func FuzzModuleNeeds(f *testing.F) {
	f.Add(object(f, "depends=a,b-c", "softdep=pre: d post: e"))
	f.Add(object(f, "softdep=post: e", "depends="))
	f.Add([]byte("\x7fELF"))
	f.Add(object(f, "softdep=pre: a,b"))
	f.Fuzz(func(t *testing.T, image []byte) {
		needs, err := moduleNeeds(image)
		for _, n := range needs {
			if err != nil || !validModule.MatchString(n) || strings.Contains(n, "-") {
				t.Errorf("needs %q, %v", needs, err)
			}
		}
	})
}
