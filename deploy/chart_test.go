package deploy

import (
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// project is where people read the documents of a packaged chart.
const project = "https://github.com/multi-eni/multi-eni-cni/blob/main/"

// TestChartStandsAlone: the chart has only regular files, or helm would warn, and its copies equal the files of deploy/.
func TestChartStandsAlone(t *testing.T) {
	originals := map[string]string{
		"chart/crds": "crd", "chart/monitoring": "components/monitoring",
	}
	copies := 0
	err := filepath.WalkDir("chart", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			t.Errorf("%s is no regular file", path)
		}
		original, isCopy := originals[filepath.Dir(path)]
		if !isCopy {
			return nil
		}
		copies++
		want, err := os.ReadFile(filepath.Join(original, filepath.Base(path)))
		if err != nil {
			return err
		}
		got, err := os.ReadFile(path)
		if string(got) != string(want) {
			t.Errorf("%s is not the file of %s: run make generate", path, original)
		}
		return err
	})
	crds, globErr := filepath.Glob("crd/*.yaml")
	if err != nil || globErr != nil || copies != len(crds)+4 {
		t.Errorf("%d copies, want the %d CRDs, alerts, two PodMonitors and dashboard: %v, %v", copies, len(crds), err, globErr)
	}
}

// TestChartLinks: each link works from the package alone, and each link to a document of the project leads to one.
func TestChartLinks(t *testing.T) {
	markdown, address := regexp.MustCompile(`\]\(([^)]*)\)`), regexp.MustCompile(`https://[^\s)"]+`)
	for _, file := range []string{"chart/README.md", "chart/Chart.yaml", "chart/templates/NOTES.txt", "chart/monitoring/alerts.yaml"} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range markdown.FindAllStringSubmatch(string(data), -1) {
			if !strings.HasPrefix(link[1], "https://") {
				t.Errorf("%s: the link %s leads nowhere from a package", file, link[1])
			}
		}
		found := address.FindAllString(string(data), -1)
		if len(found) == 0 {
			t.Errorf("%s: no link", file)
		}
		for _, link := range found {
			if u, err := url.Parse(link); err != nil || u.Host == "" {
				t.Errorf("%s: %s: %v", file, link, err)
			}
			page, ours := strings.CutPrefix(link, project)
			page, _, _ = strings.Cut(page, "#")
			if _, err := os.Stat(filepath.Join("..", page)); ours && err != nil {
				t.Errorf("%s: %s: %v", file, link, err)
			}
		}
	}
}
