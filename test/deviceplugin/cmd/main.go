// Command cmd is a stand-in for the SR-IOV network device plugin; see package deviceplugin.
package main

import (
	"os"

	"github.com/multi-eni/multi-eni-cni/test/deviceplugin"
)

func main() {
	os.Exit(deviceplugin.Main(os.Args[1:], os.Stdout))
}
