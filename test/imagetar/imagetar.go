// Package imagetar makes container images of static programs without a builder: archives as "docker save"
// writes them, which containerd, kind, k3s, minikube and docker load (Docker image specification v1.2,
// "Combined Image JSON + Filesystem Changeset Format").
package imagetar

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// File is one file of an image.
type File struct {
	// Name is its path without the leading slash.
	Name string
	Data []byte
	// Mode are its permissions; 0 is 0755.
	Mode int64
	// Link makes it a symbolic link to that path.
	Link string
}

// Programs reads programs, each of which becomes a file in the root folder.
func Programs(paths ...string) (files []File, err error) {
	for _, path := range paths {
		program, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		files = append(files, File{Name: filepath.Base(path), Data: program})
	}
	return files, nil
}

// Make returns an image of one layer for this architecture, with the first file as entry point, reproducibly.
func Make(ref string, files ...File) ([]byte, error) {
	if len(files) == 0 {
		return nil, errors.New("make image: no files")
	}
	layer, err := archive(files...)
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/" + files[0].Name}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{ref}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	return archive(File{Name: "manifest.json", Data: manifest, Mode: 0o644}, File{Name: "config.json", Data: config, Mode: 0o644},
		File{Name: "layer.tar", Data: layer, Mode: 0o644})
}

func archive(files ...File) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		h := &tar.Header{Name: f.Name, Mode: f.Mode, Size: int64(len(f.Data)), Format: tar.FormatPAX}
		if f.Mode == 0 {
			h.Mode = 0o755
		}
		if f.Link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.Data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
