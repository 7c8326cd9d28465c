package nodestate

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// kind is one kind of file, by the struct that is in it.
type kind struct {
	// path is of a file of the kind in a folder.
	path func(root string) string
	// read is how the programs read it.
	read func(root string) error
	// missing is the error for a missing file: fs.ErrNotExist, or nil where that says something.
	missing error
}

const kindPCI device.PCIAddress = "0000:00:07.0"

// readers are all kinds of files, but for the policy, which netconf reads.
var readers = map[string]kind{
	"Inventory": {
		path:    func(root string) string { return filepath.Join(root, "inventory.json") },
		read:    func(root string) error { _, err := ReadInventory(filepath.Join(root, "inventory.json")); return err },
		missing: fs.ErrNotExist,
	},
	"Checkpoint": {
		path:    CheckpointPath,
		read:    func(root string) error { _, err := ReadCheckpoint(CheckpointPath(root)); return err },
		missing: fs.ErrNotExist,
	},
	"Attachment": {
		path: func(root string) string { return filepath.Join(root, "c1-net1.json") },
		read: func(root string) error {
			_, err := AttachmentDir(root).Lock(aborted(), AttachmentID{ContainerID: "c1", IfName: "net1"})
			return err
		},
		missing: fs.ErrNotExist,
	},
	"Restore": {
		path:    func(root string) string { return AttachmentDir(root).restorePath(kindPCI) },
		read:    func(root string) error { _, err := AttachmentDir(root).LoadRestore(kindPCI); return err },
		missing: fs.ErrNotExist,
	},
}

// spoilt are the ways in which a file is not one of ours, with the reader's error.
var spoilt = map[string]struct {
	make func(path string) error
	want error
}{
	"empty":         {content(""), ErrCorrupt},
	"torn":          {content(`{"schemaVersion":1,"bootID":"`), ErrCorrupt},
	"no version":    {content(`{"bootID":"b"}`), ErrCorrupt},
	"other version": {content(`{"schemaVersion":2,"bootID":"b","device":{"pciAddress":"0000:00:07.0"}}`), ErrOtherVersion},
	"other version, other forms": {content(
		`{"device":["a"],"devices":{"a":1},"mode":7,"leases":"x","address":{},"schemaVersion":3,"state":{}}`), ErrOtherVersion},
	"other version, values refused": {content(
		`{"device":{"pciAddress":"x","mac":"y"},"devices":[{"mac":"y"}],"eniID":"z","schemaVersion":3}`), ErrOtherVersion},
	"too large":     {content(strings.Repeat(" ", maxFileSize+1)), ErrCorrupt},
	"folder":        {func(path string) error { return os.Mkdir(path, 0o700) }, ErrUntrusted},
	"symbolic link": {func(path string) error { return os.Symlink("/dev/null", path) }, ErrUntrusted},
	"for everybody": {func(path string) error { return errors.Join(content("{}")(path), os.Chmod(path, 0o666)) }, ErrUntrusted},
}

// aborted is a context in which nobody waits.
func aborted() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func content(s string) func(string) error {
	return func(path string) error { return os.WriteFile(path, []byte(s), 0o600) }
}

// TestEveryKindOfFile: each reader returns the right error for each kind of fault, and takes no fault for another: a
// file of another version is not a corrupt one, and no file is a missing one.
func TestEveryKindOfFile(t *testing.T) {
	for name, k := range readers {
		root := t.TempDir()
		if err := k.read(root); !errors.Is(err, k.missing) {
			t.Errorf("%s, missing: %v; want %v", name, err, k.missing)
		}
		for fault, tt := range spoilt {
			root := t.TempDir()
			if err := errors.Join(os.MkdirAll(filepath.Dir(k.path(root)), 0o700), tt.make(k.path(root))); err != nil {
				t.Fatal(err)
			}
			err := k.read(root)
			for _, class := range []error{ErrCorrupt, ErrOtherVersion, ErrUntrusted, fs.ErrNotExist} {
				if errors.Is(err, class) != (class == tt.want) { //nolint:errorlint // a row of the table
					t.Errorf("%s, %s: %v; want %v alone", name, fault, err, tt.want)
				}
			}
			if err == nil || !strings.Contains(err.Error(), k.path(root)) {
				t.Errorf("%s, %s: %v; want the file's path", name, fault, err)
			}
			var v *VersionError
			if errors.As(err, &v) != (tt.want == ErrOtherVersion) { //nolint:errorlint // a row of the table
				t.Errorf("%s, %s: %v is a VersionError, or is none", name, fault, err)
			} else if v != nil && (v.Path != k.path(root) || v.Want != SchemaVersion || !strings.Contains(err.Error(), fmt.Sprintf("schemaVersion %d", v.Found))) {
				t.Errorf("%s, %s: %+v", name, fault, v)
			}
		}
	}
}

