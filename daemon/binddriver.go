package main

import (
	"github.com/spf13/cobra"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/driver"
)

// bindDriverCommand is the command that multi-enid run starts to change the driver of a device.
// People cannot use it: it needs the device's lock.
func (p program) bindDriverCommand() *cobra.Command {
	return &cobra.Command{
		Use:    driver.Command,
		Short:  "Carry out one order of multi-enid run, read from standard input",
		Hidden: true,
		Args:   cli.NoArgs,
		RunE:   func(cmd *cobra.Command, _ []string) error { return driver.Serve(cmd.InOrStdin()) },
	}
}
