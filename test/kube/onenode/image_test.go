package onenode

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// mostImage limits the unpacked size of the image's programs, in bytes.
const mostImage = 50_000_000

func members(t *testing.T, r io.Reader) (headers map[string]*tar.Header, contents map[string][]byte) {
	t.Helper()
	headers, contents = map[string]*tar.Header{}, map[string][]byte{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		cluster.Must(t, err)
		headers[h.Name] = h
		if contents[h.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
}

type archive struct {
	*testing.T
	blobs map[string][]byte
}

type reference struct {
	Digest   string
	Platform struct{ Architecture, OS string }
}

func (a archive) decode(r reference, into any) {
	a.Helper()
	a.decodeFile("blobs/"+strings.Replace(r.Digest, ":", "/", 1), into)
}

func (a archive) decodeFile(name string, into any) {
	a.Helper()
	if err := json.Unmarshal(a.blobs[name], into); err != nil {
		a.Fatalf("%s: %v", name, err)
	}
}

// builtFor tells the architectures that make built image and release for.
func builtFor(t *testing.T) map[string]elf.Machine {
	t.Helper()
	all := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	built, set := os.LookupEnv("PLATFORMS")
	if !set {
		return all
	}
	some := map[string]elf.Machine{}
	for _, p := range strings.Fields(built) {
		arch, linux := strings.CutPrefix(p, "linux/")
		if !linux || all[arch] == elf.EM_NONE {
			t.Fatalf("PLATFORMS has %q, want linux/amd64 or linux/arm64", p)
		}
		some[arch] = all[arch]
	}
	return some
}

// TestImage: each platform has three small static programs, licences, labels, and one time, not the build's.
func TestImage(t *testing.T) {
	path, err := nstest.Binary("image.tar")
	if err != nil {
		cluster.Unavailable(t, "bin/image.tar is not built; run: make image, which needs buildah")
	}
	f, err := os.Open(path)
	cluster.Must(t, err)
	defer f.Close()
	_, blobs := members(t, f)
	a := archive{t, blobs}
	var named, platforms struct{ Manifests []reference }
	a.decodeFile("index.json", &named)
	a.decode(named.Manifests[0], &platforms)
	machines := builtFor(t)
	if len(platforms.Manifests) != len(machines) {
		t.Errorf("platforms %v, want linux for %v", platforms.Manifests, machines)
	}
	for _, r := range platforms.Manifests {
		machine, ok := machines[r.Platform.Architecture]
		if !ok || r.Platform.OS != "linux" {
			t.Errorf("an image for %v", r.Platform)
			continue
		}
		t.Run(r.Platform.Architecture, func(t *testing.T) {
			archive{t, blobs}.checkImage(r, machine)
		})
	}
}

func (a archive) checkImage(r reference, machine elf.Machine) {
	var manifest struct {
		Config reference
		Layers []reference
	}
	var config struct {
		Created, Architecture string
		Config                struct {
			Entrypoint []string
			Labels     map[string]string
		}
	}
	a.decode(r, &manifest)
	a.decode(manifest.Config, &config)
	created, err := time.Parse(time.RFC3339, config.Created)
	if err != nil || !slices.Equal(config.Config.Entrypoint, []string{"/multi-enid"}) || config.Architecture != r.Platform.Architecture {
		a.Errorf("created %s, entry point %q, architecture %s", config.Created, config.Config.Entrypoint, config.Architecture)
	}
	for _, name := range []string{"title", "description", "licenses", "version"} {
		if config.Config.Labels["org.opencontainers.image."+name] == "" {
			a.Errorf("no label %s: %v", name, config.Config.Labels)
		}
	}
	if len(manifest.Layers) != 1 {
		a.Fatalf("%d layers, want one", len(manifest.Layers))
	}
	layer, err := gzip.NewReader(bytes.NewReader(a.blobs["blobs/"+strings.Replace(manifest.Layers[0].Digest, ":", "/", 1)]))
	cluster.Must(a, err)
	headers, contents := members(a.T, layer)
	modes := map[string]int64{}
	size := 0
	for name, h := range headers {
		modes[name] = h.Mode & 0o7777
		if h.Uid != 0 || !h.ModTime.Equal(created) {
			a.Errorf("%s: owner %d, time %v, want that of the image, %v", name, h.Uid, h.ModTime, created)
		}
	}
	if diff := cmp.Diff(map[string]int64{
		"eni-ipam": 0o755, "multi-eni": 0o755, "multi-enid": 0o755, "licenses/": 0o755, "licenses/LICENSE": 0o644, "licenses/THIRD_PARTY_NOTICES": 0o644,
	}, modes); diff != "" {
		a.Fatalf("files and modes (-want +got):\n%s", diff)
	}
	for _, program := range []string{"eni-ipam", "multi-eni", "multi-enid"} {
		size += len(contents[program])
		checkStatic(a.T, program, contents[program], machine)
		a.hasNotices(program, contents[program], string(contents["licenses/THIRD_PARTY_NOTICES"]))
	}
	if size > mostImage {
		a.Errorf("%d bytes, want %d at most", size, mostImage)
	}
	a.Logf("%d bytes, manifest %s", size, r.Digest)
}

func checkStatic(t *testing.T, name string, data []byte, machine elf.Machine) {
	t.Helper()
	program, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if libraries, err := program.ImportedLibraries(); err != nil || len(libraries) > 0 || program.Section(".interp") != nil || program.Machine != machine {
		t.Errorf("%s is not static for %v: %v, %v, %v", name, machine, program.Machine, libraries, err)
	}
}

func (a archive) hasNotices(name string, program []byte, notices string) {
	a.Helper()
	info, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		a.Fatalf("%s: %v", name, err)
	}
	modules := []string{"std " + info.GoVersion}
	for _, m := range info.Deps {
		modules = append(modules, m.Path+" "+m.Version)
	}
	for _, m := range modules {
		if !strings.Contains(notices, "\n"+m+": [") {
			a.Errorf("%s has code of %s, of which the notices say nothing", name, m)
		}
	}
}

// TestSBOM lists every module linked into a program, with its version. The plugin's has neither Kubernetes nor AWS.
func TestSBOM(t *testing.T) {
	modules := func(program string) (purls []string) {
		t.Helper()
		path, err := nstest.Binary("sbom/" + program + ".cdx.json")
		if err != nil {
			cluster.Unavailable(t, "bin/sbom is not written; run: make image, which needs buildah")
		}
		data, err := os.ReadFile(path)
		cluster.Must(t, err)
		var bom struct {
			BomFormat  string
			Components []struct{ PURL string }
		}
		if err := json.Unmarshal(data, &bom); err != nil || bom.BomFormat != "CycloneDX" {
			t.Fatalf("%s: format %q, %v", path, bom.BomFormat, err)
		}
		for _, c := range bom.Components {
			purls = append(purls, c.PURL)
		}
		return purls
	}
	has := func(purls []string, module string) bool {
		return slices.ContainsFunc(purls, func(p string) bool { return strings.HasPrefix(p, "pkg:golang/"+module) })
	}
	for _, module := range []string{"k8s.io/client-go@v0.", "github.com/aws/aws-sdk-go-v2@v1.", "github.com/vishvananda/netlink@v1.", "std@"} {
		if !has(modules("multi-enid"), module) {
			t.Errorf("multi-enid's has no %s", module)
		}
	}
	plugin := modules("multi-eni")
	if !has(plugin, "github.com/containernetworking/cni@v1.") || has(plugin, "k8s.io/") || has(plugin, "github.com/aws/") {
		t.Errorf("multi-eni's has %q", plugin)
	}
}
