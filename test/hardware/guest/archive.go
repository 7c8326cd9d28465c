package guest

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// archive packs files, folders and symbolic links, for PID 1 to unpack; a socket or a netns does not outlive a boot.
func archive(paths []string) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, p := range paths {
		err := filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return pack(w, path, d)
		})
		if err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func pack(w *tar.Writer, path string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	var target string
	var content []byte
	switch {
	case d.Type() == fs.ModeSymlink:
		target, err = os.Readlink(path)
	case d.Type().IsRegular():
		content, err = os.ReadFile(path)
	case !d.IsDir():
		return nil
	}
	if err != nil {
		return err
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name, h.Format = strings.TrimPrefix(path, "/"), tar.FormatPAX
	if d.Type().IsRegular() {
		h.Size = int64(len(content))
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = w.Write(content)
	return err
}
