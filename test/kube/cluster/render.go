package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// Kustomize returns kustomize's output for an overlay, in which DEPLOY stands for the folder deploy/.
func Kustomize(t testing.TB, overlay string) (path string) {
	t.Helper()
	dir := t.TempDir()
	deploy, err := filepath.Rel(dir, filepath.Join(repo(t), "deploy"))
	Must(t, err)
	writeFile(t, filepath.Join(dir, "kustomization.yaml"), strings.ReplaceAll(overlay, "DEPLOY", deploy))
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	Must(t, err)
	text, err := made.AsYaml()
	Must(t, err)
	path = filepath.Join(dir, "rendered.yaml")
	writeFile(t, path, string(text))
	return path
}

// HelmTemplate returns helm's output for the chart in kube-system.
func HelmTemplate(t testing.TB, flags ...string) (path string) {
	t.Helper()
	return HelmTemplateOf(t, Chart(t), flags...)
}

// HelmTemplateOf does the same for a chart's folder or package.
func HelmTemplateOf(t testing.TB, chart string, flags ...string) (path string) {
	t.Helper()
	out, err := Helm(t, append([]string{"template", "multi-eni-cni", chart, "--namespace=kube-system"}, flags...)...)
	if err != nil {
		t.Fatalf("helm template %q: %v\n%s", flags, err, out)
	}
	path = filepath.Join(t.TempDir(), "chart.yaml")
	writeFile(t, path, out)
	return path
}

// Chart is the folder of the chart.
func Chart(t testing.TB) string {
	t.Helper()
	return filepath.Join(repo(t), "deploy/chart")
}

// Helm runs helm, and returns its output; with an error, its complaints too.
func Helm(t testing.TB, args ...string) (string, error) {
	t.Helper()
	out, said, err := helm(t, args)
	if err != nil {
		return said + out, err
	}
	return out, nil
}

// HelmWarnings runs helm, and returns its standard error.
func HelmWarnings(t testing.TB, args ...string) (string, error) {
	t.Helper()
	_, said, err := helm(t, args)
	return said, err
}

func helm(t testing.TB, args []string) (out, said string, err error) {
	t.Helper()
	program, err := nstest.Binary("kube/helm")
	if err != nil {
		Unavailable(t, err.Error())
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	return string(stdout), stderr.String(), err
}

func repo(t testing.TB) string {
	t.Helper()
	path, err := nstest.Repo()
	Must(t, err)
	return path
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	Must(t, os.WriteFile(path, []byte(content), 0o644))
}
