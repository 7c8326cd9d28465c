package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// The node is the test's own namespaces; its world ends with it.
func TestRun(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	dir := t.TempDir()
	shipped, err := os.ReadFile("../../conf/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	o := options{node: "node-a", dir: filepath.Join(dir, "local"), policy: filepath.Join(dir, "policy.json"), listen: "127.0.0.1:1338", enis: 2}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, o) }()

	tree := filepath.Join(o.dir, "sys")
	w := newWorld(o.node, o.enis)
	eventually(t, ended, func() bool {
		l, err := net.InterfaceByName("veni2")
		return err == nil && l.HardwareAddr.String() == w.enis[1].MAC
	})
	eventually(t, ended, func() bool { return asked(t, o.listen) })
	if err := os.WriteFile(o.policy, shipped, 0o644); err != nil { // the installer is late
		t.Fatal(err)
	}
	eventually(t, ended, func() bool {
		data, err := os.ReadFile(o.policy)
		return err == nil && bytes.Contains(data, []byte(tree))
	})
	f, err := sysfs.NewFS(tree).PCI(device.PCIAddress(w.enis[0].plug.PCI))
	if err != nil || strings.Join(f.Interfaces, " ") != "veni1" || f.Driver != "ena" {
		t.Errorf("PCI function %+v, %v", f, err)
	}

	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(o.policy); err != nil || !bytes.Equal(data, shipped) {
		t.Errorf("policy after the end, %v:\n%s", err, data)
	}
	if _, err := os.Stat(tree); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the tree is left: %v", err)
	}
}

func eventually(t *testing.T, ended <-chan error, ok func() bool) {
	t.Helper()
	for !ok() {
		select {
		case err := <-ended:
			t.Fatal("it has ended:", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func asked(t *testing.T, listen string) bool {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+listen+"/latest/api/token", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
	answer, err := (&http.Client{Timeout: headerTimeout}).Do(r)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// Nodes of one cluster have different ENIs, and a node has the same after a restart.
func TestWorldIsTheNodes(t *testing.T) {
	a, again, b := newWorld("a", maxENIs), newWorld("a", 1), newWorld("b", maxENIs)
	if a.instance != again.instance || a.enis[0].ID != again.enis[0].ID || a.enis[0].MAC != again.enis[0].MAC {
		t.Errorf("%+v and then %+v", a, again)
	}
	seen := map[string]bool{}
	for _, e := range append(a.enis, b.enis...) {
		for _, id := range []string{e.ID, e.MAC} {
			if seen[id] {
				t.Errorf("%s twice", id)
			}
			seen[id] = true
		}
		if _, err := device.ParseENIID(e.ID); err != nil {
			t.Error(err)
		}
		if _, err := device.ParsePCIAddress(e.plug.PCI); err != nil {
			t.Error(err)
		}
	}
}

// A foreign policy that names another tree stays.
func TestForeignPolicyStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.json")
	const own = `{"schemaVersion": 1, "sysfs": "/other"}`
	if err := os.WriteFile(path, []byte(own), 0o644); err != nil {
		t.Fatal(err)
	}
	p := policy{path: path, sysfs: "/run/x/sys"}
	if err := p.set(); err == nil {
		t.Error("no word about a policy that names another tree")
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != own {
		t.Errorf("%s, %v", data, err)
	}
}
