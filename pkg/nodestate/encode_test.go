package nodestate_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

// TestRecordsStayReadable: no netconf of a tenant makes a record too large to read.
func TestRecordsStayReadable(t *testing.T) {
	deep := strings.Repeat("[", 9000) + strings.Repeat("]", 9000)
	quoted := strings.Repeat(`["]\\\"]",`, 4000) + "0" + strings.Repeat("]", 4000) // brackets in strings do not count
	for name, tt := range map[string]struct {
		config           string
		indented, refuse bool
	}{
		"usual":     {config: `{"a":[1]}`, indented: true},
		"deep":      {config: deep},
		"quoted":    {config: quoted},
		"too large": {config: `"` + strings.Repeat("x", 4<<20) + `"`, refuse: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := nodestate.AttachmentDir(t.TempDir())
			r, err := dir.Begin(nodestate.Attachment{
				AttachmentID: nodestate.AttachmentID{ContainerID: "c", IfName: "net1"}, Mode: nodestate.ModeExclusive,
				Device: nodestate.AttachedDevice{PCIAddress: "0000:00:06.0"}, Config: json.RawMessage(tt.config),
			})
			if tt.refuse {
				if !errors.Is(err, nodestate.ErrTooLarge) {
					t.Fatalf("Begin: %v; want ErrTooLarge", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			data, err := nodestate.ReadTrusted(filepath.Join(string(dir), "c-net1.json"))
			if err != nil {
				t.Fatal(err)
			}
			if got := bytes.Count(data, []byte("\n")) > 1; got != tt.indented {
				t.Errorf("indented = %v; want %v", got, tt.indented)
			}
			if all, bad, err := dir.List(); len(all) != 1 || bad != nil || err != nil {
				t.Errorf("List = %d records, %v, %v; want one", len(all), bad, err)
			}
		})
	}
}
