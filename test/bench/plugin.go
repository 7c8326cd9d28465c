package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
)

type program struct {
	argv  []string
	env   []string
	stdin []byte // at most a pipe full, 64 KiB
	extra *os.File
}

// run returns the time from before fork to after wait. Pipes are filled and emptied outside of that.
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

type contender struct {
	add, del program
	// host and pod are the link before and after ADD, up; zero for a device without link.
	host, pod place
}

type place struct {
	links *link.Handle
	name  string
}

// plugin returns a CNI plugin for a pod, with more keys in its netconf. host is the link to move, "" for none.
func (n *node) plugin(w way, p pod, kind, host string, more map[string]any) (contender, error) {
	conf := map[string]any{"cniVersion": "1.1.0", "name": "bench", "type": kind}
	maps.Copy(conf, more)
	if ipam := n.ipam(w, p); ipam != nil {
		conf["ipam"] = ipam
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		return contender{}, fmt.Errorf("encode netconf of %s: %w", w, err)
	}
	binary := filepath.Join(n.cniPath, kind)
	if kind == "multi-eni" {
		binary = n.multiENI
	}
	verb := func(command string) program {
		return program{argv: []string{binary}, stdin: stdin, env: []string{
			"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + dashed(w.String()+" "+p.eni.Name), "CNI_NETNS=" + p.netns, "CNI_IFNAME=" + podIfName,
			"CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=pod", "CNI_PATH=" + n.cniPath,
		}}
	}
	c := contender{add: verb("ADD"), del: verb("DEL")}
	if host != "" {
		c.host, c.pod = place{n.host, host}, place{p.links, podIfName}
	}
	return c, nil
}

func (n *node) floor(p pod) contender {
	return contender{
		host: place{n.host, p.eni.Name}, pod: place{p.links, podIfName},
		add: program{argv: []string{n.tools.floor, "in", p.netns, p.eni.Name, podIfName}},
		del: program{argv: []string{n.tools.floor, "out", p.netns, podIfName, p.eni.Name}},
	}
}

// dashed is a name as CNI takes it for a container's ID.
func dashed(name string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || r == ',' {
			return '-'
		}
		return r
	}, name)
}
