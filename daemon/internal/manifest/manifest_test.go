package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
)

// nodeENI is a manifest that has nothing wrong with it.
func nodeENI(name string) string {
	return "apiVersion: networking.k8s.aws/v1alpha1\nkind: NodeENI\nmetadata:\n  name: " + name +
		"\nspec:\n  nodeSelector: {}\n  subnetID: subnet-0a1b2c3d\n"
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
}

func list(t *testing.T, s *Source) inventory.Snapshot {
	t.Helper()
	snap, err := s.List()
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	return snap
}

func names(s inventory.Snapshot) string {
	var out []string
	for _, o := range s.Objects {
		out = append(out, o.Name)
	}
	return strings.Join(out, " ")
}

// reasons are "reason file" lines.
func reasons(s inventory.Snapshot) string {
	var out []string
	for _, p := range s.Problems {
		out = append(out, string(p.Reason)+" "+filepath.Base(p.Device))
	}
	return strings.Join(out, "\n")
}

type files map[string]string

var listed = []struct {
	name     string
	files    files
	objects  string
	problems string
	blocked  bool
	unread   string
}{
	{name: "an empty folder declares nothing"},
	{
		name: "one object per file, by name",
		files: files{"1.yaml": nodeENI("b"), "2.yml": nodeENI("a"),
			"3.json": `{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{"name":"c"},"spec":{"nodeSelector":{}}}`},
		objects: "a b c",
	},
	{
		name: "other names are not read",
		files: files{"a.yaml": nodeENI("a"), ".hidden.yaml": "{", "a.yaml~": "{", ".a.yaml.swp": "{", "a.yaml.swp": "{",
			"#a.yaml#": "{", "4913": "", "README.md": "{", "a.yaml.bak": "{"},
		objects: "a",
	},
	{
		name:    "several documents, some of them empty",
		files:   files{"a.yaml": "# licence\n---\n" + nodeENI("a") + "---\n# nothing\n---\r\n" + nodeENI("b") + "...\n---  # c\n" + nodeENI("c") + "---\n"},
		objects: "a b c",
	},
	{
		name:     "a document that begins on its marker's line",
		files:    files{"a.yaml": "--- {apiVersion: networking.k8s.aws/v1alpha1, kind: NodeENI, metadata: {name: a}, spec: {nodeSelector: {}}, colour: blue}\n"},
		objects:  "a",
		problems: "UnknownField a.yaml",
	},
	{
		name:    "JSON values one after the other, indented with tabs",
		files:   files{"a.yaml": "\ufeff{\n\t\"apiVersion\": \"networking.k8s.aws/v1alpha1\",\n\t\"kind\": \"NodeENI\",\n\t\"metadata\": {\"name\": \"a\"}\n}\n"},
		objects: "a",
	},
	{
		name:    "YAML that looks like JSON",
		files:   files{"a.yaml": "{apiVersion: networking.k8s.aws/v1alpha1, kind: NodeENI, metadata: {name: a}}"},
		objects: "a",
	},
	{
		name: "lists of both kinds, and what else they hold",
		files: files{"a.yaml": "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: networking.k8s.aws/v1alpha1, kind: NodeENI, metadata: {name: a}}\n- " +
			"{apiVersion: v1, kind: Pod}\n", "b.yaml": "apiVersion: networking.k8s.aws/v1alpha1\nkind: NodeENIList\nmetadata: {resourceVersion: " +
			"'7'}\nitems:\n- {apiVersion: networking.k8s.aws/v1alpha1, kind: NodeENI, metadata: {name: b}}\n", "c.yaml": "apiVersion: v1\nkind: List\nitems: []\n"},
		objects:  "a b",
		problems: "OtherKind a.yaml",
	},
	{
		name: "other kinds block nothing",
		files: files{"a.yaml": nodeENI("a") + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\n", "b.yaml": "apiVersion: " +
			"networking.k8s.aws/v1alpha1\nkind: NodeSystemConfig\n"},
		objects:  "a",
		problems: "OtherKind a.yaml\nOtherKind b.yaml",
	},
	{
		name: "the first file counts", files: files{"1.yaml": nodeENI("a"), "2.yaml": nodeENI("b") + "---\n" + nodeENI("a")},
		objects: "a b", problems: "DuplicateNodeENI 2.yaml",
	},
	{
		name: "unknown and repeated fields are dropped",
		files: files{"a.yaml": nodeENI("a") + "  mtuu: 9001\n  subnetID: subnet-0a1b2c3e\n",
			"b.json": `{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"NodeENI","metadata":{"name":"b"},"spec":{"deviceindex":2,"mtu":1,"mtu":2}}`},
		objects:  "a b",
		problems: "UnknownField a.yaml\nUnknownField a.yaml\nUnknownField b.json\nUnknownField b.json",
	},
	{
		name:    "invalid values are for others to judge",
		files:   files{"a.yaml": nodeENI("a") + "  mtu: -1\n  dpdkResourceName: intel.com/a-b\n  dpdkPCIAddress: '00:07.0'\n"},
		objects: "a",
	},

	{name: "truncated to nothing", files: files{"a.yaml": "", "b.yaml": nodeENI("b")}, objects: "b", problems: "UnreadableManifest a.yaml", blocked: true},
	{name: "only comments so far", files: files{"a.yaml": "# licence\n---\n"}, problems: "UnreadableManifest a.yaml", blocked: true},
	{name: "empty JSON", files: files{"a.json": "\n"}, problems: "UnreadableManifest a.json", blocked: true},
	{name: "torn JSON", files: files{"a.json": `{"apiVersion":"netw`}, problems: "UnreadableManifest a.json", blocked: true},
	{name: "YAML in a JSON file", files: files{"a.json": nodeENI("a")}, problems: "UnreadableManifest a.json", blocked: true},
	{name: "torn in a word", files: files{"a.yaml": "apiVersion: networking.k8s.aws/v1alpha1\nkind: Nod"}, problems: "UnreadableManifest a.yaml", blocked: true},
	{name: "torn before the kind", files: files{"a.yaml": "apiVersion: networking.k8s.aws/v1alpha1\n"}, problems: "UnreadableManifest a.yaml", blocked: true},
	{name: "torn before the name", files: files{"a.yaml": "apiVersion: networking.k8s.aws/v1alpha1\nkind: " +
		"NodeENI\nmetadata:\n"}, problems: "UnreadableManifest a.yaml", blocked: true},
	{name: "torn before the items", files: files{"a.yaml": "apiVersion: v1\nkind: List\n"}, problems: "UnreadableManifest a.yaml", blocked: true},
	{name: "a list in a list", files: files{"a.yaml": "apiVersion: networking.k8s.aws/v1alpha1\nkind: NodeENIList\nitems:\n- {apiVersion: " +
		"networking.k8s.aws/v1alpha1, kind: NodeENIList, items: []}\n"}, problems: "UnreadableManifest a.yaml", blocked: true},
	{name: "a version of the future", files: files{"a.yaml": strings.Replace(nodeENI("a"), "v1alpha1", "v2", 1)}, problems: "NodeENIUnreadable " +
		"a.yaml", unread: "a"},
	{name: "a name that no object can have", files: files{"a.yaml": nodeENI("A_b")}, problems: "UnreadableManifest a.yaml", blocked: true},
	{name: "no object", files: files{"a.yaml": "hello\n"}, problems: "UnreadableManifest a.yaml", blocked: true},
	{
		name:    "a wrong type hides one document, not the others",
		files:   files{"a.yaml": nodeENI("a") + "---\n" + nodeENI("b") + "  deviceIndex: two\n---\n" + nodeENI("c")},
		objects: "a c", problems: "NodeENIUnreadable a.yaml", unread: "b",
	},
	{
		name:     "numbers that fit into no int",
		files:    files{"a.yaml": nodeENI("a") + "  mtu: 1.0e+300\n", "b.yaml": nodeENI("b") + "  deviceIndex: 18446744073709551616\n"},
		problems: "NodeENIUnreadable a.yaml\nNodeENIUnreadable b.yaml", unread: "a b",
	},
	{
		name:     "a wrong type and no name",
		files:    files{"a.yaml": strings.Replace(nodeENI("a"), "name: a", "name: 7", 1) + "  deviceIndex: two\n"},
		problems: "UnreadableManifest a.yaml", blocked: true,
	},
	{name: "tabs", files: files{"a.yaml": nodeENI("a") + "\tmtu: 1\n"}, problems: "UnreadableManifest a.yaml", blocked: true},
	{name: "too large", files: files{"a.yaml": nodeENI("a") + strings.Repeat("#", maxFileSize)}, problems: "UnreadableManifest a.yaml", blocked: true},
}

