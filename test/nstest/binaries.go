package nstest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Repo returns the root folder of the repository: the one above the working folder with the Makefile.
// Nested modules have a go.mod of their own.
func Repo() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "Makefile")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no Makefile above the working folder")
}

// Binary returns the path of a program that make puts into bin/: `make build tools`, and for kube/ `make kube-tools`.
func Binary(name string) (string, error) {
	repo, err := Repo()
	if err != nil {
		return "", err
	}
	path := filepath.Join(repo, "bin", name)
	if _, err := os.Stat(path); err != nil {
		target := "build tools"
		if strings.HasPrefix(name, "kube/") {
			target = "kube-tools"
		}
		return "", fmt.Errorf("%s is not built; run: make %s", filepath.Join("bin", name), target)
	}
	return path, nil
}
