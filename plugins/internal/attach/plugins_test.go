package attach_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// ipamScript replaces host-local by a script, which may exec it as $HOSTLOCAL. Processes
// whose PIDs it writes into $PIDS end with the test.
func (e *env) ipamScript(script string) {
	e.t.Helper()
	hostLocal, err := nstest.Binary("cni/host-local")
	must(e.t, err)
	e.path = copyBinaries(e.t, e)
	pids := e.file("pids")
	text := "#!/bin/sh\nHOSTLOCAL='" + hostLocal + "' PIDS='" + pids + "' STARTED='" + e.file("started") + "'\n" + script
	must(e.t, os.WriteFile(filepath.Join(e.path, "host-local"), []byte(text), 0o755))
	e.t.Cleanup(func() {
		data, _ := os.ReadFile(pids)
		for pid := range strings.FieldsSeq(string(data)) {
			if n, err := strconv.Atoi(pid); err == nil {
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
	})
}

func (e *env) delRepeated(args *skel.CmdArgs) {
	e.t.Helper()
	var refused *types.Error
	for range 10 {
		if _, err := run(&attach.Plugin{}, "DEL", args); !errors.As(err, &refused) || refused.Code != types.ErrTryAgainLater {
			break
		}
	}
	e.del(args)
}

// TestPluginOfAKilledADD: after multi-eni is killed, other verbs wait for its IPAM plugin
// and that plugin's children.
func TestPluginOfAKilledADD(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	for name, script := range map[string]string{
		"late":           "touch \"$STARTED\"\nsleep 0.5\nexec \"$HOSTLOCAL\"\n",
		"beside a child": "sleep 1000 </dev/null >/dev/null 2>&1 &\necho $! >>\"$PIDS\"\ntouch \"$STARTED\"\nsleep 0.5\nexec \"$HOSTLOCAL\"\n",
		"by a child":     "(touch \"$STARTED\"; sleep 0.5; exec \"$HOSTLOCAL\")\ntrue\n",
	} {
		e.ipamScript("[ $CNI_COMMAND = ADD ] || exec \"$HOSTLOCAL\"\n" + script)
		args := e.pod(e.selectA())
		const move = 3 // after the intent and the start of the IPAM plugin
		if !e.runKilled(killed{Verb: "ADD", Step: move, Args: *args, Await: e.file("started")}) {
			t.Fatal("ADD ended before it was killed")
		}
		must(t, os.Remove(e.file("started")))
		e.refused("ADD", e.pod(e.selectA()), 101, "container "+args.ContainerID)
		e.delRepeated(args)
		e.unchanged(before, "after an IPAM plugin that writes "+name)
	}
}

// TestChildLeftBehindHoldsNothing: a process that a plugin leaves behind delays no verb,
// even if multi-eni was killed.
func TestChildLeftBehindHoldsNothing(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	e.ipamScript("sleep 1000 </dev/null >/dev/null 2>&1 &\necho $! >>\"$PIDS\"\nexec \"$HOSTLOCAL\"\n")
	args := e.pod(e.selectA())
	result := e.add(args)
	check := *args
	conf := e.selectA()
	conf["prevResult"] = result
	check.StdinData = e.conf(conf)
	for range 2 {
		e.succeeds("CHECK", &check)
	}
	e.kill("DEL", 3, args)
	e.del(args)
	for step := 4; ; step++ {
		args := e.pod(e.selectA())
		if !e.kill("ADD", step, args) {
			e.del(args)
			break
		}
		e.del(args)
		e.unchanged(before, "after DEL")
	}
	e.unchanged(before, "at the end")
}

// looker is an IPAM plugin that notes whether it sees its interface, and then acts like
// host-local, or fails.
type looker struct {
	invoke.Exec
	saw  map[string]bool
	fail bool
}

func (l *looker) FindInPath(string, []string) (string, error) { return "/looker", nil }

func (l *looker) ExecPlugin(_ context.Context, _ string, _ []byte, environ []string) ([]byte, error) {
	env := map[string]string{}
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	if env["CNI_COMMAND"] == "DEL" {
		time.Sleep(100 * time.Millisecond) // as long as a server may take; the interface stays meanwhile
	}
	l.saw[env["CNI_COMMAND"]] = sees(env["CNI_NETNS"], env["CNI_IFNAME"])
	if l.fail && env["CNI_COMMAND"] == "DEL" {
		return nil, errors.New("no server answers")
	}
	if env["CNI_COMMAND"] == "ADD" {
		return []byte(`{"cniVersion":"1.1.0","ips":[{"address":"10.0.2.77/24"}]}`), nil
	}
	return nil, nil
}

func sees(netns, ifname string) bool {
	ns, err := link.OpenNetns(netns)
	if err != nil {
		return false
	}
	defer ns.Close()
	h, err := ns.Open()
	if err != nil {
		return false
	}
	defer h.Close()
	_, err = h.ByName(ifname)
	return err == nil
}

// TestIPAMSeesTheInterface: an IPAM plugin that may need the interface finds it in the
// pod, on ADD and on DEL. Its failed DEL does not keep the device.
func TestIPAMSeesTheInterface(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	for _, typ := range []string{"dhcp", "nobody-knows"} {
		for _, fail := range []bool{false, true} {
			conf := e.selectA()
			conf["ipam"] = map[string]any{"type": typ}
			args := e.pod(conf)
			l := &looker{Exec: &invoke.DefaultExec{RawExec: &invoke.RawExec{}}, saw: map[string]bool{}, fail: fail}
			p := &attach.Plugin{Exec: l}
			e.runs(p, "ADD", args)
			if _, err := run(p, "DEL", args); (err != nil) != fail {
				t.Errorf("%s: DEL: %v", typ, err)
			}
			if !l.saw["ADD"] || !l.saw["DEL"] {
				t.Errorf("%s: the interface was there on %v", typ, l.saw)
			}
			if fail { // the device is free all the same, and DEL is repeated
				e.roundTrip(e.selectA())
				l.fail = false
				e.runs(p, "DEL", args)
			}
			e.unchanged(before, "after DEL of "+typ)
		}
	}
}

// TestEveryStepBehindDHCP kills DEL at each of its steps, with an IPAM plugin that must
// run first.
func TestEveryStepBehindDHCP(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	before := e.snapshot()
	script := "#!/bin/sh\nexec '" + filepath.Join(e.path, "host-local") + "'\n"
	e.path = copyBinaries(t, e)
	must(t, os.WriteFile(filepath.Join(e.path, "dhcp"), []byte(script), 0o755))
	conf := e.selectA()
	ipam := e.hostLocal()
	ipam["type"] = "dhcp"
	conf["ipam"] = ipam
	for n := 1; ; n++ {
		args := e.pod(conf)
		e.add(args)
		more := e.kill("DEL", n, args)
		e.del(args)
		e.unchanged(before, "after a DEL that was killed")
		if !more {
			if n < 4 {
				t.Errorf("DEL has only %d steps", n-1)
			}
			return
		}
	}
}
