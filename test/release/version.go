package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

// semver is Semantic Versioning 2.0.0 without build metadata, which no image tag can have.
var semver = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)` +
	`(\.(0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*)?$`)

// chartVersion is the version without v, as Helm's are. A commit becomes a pre-release of 0.0.0.
func chartVersion(version string) string {
	if semver.MatchString(version) {
		return version[1:]
	}
	rest := regexp.MustCompile(`[^0-9A-Za-z-]+`).ReplaceAllString(version, "-")
	return "0.0.0-dev.x" + strings.Trim(rest, "-")
}

func check(ctx context.Context, o options, _ []string) error {
	if o.unreleased {
		return nil
	}
	var errs []error
	if !semver.MatchString(o.version) {
		errs = append(errs, fmt.Errorf("VERSION %q: want v and a semantic version, such as v1.2.3 or v1.2.3-rc.1", o.version))
	} else if _, err := notes(o); err != nil {
		errs = append(errs, err)
	}
	out, err := exec.CommandContext(ctx, "git", "-c", "safe.directory=*", "status", "--porcelain").Output()
	if err != nil {
		errs = append(errs, fmt.Errorf("git status: %w", err))
	}
	if len(out) > 0 {
		first, _, _ := strings.Cut(string(out), "\n")
		errs = append(errs, fmt.Errorf("the working tree has changes that no commit has (%q): commit them or remove them", strings.TrimSpace(first)))
	}
	if len(errs) > 0 {
		return fmt.Errorf("%w\nfor a trial: make release UNRELEASED=1", errors.Join(errs...))
	}
	return nil
}

// notes are the lines of a version's section of the changelog, without its heading.
func notes(o options) (string, error) {
	const path = "CHANGELOG.md"
	name := strings.TrimPrefix(o.version, "v")
	if o.unreleased {
		name = "Unreleased"
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var section strings.Builder
	inside := false
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "## ") {
			inside = strings.HasPrefix(line, "## ["+name+"]")
			continue
		}
		if inside {
			section.WriteString(line)
		}
	}
	text := strings.TrimSpace(section.String())
	if text == "" {
		return "", fmt.Errorf("%s has no text under the heading \"## [%s]\": move the text of [Unreleased] there", path, name)
	}
	return text + "\n", nil
}
