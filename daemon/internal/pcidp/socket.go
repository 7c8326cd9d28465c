package pcidp

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

// socketFolder has the plugin's socket for each pool with a device, <prefix>_<name>.sock (NewResourceServer in its
// pkg/resources, SockDir in its pkg/types).
const socketFolder = "/var/lib/kubelet/plugins_registry"

// maxSocketPath is the longest path of a Unix socket, in octets (unix(7)).
const maxSocketPath = 107

// socketFault says why the plugin could not listen for the entry, and would end once its pool has a device; "" if it
// could. The plugin resolves ".." in the path; a prefix with a slash can lead only to known folders: those above the
// sockets' and the kubelet's other one.
func (e foreignEntry) socketFault() string {
	folders := []string{"/var/lib/kubelet/device-plugins"}
	for f := socketFolder; f != "/"; f = path.Dir(f) {
		folders = append(folders, f)
	}
	folders = append(folders, "/")
	for _, r := range e.resources {
		prefix := strings.TrimSuffix(r.String(), "/"+e.name)
		socket := path.Join(socketFolder, prefix+"_"+e.name+".sock")
		if !slices.Contains(folders, path.Dir(socket)) {
			return fmt.Sprintf("resourcePrefix is %q, and there is no folder %s for its socket", prefix, path.Dir(socket))
		}
		if len(socket) > maxSocketPath {
			return fmt.Sprintf("resourcePrefix and resourceName have %d characters together, want at most %d",
				len(r)-1, maxSocketPath-len(socketFolder+"/_.sock"))
		}
	}
	return ""
}

func (e foreignEntry) unservable() bool { return !e.skipped() && e.socketFault() != "" }

// pools follow which function is in which pool: the first matching entry takes it.
type pools struct {
	node  Node
	taken map[device.PCIAddress]answer
	// routes are Node.DefaultRoutes, once they were asked for.
	routes map[string]bool
	asked  bool
}

// newPools begins with the functions of our entries, which come first.
func newPools(node Node, ours []wantedEntry) *pools {
	p := &pools{node: node, taken: map[device.PCIAddress]answer{}}
	for _, w := range ours {
		for _, s := range w.entry.Selectors {
			for _, a := range s.PCIAddresses {
				p.taken[a] = max(p.taken[a], perhaps)
				if slices.Contains(s.Drivers, node.Facts[a].Driver) {
					p.taken[a] = yes
				}
			}
		}
	}
	return p
}

// foreign finds out whether an entry has a function, perhaps or surely, and asks stays about the entry. If it stays,
// its functions are taken.
func (p *pools) foreign(e foreignEntry, stays func(foreignEntry, answer) bool) bool {
	got, best := map[device.PCIAddress]answer{}, no
	for addr, f := range p.node.Facts {
		found := e.matches(addr, p.node.Facts)
		if found == yes && e.netDevice() && p.mayHaveDefaultRoute(f.Interfaces) || p.taken[addr] == perhaps {
			found = min(found, perhaps)
		}
		if p.taken[addr] == yes {
			found = no
		}
		best = max(best, found)
		if e.deviceType != auxNetDevice { // its devices are no PCI functions
			got[addr] = max(p.taken[addr], found)
		}
	}
	if !stays(e, best) {
		return false
	}
	maps.Copy(p.taken, got)
	return true
}

// mayHaveDefaultRoute: releases of the plugin before v3.8 leave such a function out (HasDefaultRoute in its pkg/utils,
// with netlink 1.3 since).
func (p *pools) mayHaveDefaultRoute(interfaces []string) bool {
	if len(interfaces) == 0 {
		return false
	}
	if !p.asked && p.node.DefaultRoutes != nil {
		p.routes = p.node.DefaultRoutes()
	}
	p.asked = true
	return p.routes == nil || slices.ContainsFunc(interfaces, func(name string) bool { return p.routes[name] })
}
