// Command eni-ipam is a CNI IPAM plugin that gives pods the addresses that the
// VPC routes to an ENI of the node. Under multi-eni it is not run: that does the
// same itself.
package main

import (
	"context"
	"os"
	"runtime"

	"github.com/containernetworking/cni/pkg/skel"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
)

// version is set by the linker.
var version = "dev"

func init() {
	runtime.LockOSThread() // the main thread stays in the host's netns
}

func main() {
	attach.GrowStack(0)
	p := &attach.Plugin{}
	skel.PluginMainFuncs(p.IPAMFuncs(context.Background(), os.Stdout), cniversion.VersionsStartingFrom("0.3.1"), "CNI eni-ipam plugin "+version)
}
