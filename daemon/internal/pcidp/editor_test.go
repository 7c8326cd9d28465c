package pcidp

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// The device plugin exits on a byte order mark. Neither that nor other line ends cost an entry.
func TestWhatEditorsAdd(t *testing.T) {
	theirs := `{"resourceList": [{"resourceName": "theirs", "selectors": {"drivers": ["i40e"]}}]}`
	for name, content := range map[string]string{
		"byte order mark":        "\ufeff" + theirs,
		"CRLF":                   strings.ReplaceAll(theirs, " ", "\r\n"),
		"byte order mark, CRLF":  "\ufeff" + strings.ReplaceAll(theirs, " ", "\r\n"),
		"byte order mark, empty": "\ufeff{}",
	} {
		t.Run(name, func(t *testing.T) {
			f := File{Path: filepath.Join(t.TempDir(), "config.json"), Now: time.Now, Written: judged(t, &Request{})}
			must(t, os.WriteFile(f.Path, []byte(content), 0o644))
			ours := Entry{Resource: "intel.com/ours", Selectors: []Selector{{Drivers: []string{"ena"}, PCIAddresses: []device.PCIAddress{"0000:00:06.0"}}}}
			got, err := f.Apply(Request{Entries: []Entry{ours}})
			if err != nil || !got.Changed || got.RetryAfter != 0 || len(got.Problems) > 0 {
				t.Fatalf("Apply: %+v, %v; want a change without problems", got, err)
			}
			written, err := os.ReadFile(f.Path)
			must(t, err)
			if strings.HasPrefix(string(written), "\ufeff") || !strings.Contains(string(written), `"ours"`) ||
				strings.Contains(string(written), "theirs") != strings.Contains(content, "theirs") {
				t.Errorf("written:\n%s", written)
			}
			again, err := f.Apply(Request{Entries: []Entry{ours}, Owned: got.Owned, LastGood: got.Content})
			if err != nil || again.Changed {
				t.Errorf("Apply again: %+v, %v; want no change", again, err)
			}
		})
	}
}
