package cluster

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// The link of the default route; documentation addresses (RFC 5737).
const uplinkAddress = "192.0.2.1/24"

func uplinkIPs() []net.IP { return []net.IP{net.IPv4(192, 0, 2, 1)} }
func gateway() net.IP     { return net.IPv4(192, 0, 2, 254) }

// Repo returns the root folder of the repository: the one above the working
// folder that has bin/'s Makefile. The nearest go.mod is that of test/kube.
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

// Binary returns the path of a program that `make test-kube` puts into bin/.
func Binary(name string) (string, error) {
	repo, err := Repo()
	if err != nil {
		return "", err
	}
	path := filepath.Join(repo, "bin", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not built; run: make test-kube", filepath.Join("bin", name))
	}
	return path, nil
}
