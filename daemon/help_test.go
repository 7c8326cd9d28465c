package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
)

// commands are all that people may type, the root first.
func commands(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			all = append(all, commands(sub)...)
		}
	}
	return all
}

// TestHelpFitsATerminal: every command explains itself in lines of at most 100 characters, with its usage and all its flags.
func TestHelpFitsATerminal(t *testing.T) {
	root := program{getenv: func(string) string { return "" }}.rootCommand(t.Context())
	if len(commands(root)) < 12 {
		t.Fatalf("only %d commands", len(commands(root)))
	}
	for _, c := range commands(root) {
		words := strings.Fields(c.CommandPath())
		code, stdout, stderr := call(t.Context(), nil, append(words[1:], "--help")...)
		if code != 0 || stderr != "" || !strings.Contains(stdout, "Usage:\n  "+c.CommandPath()) {
			t.Errorf("%s --help: exit code %d, %q\n%s", c.CommandPath(), code, stderr, stdout)
		}
		for line := range strings.Lines(stdout) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > cli.Columns {
				t.Errorf("%s --help has a line of %d characters:\n%s", c.CommandPath(), n, line)
			}
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden && !strings.Contains(stdout, "--"+f.Name) {
				t.Errorf("%s --help lacks --%s", c.CommandPath(), f.Name)
			}
		})
	}
}

// proseFaults are constructions that style forbids in short texts.
var proseFaults = regexp.MustCompile(`(?i)\b(that of|those that|those of|who has|what is|what a|none of which|it is a)\b`)

// TestHelpStyle: texts are sentences of at most 30 words, in plain English.
func TestHelpStyle(t *testing.T) {
	sentences := func(where, text string) {
		if proseFaults.MatchString(text) {
			t.Errorf("%s: %q in %q", where, proseFaults.FindString(text), text)
		}
		for _, s := range regexp.MustCompile(`[.:;]\s`).Split(text, -1) {
			if n := len(strings.Fields(s)); n > 30 {
				t.Errorf("%s: a sentence of %d words: %q", where, n, s)
			}
		}
	}
	root := program{getenv: func(string) string { return "" }}.rootCommand(t.Context())
	for _, c := range commands(root) {
		if slices.ContainsFunc([]string{"multi-enid completion", "multi-enid help"}, func(p string) bool { return strings.HasPrefix(c.CommandPath(), p) }) {
			continue // most of their texts are cobra's
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || c.Short[0] < 'A' || c.Short[0] > 'Z' {
			t.Errorf("%s: short text %q", c.CommandPath(), c.Short)
		}
		sentences(c.CommandPath(), c.Short)
		sentences(c.CommandPath(), c.Long)
		c.Flags().VisitAll(func(f *pflag.Flag) {
			where := c.CommandPath() + " --" + f.Name
			text := strings.TrimLeft(f.Usage, "`$")
			if first, _ := utf8.DecodeRuneInString(text); !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZ", first) || !strings.HasSuffix(text, ".") {
				t.Errorf("%s: %q is no sentence", where, f.Usage)
			}
			if f.Value.Type() != "bool" && !strings.Contains(f.Usage, "`") {
				t.Errorf("%s: %q names no value in backquotes", where, f.Usage)
			}
			sentences(where, f.Usage)
		})
	}
}

func TestVersionFlag(t *testing.T) {
	code, stdout, stderr := call(t.Context(), nil, "--version")
	if code != 0 || stderr != "" || stdout != "multi-enid version "+version+"\n" {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
}

// TestCompletion: shells get a script, and complete commands, flags and their values.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if code, stdout, stderr := call(t.Context(), nil, "completion", shell); code != 0 || stderr != "" || !strings.Contains(stdout, "multi-enid") {
			t.Errorf("%s: exit code %d, %d octets, %q", shell, code, len(stdout), stderr)
		}
	}
	for _, tt := range []struct {
		typed []string
		want  string
	}{
		{[]string{"st"}, "status\t"},
		{[]string{"status", "--wat"}, "--watch\t"},
		{[]string{"status", "-o", ""}, "wide\n"},
		{[]string{"run", "--attachments-from", "i"}, "imds\n"},
		{[]string{"doctor", "--output", ""}, "json\n"},
	} {
		if code, stdout, _ := call(t.Context(), nil, append([]string{"__complete"}, tt.typed...)...); code != 0 || !strings.Contains(stdout, tt.want) {
			t.Errorf("%q: exit code %d, no %q in\n%s", tt.typed, code, tt.want, stdout)
		}
	}
}
