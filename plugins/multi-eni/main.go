// Command multi-eni is a CNI meta-plugin that gives a pod the ENI or SR-IOV
// device that its network attachment names.
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
	os.Exit(dispatch.Main("multi-eni", version, commit, new(attach.Plugin).Funcs(context.Background(), os.Stdout)))
}
