package attach_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// script makes a plugin from a shell script and returns a path with its folder before the
// real ones'.
func (e *env) script(name, text string) (path string) {
	e.t.Helper()
	dir := filepath.Join(e.t.TempDir(), "bin")
	must(e.t, os.MkdirAll(dir, 0o755))
	must(e.t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o755)) //nolint:gosec // a program
	return dir + ":" + e.path
}

// hostileTexts are parts of netconfs that a plugin may read differently than multi-eni:
// %[1]s is its type, %[2]s a path and %[3]s a relative path.
func hostileTexts(dataDir string) []string {
	good := `"ipam":{"type":"%[1]s","ranges":[[{"subnet":"10.0.2.0/24"}]],"dataDir":` + strconv.Quote(dataDir)
	out := []string{
		good + `},"Ipam":{"type":"%[1]s","dataDir":"%[2]s"}`,
		`"IPAM":{"dataDir":"%[2]s"},` + good + `}`,
		good + `},"ipam":{"type":"%[1]s","dataDir":"%[2]s"},"ipam":{"type":"%[1]s","dataDir":"%[3]s"}`,
		good + `,"DataDir":"%[2]s"}`,
		good + `,"data\u0044ir":"%[2]s"}`,
		`"ipam":{"DATADIR":"%[2]s","type":"%[1]s","dataDir":""}`,
		`"ipam":{"type":"%[1]s","dataDir":"%[3]s"}`,
		`"ipam":{"type":"%[1]s","DATADIR":"%[3]s"}`,
		good + `,"Type":"other","resolvConf":"%[2]s"}`,
		good + `},"delegate":{"type":"%[1]s","deviceField":"device","logFile":"%[2]s","LOGFILE":"%[2]s"}`,
		good + `},"runtimeConfig":{"ipRanges":[],"IPRanges":[[{"subnet":"%[2]s"}]]}`,
		good + `},"args":{"cni":{"x":"%[2]s","X":"%[2]s"}}`,
	}
	for _, key := range []string{
		"resolvConf", "subnet", "routes", "gateway", "addresses", "dns", "daemonSocketPath", "provide",
		"log_file", "configuration_path", "kubernetes", "kubeconfig", "exclude",
	} {
		odd := strings.NewReplacer("k", "\u212a", "s", "\u017f").Replace(key) // Kelvin sign, long s
		for _, other := range []string{key, strings.ToUpper(key), odd, strings.ToTitle(key[:1]) + key[1:]} {
			for _, form := range []string{
				`,%q:"%%[2]s",%q:"%%[3]s"}`, `,"x":[{"y":{%q:"%%[2]s",%q:{}}}]}`,
				`},"delegate":{"type":"%%[1]s","deviceField":"device",%q:"%%[2]s",%q:1}`,
			} {
				out = append(out, good+fmt.Sprintf(form, key, other), good+fmt.Sprintf(form, other, key))
			}
		}
	}
	return out
}

// TestHostileText: no verb runs host-local, or a plugin that stores its input, with a text
// that ADD refuses.
func TestHostileText(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	seen, anywhere := e.file("seen"), e.file("anywhere")
	e.path = e.script("keeper", fmt.Sprintf(`cat >>%s; echo '{"cniVersion":"1.1.0","ips":[{"address":"10.0.2.9/24"}]}'`, seen))
	args := e.pod(map[string]any{"select": map[string]any{"nodeENI": "a"}})
	sound := strings.TrimSuffix(string(args.StdinData), "}")
	for _, evil := range hostileTexts(e.file("ipam")) {
		for _, typ := range []string{"host-local", "keeper"} {
			evil := fmt.Sprintf(evil, typ, anywhere, "anywhere")
			args.StdinData = []byte(sound + "," + evil + "}")
			if _, err := run(&attach.Plugin{}, "ADD", args); err == nil || !strings.Contains(err.Error(), "invalid netconf") {
				t.Fatalf("%s: ADD: %v; want it refused", evil, err)
			}
			for _, name := range []string{"DEL", "GC", "STATUS", "CHECK"} {
				_, _ = run(&attach.Plugin{}, name, args)
			}
			for _, path := range []string{anywhere, "anywhere"} {
				if _, err := os.Stat(path); err == nil {
					t.Fatalf("%s: there is %s", evil, path)
				}
			}
			if text, err := os.ReadFile(seen); err == nil {
				t.Fatalf("%s: the plugin has got %s", evil, text)
			}
		}
	}
	args = e.pod(map[string]any{"select": map[string]any{"nodeENI": "a"}, "ipam": map[string]any{"type": "keeper", "dataDir": "/sound"}})
	e.add(args)
	e.del(args)
	if text, err := os.ReadFile(seen); err != nil || strings.Count(string(text), `"dataDir":"/sound"`) != 2 {
		t.Errorf("the plugin has got %s, %v; want ADD's and DEL's netconf", text, err)
	}
}

