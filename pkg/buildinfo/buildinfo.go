// Package buildinfo says which version and commit a program was built from.
package buildinfo

import (
	"runtime/debug"
	"strings"
)

// Unset is the version of a program for which nobody has named one.
const Unset = "dev"

// Info identifies a program's build.
type Info struct {
	// Version is the linker's, or the version of the module where `go install MODULE@VERSION` built it, or Unset.
	Version string
	// Commit is the revision, with " (modified)" when the tree differed from it, or "unknown".
	Commit string
}

// Of completes the linker's values: a version, and a commit or "". `make`
// gives both; otherwise the go command has recorded some of them.
func Of(version, commit string) Info {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		build = &debug.BuildInfo{}
	}
	return of(version, commit, build)
}

func of(version, commit string, build *debug.BuildInfo) Info {
	info := Info{Version: version, Commit: commit}
	if module := build.Main.Version; version == Unset && module != "" && module != "(devel)" {
		info.Version = module
	}
	if info.Commit == "" {
		info.Commit = recorded(build)
	}
	return info
}

func recorded(build *debug.BuildInfo) string {
	revision, modified := "", ""
	for _, s := range build.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = " (modified)"
		}
	}
	if revision != "" {
		return revision + modified
	}
	if revision = ofPseudo(build.Main.Version); revision != "" {
		return revision
	}
	return "unknown"
}

// ofPseudo is the beginning of the commit in a version that the go command makes of a commit without a tag:
// …-20060102150405-0123456789ab (go.dev/ref/mod, pseudo-versions). It is "" for any other version.
func ofPseudo(version string) string {
	rest, revision := cutLast(version, "-")
	_, date := cutLast(rest, "-")
	date = date[strings.LastIndexByte(date, '.')+1:]
	if len(date) != 14 || strings.Trim(date, "0123456789") != "" || len(revision) != 12 || strings.Trim(revision, "0123456789abcdef") != "" {
		return ""
	}
	return revision
}

func cutLast(s, sep string) (before, after string) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i+len(sep):]
}
