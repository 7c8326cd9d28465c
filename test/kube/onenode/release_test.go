package onenode

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

type release struct {
	*testing.T
	dir     string
	version string
	files   []string // of SHA256SUMS, sorted
}

func released(t *testing.T) release {
	t.Helper()
	sums, err := nstest.Binary("release/SHA256SUMS")
	if err != nil {
		cluster.Unavailable(t, "bin/release is not made; run: make release UNRELEASED=1, which needs buildah")
	}
	data, err := os.ReadFile(sums)
	cluster.Must(t, err)
	r := release{T: t, dir: filepath.Dir(sums)}
	for line := range strings.Lines(string(data)) {
		want, file, _ := strings.Cut(strings.TrimSpace(line), "  ")
		if got := fmt.Sprintf("%x", sha256.Sum256(r.read(file))); got != want {
			t.Errorf("%s has the checksum %s, want %s", file, got, want)
		}
		r.files = append(r.files, file)
		if version, ok := strings.CutSuffix(file, "_image.tar"); ok {
			r.version = strings.TrimPrefix(version, "multi-eni-cni_")
		}
	}
	slices.Sort(r.files)
	return r
}

func (r release) read(file string) []byte {
	r.Helper()
	data, err := os.ReadFile(filepath.Join(r.dir, file))
	cluster.Must(r, err)
	return data
}

func (r release) image() string     { return filepath.Join(r.dir, "multi-eni-cni_"+r.version+"_image.tar") }
func (r release) manifests() string { return filepath.Join(r.dir, "install.yaml") }

// chart is the chart's package. In a trial release it has a version of its own.
func (r release) chart() string {
	r.Helper()
	i := slices.IndexFunc(r.files, func(f string) bool { return filepath.Ext(f) == ".tgz" })
	if i < 0 {
		r.Fatalf("no package of the chart in %q", r.files)
	}
	return filepath.Join(r.dir, r.files[i])
}

func (s *stage) importFor(r release, manifests string) {
	s.Helper()
	imported := map[string]bool{}
	for _, o := range cluster.ReadFile(s.T, manifests) {
		for _, image := range images(o.Object) {
			if !imported[image] {
				s.ImportArchive(s.T, image, r.image())
			}
			imported[image] = true
		}
	}
	if len(imported) != 1 {
		s.Fatalf("images %v, want one", imported)
	}
}

func images(v any) (all []string) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if name, ok := value.(string); ok && key == "image" {
				all = append(all, name)
			}
			all = append(all, images(value)...)
		}
	case []any:
		for _, value := range v {
			all = append(all, images(value)...)
		}
	}
	return all
}

// TestRelease: a release has all files and contents, and the repository's manifests with the image pinned.
func TestRelease(t *testing.T) {
	r := released(t)
	want := []string{
		"LICENSE", "RELEASE_NOTES.md", "THIRD_PARTY_NOTICES", "install.yaml", filepath.Base(r.chart()), "multi-eni-cni_" + r.version + "_image.tar",
		"eni-ipam_" + r.version + ".cdx.json", "multi-eni_" + r.version + ".cdx.json", "multi-enid_" + r.version + ".cdx.json",
	}
	for arch, machine := range builtFor(t) {
		name := "multi-eni-cni_" + r.version + "_linux_" + arch + ".tar.gz"
		want = append(want, name)
		r.checkPrograms(name, machine, arch == runtime.GOARCH)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.DeleteFunc(slices.Clone(r.files),
		func(f string) bool { return strings.Contains(f, "kubectl") || strings.HasPrefix(f, "krew-") })); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	plugin := "kubectl-multi_eni_" + r.version + "_linux_amd64.tar.gz"
	krew := string(r.read("krew-multi-eni.yaml"))
	if want := fmt.Sprintf("/%s\n    sha256: %x\n", plugin, sha256.Sum256(r.read(plugin))); !strings.Contains(krew, want) ||
		!strings.Contains(krew, "version: "+r.version+"\n") {
		t.Errorf("the plugin's manifest has no %q:\n%s", want, krew)
	}
	if notes := string(r.read("RELEASE_NOTES.md")); !strings.Contains(notes, "# multi-eni-cni "+r.version) || !strings.Contains(notes, "\n- ") ||
		!strings.Contains(notes, "sha256:") {
		t.Errorf("notes:\n%s", notes)
	}
	pinned := slices.Compact(images(objects(t, r.manifests())))
	name, digest, _ := strings.Cut(strings.Join(pinned, " "), "@")
	if len(pinned) != 1 || digest == "" {
		t.Errorf("images %q, want one by its digest", pinned)
	}
	same := func(what string, got, want string) {
		t.Helper()
		if diff := cmp.Diff(objects(t, want), objects(t, got)); diff != "" {
			t.Errorf("%s (-repository +release):\n%s", what, diff)
		}
	}
	same("install.yaml", r.manifests(), cluster.Kustomize(t, fmt.Sprintf("resources: [DEPLOY]\nimages: [{name: multi-eni-cni, newName: %s, digest: %q}]\n",
		name, digest)))
	same("chart", cluster.HelmTemplateOf(t, r.chart()), cluster.HelmTemplate(t, "--set=image.repository="+name, "--set-string=image.tag="+r.version))
	if out, err := cluster.Helm(t, "show", "crds", r.chart()); err != nil || strings.Count(out, "kind: CustomResourceDefinition\n") != 2 {
		t.Errorf("CRDs of the package: %v\n%s", err, out)
	}
}

func objects(t *testing.T, path string) map[string]any {
	t.Helper()
	all := map[string]any{}
	for _, o := range cluster.ReadFile(t, path) {
		all[o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName()] = o.Object
	}
	return all
}

func (r release) checkPrograms(name string, machine elf.Machine, runs bool) {
	r.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(r.read(name)))
	cluster.Must(r, err)
	headers, contents := members(r.T, zip)
	var programs []string
	for file, h := range headers {
		if h.Mode != 0o755 {
			continue
		}
		programs = append(programs, file)
		checkStatic(r.T, file, contents[file], machine)
	}
	slices.Sort(programs)
	if !slices.Equal(programs, []string{"eni-ipam", "multi-eni", "multi-enid"}) || len(contents["LICENSE"]) == 0 || len(contents["THIRD_PARTY_NOTICES"]) == 0 {
		r.Errorf("%s has the programs %q, and %d files", name, programs, len(headers))
	}
	if !runs {
		return
	}
	path := filepath.Join(r.TempDir(), "multi-enid")
	cluster.Must(r, os.WriteFile(path, contents["multi-enid"], 0o700))
	if out, err := exec.CommandContext(r.Context(), path, "version").CombinedOutput(); err != nil || !strings.Contains(string(out), r.version) {
		r.Errorf("multi-enid version: %v, %s; want %s", err, out, r.version)
	}
}
