// Package dispatch runs a CNI plugin as a process: it reads the environment and standard
// input, calls a verb, and prints the verb's error.
//
// skel.PluginMainFuncs would refuse a netconf with a bad version or name before any verb, so
// the DEL after a refused ADD would never succeed. Here each verb decides how much of the
// netconf it needs.
package dispatch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/multi-eni/multi-eni-cni/pkg/buildinfo"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/steps"
)

// Program is a plugin and its environment. All fields are needed.
type Program struct {
	// Name and the error's code begin every message: neither Events nor a runtime's log show the
	// code.
	Name string
	// Version and Commit are set by the linker (see buildinfo.Of).
	Version, Commit string
	Verbs           skel.CNIFuncs // an error other than *types.Error gets the code 999

	Args           []string // without the program; only people give arguments
	Getenv         func(string) string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Main runs a plugin with this process's environment and returns its exit code.
func Main(name, binaryVersion, commit string, verbs skel.CNIFuncs) int {
	steps.GrowStack(0)
	p := Program{name, binaryVersion, commit, verbs, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr}
	return p.Run()
}

// Run carries out CNI_COMMAND and returns the exit code.
func (p *Program) Run() int {
	err := p.run()
	if err == nil {
		return 0
	}
	said := &types.Error{Code: types.ErrInternal, Msg: err.Error()}
	errors.As(err, &said)
	said = &types.Error{Code: said.Code, Msg: Message(p.Name, said.Code, said.Msg), Details: said.Details}
	data, err := json.MarshalIndent(said, "", "    ")
	if err == nil {
		_, err = fmt.Fprintf(p.Stdout, "%s\n", data)
	}
	if err != nil {
		fmt.Fprintln(p.Stderr, said.Msg)
	}
	return 1
}

// Message returns an error's text with program and code in front. It removes both from the text of
// this module's plugins that the program has run.
func Message(program string, code uint, msg string) string {
	for _, name := range []string{"multi-eni", "eni-ipam"} {
		msg = strings.ReplaceAll(msg, prefix(name, code), "")
	}
	return prefix(program, code) + msg
}

func prefix(program string, code uint) string { return fmt.Sprintf("%s %d: ", program, code) }

// verb is a verb of CNI with the variables that it needs (CNI spec 1.1.0, section 2).
type verb struct {
	call  func(*skel.CmdArgs) error
	needs []string
}

func (p *Program) verbs() map[string]verb {
	attachment := []string{"CNI_CONTAINERID", "CNI_IFNAME"}
	pod := append(slices.Clone(attachment), "CNI_NETNS", "CNI_PATH")
	return map[string]verb{
		"ADD":    {p.Verbs.Add, pod},
		"CHECK":  {p.Verbs.Check, pod},
		"DEL":    {p.Verbs.Del, attachment},
		"GC":     {p.Verbs.GC, []string{"CNI_PATH"}},
		"STATUS": {p.Verbs.Status, []string{"CNI_PATH"}},
	}
}

func (p *Program) run() error {
	if answered, err := p.byHand(); answered {
		return err
	}
	command := p.Getenv("CNI_COMMAND")
	switch command {
	case "":
		build := buildinfo.Of(p.Version, p.Commit)
		_, err := fmt.Fprintf(p.Stderr, "CNI %s plugin %s\nCNI protocol versions supported: %s\nCommit: %s\n",
			p.Name, build.Version, strings.Join(version.All.SupportedVersions(), ", "), build.Commit)
		return err
	case "VERSION":
		return version.All.Encode(p.Stdout)
	}
	v, known := p.verbs()[command]
	if !known {
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_COMMAND: %q: want ADD, DEL, CHECK, GC, STATUS or VERSION", command), "")
	}
	args := &skel.CmdArgs{
		ContainerID: p.Getenv("CNI_CONTAINERID"), Netns: p.Getenv("CNI_NETNS"), IfName: p.Getenv("CNI_IFNAME"),
		Args: p.Getenv("CNI_ARGS"), Path: p.Getenv("CNI_PATH"),
	}
	if err := p.check(v, args); err != nil {
		return err
	}
	var err error
	if args.StdinData, err = io.ReadAll(p.Stdin); err != nil {
		return types.NewError(types.ErrIOFailure, fmt.Sprintf("read standard input: %v", err), "")
	}
	return v.call(args)
}

// check refuses missing variables, and an invalid container or interface.
func (p *Program) check(v verb, args *skel.CmdArgs) error {
	missing := slices.DeleteFunc(slices.Clone(v.needs), func(name string) bool { return p.Getenv(name) != "" })
	if len(missing) > 0 {
		return types.NewError(types.ErrInvalidEnvironmentVariables, "missing in the environment: "+strings.Join(missing, ", "), "")
	}
	if !slices.Contains(v.needs, "CNI_IFNAME") {
		return nil
	}
	if err := utils.ValidateContainerID(args.ContainerID); err != nil {
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_CONTAINERID: %q: %s", args.ContainerID, err.Msg), "")
	}
	if err := utils.ValidateInterfaceName(args.IfName); err != nil {
		return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_IFNAME: %q: %s", args.IfName, err.Msg), "")
	}
	return nil
}

// byHand answers a person who gives an argument, and reports whether there is one. A runtime
// gives none, and sets CNI_COMMAND.
func (p *Program) byHand() (answered bool, err error) {
	if len(p.Args) == 0 || p.Getenv("CNI_COMMAND") != "" {
		return false, nil
	}
	switch p.Args[0] {
	case "help", "-h", "-help", "--help":
		_, err = fmt.Fprintf(p.Stdout, helpText, p.Name, about(p.Name), strings.Join(version.All.SupportedVersions(), ", "))
	case "version", "-v", "-version", "--version":
		_, err = fmt.Fprintf(p.Stdout, "%s version %s\n", p.Name, buildinfo.Of(p.Version, p.Commit).Version)
	default:
		return true, fmt.Errorf("unknown argument %q: a container runtime runs this plugin, with no argument; try %s --help", p.Args[0], p.Name)
	}
	return true, err
}

const helpText = `%[1]s is %[2]s

A container runtime, or a plugin such as Multus, runs it. People do not.

Usage:
  CNI_COMMAND=COMMAND %[1]s < netconf.json

  COMMAND is ADD, DEL, CHECK, GC, STATUS or VERSION. The plugin reads the network's
  configuration from standard input, and CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME,
  CNI_ARGS and CNI_PATH from the environment. It prints the result as JSON.

Flags:
  -h, --help
      Show this help.
  -v, --version
      Show the version.

CNI versions: %[3]s
Documentation: https://github.com/multi-eni/multi-eni-cni/blob/main/docs/netconf.md
`

func about(name string) string {
	if name == "eni-ipam" {
		return "a CNI IPAM plugin: it gives a pod addresses that the VPC routes to an\nENI of the node. multi-eni has it built in; other plugins can call this " +
			"binary."
	}
	return "a CNI plugin: it gives a pod an ENI or SR-IOV device of the node, alone or\nshared with other pods."
}
