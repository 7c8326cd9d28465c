package onenode

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// mostImage is how much the files of the image may take on a node, in bytes.
const mostImage = 60_000_000

// members are the files of an archive.
func members(t *testing.T, r io.Reader) (headers map[string]*tar.Header, contents map[string][]byte) {
	t.Helper()
	headers, contents = map[string]*tar.Header{}, map[string][]byte{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		headers[h.Name] = h
		if contents[h.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
}

// TestImage: what `make image` has made is two static programs and nothing else,
// small, described, and without the time at which it was made.
func TestImage(t *testing.T) {
	path, err := nstest.Binary("image.tar")
	if err != nil {
		cluster.Unavailable(t, "bin/image.tar is not built; run: make image, which needs buildah")
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, blobs := members(t, f)
	decode := func(name string, into any) {
		t.Helper()
		if err := json.Unmarshal(blobs[name], into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	blob := func(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }
	type reference struct{ Digest string }
	var index struct{ Manifests []reference }
	var manifest struct {
		Config reference
		Layers []reference
	}
	var config struct {
		Created string
		Config  struct {
			Entrypoint []string
			Labels     map[string]string
		}
	}
	decode("index.json", &index)
	decode(blob(index.Manifests[0].Digest), &manifest)
	decode(blob(manifest.Config.Digest), &config)
	if !strings.HasPrefix(config.Created, "1970-01-01T00:00:00") || !slices.Equal(config.Config.Entrypoint, []string{"/multi-enid"}) {
		t.Errorf("created %s, entry point %q", config.Created, config.Config.Entrypoint)
	}
	for _, name := range []string{"title", "description", "licenses", "version"} {
		if config.Config.Labels["org.opencontainers.image."+name] == "" {
			t.Errorf("no label %s: %v", name, config.Config.Labels)
		}
	}
	if len(manifest.Layers) != 1 {
		t.Fatalf("%d layers, want one", len(manifest.Layers))
	}
	layer, err := gzip.NewReader(bytes.NewReader(blobs[blob(manifest.Layers[0].Digest)]))
	if err != nil {
		t.Fatal(err)
	}
	headers, programs := members(t, layer)
	var names []string
	size := 0
	for name, h := range headers {
		names = append(names, name)
		size += len(programs[name])
		if h.Mode&0o7777 != 0o755 || h.Uid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s: mode %o, owner %d, time %v", name, h.Mode, h.Uid, h.ModTime)
		}
		program, err := elf.NewFile(bytes.NewReader(programs[name]))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if libraries, err := program.ImportedLibraries(); err != nil || len(libraries) > 0 || program.Section(".interp") != nil {
			t.Errorf("%s is not static: %v, %v", name, libraries, err)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"multi-eni", "multi-enid"}) {
		t.Errorf("files %q, want the two programs", names)
	}
	if size > mostImage {
		t.Errorf("%d bytes, want %d at most", size, mostImage)
	}
	t.Logf("%d bytes, manifest %s", size, index.Manifests[0].Digest)
}

// TestSBOM: the bill of materials names what is linked into each program, with
// its version; into the plugin neither Kubernetes nor AWS.
func TestSBOM(t *testing.T) {
	modules := func(program string) (purls []string) {
		t.Helper()
		path, err := nstest.Binary("sbom/" + program + ".cdx.json")
		if err != nil {
			cluster.Unavailable(t, "bin/sbom is not written; run: make image, which needs buildah")
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
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