func TestList(t *testing.T) {
	for _, tt := range listed {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range tt.files {
				write(t, dir, name, content)
			}
			snap := list(t, New(dir))
			same(t, "objects", tt.objects, names(snap))
			if diff := cmp.Diff(tt.problems, reasons(snap)); diff != "" {
				t.Errorf("problems (-want +got):\n%s\n%+v", diff, snap.Problems)
			}
			same(t, "unread", tt.unread, strings.Join(snap.Unread, " "))
			if snap.Complete == tt.blocked {
				t.Errorf("Complete = %v", snap.Complete)
			}
			for _, p := range snap.Problems {
				if !strings.Contains(p.Message, p.Device) {
					t.Errorf("message does not name file %s: %s", p.Device, p.Message)
				}
			}
		})
	}
}

func TestListFillsDefaults(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", nodeENI("a"))
	got := list(t, New(dir)).Objects[0].Spec
	if got.DeviceIndex != 1 || got.DPDKDriver != "vfio-pci" || got.DeleteOnTermination == nil || !*got.DeleteOnTermination {
		t.Errorf("spec = %+v, want the defaults of the public CRD", got)
	}
}

// A removal is believed again once the unreadable file is mended, or gone.
func TestUnreadableBlocksUntilMendedOrGone(t *testing.T) {
	for _, end := range []string{"mended", "gone"} {
		t.Run(end, func(t *testing.T) {
			dir := t.TempDir()
			s := New(dir)
			write(t, dir, "a.yaml", nodeENI("a"))
			write(t, dir, "b.yaml", nodeENI("b"))
			if snap := list(t, s); names(snap) != "a b" || !snap.Complete {
				t.Fatalf("at first: %+v", snap)
			}
			write(t, dir, "b.yaml", nodeENI("b")[:60])
			must(t, os.Remove(filepath.Join(dir, "a.yaml")))
			for range 2 {
				if snap := list(t, s); names(snap) != "" || snap.Complete {
					t.Fatalf("while torn: %+v", snap)
				}
			}
			want := ""
			if end == "mended" {
				write(t, dir, "b.yaml", nodeENI("b"))
				want = "b"
			} else if err := os.Remove(filepath.Join(dir, "b.yaml")); err != nil {
				t.Fatal(err)
			}
			if snap := list(t, s); names(snap) != want || !snap.Complete {
				t.Fatalf("once %s: %+v", end, snap)
			}
		})
	}
}

