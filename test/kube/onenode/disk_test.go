package onenode

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestInstallerOnABadDisk: on a full or read-only disk the old plugin stays, until the new one has room.
func TestInstallerOnABadDisk(t *testing.T) {
	other, err := nstest.Binary("kube/next/multi-eni")
	cluster.Must(t, err)
	for name, tt := range map[string]struct {
		options, mended string // of the tmpfs
		flags           uintptr
		says            string
	}{
		"full":      {"size=5M", "size=64M", 0, "no space left on device"},
		"read-only": {"size=64M", "size=64M", unix.MS_RDONLY, "read-only file system"},
	} {
		t.Run(name, func(t *testing.T) {
			s := bareNode(t, 1)
			s.cluster().InstallCRDs(t)
			t.Cleanup(func() { // the installer leaves the policy, and makes it anew as long as it runs
				cluster.Eventually(cleanup{t}, "end of the installer", settle, func() error { return none("processes", processes(isDaemon)) })
				s.must(os.Remove(nodestate.DefaultPolicyPath))
			})
			s.must(unix.Mount("tmpfs", node.CNIBinDir, "tmpfs", 0, tt.options))
			t.Cleanup(func() { s.must(unix.Unmount(node.CNIBinDir, unix.MNT_DETACH)) })
			program, err := os.ReadFile(other)
			s.must(err)
			s.must(os.WriteFile(pluginPath, program, 0o755))
			s.must(unix.Mount("", node.CNIBinDir, "", unix.MS_REMOUNT|tt.flags, tt.options))

			for _, o := range cluster.ReadFile(t, s.render("", shipped)) {
				if o.GetName() == "multi-eni-installer" {
					s.cluster().Apply(t, o)
					t.Cleanup(func() { s.cluster().Delete(cleanup{t}, o) })
				}
			}
			cluster.Eventually(t, "a word about the disk", settle, func() error {
				return contains(s.log("multi-eni-installer-*"), tt.says)
			})
			s.must(s.runs(next)())
			files, err := filepath.Glob(filepath.Join(node.CNIBinDir, "*"))
			s.must(err)
			if len(files) != 1 {
				t.Errorf("files %q, want the plugin alone", files)
			}

			s.must(unix.Mount("", node.CNIBinDir, "", unix.MS_REMOUNT, tt.mended))
			cluster.Eventually(t, "the new plugin", restart, func() error {
				if s.runs(next)() == nil {
					return errors.New("the plugin is the old one still")
				}
				return nil
			})
		})
	}
}

func contains(text, part string) error {
	if strings.Contains(text, part) {
		return nil
	}
	return want(text, "… "+part+" …")
}
