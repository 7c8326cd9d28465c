package main

import (
	"os"
	"path/filepath"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/hostnet"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
)

// ipv6Conf is the folder of the IPv6 settings of the host's links.
func (c *nodeFlags) ipv6Conf() link.IPv6Conf {
	return link.IPv6Conf(filepath.Join(c.sysctls, "net", "ipv6", "conf"))
}

// openHost opens the host's links, whose IPv6 settings are in the flag's folder.
func (c *nodeFlags) openHost() (*link.Handle, error) {
	h, err := link.Open()
	if err != nil {
		return nil, err
	}
	h.IPv6Conf = c.ipv6Conf()
	return h, nil
}

// advice describes the files that keep this host's network managers off all ENIs but the
// primary one. primary is the name of that one's link.
func (c *nodeFlags) advice(primary string) string {
	managers, _ := hostnet.Running(os.DirFS(c.sysfs)) // none known: Advice names the files of all
	return hostnet.Advice(managers, primary, hostnet.ENIDriver)
}
