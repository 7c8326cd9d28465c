package attach_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func at(step string, do func()) func(string) error {
	return func(s string) error {
		if s == step {
			do()
		}
		return nil
	}
}

func (e *env) shared() map[string]any {
	nic := nstest.ENI{PCI: "0000:00:0c.0", Name: "ens12", MAC: "02:00:00:00:00:0c", Driver: "e1000e"}
	must(e.t, e.node.Attach(nic))
	e.inv.Devices = append(e.inv.Devices, row(nic, "shared"))
	e.writeInventory()
	return map[string]any{
		"select":   map[string]any{"nodeENI": "shared"},
		"ipam":     map[string]any{"type": "host-local", "dataDir": e.file("ipam"), "subnet": "10.0.2.0/24"},
		"delegate": map[string]any{"type": "macvlan", "mode": "bridge"},
	}
}

// TestSharedDelegateFails: while the delegate's interface is in a living pod, the pod
// shares the device, even after a failed DEL.
func TestSharedDelegateFails(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	conf := e.shared()
	before := e.snapshot()
	bin := copyBinaries(t, e, "macvlan", "host-local")
	args := e.pod(conf)
	args.Path = bin
	e.add(args)
	must(t, os.Rename(filepath.Join(bin, "macvlan"), filepath.Join(bin, "away")))
	e.refused("DEL", args, 999, "macvlan", "not found")
	alone := e.pod(map[string]any{"select": map[string]any{"nodeENI": "shared"}})
	e.refused("ADD", alone, 101, "pod-"+args.ContainerID)
	must(t, nstest.DeleteNetns(args.Netns))
	e.add(alone) // the interface has died with its netns
	e.del(alone)
	must(t, os.Rename(filepath.Join(bin, "away"), filepath.Join(bin, "macvlan")))
	e.del(args)
	e.unchanged(before, "after all DELs")
}

type fakePlugins struct {
	invoke.Exec
	fake map[string]func(command string) (string, error)
}

func (f *fakePlugins) FindInPath(plugin string, paths []string) (string, error) {
	if f.fake[plugin] != nil {
		return plugin, nil
	}
	return f.Exec.FindInPath(plugin, paths)
}

func (f *fakePlugins) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	do := f.fake[path]
	if do == nil {
		return f.Exec.ExecPlugin(ctx, path, stdin, environ)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for _, kv := range environ {
		if command, ok := strings.CutPrefix(kv, "CNI_COMMAND="); ok {
			out, err := do(command)
			return []byte(out), err
		}
	}
	return nil, errors.New("no CNI_COMMAND")
}

func fake(typ string, do func(command string) (string, error)) *fakePlugins {
	return &fakePlugins{
		Exec: &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: io.Discard}},
		fake: map[string]func(string) (string, error){typ: do},
	}
}

// TestExclusiveDelegateFails: the DEL of a delegate that changes settings is repeated
// until it succeeds, but never on the next pod's device.
func TestExclusiveDelegateFails(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	vf := nstest.ENI{PCI: "0000:00:0d.0", Name: "vf0", MAC: "02:00:00:00:00:0d", VF: "0000:00:06.0"}
	e := newEnv(t, vf)
	e.inv.Devices = append(e.inv.Devices, row(vf, "vf"))
	e.writeInventory()
	before := e.snapshot()
	fails := true
	dels := 0
	p := &attach.Plugin{Exec: fake("sriov", func(command string) (string, error) {
		if command == "DEL" {
			if dels++; fails {
				return "", errors.New("cannot reset the VF")
			}
		}
		return `{"cniVersion":"1.1.0","interfaces":[{"name":"net1"}],"ips":[]}`, nil
	})}
	conf := map[string]any{"select": map[string]any{"nodeENI": "vf"}, "delegate": map[string]any{"type": "sriov", "vlan": 7}}
	first, second := e.pod(conf), e.pod(conf)
	e.runs(p, "ADD", first)
	e.fails(p, "DEL", first, 999, "cannot reset the VF")
	e.runs(p, "ADD", second)
	fails, dels = false, 0
	e.runs(p, "DEL", first)
	if dels != 0 {
		t.Error("the first pod's DEL was repeated while the second has the VF")
	}
	e.runs(p, "DEL", second)
	if dels != 1 {
		t.Errorf("the second pod's DEL ran %d times; want 1", dels)
	}
	e.unchanged(before, "after all DELs")
}

