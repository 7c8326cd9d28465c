// Command metacni is a minimal CNI meta-plugin for tests on a real kubelet. It behaves like Multus in production,
// where this project depends on it, and needs no API server:
//
//   - eth0 comes from the netconf "default".
//   - Every device that the kubelet has allocated to the pod (its podresources API) becomes one attachment, net1
//     and so on, by the netconf "device", into which deviceID and pciBusID are written.
//   - A pod without devices gets net1 by the netconf of its name in "pods", or else by the netconf "shared",
//     unchanged. Without such a key it gets eth0 only.
//   - A file keeps all attachments before the first delegate runs. A failed ADD deletes them again, and leaves the
//     file for DEL.
//   - DEL goes backwards, continues after errors and returns the delegates' errors. The kubelet then repeats it,
//     with netconfs without devices, since Multus has deleted its file and asks the API server.
//   - There is no GC and no STATUS: Multus passes them to the default network only.
//
// Multus v4.3.0 does the same as a binary of its own ("thin"; CmdDel and delPlugins in pkg/multus/multus.go). The
// shim of the thick one returns no error of DEL. Neither runs a delegate's DEL once its file is gone and the API
// server has no such pod, as after a forced deletion.
//
// All keys of its netconf but shared and pods are required:
//
//	{"cniVersion":"1.0.0","name":"node","type":"metacni","default":{…},"device":{…},"shared":{…},"pods":{"p1":{…}},
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
		Del:   del,
		Check: func(*skel.CmdArgs) error { return errors.New("no runtime here calls CHECK") },
	}, cniversion.PluginSupports("0.3.1", "0.4.0", "1.0.0"), "CNI metacni plugin")
}
