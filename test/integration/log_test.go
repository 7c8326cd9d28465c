package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestLog: the log goes to standard error, or to logFile, from logLevel on.
func TestLog(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	c := newCluster(t)
	file := filepath.Join(c.node.Dir, "log")
	const word = "without its record" // a warning, of a DEL whose record is lost
	for _, tt := range []struct {
		level           string
		file            bool
		stderr, written bool
	}{
		{"", false, true, false},
		{"warning", true, false, true},
		{"error", false, false, false},
		{"error", true, false, false},
	} {
		conf := c.multiENI()
		conf["logLevel"] = tt.level
		if tt.file {
			conf["logFile"] = file
		}
		c.conflist("1.1.0", conf)
		pod := c.pod("pod")
		c.mustTool("add", pod)
		must(t, os.RemoveAll(nodestate.DefaultAttachmentsDir))
		said, err := c.stderrOf("del", pod)
		must(t, err)
		written, _ := os.ReadFile(file)
		if got := strings.Contains(said, word); got != tt.stderr {
			t.Errorf("logLevel %q, with a file %t: standard error says %q", tt.level, tt.file, said)
		}
		if got := strings.Contains(string(written), word); got != tt.written {
			t.Errorf("logLevel %q, with a file %t: the file says %q", tt.level, tt.file, written)
		}
		_ = os.Remove(file)
		must(t, nstest.DeleteNetns(pod))
	}
}
