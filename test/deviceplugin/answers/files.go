package answers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// Files reads the files of a folder. A missing folder has none.
func Files(dir string) (map[string]File, error) {
	out := map[string]File{}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		mode, err := Mode(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		out[e.Name()] = File{Mode: mode, Content: string(content)}
	}
	return out, nil
}

// Mode is the permission bits of a path in octal.
func Mode(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%04o", info.Mode().Perm()), nil
}

// Put makes the folder of device-info files as it is at first.
func (c Case) Put(dir string) error {
	if !c.Folder {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, f := range c.Files {
		mode, err := strconv.ParseUint(f.Mode, 8, 9)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(f.Content), fs.FileMode(mode)); err != nil {
			return err
		}
	}
	return nil
}
