package node

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// ImportImage makes an image of static binaries, the first of which is its entry
// point, and gives it to containerd under that name, such as localhost/x:1. Pods
// that use it set imagePullPolicy: Never.
func (n *Node) ImportImage(t testing.TB, ref string, binaries ...string) {
	t.Helper()
	if err := n.importImage(t.Context(), ref, binaries...); err != nil {
		t.Fatal(err)
	}
}

// ImportArchive gives containerd the image of an archive that a builder has
// made, under the name ref.
func (n *Node) ImportArchive(t testing.TB, ref, archive string) {
	t.Helper()
	if err := n.ctr(t.Context(), "images", "import", "--snapshotter=native", "--index-name", ref, archive); err != nil {
		t.Fatal(err)
	}
}

func (n *Node) importPause(ctx context.Context) error {
	pause, err := nstest.Binary("kube/pause")
	if err != nil {
		return err
	}
	return n.importImage(ctx, PauseImage, pause)
}

func (n *Node) importImage(ctx context.Context, ref string, binaries ...string) error {
	archive, err := image(ref, binaries)
	if err != nil {
		return fmt.Errorf("make image %s: %w", ref, err)
	}
	f, err := os.CreateTemp(n.dir, "image")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // the folder goes with the node
	defer f.Close()
	if _, err := f.Write(archive); err != nil {
		return err
	}
	return n.ctr(ctx, "images", "import", "--snapshotter=native", f.Name())
}

// image returns a "docker save" archive with one layer: what every containerd
// imports (Docker image specification v1.2, "Combined Image JSON + Filesystem
// Changeset Format").
func image(ref string, binaries []string) ([]byte, error) {
	var programs []member
	for _, binary := range binaries {
		program, err := os.ReadFile(binary)
		if err != nil {
			return nil, err
		}
		programs = append(programs, member{filepath.Base(binary), program, 0o755})
	}
	layer, err := archive(programs...)
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/" + programs[0].name}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{ref}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	return archive(member{"manifest.json", manifest, 0o644}, member{"config.json", config, 0o644}, member{"layer.tar", layer, 0o644})
}

// member is a file of an archive.
type member struct {
	name string
	data []byte
	mode int64
}

func archive(members ...member) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, m := range members {
		if err := w.WriteHeader(&tar.Header{Name: m.name, Mode: m.mode, Size: int64(len(m.data)), Format: tar.FormatPAX}); err != nil {
			return nil, err
		}
		if _, err := w.Write(m.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
