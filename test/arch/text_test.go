package arch

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func textRules() []rule {
	return []rule{
		{
			name:  "unfinished",
			why:   "what is not done is an issue, not a comment",
			check: matching(unfinished, "go.sum"),
			bad:   []string{"-- pkg/x/x.go --\npackage x // TO" + "DO: all of it\n", "-- README.md --\nIPv6 is not im" + "plemented.\n"},
			good:  []string{"-- README.md --\nmktemp /tmp/x.XXXXXX\n"},
		},
		{
			name:  "replace",
			why:   "a module with a replace directive cannot be installed with `go install module@version`",
			check: replaces,
			bad:   []string{"-- go.mod --\nmodule x\n\nreplace a => b\n", "-- go.mod --\nmodule x\n\nreplace (\n\ta => b\n)\n"},
			good:  []string{"-- test/kube/go.mod --\nmodule x\n\nreplace a => ../..\n"},
		},
		{
			name:  "machine-path",
			why:   "a path of the machine it was written on means nothing elsewhere",
			check: func(tr tree) []string { return matching(here())(tr) },
			bad:   []string{"-- README.md --\ncd " + checkout() + "\n"},
			good:  []string{"-- README.md --\ncd multi-eni-cni\n"},
		},
		{
			name:  "registry-host",
			why:   "which mirror a machine fetches from is that machine's affair",
			check: func(tr tree) []string { return matching(hostPattern(append(registryHosts(), sampleHost)))(tr) },
			bad:   []string{"-- README.md --\nfetched from https://" + sampleHost + "/x\n"},
			good:  []string{"-- README.md --\nhttps://pkg.go.dev/" + module + "\n"},
		},
	}
}

// Written so that the rule does not find itself. After a dot it is a name of package context, which the linter forbids.
var unfinished = regexp.MustCompile(`(^|[^.\w])(TO` + `DO|FIX` + `ME|XX` + `X)\b|not im` + `plemented|real im` + `plementation`)

func matching(re *regexp.Regexp, except ...string) func(tree) []string {
	return func(tr tree) []string {
		var out []string
		for _, f := range tr.files {
			if slices.Contains(except, path.Base(f.path)) || !re.MatchString(f.text) {
				continue
			}
			for n, line := range strings.Split(f.text, "\n") {
				if found := re.FindString(line); found != "" {
					out = append(out, fmt.Sprintf("%s:%d: %q", f.path, n+1, found))
				}
			}
		}
		return out
	}
}

func replaces(tr tree) []string {
	for _, f := range tr.files {
		if f.path == "go.mod" && regexp.MustCompile(`(?m)^replace\b`).MatchString(f.text) {
			return []string{"go.mod: replace directive"}
		}
	}
	return nil
}

func checkout() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
}

// here matches the checkout, and the folder around it unless that is one that every machine has.
func here() *regexp.Regexp {
	dirs := []string{checkout()}
	if parent := filepath.Dir(dirs[0]); !slices.Contains(standardFolders, parent) {
		dirs = append(dirs, parent)
	}
	for i, d := range dirs {
		dirs[i] = regexp.QuoteMeta(d)
	}
	return regexp.MustCompile(`(^|[^\w.])(` + strings.Join(dirs, "|") + `)(/|\b)`)
}

var standardFolders = []string{
	"/", "/bin", "/boot", "/build", "/data", "/dev", "/etc", "/go", "/home", "/lib", "/media", "/mnt", "/opt",
	"/proc", "/root", "/run", "/sbin", "/src", "/srv", "/sys", "/tmp", "/usr", "/usr/src", "/var", "/var/lib", "/var/tmp",
}

// registryHosts asks this machine's package managers for their hosts: a list would name them.
func registryHosts() []string {
	var settings strings.Builder
	for _, argv := range [][]string{{"go", "env", "GOPROXY"}, {"npm", "config", "get", "registry"}} {
		// No such program, no such setting.
		if out, err := exec.Command(argv[0], argv[1:]...).Output(); err == nil {
			settings.Write(out)
		}
	}
	lists, _ := filepath.Glob("/etc/apt/sources.list.d/*") // fails on a bad pattern only
	for _, name := range append(lists, "/etc/apt/sources.list") {
		if b, err := os.ReadFile(name); err == nil {
			settings.Write(b)
		}
	}
	var hosts []string
	for _, m := range regexp.MustCompile(`https?://(?:[^/@\s]+@)?([\w.-]+)`).FindAllStringSubmatch(settings.String(), -1) {
		hosts = append(hosts, m[1])
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// sampleHost stands for a registry in the fixture, on machines without any too.
const sampleHost = "registry" + ".invalid"

func hostPattern(hosts []string) *regexp.Regexp {
	quoted := make([]string, len(hosts))
	for i, h := range hosts {
		quoted[i] = regexp.QuoteMeta(h)
	}
	return regexp.MustCompile(`(^|[^\w.-])(` + strings.Join(quoted, "|") + `)\b`)
}
