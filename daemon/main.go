// Command multi-enid keeps one node's inventory of ENIs and the config of its
// SR-IOV device plugin as the NodeENI objects say, for the multi-eni plugin to
// hand the devices to pods.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	_ "golang.org/x/crypto/x509roots/fallback" // the image has no certificates of its own

	"github.com/multi-eni/multi-eni-cni/pkg/buildinfo"
)

// version and commit are set by the linker; main completes them.
var (
	version = buildinfo.Unset
	commit  string
)

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	info := buildinfo.Of(version, commit)
	version, commit = info.Version, info.Commit
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	p := program{stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}
	code := p.main(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// program is the process's edge.
type program struct {
	stdout, stderr io.Writer
	getenv         func(string) string
}

// usageError is a mistake in how the program was called.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// main runs one command and returns the exit code.
func (p program) main(ctx context.Context, args []string) int {
	root := p.rootCommand(ctx)
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return 0
	}
	fmt.Fprintf(p.stderr, "multi-enid: %v\n", err)
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintln(p.stderr, "Try 'multi-enid help'.")
		return exitUsage
	}
	return exitFailure
}

func (p program) rootCommand(ctx context.Context) *cobra.Command {
	root := &cobra.Command{
		Use:   "multi-enid",
		Short: "Keep this node's ENIs as its NodeENIs say, for the multi-eni plugin",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q: want run, status, doctor, install, uninstall or version", args[0])
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error {
			return usagef("no command given: want run, status, doctor, install, uninstall or version")
		},
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(p.runCommand(ctx), p.statusCommand(ctx), p.doctorCommand(ctx), p.installCommand(ctx), p.uninstallCommand(), p.versionCommand(), p.bindDriverCommand())
	return root
}

// noArgs refuses what is not a flag.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no argument %q, only flags", cmd.Name(), args[0])
	}
	return nil
}
