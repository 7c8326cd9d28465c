package attach_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

var spoilers = map[string]func(path string, data []byte) error{
	"empty":   func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) },
	"a brace": func(path string, _ []byte) error { return os.WriteFile(path, []byte("{"), 0o600) },
	"no JSON": func(path string, _ []byte) error { return os.WriteFile(path, []byte("\x00\x00\x00"), 0o600) },
	"a list":  func(path string, _ []byte) error { return os.WriteFile(path, []byte("[]"), 0o600) },
	"torn":    func(path string, data []byte) error { return os.WriteFile(path, data[:len(data)*2/3], 0o600) },
	"odd state": func(path string, data []byte) error {
		return os.WriteFile(path, bytes.ReplaceAll(data, []byte(`"leased"`), []byte(`"lent"`)), 0o600)
	},
	"another ENI's": func(path string, data []byte) error {
		return os.WriteFile(path, bytes.Replace(data, []byte("eni-"), []byte("eni-9"), 1), 0o600)
	},
	"for everybody": func(path string, _ []byte) error { return os.Chmod(path, 0o666) },
	"a link": func(path string, _ []byte) error {
		if err := os.Rename(path, path+"-away"); err != nil {
			return err
		}
		return os.Symlink(path+"-away", path)
	},
}

// TestSpoiltLeases: with an unusable file of leases all verbs work, and no address goes to
// two pods.
func TestSpoiltLeases(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.sharing(map[string]any{}, "10.0.2.15/24", "10.0.2.16/24", "10.0.2.17/24", "10.0.2.18/24", "10.0.2.19/24")
	before := e.snapshot()
	path := filepath.Join(e.file("leases"), e.inv.BootID, e.inv.Devices[len(e.inv.Devices)-1].ENIID.String()+".json")
	alone := map[string]any{"select": conf["select"], "ipam": map[string]any{"type": "eni-ipam", "addresses": "all", "dataDir": e.file("leases")}}
	for name, spoil := range spoilers {
		verbs := []string{"DEL", "ADD"}
		if name == "empty" || name == "torn" {
			verbs = []string{"DEL", "GC", "CHECK", "ADD", "ADD alone"}
		}
		for _, verb := range verbs {
			what := fmt.Sprintf("%s, %s", name, verb)
			must(t, os.RemoveAll(e.file("leases")))
			first, second, dead := e.pod(conf), e.pod(conf), e.pod(conf)
			result := e.add(first)
			taken := append(addresses(result), addresses(e.add(second))...)
			if !e.kill("ADD", 7, dead) { // its address is configured, and its result not written
				t.Fatal("ADD ended before it was killed")
			}
			data, err := os.ReadFile(path)
			must(t, err)
			must(t, spoil(path, data))
			switch verb {
			case "DEL":
				_, err = run(&attach.Plugin{}, "DEL", first)
			case "GC":
				var valid []any
				for _, p := range []*skel.CmdArgs{second, dead} {
					valid = append(valid, map[string]any{"containerID": p.ContainerID, "ifname": p.IfName})
				}
				all := map[string]any{"cni.dev/valid-attachments": valid}
				for k, v := range conf {
					all[k] = v
				}
				_, err = run(&attach.Plugin{}, "GC", &skel.CmdArgs{Path: e.path, StdinData: e.conf(all)})
			case "CHECK":
				_, err = run(&attach.Plugin{}, "CHECK", withPrev(t, first, result))
			case "ADD alone":
				e.refused("ADD", e.pod(alone), 101)
			}
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			next := e.pod(conf)
			got := addresses(e.add(next))
			if slices.ContainsFunc(got, func(a string) bool { return slices.Contains(taken, a) }) || strings.HasPrefix(got[0], "10.0.2.18/") {
				t.Errorf("%s: the next pod gets %v beside %v and 10.0.2.18", what, got, taken)
			}
			for _, args := range []*skel.CmdArgs{next, dead, second, first} {
				e.succeeds("DEL", args)
			}
			if held := e.held(); held != nil {
				t.Errorf("%s: held after all DELs: %v", what, held)
			}
			aside, err := filepath.Glob(path + "*")
			must(t, err)
			if len(aside) > 3 || !slices.Contains(aside, path+".corrupt") {
				t.Errorf("%s: files %v, want the old one kept", what, aside)
			}
			e.unchanged(before, "after all DELs ("+what+")")
		}
	}
}

// TestSpoiltLeasesAndRecord: an ADD that cannot know all leases takes no address; DEL
// works.
func TestSpoiltLeasesAndRecord(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.sharing(map[string]any{}, "10.0.2.15/24", "10.0.2.16/24", "10.0.2.17/24", "10.0.2.18/24")
	eni := e.inv.Devices[len(e.inv.Devices)-1].ENIID
	first, second := e.pod(conf), e.pod(conf)
	e.add(first)
	e.add(second)
	record := e.file("records", second.ContainerID+"-net1.json")
	whole, err := os.ReadFile(record)
	must(t, err)
	must(t, os.WriteFile(record, []byte("{"), 0o600))
	must(t, os.WriteFile(filepath.Join(e.file("leases"), e.inv.BootID, eni.String()+".json"), nil, 0o600))
	if _, err := run(&attach.Plugin{}, "ADD", e.pod(conf)); err == nil {
		t.Error("an address was given although a record cannot be read")
	}
	e.del(first)
	must(t, os.WriteFile(record, whole, 0o600))
	if got := addresses(e.add(e.pod(conf))); slices.Contains(got, "10.0.2.17/24") {
		t.Errorf("the next pod gets %v, which the second has", got)
	}
}

// TestRebuildTwice: leases can be rebuilt after a writer died between its steps.
func TestRebuildTwice(t *testing.T) {
	d := leases.Dir(t.TempDir())
	const boot, eni = "2f1f3a52-0000-4000-8000-00000000000b", device.ENIID("eni-0a1b2c3d4e5f60001")
	path := filepath.Join(string(d), boot, eni.String()+".json")
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	for range 3 {
		must(t, os.WriteFile(path, []byte("{"), 0o600))
		_ = os.Remove(path + ".corrupt")
		must(t, os.Link(path, path+".corrupt")) // as a killed writer leaves it
		l, err := d.Rebuild(t.Context(), boot, eni, func() ([]leases.Lease, error) {
			return []leases.Lease{{
				Address: netip.MustParsePrefix("10.0.2.16/24").Addr(), State: leases.Held,
				AttachmentID: nodestate.AttachmentID{ContainerID: "c1", IfName: "net1"},
			}}, nil
		})
		must(t, err)
		l.Close()
		got, err := d.Read(boot, eni)
		if err != nil || len(got.Leases) != 1 {
			t.Errorf("rebuilt: %+v, %v", got, err)
		}
	}
	must(t, d.RemoveAll())
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after RemoveAll: %v", err)
	}
}
