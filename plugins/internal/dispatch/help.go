package dispatch

import (
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/version"

	"github.com/multi-eni/multi-eni-cni/pkg/buildinfo"
)

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