func TestMissingFolderIsUnknown(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	snap, err := New(dir).List()
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("List = %v, want a not-exist error that names %s", err, dir)
	}
	if snap.Complete {
		t.Error("a folder that is missing gave a complete Snapshot")
	}
}

// A ConfigMap volume: x.yaml -> ..data/x.yaml, ..data -> ..1; an update renames a new ..data over the old.
func TestConfigMapMount(t *testing.T) {
	dir := t.TempDir()
	symlink := func(target, name string) {
		t.Helper()
		must(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	for version, name := range map[string]string{"..1": "old", "..2": "new"} {
		must(t, os.Mkdir(filepath.Join(dir, version), 0o755))
		write(t, dir, version+"/x.yaml", nodeENI(name))
	}
	symlink("..1", "..data")
	symlink("..data/x.yaml", "x.yaml")
	s := New(dir)
	if snap := list(t, s); names(snap) != "old" || !snap.Complete || len(snap.Problems) != 0 {
		t.Errorf("before the update: %+v", snap)
	}
	symlink("..2", "..data_tmp")
	must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	if snap := list(t, s); names(snap) != "new" || !snap.Complete {
		t.Errorf("after the update: %+v", snap)
	}
	must(t, os.Remove(filepath.Join(dir, "..data")))
	if snap := list(t, s); snap.Complete || reasons(snap) != "UnreadableManifest x.yaml" {
		t.Errorf("with a link to nothing: %+v", snap)
	}
}

func TestOddFiles(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "folder.yaml"), 0o755))
	write(t, dir, "folder.yaml/a.yaml", nodeENI("a"))
	if snap := list(t, New(dir)); !snap.Complete || names(snap)+reasons(snap) != "" {
		t.Errorf("with a subfolder: %+v", snap)
	}
	// Reading it as a file would wait for a writer for ever.
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o644))
	if snap := list(t, New(dir)); snap.Complete || reasons(snap) != "UnreadableManifest pipe.yaml" {
		t.Errorf("with a named pipe: %+v", snap)
	}
}

