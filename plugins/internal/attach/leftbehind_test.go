package attach_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

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
