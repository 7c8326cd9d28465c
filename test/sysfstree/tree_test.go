package sysfstree

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

func names(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("recorded/*.tree")
	if err != nil || len(found) == 0 {
		t.Fatalf("recorded trees: %q, %v", found, err)
	}
	for i, f := range found {
		found[i] = strings.TrimSuffix(filepath.Base(f), ".tree")
	}
	return found
}

// lines are a tree's, without comments.
func lines(tree string) []string {
	return slices.DeleteFunc(strings.Split(tree, "\n"), func(l string) bool { return l == "" || strings.HasPrefix(l, "#") })
}

func read(t *testing.T, name string) []string {
	t.Helper()
	data, err := Recorded(name)
	must(t, err)
	return lines(string(data))
}

func record(t *testing.T, root string) []string {
	t.Helper()
	data, err := Record(root)
	must(t, err)
	return lines(string(data))
}

func TestRecord(t *testing.T) {
	for _, name := range names(t) {
		t.Run(name, func(t *testing.T) {
			if diff := gocmp.Diff(read(t, name), record(t, Unpack(t, name))); diff != "" {
				t.Errorf("Record (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPlugAsRecorded(t *testing.T) {
	for _, name := range names(t) {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for _, f := range functions(t, Unpack(t, name)) {
				must(t, Plug(root, f))
			}
			for _, l := range read(t, name) { // lines of no function
				if strings.HasPrefix(l, "module/") || strings.HasPrefix(l, "devices/virtual/") || strings.HasPrefix(l, "class/net/lo ") ||
					l == "bus/pci/drivers/vfio-pci/" {
					must(t, Grow(root, l))
				}
			}
			if diff := gocmp.Diff(read(t, name), record(t, root)); diff != "" {
				t.Errorf("functions put together (-recorded +got):\n%s", diff)
			}
		})
	}
}

// Binding and unplugging leads from one recorded tree to another.
func TestBindAndUnplugAsRecorded(t *testing.T) {
	const eni, vf = "0000:01:00.0", "0000:09:10.2"
	root := Unpack(t, "vfs")
	for _, addr := range []string{eni, vf} {
		must(t, Bind(root, addr, "vfio-pci"))
		must(t, os.WriteFile(filepath.Join(root, "bus/pci/devices", addr, "driver_override"), []byte("vfio-pci\n"), 0o600))
	}
	if diff := gocmp.Diff(read(t, "vfio"), record(t, root)); diff != "" {
		t.Errorf("bound to vfio-pci (-recorded +got):\n%s", diff)
	}
	root = Unpack(t, "pod")
	must(t, Unplug(root, eni))
	must(t, Unplug(root, eni))
	if diff := gocmp.Diff(read(t, "unplugged"), record(t, root)); diff != "" {
		t.Errorf("unplugged (-recorded +got):\n%s", diff)
	}
}

func TestGrowRefuses(t *testing.T) {
	for name, tree := range map[string]string{
		"no kind of line": "bus/pci/devices\n",
		"twice":           "a = 1\na = 2\n",
		"link twice":      "a -> b\na -> c\n",
		"leads out":       "../a = 1\n",
		"absolute":        "/a = 1\n",
		"out by a link":   "a -> ..\na/b = 1\n",
		"file as folder":  "a = 1\na/b = 1\n",
	} {
		t.Run(name, func(t *testing.T) {
			if err := Grow(t.TempDir(), tree); err == nil {
				t.Errorf("Grow(%q) succeeds", tree)
			}
		})
	}
	if err := Grow(filepath.Join(t.TempDir(), "none"), "a = 1\n"); err == nil {
		t.Error("Grow without a root succeeds")
	}
}

// FuzzGrow: a tree never leaves its root.
func FuzzGrow(f *testing.F) {
	for _, s := range []string{"a/\n", "a -> b\n", "a -> ..\na/../b = 1\n", "a = 1\n", "# x\n\n", "../x/\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, tree string) {
		parent := t.TempDir()
		root := filepath.Join(parent, "root")
		must(t, os.Mkdir(root, 0o755))
		err := Grow(root, tree)
		entries, readErr := os.ReadDir(parent)
		must(t, readErr)
		if len(entries) != 1 {
			t.Errorf("Grow(%q) = %v leaves %v beside its root", tree, err, entries)
		}
	})
}

// functions reads Plug's input back from the tree at root.
func functions(t *testing.T, root string) []Function {
	t.Helper()
	r := recorder{root: root, chosen: map[string]string{}}
	must(t, r.choose())
	var out []Function
	for addr, folder := range r.chosen {
		dir := filepath.Join(root, folder)
		value := func(name string) string {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return ""
			}
			return strings.TrimSpace(string(data))
		}
		number := func(s string) int { n, _ := strconv.Atoi(s); return n } // "" is 0
		link := func(name string) string {
			target, err := os.Readlink(filepath.Join(dir, name))
			if err != nil {
				return ""
			}
			return filepath.Base(target)
		}
		f := Function{
			Address: addr, Folder: strings.TrimPrefix(folder, "devices/"), Vendor: value("vendor"), Device: value("device"), Class: value("class"),
			Driver: link("driver"), Override: value("driver_override"), NUMANode: number(value("numa_node")), IOMMUGroup: link("iommu_group"),
			PhysFn: link("physfn"), TotalVFs: number(value("sriov_totalvfs")),
		}
		for i := range number(value("sriov_numvfs")) {
			f.VirtFns = append(f.VirtFns, link("virtfn"+strconv.Itoa(i)))
		}
		ifs, err := r.list(folder, "net")
		must(t, err)
		for _, n := range ifs {
			f.Interfaces = append(f.Interfaces, Interface{Name: n, MAC: value("net/" + n + "/address"), MTU: number(value("net/" + n + "/mtu"))})
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b Function) int { return cmp.Compare(a.Address, b.Address) })
	return out
}