// Same size, same clock tick: only the bytes differ.
func TestRewriteIsSeen(t *testing.T) {
	dir := t.TempDir()
	s := New(dir)
	for _, name := range []string{"a", "b", "c", "b", "a"} {
		write(t, dir, "x.yaml", nodeENI(name))
		if snap := list(t, s); names(snap) != name {
			t.Fatalf("List = %q after %q was written", names(snap), name)
		}
	}
}

// A folder that changes once while it is read is read again; one that never
// rests is used, but nothing counts as removed.
func TestFolderChangesWhileRead(t *testing.T) {
	tests := []struct {
		changes  int
		complete bool
		problems string
	}{
		{changes: 1, complete: true},
		{changes: maxReads - 1, complete: true},
		{changes: maxReads, problems: "ManifestsChanging"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.changes), func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "0.yaml", nodeENI("a"))
			write(t, dir, "9.yaml", nodeENI("z"))
			s := New(dir)
			reads := 0
			s.stamp = func(dir string) ([]entry, error) {
				out, err := stamp(dir)
				if reads++; reads <= tt.changes {
					write(t, dir, "9.yaml", nodeENI("z")+strings.Repeat("#", reads))
				}
				return out, err
			}
			snap := list(t, s)
			var got []string
			for _, p := range snap.Problems {
				got = append(got, string(p.Reason))
			}
			if names(snap) != "a z" || snap.Complete != tt.complete || strings.Join(got, " ") != tt.problems {
				t.Errorf("List = %+v, want a and z, Complete %v, problems %q", snap, tt.complete, tt.problems)
			}
		})
	}
}

// A file that moves away between listing and reading is looked for again.
func TestFileMovesWhileRead(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "1.yaml", nodeENI("a"))
	s := New(dir)
	moved := false
	s.stamp = func(dir string) ([]entry, error) {
		out, err := stamp(dir)
		if !moved {
			moved = true
			if err := os.Rename(filepath.Join(dir, "1.yaml"), filepath.Join(dir, "0.yaml")); err != nil {
				t.Error(err)
			}
		}
		return out, err
	}
	if snap := list(t, s); names(snap) != "a" || !snap.Complete || len(snap.Problems) != 0 {
		t.Errorf("List = %+v, want a, complete", snap)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func same(t testing.TB, what string, want, got any, opts ...cmp.Option) {
	t.Helper()
	if diff := cmp.Diff(want, got, opts...); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}
