// Command kubectl-multi_eni is the plugin for kubectl: `kubectl multi-eni` shows the
// ENIs of a cluster's nodes, from any machine with a kubeconfig.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kubectl"
	"github.com/multi-eni/multi-eni-cni/pkg/buildinfo"
)

// version and commit are set by the linker.
var version, commit = buildinfo.Unset, ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	p := kubectl.Program{Stdout: os.Stdout, Stderr: os.Stderr, Version: buildinfo.Of(version, commit).Version}
	code := p.Main(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
