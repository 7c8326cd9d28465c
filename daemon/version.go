package main

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/pkg/buildinfo"
)

func (p program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(p.stdout, "multi-enid %s\ncommit     %s\ngo         %s %s/%s\n", version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// version and commit are set by the linker; main completes them.
var (
	version = buildinfo.Unset
	commit  string
)

// program is the process's edge.
type program struct {
	stdout, stderr io.Writer
	getenv         func(string) string
}
