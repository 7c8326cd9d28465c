package install

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/hostnet"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestSamplePolicyIsWhatInstallWrites: conf/policy.json is the policy of the usual folder of plugins.
func TestSamplePolicyIsWhatInstallWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.json")
	if _, _, err := writePolicy(path, "/opt/cni/bin"); err != nil {
		t.Fatal(err)
	}
	read := func(path string) (v map[string]any) {
		t.Helper()
		data, err := os.ReadFile(path)
		must(t, err)
		if err := json.Unmarshal(data, &v); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return v
	}
	if diff := cmp.Diff(read(path), read(filepath.Join("..", "..", "..", "conf", "policy.json"))); diff != "" {
		t.Errorf("conf/policy.json (-written by install +sample):\n%s", diff)
	}
}

func TestPrimaryLink(t *testing.T) {
	const mac = device.MAC("02:00:00:00:00:01")
	stacked := []link.Link{{Name: "lo"}, {Name: "ens5", MAC: mac}, {Name: "ens5.7", MAC: mac, Kind: "vlan"}, {Name: "br-ex", MAC: mac, Kind: "openvswitch"}}
	if got, err := primaryLink(stacked, mac); err != nil || got.Name != "ens5" {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := primaryLink(append(stacked, link.Link{Name: "ens6", MAC: mac}), mac); err == nil {
		t.Errorf("two links: %+v", got)
	}
}

// TestKeptHostNetwork: an unchanged file is reported once, a failure is tried again after
// growing pauses, and IMDS is asked until it answers.
func TestKeptHostNetwork(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	node, err := nstest.NewNode(t.TempDir())
	if err == nil {
		err = node.Attach(nstest.ENI{PCI: "0000:00:05.0", Name: "eth0", MAC: "02:00:00:00:00:00"})
	}
	root := t.TempDir()
	for _, dir := range []string{"sys/fs/cgroup/system.slice/systemd-networkd.service", "etc/systemd/network"} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	must(t, err)
	var out, errs strings.Builder
	asked := 0
	mac := device.MAC("")
	k := newKeptHostNetwork(&HostNetwork{Mode: HostWrite, Root: root, PrimaryMAC: func(context.Context) (device.MAC, error) {
		if asked++; mac == "" {
			return "", os.ErrDeadlineExceeded
		}
		return mac, nil
	}}, &out, &errs)
	for i, want := range []time.Duration{hostNetworkFirst, 2 * hostNetworkFirst, 4 * hostNetworkFirst} {
		if got := k.run(t.Context()); got != want {
			t.Errorf("pause %d is %v, want %v", i, got, want)
		}
	}
	if strings.Count(errs.String(), "\n") != 1 || out.Len() > 0 {
		t.Errorf("said %q, %q", out.String(), errs.String())
	}
	mac = "02:00:00:00:00:00"
	must(t, os.WriteFile(filepath.Join(root, "etc/systemd/network/01-a.network"), []byte("[Match]\nDriver=ena\n[Link]\nUnmanaged=yes\n"), 0o600))
	for range 3 {
		if got := k.run(t.Context()); got != keepEvery {
			t.Errorf("pause %v", got)
		}
	}
	const file = "/etc/systemd/network/05-multi-eni.network"
	if asked != 4 || strings.Count(out.String(), file+": written") != 1 || strings.Count(out.String(), file+": as it should be") != 1 ||
		strings.Count(out.String(), "warning: ") != 1 {
		t.Errorf("IMDS asked %d times, said %q", asked, out.String())
	}
	if len(hostnet.Paths()) != 3 {
		t.Error("a path is missing in uninstall")
	}
}

// TestOtherVersionIsAUse: a file that is not understood keeps a node from being cleared.
func TestOtherVersionIsAUse(t *testing.T) {
	root := t.TempDir()
	boot, err := nodestate.BootID()
	must(t, err)
	r := Removal{
		AttachmentsDir: filepath.Join(root, "records"), LeaseDir: filepath.Join(root, "leases"), StateDir: filepath.Join(root, "state"),
		Inventory: filepath.Join(root, "inventory.json"),
	}
	for name, path := range map[string]string{
		"record":     filepath.Join(root, "records", "c1-net1.json"),
		"restore":    filepath.Join(root, "records", "restore", "0000:00:07.0.json"),
		"leases":     filepath.Join(root, "leases", boot, "eni-0a1b2c3d4e5f60001.json"),
		"checkpoint": filepath.Join(root, "state", "checkpoint.json"),
	} {
		must(t, errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(`{"schemaVersion":2}`), 0o600)))
		if uses, err := r.uses(); len(uses) == 0 && err == nil {
			t.Errorf("%s of another version is no use", name)
		}
		must(t, os.RemoveAll(path))
		if uses, err := r.uses(); len(uses) > 0 || err != nil {
			t.Errorf("without it: %q, %v", uses, err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
