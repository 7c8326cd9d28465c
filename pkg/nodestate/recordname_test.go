package nodestate

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/atomicfile"
)

// TestNames: no two attachments have one file, also with dashes in their ids.
func TestNames(t *testing.T) {
	seen := map[string]AttachmentID{}
	parts := []string{"a", "b", "c", "a-b", "b-c", "a-b-c", "a--b", "b--c", "-a", "a-", "c-", "-"}
	for _, container := range parts {
		for _, ifname := range parts {
			id := AttachmentID{container, ifname}
			name := id.fileName()
			if other, taken := seen[name]; taken {
				t.Errorf("%+v and %+v are both in %s", other, id, name)
			}
			seen[name] = id
		}
	}
	if name := (AttachmentID{"cnitool-1", "net1"}).fileName(); name != "cnitool-1-net1.json" {
		t.Errorf("an interface without a dash is in %s", name)
	}
}

// TestTwoIDsOneOldName: a-b with c and a with b-c had one file name once. A record
// of that name is its owner's, and nobody else waits for its lock.
func TestTwoIDsOneOldName(t *testing.T) {
	first, second := attachment("a-b", "c"), attachment("a", "b-c")
	first.SchemaVersion, first.State = SchemaVersion, StateIntent
	second.SchemaVersion, second.State = SchemaVersion, StateIntent
	d := AttachmentDir(t.TempDir())
	one := begin(t, d, first)
	if _, err := d.Lock(atOnce(t), second.AttachmentID); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Lock beside the other's: %v; want ErrNotExist", err)
	}
	two := begin(t, d, second)
	if _, err := d.Lock(atOnce(t), second.AttachmentID); !errors.Is(err, ErrBusy) {
		t.Errorf("Lock of a record that is locked: %v; want ErrBusy", err)
	}
	two.Close()
	expect(t, d, first, second)
	if err := d.Discard(second.AttachmentID, "boot"); !errors.Is(err, ErrBusy) {
		t.Errorf("Discard of a whole record: %v; want ErrBusy", err)
	}
	one.Close()

	d = AttachmentDir(t.TempDir())
	data, err := Encode(second)
	if err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(filepath.Join(string(d), "a-b-c.json"), data, 0o600, atomicfile.Volatile); err != nil {
		t.Fatal(err)
	}
	expect(t, d, second)
	if _, err := d.Begin(second); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Begin beside the record in its old place: %v; want ErrExist", err)
	}
	r, err := d.Lock(soon(t), second.AttachmentID)
	if err != nil {
		t.Fatalf("Lock of a record in its old place: %v", err)
	}
	if err := r.Remove(); err != nil {
		t.Fatal(err)
	}
	expect(t, d)
}
