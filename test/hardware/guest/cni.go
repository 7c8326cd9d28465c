package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

const (
	// PluginDir is where the CNI plugins lie, multi-eni among them.
	PluginDir = "/opt/cni/bin"
	cniTime   = 60 * time.Second
)

// CNICall is one call of multi-eni, as a runtime makes it.
type CNICall struct {
	// Verb is ADD, DEL, CHECK, GC, STATUS or VERSION.
	Verb string
	// Type is the plugin to call; "" is multi-eni.
	Type string
	// Netns is the path of the container's netns.
	Netns string
	// ContainerID is any string that runtimes may use.
	ContainerID string
	// IfName is the interface in the container; "" is net1.
	IfName string
	// Conf is the netconf, as the plugin reads it.
	Conf string
	// Args are CNI_ARGS, as K8S_POD_NAME=x;K8S_POD_NAMESPACE=y.
	Args string
	// Env is added to the environment.
	Env []string
}

// Reply is the outcome of a CNICall.
type Reply struct {
	// Result is ADD's, of the newest version; nil for other verbs.
	Result *current.Result
	// Code is the CNI error code, 0 for success, -1 for a plugin that dies without an error of the protocol.
	Code int
	// Msg is the error's message and details, "" for success.
	Msg string
	// Stdout and Stderr are the plugin's output.
	Stdout, Stderr string
	// Took is how long the process ran.
	Took time.Duration
}

// CNI calls a plugin and returns its outcome, also a failure.
func CNI(t testing.TB, c CNICall) Reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), cniTime)
	defer cancel()
	cmd := Command(ctx, c)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	r := Reply{Took: time.Since(began), Stdout: stdout.String(), Stderr: stderr.String()}
	if err != nil {
		r.fail(err, stdout.Bytes())
		return r
	}
	if c.Verb == "ADD" {
		if r.Result, err = decodeResult(stdout.Bytes()); err != nil {
			t.Fatalf("%s %s: decode the result: %v\n%s", c.Verb, c.ContainerID, err, r.Stdout)
		}
	}
	return r
}

// Command is the command of a call, ready to start: for tests that kill it.
func Command(ctx context.Context, c CNICall) *exec.Cmd {
	kind, ifname := c.Type, c.IfName
	if kind == "" {
		kind = "multi-eni"
	}
	if ifname == "" {
		ifname = "net1"
	}
	cmd := exec.CommandContext(ctx, PluginDir+"/"+kind)
	cmd.Env = append([]string{
		"CNI_COMMAND=" + c.Verb, "CNI_CONTAINERID=" + c.ContainerID, "CNI_NETNS=" + c.Netns, "CNI_IFNAME=" + ifname,
		"CNI_ARGS=" + c.Args, "CNI_PATH=" + PluginDir, "PATH=/usr/bin:/bin",
	}, c.Env...)
	cmd.Stdin = strings.NewReader(c.Conf)
	return cmd
}

func (r *Reply) fail(err error, stdout []byte) {
	var failure types.Error
	if json.Unmarshal(stdout, &failure) == nil && failure.Code != 0 {
		r.Code, r.Msg = int(failure.Code), strings.TrimSuffix(failure.Msg+"; "+failure.Details, "; ")
		return
	}
	r.Code, r.Msg = -1, err.Error()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		r.Msg += ": " + strings.TrimSpace(r.Stderr)
	}
}

func decodeResult(data []byte) (*current.Result, error) {
	result, err := create.CreateFromBytes(data)
	if err != nil {
		return nil, err
	}
	return current.GetResult(result)
}

// Must ends the test on an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// MustAdd is an ADD that succeeds.
func MustAdd(t testing.TB, c CNICall) Reply {
	t.Helper()
	c.Verb = "ADD"
	return succeed(t, c)
}

// MustDel is a DEL that succeeds.
func MustDel(t testing.TB, c CNICall) Reply {
	t.Helper()
	c.Verb = "DEL"
	return succeed(t, c)
}

func succeed(t testing.TB, c CNICall) Reply {
	t.Helper()
	r := CNI(t, c)
	if r.Code != 0 {
		t.Fatalf("%s %s fails with code %d: %s\nnetconf: %s\nstderr: %s", c.Verb, c.ContainerID, r.Code, r.Msg, c.Conf, r.Stderr)
	}
	return r
}

// WantCode calls the plugin, which must fail with this code and all parts in its message.
func WantCode(t testing.TB, c CNICall, code int, parts ...string) Reply {
	t.Helper()
	r := CNI(t, c)
	if r.Code != code {
		t.Errorf("%s %s: code %d (%s), want %d", c.Verb, c.ContainerID, r.Code, r.Msg, code)
	}
	for _, p := range parts {
		if !strings.Contains(r.Msg, p) {
			t.Errorf("%s %s: message %q lacks %q", c.Verb, c.ContainerID, r.Msg, p)
		}
	}
	return r
}
