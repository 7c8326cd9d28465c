package nstest

import (
	"fmt"
	"os"
	"path/filepath"
)

// Repo returns the root folder of the repository, found upwards from the
// working folder.
func Repo() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no go.mod above the working folder")
}

// Binary returns the path of a program that `make build tools` puts into bin/.
func Binary(name string) (string, error) {
	repo, err := Repo()
	if err != nil {
		return "", err
	}
	path := filepath.Join(repo, "bin", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not built; run: make build tools", filepath.Join("bin", name))
	}
	return path, nil
}
