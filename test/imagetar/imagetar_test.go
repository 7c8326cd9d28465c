package imagetar

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func read(t *testing.T, data []byte) map[string]File {
	t.Helper()
	out := map[string]File{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = File{Name: h.Name, Data: content, Mode: h.Mode, Link: h.Linkname}
	}
}

func TestMake(t *testing.T) {
	files := []File{{Name: "program", Data: []byte("x")}, {Name: "bin/other", Link: "/program"}, {Name: "etc/conf", Data: []byte("y"), Mode: 0o644}}
	data, err := Make("localhost/x:1", files...)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Make("localhost/x:1", files...)
	if err != nil || !bytes.Equal(data, again) {
		t.Errorf("the same files give other bytes (%v)", err)
	}
	archive := read(t, data)
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(archive["manifest.json"].Data, &manifest); err != nil || len(manifest) != 1 || manifest[0].RepoTags[0] != "localhost/x:1" {
		t.Fatalf("manifest %s, %v", archive["manifest.json"].Data, err)
	}
	var config struct {
		Config struct{ Entrypoint []string }
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	layer := archive[manifest[0].Layers[0]].Data
	err = json.Unmarshal(archive[manifest[0].Config].Data, &config)
	if want := fmt.Sprintf("sha256:%x", sha256.Sum256(layer)); err != nil || config.Config.Entrypoint[0] != "/program" || config.RootFS.DiffIDs[0] != want {
		t.Errorf("config %s, %v; want the entry point /program and the layer %s", archive[manifest[0].Config].Data, err, want)
	}
	want := map[string]File{
		"program":   {Name: "program", Data: []byte("x"), Mode: 0o755},
		"bin/other": {Name: "bin/other", Data: []byte{}, Mode: 0o755, Link: "/program"},
		"etc/conf":  {Name: "etc/conf", Data: []byte("y"), Mode: 0o644},
	}
	if diff := cmp.Diff(want, read(t, layer)); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
}

func TestMakeRefusesNothing(t *testing.T) {
	if _, err := Make("localhost/x:1"); err == nil {
		t.Error("an image without files")
	}
}
