// Package controlplane is the command line of the controller, and of its doctor. It connects the API server, EC2 and the endpoints with the
// loop of package controller.
package controlplane

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
)

// Program is the process that runs a command.
type Program struct {
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Now            func() time.Time
	Version        string
}

// Command returns the command controller.
func (p Program) Command(ctx context.Context) *cobra.Command {
	var c flags
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Create, attach, release and delete ENIs for a cluster's NodeENIs until SIGTERM",
		Long: `Create, attach, release and delete ENIs for a cluster's NodeENIs until SIGTERM.

Run it in a Deployment of two replicas: they elect a leader by a Lease, and the other one
stands by. It needs a role for EC2, see deploy/iam/multi-enid-controller.json. The daemons
of the nodes need --attachments-from=controller, or else no ENI is ever detached.

An ENI is detached once the daemon of its node says that no pod has it. Nothing is
detached or deleted when the controller ends.`,
		Example: `  multi-enid controller
  multi-enid controller --adopt=public --leak-sweep=report
  multi-enid doctor --controller`,
		Args: cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			log, logErr := c.log.New(p.Stderr)
			if err := errors.Join(c.check(), logErr); err != nil {
				return &cli.UsageError{Err: err}
			}
			return c.run(ctx, p, log)
		},
	}
	c.add(cmd.Flags(), p.Getenv)
	c.complete(cmd)
	return cmd
}
