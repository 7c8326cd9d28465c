package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// help writes a command's help. It replaces cobra's templates: text/template calls methods by name, so that the linker keeps all of them.
func help(out io.Writer, c *cobra.Command) {
	var b strings.Builder
	about := c.Long
	if about == "" {
		about = c.Short + "."
	}
	b.WriteString(strings.TrimSpace(about) + "\n\nUsage:\n")
	if !c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "  %s\n", c.UseLine())
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "  %s COMMAND [flags]\n", c.CommandPath())
	}
	if c.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", strings.TrimRight(c.Example, "\n"))
	}
	if c.HasAvailableSubCommands() {
		b.WriteString("\nCommands:\n")
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() || sub.Name() == "help" {
				fmt.Fprintf(&b, "  %-*s  %s\n", c.NamePadding(), sub.Name(), sub.Short)
			}
		}
	}
	if c.HasAvailableLocalFlags() {
		b.WriteString("\nFlags:\n")
		flags(&b, c.LocalFlags())
	}
	if c.HasAvailableInheritedFlags() {
		b.WriteString("\nFlags of all commands:\n")
		flags(&b, c.InheritedFlags())
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\n'%s COMMAND --help' has more about a command.\n", c.CommandPath())
	}
	io.WriteString(out, b.String()) //nolint:errcheck,gosec // without an output there is no reader
}

// flags writes each flag, and its text below it.
func flags(b *strings.Builder, set *pflag.FlagSet) {
	const indent = "      "
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, text := pflag.UnquoteUsage(f)
		name := "  "
		if f.Shorthand != "" {
			name += "-" + f.Shorthand + ", "
		}
		name += "--" + f.Name
		switch value = strings.ToLower(value); {
		case value == "":
		case f.NoOptDefVal != "":
			name += "[=" + value + "]"
		default:
			name += " " + value
		}
		switch f.DefValue {
		case "", "false", "[]", "0":
		default:
			text += " (default " + f.DefValue + ")"
		}
		b.WriteString(name + "\n")
		line := indent
		for _, word := range strings.Fields(text) {
			if line != indent && len(line)+1+len(word) > Columns {
				b.WriteString(line + "\n")
				line = indent
			}
			if line != indent {
				line += " "
			}
			line += word
		}
		b.WriteString(line + "\n")
	})
}