// TestKindsAreComplete: a kind of file that is new has its rows above, and here a word
// about where the programs' own tables are.
func TestKindsAreComplete(t *testing.T) {
	var all []string
	files, err := filepath.Glob("../*/*.go")
	if err != nil || !slices.Contains(files, "../nodestate/inventory.go") {
		t.Fatal(files, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok && slices.ContainsFunc(s.Fields.List, func(f *ast.Field) bool {
				return len(f.Names) == 1 && f.Names[0].Name == "SchemaVersion"
			}) {
				all = append(all, spec.Name.Name)
			}
			return true
		})
	}
	slices.Sort(all)
	want := slices.Sorted(maps.Keys(readers))
	want = slices.Sorted(slices.Values(append(want, "Leases", "Policy"))) // leases.TestFileRefused, netconf.TestParsePolicy, attach.TestUnusablePolicy
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("structs with a schemaVersion and kinds with rows (-rows +structs):\n%s\n"+
			"add rows here, in daemon/internal/reconcile/kinds_test.go and in plugins/internal/attach/kinds_test.go", diff)
	}
}

// TestStableKeys is the contract of ErrOtherVersion: a reader knows the stable keys of a
// record of any version, and a record of this version has them in these places.
func TestStableKeys(t *testing.T) {
	a := attachment("c1", "net-1") // whose name has a dash
	complete := attachment("c1", "net1")
	complete.SchemaVersion, complete.State = SchemaVersion, StateComplete
	data, err := Encode(complete)
	if err != nil {
		t.Fatal(err)
	}
	golden, pci, net1, dash := string(data), string(a.Device.PCIAddress), complete.AttachmentID, a.AttachmentID
	d := AttachmentDir(t.TempDir())
	for name, tt := range map[string]struct {
		file, content string
		id            AttachmentID
		holds, others bool // the device, any other device
		earlier       bool // the device, in another boot
	}{
		"every key":       {"c1-net1.json", strings.Replace(golden, `"schemaVersion": 1`, `"schemaVersion": 2`, 1), AttachmentID{"c1", "net1"}, true, false, false},
		"ifname, dash":    {a.fileName(), `{"schemaVersion":2,"bootID":"` + a.BootID + `","device":{"pciAddress":"` + pci + `"}}`, dash, true, false, false},
		"no device":       {"c1-net1.json", `{"schemaVersion":2,"bootID":"` + a.BootID + `"}`, AttachmentID{"c1", "net1"}, true, true, false},
		"odd device":      {"c1-net1.json", `{"schemaVersion":2,"device":{"pciAddress":7},"bootID":"` + a.BootID + `"}`, net1, true, true, false},
		"no boot":         {"c1-net1.json", `{"schemaVersion":2,"device":{"pciAddress":"` + pci + `"}}`, net1, true, false, true},
		"nothing":         {"c1.json", `{"schemaVersion":2}`, AttachmentID{}, true, true, true},
		"odd state, ours": {"c1-net1.json", strings.Replace(golden, `"state": "`, `"state": "not `, 1), AttachmentID{"c1", "net1"}, true, false, false},
		"torn":            {"c1-net1.json", golden[:200], AttachmentID{"c1", "net1"}, false, false, false},
		"empty":           {"c1-net1.json", "", AttachmentID{"c1", "net1"}, false, false, false},
	} {
		path := filepath.Join(string(d), tt.file)
		put(t, path, tt.content, 0o600)
		_, bad, err := d.List()
		if err != nil || len(bad) != 1 {
			t.Fatalf("%s: List: %v, %v", name, bad, err)
		}
		if bad[0].ID != tt.id || bad[0].Path != path {
			t.Errorf("%s: %+v; want %v", name, bad[0], tt.id)
		}
		for what, got := range map[string][2]bool{
			"the device":                 {bad.MayHold(a.BootID, a.Device.PCIAddress) != nil, tt.holds},
			"another device":             {bad.MayHold(a.BootID, "0000:ff:1f.0") != nil, tt.others},
			"the device, another boot":   {bad.MayHold("another", a.Device.PCIAddress) != nil, tt.earlier},
			"the lease of its id":        {bad.MayBe(AttachmentID{"c1", "net1"}), tt.holds && (tt.id == AttachmentID{"c1", "net1"} || tt.id == AttachmentID{})},
			"the lease of somebody else": {bad.MayBe(AttachmentID{"c2", "net1"}), tt.holds && tt.id == AttachmentID{}},
		} {
			if got[0] != got[1] {
				t.Errorf("%s: may hold %s: %t", name, what, got[0])
			}
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDiscardOtherVersion: a record of another version is forgotten when another boot
// has ended its attachment, and else stays.
func TestDiscardOtherVersion(t *testing.T) {
	d, id := AttachmentDir(t.TempDir()), AttachmentID{ContainerID: "c1", IfName: "net1"}
	path := filepath.Join(string(d), "c1-net1.json")
	for content, stays := range map[string]bool{
		`{"schemaVersion":2,"bootID":"b"}`: true,
		`{"schemaVersion":2}`:              true,
		`{"schemaVersion":2,"bootID":7}`:   true,
		`{"schemaVersion":2,"bootID":"a"}`: false,
	} {
		put(t, path, content, 0o600)
		err := d.Discard(id, "b")
		if _, gone := os.Stat(path); stays != errors.Is(err, ErrOtherVersion) || stays != (gone == nil) {
			t.Errorf("Discard of %s: %v, %v", content, err, gone)
		}
	}
}

// TestCheckpointOfAnotherVersion: rows and keys that are valid in this version count, and the file is kept.
func TestCheckpointOfAnotherVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checkpoint.json")
	row := `{"eniID":"eni-0a1b2c3d4e5f60001","nodeENI":"a","mac":"02:00:00:00:00:07","pciAddress":"0000:00:07.0","phase":"ready","advertised":true,"new":1}`
	put(t, path, `{"schemaVersion":2,"bootID":"b","devices":[{"phase":"parked"},`+row+`,7],"ownedResources":["intel.com/a"],`+
		`"lastGoodConfig":{"resourceList":[]},"confirmedHash":"h","new":[]}`, 0o600)
	got, err := ReadCheckpoint(path)
	var v *VersionError
	if !errors.As(err, &v) || v.Found != 2 {
		t.Fatalf("ReadCheckpoint: %v", err)
	}
	if len(got.Devices) != 1 || got.Devices[0].ENIID != "eni-0a1b2c3d4e5f60001" || !got.Devices[0].Advertised ||
		got.BootID != "b" || len(got.OwnedResources) != 1 || string(got.LastGoodConfig) != `{"resourceList":[]}` || got.ConfirmedHash != "" {
		t.Errorf("ReadCheckpoint = %+v", got)
	}
	for range 2 { // a second time over the first
		if err := KeepOther(v); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteCheckpoint(path, got); err != nil {
		t.Fatal(err)
	}
	kept := KeptOther(path)
	if len(kept) != 1 || kept[0] != path+".schema-2" {
		t.Fatalf("kept %q", kept)
	}
	if data, err := os.ReadFile(kept[0]); err != nil || !strings.Contains(string(data), "parked") {
		t.Errorf("%s: %s, %v", kept[0], data, err)
	}
	if _, err := ReadCheckpoint(path); err != nil {
		t.Errorf("the checkpoint written in its place: %v", err)
	}
}