// TestHugeNetconf: ADD refuses a netconf that would make an unreadable record before it
// touches anything. A deep netconf is stored without indentation.
func TestHugeNetconf(t *testing.T) {
	if testing.Short() {
		t.Skip("long, and in one goroutine")
	}
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	padded := func(padding any) *skel.CmdArgs {
		ipam := e.hostLocal()
		ipam["padding"] = padding
		return e.pod(map[string]any{"select": map[string]any{"nodeENI": "a"}, "ipam": ipam})
	}
	long, deep := padded(strings.Repeat("x", 3<<20)), padded(nested(9000))
	e.refused("ADD", long, 7, "netconf", "shorten it", "octets")
	e.unchanged(before, "too long")
	e.del(long)
	e.add(deep)
	if all, bad, err := e.records().List(); len(all) != 1 || bad != nil || err != nil {
		t.Errorf("records = %d, %v, %v; want one", len(all), bad, err)
	}
	e.del(deep)
	e.unchanged(before, "deep")
}

func nested(depth int) any {
	var v any = "x"
	for range depth {
		v = []any{v}
	}
	return v
}

// TestUndoHasItsOwnTime: an ADD that timed out still undoes its effects, the address
// included.
func TestUndoHasItsOwnTime(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	ctx, cancel := context.WithCancel(t.Context())
	p := &attach.Plugin{Before: func(s string) error {
		if s == "up" {
			cancel()
			return ctx.Err()
		}
		return nil
	}}
	err := p.Funcs(ctx, io.Discard).Add(e.pod(e.selectA()))
	wantCode(t, err, 999, "context canceled")
	if strings.Contains(err.Error(), "undo") {
		t.Errorf("the undo failed too: %v", err)
	}
	e.unchanged(before, "after the ADD that was cancelled")
}

func TestNetnsLostDuringADD(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	for _, step := range []string{"intent", "ipam", "move", "sysctls", "address", "up", "complete"} {
		args := e.pod(e.selectA())
		gone := false
		p := &attach.Plugin{Before: at(step, func() {
			if !gone {
				gone = true
				must(t, nstest.DeleteNetns(args.Netns))
			}
		})}
		p.Before = failAt("complete", p.Before)
		e.fails(p, "ADD", args, 999, "injected")
		e.unchanged(before, "netns lost before "+step)
		e.del(args)
		e.unchanged(before, "DEL, netns lost before "+step)
	}
}

func failAt(step string, first func(string) error) func(string) error {
	return func(s string) error {
		if err := first(s); err != nil {
			return err
		}
		if s == step {
			return errors.New("injected")
		}
		return nil
	}
}

func TestDeviceLost(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	for _, verb := range []string{"ADD", "DEL"} {
		steps := []string{"intent", "ipam", "move", "sysctls", "address", "up", "complete"}
		if verb == "DEL" {
			steps = []string{"del-ipam", "return", "forget"}
		}
		for _, step := range steps {
			args := e.pod(e.selectA())
			lost := false
			pull := at(step, func() {
				if !lost {
					lost = true
					must(t, e.node.Detach(eniA))
				}
			})
			if verb == "DEL" {
				e.add(args)
			}
			_, err := run(&attach.Plugin{Before: pull}, verb, args)
			if !lost {
				t.Fatalf("%s has no step %s", verb, step)
			}
			if verb == "DEL" {
				must(t, err)
			} else if err == nil && step != "complete" && step != "up" {
				t.Errorf("ADD succeeded without a device, lost before %s", step)
			}
			e.del(args)
			must(t, e.node.Attach(eniA))
			h, err := link.Open()
			must(t, err)
			l, err := h.ByName("eth1")
			must(t, err)
			must(t, h.Restore(l, nodestate.LinkState{Name: "eth1", MAC: l.MAC, MTU: 1500, Up: true, AltNames: []string{"enp0s6", "ens6"}, AcceptRA: "0"}))
			h.Close()
			e.unchanged(before, fmt.Sprintf("%s, device lost before %s", verb, step))
		}
	}
}

func TestStrangeAddresses(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	for out, words := range map[string][]string{
		`{"cniVersion":"1.1.0","ips":[{"address":"::ffff:10.0.2.5/120"}]}`:                                         {"not an address"},
		`{"cniVersion":"1.1.0","ips":[]}`:                                                                          {"gave no address"},
		`{"cniVersion":"1.1.0","ips":[{"address":"10.0.2.5"}]}`:                                                    {"odd ADD"},
		`{"cniVersion":"1.1.0","ips":[{"address":"10.0.2.5/24"}],"routes":[{"dst":"10.8.0.0/16","gw":"fd00::1"}]}`: {"10.8.0.0/16"},
		`garbage`: {"odd ADD"},
		``:        {"odd ADD"},
	} {
		args := e.pod(map[string]any{"select": map[string]any{"nodeENI": "a"}, "ipam": map[string]any{"type": "odd"}})
		p := &attach.Plugin{Exec: fake("odd", func(command string) (string, error) {
			if command == "ADD" {
				return out, nil
			}
			return "", nil
		})}
		_, err := run(p, "ADD", args)
		if err == nil {
			t.Errorf("ADD took %s", out)
			e.del(args)
			continue
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: message %q does not say %q", out, err, w)
			}
		}
		e.unchanged(before, out)
	}
}
