package attach_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const killEnv = "MULTI_ENI_TEST_KILL"

type killed struct {
	Verb string
	Step int // counted from 1
	// Await is a file that must be there before the kill; "" for none.
	Await string
	Args  skel.CmdArgs
}

func TestMain(m *testing.M) {
	spec := os.Getenv(killEnv)
	if spec == "" {
		os.Exit(m.Run())
	}
	var k killed
	if err := json.Unmarshal([]byte(spec), &k); err != nil {
		panic(err)
	}
	n := 0
	p := &attach.Plugin{Before: func(string) error {
		if n++; n == k.Step {
			for k.Await != "" {
				if _, err := os.Stat(k.Await); err == nil {
					break
				}
				time.Sleep(time.Millisecond)
			}
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}}
	if err := verb(p, k.Verb, &k.Args, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func verb(p *attach.Plugin, name string, args *skel.CmdArgs, out interface{ Write([]byte) (int, error) }) error {
	f := p.Funcs(context.Background(), out)
	return map[string]func(*skel.CmdArgs) error{"ADD": f.Add, "DEL": f.Del, "CHECK": f.Check, "GC": f.GC, "STATUS": f.Status}[name](args)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// env is a node with an inventory, and the plugin on it.
type env struct {
	t    *testing.T
	node *nstest.Node
	inv  nodestate.Inventory
	path string // CNI_PATH
	pods int
}

var (
	eniA = nstest.ENI{PCI: "0000:00:06.0", Name: "eth1", MAC: "02:00:00:00:00:01", MTU: 1500}
	eniB = nstest.ENI{PCI: "0000:00:07.0", Name: "eth2", MAC: "02:00:00:00:00:02", MTU: 1500}
)

func row(e nstest.ENI, nodeENI string) nodestate.Device {
	return nodestate.Device{
		ENIID: device.ENIID("eni-" + strings.ReplaceAll(e.MAC, ":", "")[4:]), NodeENI: nodeENI, MAC: device.MAC(e.MAC),
		PCIAddress: device.PCIAddress(e.PCI), InterfaceName: e.Name, Driver: "ena", DeviceIndex: 1, SubnetID: "subnet-0000000a",
		SubnetCIDR: netip.MustParsePrefix("10.0.2.0/24"), Phase: nodestate.PhaseReady,
	}
}

// newEnv makes a node with eniA as NodeENI "a", eniB as "b", and ENIs outside the
// inventory. ENIs accept router advertisements by default; eniA does not, as the daemon
// leaves it.
func newEnv(t *testing.T, more ...nstest.ENI) *env {
	t.Helper()
	n, err := nstest.NewNode(t.TempDir())
	must(t, err)
	for _, e := range append([]nstest.ENI{eniA, eniB}, more...) {
		must(t, n.Attach(e))
	}
	h, err := link.Open()
	must(t, err)
	defer h.Close()
	l, err := h.ByName("eth1")
	must(t, err)
	must(t, h.Restore(l, nodestate.LinkState{Name: "eth1", MAC: l.MAC, MTU: 1500, Up: true, AltNames: []string{"enp0s6", "ens6"}}))
	must(t, h.IPv6Conf.SetAcceptRA("eth1", "0"))
	host, err := nstest.Binary("cni/host-local")
	must(t, err)
	e := &env{t: t, node: n, path: filepath.Dir(host)}
	boot, err := nodestate.BootID()
	must(t, err)
	e.inv = nodestate.Inventory{NodeName: "node", BootID: boot, Devices: []nodestate.Device{row(eniA, "a"), row(eniB, "b")}}
	e.writeInventory()
	return e
}

func (e *env) file(elem ...string) string {
	return filepath.Join(append([]string{e.node.Dir}, elem...)...)
}

func (e *env) writeInventory() {
	e.t.Helper()
	must(e.t, nodestate.WriteInventory(e.file("inventory.json"), e.inv))
}

func (e *env) records() nodestate.AttachmentDir { return nodestate.AttachmentDir(e.file("records")) }

func (e *env) pod(conf map[string]any) *skel.CmdArgs {
	e.t.Helper()
	e.pods++
	id := fmt.Sprintf("c%d", e.pods)
	must(e.t, nstest.NewNetns("/run/netns/"+id))
	return &skel.CmdArgs{
		ContainerID: id, Netns: "/run/netns/" + id, IfName: "net1", Path: e.path,
		Args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=pod-" + id, StdinData: e.conf(conf),
	}
}

func (e *env) conf(conf map[string]any) []byte {
	all := map[string]any{
		"cniVersion": "1.1.0", "name": "dataplane", "type": "multi-eni",
		"dataDir": e.file("records"), "inventory": e.file("inventory.json"), "sysfs": e.node.Sysfs, "logFile": e.file("log"),
	}
	for k, v := range conf {
		if all[k] = v; v == nil {
			delete(all, k)
		}
	}
	data, err := json.Marshal(all)
	must(e.t, err)
	return data
}

func (e *env) hostLocal() map[string]any {
	return map[string]any{
		"type": "host-local", "dataDir": e.file("ipam"),
		"ranges": []any{[]any{map[string]any{"subnet": "10.0.2.0/24", "rangeStart": "10.0.2.10", "rangeEnd": "10.0.2.99"}},
			[]any{map[string]any{"subnet": "fd00:2::/64"}}},
	}
}

func (e *env) selectA() map[string]any {
	return map[string]any{"select": map[string]any{"nodeENI": "a"}, "ipam": e.hostLocal()}
}

func run(p *attach.Plugin, name string, args *skel.CmdArgs) ([]byte, error) {
	var out bytes.Buffer
	err := verb(p, name, args, &out)
	return out.Bytes(), err
}

func (e *env) add(args *skel.CmdArgs) *types100.Result {
	e.t.Helper()
	out, err := run(&attach.Plugin{}, "ADD", args)
	must(e.t, err)
	return parseResult(e.t, out)
}

func parseResult(t *testing.T, out []byte) *types100.Result {
	t.Helper()
	r, err := types100.NewResult(out)
	must(t, err)
	result, err := types100.NewResultFromResult(r)
	must(t, err)
	return result
}

func (e *env) del(args *skel.CmdArgs) {
	e.t.Helper()
	for range 2 { // every DEL twice
		e.succeeds("DEL", args)
	}
}

// roundTrip gives a pod its attachment, and ends it.
func (e *env) roundTrip(conf map[string]any) {
	e.t.Helper()
	args := e.pod(conf)
	e.add(args)
	e.del(args)
}

// runs runs a verb that must succeed.
func (e *env) runs(p *attach.Plugin, name string, args *skel.CmdArgs) {
	e.t.Helper()
	if _, err := run(p, name, args); err != nil {
		e.t.Fatalf("%s: %v", name, err)
	}
}

// fails runs a verb that must fail with a code and some words.
func (e *env) fails(p *attach.Plugin, name string, args *skel.CmdArgs, code uint, words ...string) {
	e.t.Helper()
	_, err := run(p, name, args)
	wantCode(e.t, err, code, words...)
}

func (e *env) succeeds(name string, args *skel.CmdArgs) {
	e.t.Helper()
	e.runs(&attach.Plugin{}, name, args)
}

func (e *env) refused(name string, args *skel.CmdArgs, code uint, words ...string) {
	e.t.Helper()
	e.fails(&attach.Plugin{}, name, args, code, words...)
}

// failing returns a plugin whose verb fails before its nth step.
func failing(n int) *attach.Plugin {
	return &attach.Plugin{Before: func(string) error {
		if n--; n == 0 {
			return errors.New("injected")
		}
		return nil
	}}
}

// stepsOfADD runs ADD and DEL, and returns the steps of ADD.
func (e *env) stepsOfADD(conf map[string]any) (steps []string) {
	e.t.Helper()
	args := e.pod(conf)
	e.runs(&attach.Plugin{Before: func(s string) error { steps = append(steps, s); return nil }}, "ADD", args)
	e.del(args)
	return steps
}

func equal(t *testing.T, want, got any, format string, args ...any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", fmt.Sprintf(format, args...), diff)
	}
}

func wantCode(t *testing.T, err error, code uint, words ...string) {
	t.Helper()
	var ce *types.Error
	if !errors.As(err, &ce) || ce.Code != code {
		t.Fatalf("error = %v; want code %d", err, code)
	}
	for _, w := range words {
		if !strings.Contains(ce.Msg, w) {
			t.Errorf("message %q does not say %q", ce.Msg, w)
		}
	}
}

func (e *env) snapshot() string {
	e.t.Helper()
	var lines []string
	h, err := link.Open()
	must(e.t, err)
	defer h.Close()
	links, err := h.Links()
	must(e.t, err)
	for _, l := range links {
		slices.Sort(l.AltNames)
		state := l.State()
		state.AcceptRA, err = h.IPv6Conf.AcceptRA(l.Name)
		must(e.t, err)
		lines = append(lines, fmt.Sprintf("link %+v", state))
	}
	slices.Sort(lines)
	for _, dir := range []string{"records", "ipam"} {
		_ = filepath.WalkDir(e.file(dir), func(path string, d fs.DirEntry, err error) error {
			name := filepath.Base(path)
			if err == nil && !d.IsDir() && !strings.HasSuffix(name, ".lock") && name != "lock" && !strings.HasPrefix(name, "last_reserved_ip") {
				lines = append(lines, "file "+path)
			}
			return nil
		})
	}
	return strings.Join(lines, "\n")
}

func (e *env) unchanged(before, when string) {
	e.t.Helper()
	equal(e.t, before, e.snapshot(), "%s: the node", when)
}

func (e *env) podLinks(args *skel.CmdArgs) []link.Link {
	e.t.Helper()
	h := inNetns(e.t, args.Netns)
	defer h.Close()
	all, err := h.Links()
	must(e.t, err)
	return slices.DeleteFunc(all, func(l link.Link) bool { return l.Name == "lo" })
}

// holdsNone requires that no link but lo is in the pod.
func (e *env) holdsNone(args *skel.CmdArgs, when ...any) {
	e.t.Helper()
	if left := e.podLinks(args); len(left) > 0 {
		e.t.Errorf("%v: left in the pod: %+v", when, left)
	}
}

// kill runs a verb in a child that kills itself before its nth step, and reports whether
// it got that far.
func (e *env) kill(name string, step int, args *skel.CmdArgs) bool {
	e.t.Helper()
	return e.runKilled(killed{Verb: name, Step: step, Args: *args})
}

func (e *env) runKilled(k killed) bool {
	e.t.Helper()
	spec, err := json.Marshal(k)
	must(e.t, err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), killEnv+"="+string(spec))
	cmd.WaitDelay = 50 * time.Millisecond // what it ran may live on, with its standard error
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	var ee *exec.ExitError
	if !errors.As(err, &ee) || ee.String() != "signal: killed" {
		e.t.Fatalf("%s, killed before step %d: %v\n%s", k.Verb, k.Step, err, out)
	}
	return true
}
