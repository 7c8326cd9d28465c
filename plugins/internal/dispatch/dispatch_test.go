package dispatch

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
)

func process(env map[string]string, stdin string, verbs skel.CNIFuncs) (exit int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	p := Program{
		Name: "multi-eni", Version: "v1", Commit: "c0ffee", Verbs: verbs,
		Getenv: func(name string) string { return env[name] }, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errOut,
	}
	return p.Run(), out.String(), errOut.String()
}

func full(command string) map[string]string {
	return map[string]string{
		"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "net1", "CNI_ARGS": "A=1", "CNI_PATH": "/opt/cni/bin",
	}
}

func all(called *string, got *skel.CmdArgs, err error) skel.CNIFuncs {
	verb := func(name string) func(*skel.CmdArgs) error {
		return func(a *skel.CmdArgs) error { *called, *got = name, *a; return err }
	}
	return skel.CNIFuncs{Add: verb("ADD"), Del: verb("DEL"), Check: verb("CHECK"), GC: verb("GC"), Status: verb("STATUS")}
}

func TestVerbs(t *testing.T) {
	for _, command := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS"} {
		for _, text := range []string{"", "x", `{"cniVersion":"9.9"}`} {
			var called string
			var got skel.CmdArgs
			exit, stdout, stderr := process(full(command), text, all(&called, &got, nil))
			want := skel.CmdArgs{ContainerID: "c1", Netns: "/run/netns/c1", IfName: "net1", Args: "A=1", Path: "/opt/cni/bin", StdinData: []byte(text)}
			if exit != 0 || stdout != "" || stderr != "" || called != command {
				t.Errorf("%s: exit %d, %q, %q, called %q", command, exit, stdout, stderr, called)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", command, diff)
			}
		}
	}
}

func TestEnvironment(t *testing.T) {
	needs := map[string]string{
		"ADD": "CNI_CONTAINERID CNI_NETNS CNI_IFNAME CNI_PATH", "CHECK": "CNI_CONTAINERID CNI_NETNS CNI_IFNAME CNI_PATH",
		"DEL": "CNI_CONTAINERID CNI_IFNAME", "GC": "CNI_PATH", "STATUS": "CNI_PATH",
	}
	refused := func(env map[string]string, words ...string) {
		t.Helper()
		var called string
		exit, stdout, _ := process(env, "{}", all(&called, new(skel.CmdArgs), nil))
		var said types.Error
		if err := json.Unmarshal([]byte(stdout), &said); err != nil || exit != 1 || called != "" || said.Code != 4 {
			t.Errorf("%v: exit %d, %q, called %q; want code 4", env, exit, stdout, called)
		}
		for _, w := range append(words, "multi-eni 4: ") {
			if !strings.Contains(said.Msg, w) {
				t.Errorf("%v: %q does not say %q", env, said.Msg, w)
			}
		}
	}
	for command, names := range needs {
		for _, name := range []string{"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH", "CNI_ARGS"} {
			env := full(command)
			delete(env, name)
			if strings.Contains(names, name) {
				refused(env, name)
				continue
			}
			var called string
			if exit, stdout, _ := process(env, "{}", all(&called, new(skel.CmdArgs), nil)); exit != 0 || called != command {
				t.Errorf("%s without %s: exit %d, %q", command, name, exit, stdout)
			}
		}
	}
	for name, values := range map[string][]string{"CNI_CONTAINERID": {"../x", "a b", "-x"}, "CNI_IFNAME": {"..", "a/b", "a b", strings.Repeat("x", 16)}} {
		for _, v := range values {
			env := full("DEL")
			env[name] = v
			refused(env, name, v)
		}
	}
	refused(full("PLAY"), "CNI_COMMAND", "PLAY")
}

func TestMessages(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want types.Error
	}{
		{types.NewError(101, "device x is held", ""), types.Error{Code: 101, Msg: "multi-eni 101: device x is held"}},
		{types.NewError(11, "ipvlan ADD: eni-ipam 11: none is free", "more"), types.Error{Code: 11, Msg: "multi-eni 11: ipvlan ADD: none is free", Details: "more"}},
		{types.NewError(7, "multi-eni 7: bad", ""), types.Error{Code: 7, Msg: "multi-eni 7: bad"}},
		{errors.New("odd"), types.Error{Code: 999, Msg: "multi-eni 999: odd"}},
	} {
		var called string
		exit, stdout, stderr := process(full("ADD"), "{}", all(&called, new(skel.CmdArgs), tt.err))
		var got types.Error
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || exit != 1 || stderr != "" {
			t.Errorf("%v: exit %d, %q, %q", tt.err, exit, stdout, stderr)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.err, diff)
		}
	}
}

func TestByHand(t *testing.T) {
	run := func(name, command string, args ...string) (exit int, stdout string) {
		var out, errOut bytes.Buffer
		p := Program{
			Name: name, Version: "v1.2.3", Args: args, Stdin: iotest.ErrReader(errors.New("standard input was read")), Stdout: &out, Stderr: &errOut,
			Getenv: func(key string) string {
				if key == "CNI_COMMAND" {
					return command
				}
				return ""
			},
		}
		return p.Run(), out.String()
	}
	for name, says := range map[string]string{"multi-eni": "gives a pod an ENI", "eni-ipam": "IPAM plugin"} {
		for _, flag := range []string{"--help", "-h", "help"} {
			exit, stdout := run(name, "", flag)
			if exit != 0 || !strings.Contains(stdout, says) || !strings.Contains(stdout, "CNI_COMMAND=COMMAND "+name) || !strings.Contains(stdout, "https://") {
				t.Errorf("%s %s: exit code %d\n%s", name, flag, exit, stdout)
			}
			for line := range strings.Lines(stdout) {
				if len(line) > 101 {
					t.Errorf("%s: a line is too long: %s", name, line)
				}
			}
		}
		if exit, stdout := run(name, "", "--version"); exit != 0 || stdout != name+" version v1.2.3\n" {
			t.Errorf("%s --version: exit code %d, %q", name, exit, stdout)
		}
		if exit, stdout := run(name, "", "--hlep"); exit != 1 || !strings.Contains(stdout, "try "+name+" --help") {
			t.Errorf("%s --hlep: exit code %d, %q", name, exit, stdout)
		}
		if exit, stdout := run(name, "VERSION", "--help"); exit != 0 || !strings.Contains(stdout, "supportedVersions") {
			t.Errorf("a runtime's command loses against an argument: exit code %d, %q", exit, stdout)
		}
	}
}
