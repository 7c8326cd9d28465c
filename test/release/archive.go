package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

type member struct {
	name       string
	data       []byte
	executable bool
}

// archive returns a .tar.gz of the members, in their order, without traces of the machine and the time of the build.
func archive(built time.Time, members []member) ([]byte, error) {
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	w := tar.NewWriter(zip)
	for _, m := range members {
		mode := int64(0o644)
		if m.executable {
			mode = 0o755
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: m.name, Mode: mode, Size: int64(len(m.data)), ModTime: built, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(m.data); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func repack(built time.Time, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	contents := map[string][]byte{}
	headers := map[string]*tar.Header{}
	for in := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if contents[h.Name], err = io.ReadAll(in); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		headers[h.Name] = &tar.Header{Typeflag: h.Typeflag, Name: h.Name, Mode: h.Mode, Size: h.Size, ModTime: built, Format: tar.FormatUSTAR}
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		if err := w.WriteHeader(headers[name]); err != nil {
			return err
		}
		if _, err := w.Write(contents[name]); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}

func sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// imageDigest is a registry's digest of the image of an OCI archive: its only entry, the index of all platforms.
func imageDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for in := tar.NewReader(f); ; {
		h, err := in.Next()
		if err != nil {
			return "", fmt.Errorf("%s: no index.json: %w", path, err)
		}
		if strings.TrimPrefix(h.Name, "./") != "index.json" {
			continue
		}
		var index struct{ Manifests []struct{ Digest string } }
		if err := json.NewDecoder(in).Decode(&index); err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		if len(index.Manifests) != 1 {
			return "", fmt.Errorf("%s has %d images, want one", path, len(index.Manifests))
		}
		return index.Manifests[0].Digest, nil
	}
}
