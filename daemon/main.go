// Command multi-enid keeps a node's inventory of ENIs and the config of its SR-IOV device
// plugin in line with the NodeENI objects. The multi-eni plugin gives the devices to pods. Its
// subcommand controller makes the ENIs of a cluster.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificates of its own

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/controlplane"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kubectl"
	"github.com/multi-eni/multi-eni-cni/pkg/buildinfo"
)

func main() {
	info := buildinfo.Of(version, commit)
	version, commit = info.Version, info.Commit
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	p := program{stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}
	var code int
	if filepath.Base(os.Args[0]) == kubectl.Name {
		code = p.kubectl().Main(ctx, os.Args[1:])
	} else {
		code = p.main(ctx, os.Args[1:])
	}
	stop()
	os.Exit(code)
}

// main runs one command and returns the exit code.
func (p program) main(ctx context.Context, args []string) int {
	return cli.Execute(ctx, p.rootCommand(ctx), args, p.stderr)
}

func (p program) rootCommand(ctx context.Context) *cobra.Command {
	root := &cobra.Command{
		Use:   "multi-enid",
		Short: "Keep this node's ENIs as its NodeENIs say, for the multi-eni plugin",
		Long: `multi-enid runs on each node of a Kubernetes cluster in AWS. It keeps the node's
ENIs as the NodeENI objects say, so that the CNI plugin multi-eni can give them to
pods. It also shows the devices of a node, and installs the plugin. Its controller,
once per cluster, creates, attaches, detaches and deletes the ENIs that NodeENIs declare.

Documentation: ` + projectURL,
	}
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	cluster := controlplane.Program{Stdout: p.stdout, Stderr: p.stderr, Getenv: p.getenv, Now: time.Now, Version: version}
	root.AddCommand(p.runCommand(ctx), p.statusCommand(ctx), cluster.AddDoctor(ctx, p.doctorCommand(ctx)), p.installCommand(ctx), p.uninstallCommand(),
		p.kubectl().Command(ctx), cluster.Command(ctx), p.versionCommand(), p.bindDriverCommand())
	cli.Prepare(root, version)
	return root
}

// kubectl is the plugin for kubectl. It is also a small binary of its own.
func (p program) kubectl() kubectl.Program {
	return kubectl.Program{Stdout: p.stdout, Stderr: p.stderr, Version: version}
}

// projectURL is where the documents are.
const projectURL = "https://github.com/multi-eni/multi-eni-cni"
