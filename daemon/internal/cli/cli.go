// Package cli is the common edge of our command lines: help that fits a terminal, exit codes, and errors that name the way out.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Columns is the longest line of help, in characters.
const Columns = 100

// Exit codes.
const (
	Failure = 1
	Usage   = 2
)

// UsageError is a mistake in how a program was called.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the mistake.
func (e *UsageError) Unwrap() error { return e.Err }

// Usagef makes a UsageError.
func Usagef(format string, args ...any) error { return &UsageError{fmt.Errorf(format, args...)} }

// Prepare gives a command and all below it our help, suggestions and --version. Call it once, after the last command was added.
func Prepare(root *cobra.Command, version string) {
	root.Version = version
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetHelpFunc(func(c *cobra.Command, _ []string) { help(c.OutOrStdout(), c) })
	root.SetUsageFunc(func(c *cobra.Command) error { help(c.OutOrStderr(), c); return nil })
	root.SetFlagErrorFunc(flagError)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range all(root) {
		if c.HasSubCommands() && !c.Runnable() {
			c.Args, c.RunE = unknownCommand, noCommand
		}
		c.InitDefaultHelpFlag()
		c.Flags().Lookup("help").Usage = "Show this help."
		if f := c.Flags().Lookup("no-descriptions"); f != nil { // of cobra's completion
			f.Usage = "Leave the descriptions out."
		}
	}
	root.InitDefaultVersionFlag()
	root.Flags().Lookup("version").Usage = "Show the version."
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Short = "Show the help of a command"
			c.Long = ""
		case "completion":
			c.Short = "Print the completion script for a shell"
		}
	}
}

// all returns a command and all commands below it.
func all(c *cobra.Command) []*cobra.Command {
	found := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		found = append(found, all(sub)...)
	}
	return found
}

// Execute runs a command line and returns the exit code. Errors go to stderr.
func Execute(ctx context.Context, root *cobra.Command, args []string, stderr io.Writer) int {
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "%s: %v\n", root.DisplayName(), err)
	var usage *UsageError
	if errors.As(err, &usage) {
		fmt.Fprintf(stderr, "Try '%s --help'.\n", cmd.CommandPath())
		return Usage
	}
	return Failure
}

// NoArgs refuses arguments that are not flags.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usagef("%s takes no argument %q, only flags", cmd.Name(), args[0])
	}
	return nil
}

// OneOf refuses a value of a flag that is not allowed.
func OneOf(flag, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	list := strings.Join(allowed, " or ")
	if n := len(allowed); n > 2 {
		list = strings.Join(allowed[:n-1], ", ") + " or " + allowed[n-1]
	}
	return Usagef("--%s %q: want %s", flag, value, list)
}

// Offer has a shell complete a flag with these values.
func Offer(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the command has no such flag
	}
}

func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return Usagef("unknown command %q%s", args[0], didYouMean(Nearest(args[0], names(cmd))))
}

func noCommand(cmd *cobra.Command, _ []string) error {
	help(cmd.ErrOrStderr(), cmd)
	return Usagef("no command given; want %s", strings.Join(names(cmd), ", "))
}

// names are the commands that people may type.
func names(cmd *cobra.Command) (all []string) {
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			all = append(all, c.Name())
		}
	}
	return all
}

func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return &UsageError{err}
	}
	var names []string
	for _, set := range []*pflag.FlagSet{cmd.Flags(), cmd.InheritedFlags()} {
		set.VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !slices.Contains(names, f.Name) {
				names = append(names, f.Name)
			}
		})
	}
	near := Nearest(unknown.GetSpecifiedName(), names)
	for i, n := range near {
		near[i] = "--" + n
	}
	return Usagef("%w%s", err, didYouMean(near))
}

func didYouMean(near []string) string {
	if len(near) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(near, " or ") + "?"
}
