package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

const (
	chartName   = "multi-eni-cni"
	chartFolder = "deploy/chart"
)

func writeChart(_ context.Context, o options, _ []string) error {
	data, err := chart(o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	path := filepath.Join(o.out, chartFile(o.version))
	fmt.Println(path)
	return os.WriteFile(path, data, 0o644)
}

func chartFile(version string) string { return chartName + "-" + chartVersion(version) + ".tgz" }

// chart is the package: the folder's files except those in .helmignore, with the version. Helm reads Chart.yaml first.
func chart(o options) ([]byte, error) {
	ignored, err := os.ReadFile(filepath.Join(chartFolder, ".helmignore"))
	if err != nil {
		return nil, err
	}
	names := strings.Fields(string(ignored))
	skip := map[string]bool{".helmignore": true}
	for _, name := range names {
		skip[name] = true
	}
	var members []member
	err = filepath.WalkDir(chartFolder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(chartFolder, path)
		if err != nil || skip[name] {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		m := member{name: filepath.ToSlash(filepath.Join(chartName, name)), data: data}
		switch name {
		case "Chart.yaml":
			m.data, err = chartYAML(data, o)
		case "values.yaml":
			m.data, err = chartValues(data, o)
		}
		members = append(members, m)
		return err
	})
	if err != nil {
		return nil, err
	}
	return archive(o.built, members)
}

// chartYAML sets version and appVersion and, in a release, lists image and changes for Artifact Hub.
func chartYAML(data []byte, o options) ([]byte, error) {
	content := string(data)
	for key, value := range map[string]string{"version": chartVersion(o.version), "appVersion": strconv.Quote(o.version)} {
		line := regexp.MustCompile(`(?m)^` + key + `: .*$`)
		if len(line.FindAllString(content, -1)) != 1 {
			return nil, fmt.Errorf("want one line %s in Chart.yaml", key)
		}
		content = line.ReplaceAllString(content, key+": "+value)
	}
	content = strings.Replace(content, "# `make chart` replaces both by VERSION.\n", "", 1)
	if o.repository != "" {
		content += fmt.Sprintf("  artifacthub.io/images: |\n    - name: %s\n      image: %s:%s\n", chartName, o.repository, o.version)
		section, err := notes(o)
		if err != nil {
			return nil, err
		}
		content += "  artifacthub.io/changes: |\n" + changes(section)
	}
	return []byte(content), nil
}

func changes(section string) string {
	var out strings.Builder
	kind, item := "changed", ""
	end := func() {
		if item != "" {
			fmt.Fprintf(&out, "    - kind: %s\n      description: %s\n", kind, strconv.Quote(item))
		}
		item = ""
	}
	for line := range strings.Lines(section) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "### "):
			end()
			kind = strings.ToLower(line[4:])
		case strings.HasPrefix(line, "- "):
			end()
			item = line[2:]
		case strings.HasPrefix(line, "  ") && item != "":
			item += " " + strings.TrimSpace(line)
		default:
			end()
		}
	}
	end()
	return out.String()
}

func chartValues(data []byte, o options) ([]byte, error) {
	if o.repository == "" {
		return data, nil
	}
	const line = "  repository: multi-eni-cni\n"
	content := string(data)
	if strings.Count(content, line) != 1 {
		return nil, fmt.Errorf("want one line %q in values.yaml", line)
	}
	return []byte(strings.Replace(content, line, "  repository: "+o.repository+"\n", 1)), nil
}
