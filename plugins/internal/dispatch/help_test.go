package dispatch

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/iotest"
)

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
