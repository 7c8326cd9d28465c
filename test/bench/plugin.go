package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// program is one run of a program, as a container runtime starts a plugin.
type program struct {
	argv  []string
	env   []string
	stdin []byte // at most what a pipe holds, 64 KiB
	extra *os.File
}

// run starts the program and returns the time from before fork to after wait.
// Pipes are filled and emptied outside of that, so that no goroutine of this
// process takes part.
func (p program) run(ctx context.Context) (time.Duration, error) {
	stdin, err := filled(p.stdin)
	if err != nil {
		return 0, err
	}
	defer stdin.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	cmd := exec.CommandContext(ctx, p.argv[0], p.argv[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = p.env, stdin, w, w
	if p.extra != nil {
		cmd.ExtraFiles = []*os.File{p.extra}
	}
	start := time.Now()
	err = cmd.Run()
	took := time.Since(start)
	if err := errors.Join(err, w.Close()); err != nil {
		said, _ := io.ReadAll(r) // it only adds to an error
		return 0, fmt.Errorf("run %s: %w: %s", strings.Join(p.argv, " "), err, strings.TrimSpace(string(said)))
	}
	return took, nil
}

func filled(data []byte) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, errors.Join(err, r.Close(), w.Close())
	}
	return r, w.Close()
}

// contender is one way of giving a pod its interface and taking it back.
type contender struct {
	name     string
	add, del program
	// host is the link that is in the host before ADD and after DEL; "" for a
	// device without link.
	host string
}

// plugin returns the contender that runs a CNI plugin with conf.
func (n *node) plugin(name, binary, host string, conf map[string]any) (contender, error) {
	stdin, err := json.Marshal(conf)
	if err != nil {
		return contender{}, fmt.Errorf("encode netconf of %s: %w", name, err)
	}
	verb := func(command string) program {
		return program{argv: []string{binary}, stdin: stdin, env: []string{
			"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + strings.ReplaceAll(name, " ", "-"), "CNI_NETNS=" + podNetns, "CNI_IFNAME=" + podIfName,
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=pod", "CNI_PATH=" + n.cniPath,
		}}
	}
	return contender{name: name, add: verb("ADD"), del: verb("DEL"), host: host}, nil
}

// floor returns the contender that only moves and renames.
func (n *node) floor(host string) contender {
	return contender{
		name: "floor", host: host,
		add: program{argv: []string{n.tools.floor, "in", podNetns, host, podIfName}},
		del: program{argv: []string{n.tools.floor, "out", podNetns, podIfName, host}},
	}
}
