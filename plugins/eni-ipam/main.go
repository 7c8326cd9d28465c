// Command eni-ipam is a CNI IPAM plugin that gives pods the addresses that the
// VPC routes to an ENI of the node. Under multi-eni it is not run: that does the
// same itself.
package main

import (
	"context"
	"os"
	"runtime"

	"github.com/multi-eni/multi-eni-cni/pkg/buildinfo"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/attach"
	"github.com/multi-eni/multi-eni-cni/plugins/internal/dispatch"
)

// version and commit are set by the linker.
var (
	version = buildinfo.Unset
	commit  string
)

func init() {
	runtime.LockOSThread() // the main thread stays in the host's netns
}

func main() {
	os.Exit(dispatch.Main("eni-ipam", version, commit, new(attach.Plugin).IPAMFuncs(context.Background(), os.Stdout)))
}