// TestHostilePaths: under a policy, no spelling of a path key of host-local has an effect,
// on any verb.
func TestHostilePaths(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	p := &attach.Plugin{PolicyPath: e.policyFile(nil)}
	anywhere := e.file("anywhere")
	for _, key := range []string{"dataDir", "DATADIR", "datadir", "DataDir", "data\u0044ir", "dataD\u0069r"} {
		for _, value := range []string{anywhere, "anywhere", "./anywhere", "../anywhere", "x/../anywhere"} {
			args := e.pod(map[string]any{"select": map[string]any{"nodeENI": "a"}, "dataDir": nil, "inventory": nil, "sysfs": nil, "logFile": nil})
			ipam := fmt.Sprintf(`,"ipam":{"type":"host-local","subnet":"10.0.2.0/24","%s":%q}}`, key, value)
			args.StdinData = []byte(strings.TrimSuffix(string(args.StdinData), "}") + ipam)
			if _, err := run(p, "ADD", args); err == nil {
				t.Errorf("%s: ADD succeeds", ipam)
			}
			for _, name := range []string{"DEL", "GC", "STATUS", "CHECK"} {
				_, _ = run(p, name, args) // whatever it says
			}
			for _, path := range []string{anywhere, "anywhere", "../anywhere", "/run/anywhere", "/anywhere"} {
				if _, err := os.Stat(path); err == nil {
					t.Fatalf("%s: there is %s", ipam, path)
				}
			}
			must(t, nstest.DeleteNetns(args.Netns))
		}
	}
}

func TestPluginsRunNowhere(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	out := e.file("out")
	e.path = e.script("nosy", fmt.Sprintf(`exec 2>%[1]s.err >>%[1]s
for f in * .[!.]*; do [ -e "$f" ] && echo "is there: $f"; done
mkdir etc && echo made etc
(echo x >file) && echo made file
echo $CNI_COMMAND done
[ $CNI_COMMAND = ADD ] && exit 1
exit 0`, out))
	args := e.pod(map[string]any{"select": map[string]any{"nodeENI": "a"}, "ipam": map[string]any{"type": "nosy"}})
	if _, err := run(&attach.Plugin{}, "ADD", args); err == nil {
		t.Error("ADD succeeds with an address plugin that fails")
	}
	for _, name := range []string{"DEL", "GC", "STATUS"} {
		if _, err := run(&attach.Plugin{}, name, args); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	text, err := os.ReadFile(out)
	must(t, err)
	if want := "ADD done\nDEL done\nDEL done\nGC done\nSTATUS done\n"; string(text) != want {
		t.Errorf("the plugin says %q; want %q", text, want)
	}
	left, err := filepath.Glob("/run/multi-eni-*")
	if must(t, err); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestPluginLeavesAChild: a plugin ends when its process exits, even if a child keeps its
// output open.
func TestPluginLeavesAChild(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	e := newEnv(t)
	pid := e.file("pid")
	e.path = e.script("parent", fmt.Sprintf(`[ $CNI_COMMAND = ADD ] && { sleep 600 & echo $! >%s; }
echo '{"cniVersion":"1.1.0","ips":[{"address":"10.0.2.9/24"}]}'`, pid))
	args := e.pod(map[string]any{"select": map[string]any{"nodeENI": "a"}, "ipam": map[string]any{"type": "parent"}})
	e.add(args)
	text, err := os.ReadFile(pid)
	must(t, err)
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	must(t, err)
	e.del(args)
	if err := syscall.Kill(child, syscall.SIGKILL); err != nil {
		t.Errorf("the child: %v; want it alive until here", err)
	}
}

// TestHostileDeviceInfoFile: no pod overwrites or removes another pod's device-info file,
// not even by a record from before that rule.
func TestHostileDeviceInfoFile(t *testing.T) {
	if nstest.Outside(t) {
		return
	}
	const folder = "/run/k8s.cni.cncf.io/devinfo/cni"
	e := newEnv(t)
	must(t, os.MkdirAll(folder, 0o755))
	p := &attach.Plugin{PolicyPath: e.policyFile(nil)}
	pod := func(nodeENI string) (*skel.CmdArgs, func(file string)) {
		conf := map[string]any{"select": map[string]any{"nodeENI": nodeENI}, "dataDir": nil, "inventory": nil, "sysfs": nil, "logFile": nil}
		args := e.pod(conf)
		return args, func(file string) {
			conf["runtimeConfig"] = map[string]any{"CNIDeviceInfoFile": file}
			args.StdinData = e.conf(conf)
		}
	}
	victim, with := pod("a")
	file := filepath.Join(folder, "shop-dataplane-"+victim.ContainerID+"_net1") // as Multus names it
	must(t, os.WriteFile(file, []byte("of the device plugin"), 0o644))          // which Multus copies there before ADD
	with(file)
	e.runs(p, "ADD", victim)
	info, err := os.ReadFile(file)
	must(t, err)
	if !strings.Contains(string(info), eniA.PCI) {
		t.Errorf("device info: %s; want %s in it", info, eniA.PCI)
	}
	same := func(when string) {
		t.Helper()
		if now, err := os.ReadFile(file); err != nil || string(now) != string(info) {
			t.Fatalf("%s: %q, %v; want the pod's device info as it was", when, now, err)
		}
	}
	thief, with := pod("b")
	with(file)
	e.fails(p, "ADD", thief, 105, "CNIDeviceInfoFile", file, "leave it to Multus")
	e.runs(p, "DEL", thief)
	same("after a refused ADD and its DEL")
	with(filepath.Join(folder, "shop-dataplane-"+thief.ContainerID+"_net1"))
	e.runs(p, "ADD", thief)
	path := e.file("records", thief.ContainerID+"-net1.json")
	record, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(record), "shop-dataplane-"+thief.ContainerID, "shop-dataplane-"+victim.ContainerID)), 0o600))
	e.runs(p, "DEL", thief)
	same("after the DEL of a record with its name")
	e.runs(p, "DEL", victim)
	if _, err := os.Stat(file); err == nil {
		t.Error("the device info outlives its pod")
	}
}
