// Command metacni is a minimal CNI meta-plugin for tests on a real kubelet. It
// does what Multus does in production, where this project depends on it, and
// needs no API server:
//
//   - eth0 comes from the netconf "default".
//   - Every device that the kubelet has allocated to the pod (its podresources
//     API) becomes one attachment, net1 and so on, by the netconf "device", into
//     which deviceID and pciBusID are written.
//   - A pod without any gets net1 by the netconf "shared" as it is; without that
//     key it gets eth0 only.
//   - What is to be undone is kept in a file before the first delegate runs. When
//     ADD fails, all of it is deleted again.
//   - DEL goes backwards, does all it can and reports no delegate's error, so
//     that the runtime never calls it again.
//   - There is no GC and no STATUS, since it speaks CNI 1.0.0 at most.
//
// Its netconf, with all keys needed but shared:
//
//	{"cniVersion":"1.0.0","name":"node","type":"metacni","default":{…},"device":{…},"shared":{…},
//	 "dataDir":"/var/lib/cni/metacni","podResources":"/var/lib/kubelet/pod-resources/kubelet.sock"}
package main

import (
	"errors"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	cniversion "github.com/containernetworking/cni/pkg/version"
)

func main() {
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:   func(a *skel.CmdArgs) error { return add(a, os.Stdout) },
		Del:   func(a *skel.CmdArgs) error { return del(a, os.Stderr) },
		Check: func(*skel.CmdArgs) error { return errors.New("no runtime here calls CHECK") },
	}, cniversion.PluginSupports("0.3.1", "0.4.0", "1.0.0"), "CNI metacni plugin")
}
