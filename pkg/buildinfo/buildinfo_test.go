package buildinfo

import (
	"runtime/debug"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOf(t *testing.T) {
	const sha = "d1cf9b7a8e5499790e4eaf0d1cea6bd31980b0e8"
	build := func(module string, settings ...debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: module}, Settings: settings}
	}
	revision, modified := debug.BuildSetting{Key: "vcs.revision", Value: sha}, debug.BuildSetting{Key: "vcs.modified", Value: "true"}
	for name, c := range map[string]struct {
		version, commit string
		build           *debug.BuildInfo
		want            Info
	}{
		"make":                  {"v1.2.3", sha, build("(devel)"), Info{"v1.2.3", sha}},
		"make, and git is read": {"v1.2.3", sha + " (modified)", build("v9.9.9", revision), Info{"v1.2.3", sha + " (modified)"}},
		"go build":              {"dev", "", build("(devel)", revision), Info{"dev", sha}},
		"go build, modified":    {"dev", "", build("(devel)", revision, modified), Info{"dev", sha + " (modified)"}},
		"go install of a tag":   {"dev", "", build("v1.2.3"), Info{"v1.2.3", "unknown"}},
		"go install of a commit": {
			"dev", "", build("v0.0.0-20261129194340-d1cf9b7a8e54"), Info{"v0.0.0-20261129194340-d1cf9b7a8e54", "d1cf9b7a8e54"},
		},
		"go install after a tag": {
			"dev", "", build("v1.2.4-0.20261129194340-d1cf9b7a8e54"), Info{"v1.2.4-0.20261129194340-d1cf9b7a8e54", "d1cf9b7a8e54"},
		},
		"go install of a pre-release": {"dev", "", build("v1.2.4-rc-1"), Info{"v1.2.4-rc-1", "unknown"}},
		"nothing recorded":            {"dev", "", build(""), Info{"dev", "unknown"}},
	} {
		if diff := cmp.Diff(c.want, of(c.version, c.commit, c.build)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
