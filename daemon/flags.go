package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/addresses"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/deviceplugin"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/driver"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/pluginpods"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/taint"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/logs"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/podresources"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/server/web"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// nodeFlags is the command line of run and doctor.
type nodeFlags struct {
	nodeName, renamedFrom, source, attachmentsFrom, kubeconfig string
	podName, podNamespace, podUID                              string
	pcidpConfig, inventory, stateDir, attachmentsDir, leaseDir string
	sysfs, sysctls                                             string
	restart, podresources, cniBinDir, listen                   string
	log                                                        logs.Flags
	offer, kubeletDir, deviceInfoDir                           string
	dev, modulesRoot                                           string
	drivers                                                    driver.Policy
	dpNamespaces, dpSelectors                                  []string
	orphanGrace                                                time.Duration
	startupTaint, sourceRouting                                bool
	manageAddresses                                            string
	marks                                                      addresses.Marks

	// dir is the folder of manifests; "" when NodeENIs come from the API server.
	dir string
	// given has the values on the command line, by flag, for the status socket.
	given map[string]string
}

// The values of --nodeeni-source, --attachments-from and --restart.
const (
	sourceKube = "kube"
	fromStatus = "status"
	fromIMDS   = "imds"
	// fromController is for the lifecycle controller of this project, which writes the ENIs into the ENINodeState.
	fromController = "controller"
	restartPods    = "pods"
	restartNone    = "none"

	manageSingle   = "addresses"
	managePrefixes = "prefixes"
)

// offerLabel is the Node's label that says who offers its devices. It wins over --offer.
const offerLabel = "networking.k8s.aws/offer"

// add defines the flags. Their texts are for people who have not read the documents.
func (c *nodeFlags) add(f *pflag.FlagSet, p program) {
	c.addIdentity(f, p)
	c.addPaths(f, p)
	c.addBehaviour(f)
}

func (c *nodeFlags) addIdentity(f *pflag.FlagSet, p program) {
	f.StringVar(&c.nodeName, "node-name", p.getenv("NODE_NAME"), "`Name` of this node's Node object. Defaults to $NODE_NAME; without a cluster, to the host name.")
	f.StringVar(&c.renamedFrom, "renamed-from", "", "Earlier `name` of this node. Needed once, at the first start under the new name.")
	f.StringVar(&c.podName, "pod-name", p.getenv("POD_NAME"),
		"`Name` of the daemon's own pod ($POD_NAME). With namespace and UID, the daemon can delete its pod at the end if a driver change hangs.")
	f.StringVar(&c.podNamespace, "pod-namespace", p.getenv("POD_NAMESPACE"), "`Namespace` of the daemon's own pod ($POD_NAMESPACE).")
	f.StringVar(&c.podUID, "pod-uid", p.getenv("POD_UID"), "`UID` of the daemon's own pod ($POD_UID).")
	f.StringVar(&c.source, "nodeeni-source", "", "`Source` of the NodeENIs: kube for the API server, or dir:PATH for a folder of manifests. Required.")
	f.StringVar(&c.attachmentsFrom, "attachments-from", "",
		"How to find a NodeENI's ENIs: `status` reads its status.attachments. imds looks for the device index and subnet in the instance metadata, "+
			"for clusters without the public controller. controller reads the ENINodeState that multi-enid controller writes. Only for kube. Defaults to status.")
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "Kubeconfig `file` to reach the API server. Defaults to the pod's service account.")
}

func (c *nodeFlags) addPaths(f *pflag.FlagSet, p program) {
	f.StringVar(&c.pcidpConfig, "pcidp-config", cmp.Or(p.getenv("SRIOV_DP_CONFIG_PATH"), pcidp.DefaultPath),
		"Config `file` of the SR-IOV device plugin ($SRIOV_DP_CONFIG_PATH).")
	f.StringVar(&c.inventory, "inventory", nodestate.DefaultInventoryPath, "Inventory `file` to write. The plugin reads it.")
	f.StringVar(&c.stateDir, "state-dir", nodestate.DefaultStateDir, "`Folder` of the daemon's checkpoint.")
	f.StringVar(&c.attachmentsDir, "attachments-dir", nodestate.DefaultAttachmentsDir, "`Folder` of the plugin's attachment records.")
	f.StringVar(&c.leaseDir, "lease-dir", leases.DefaultDir, "`Folder` of the address leases.")
	f.StringVar(&c.cniBinDir, "cni-bin-dir", "/opt/cni/bin",
		"`Folder` of the CNI plugins. The daemon runs multi-eni from here to release attachments of dead pods.")
	f.StringVar(&c.sysfs, "sysfs", sysfs.DefaultRoot, "`Folder` where sysfs is mounted.")
	f.StringVar(&c.sysctls, "sysctls", "/proc/sys",
		"`Folder` with the host's net/ipv6/conf. The daemon has idle ENIs ignore IPv6 router advertisements. In a container it must be a writable mount.")
	f.StringVar(&c.dev, "dev", "/dev", "`Folder` where the host's /dev is mounted. It shows whether a program has a device open.")
	f.StringVar(&c.modulesRoot, "modules-root", "/", "`Folder` with the host's lib/modules, for --load-modules.")
	f.StringVar(&c.kubeletDir, "kubelet-dir", deviceplugin.DefaultKubeletDir,
		"`Folder` with the kubelet's device-plugins, which is this one whatever its --root-dir.")
	f.StringVar(&c.deviceInfoDir, "device-info-dir", deviceplugin.DefaultDeviceInfo,
		"`Folder` of the device-info files that Multus reads. The daemon writes them with --offer=deviceplugin.")
	f.StringVar(&c.podresources, "podresources-socket", cli.Unset,
		"The kubelet's podresources `socket`; empty for none. Defaults to pod-resources/kubelet.sock in --kubelet-dir with kube or --offer=deviceplugin, and "+
			"else to none.")
	f.Lookup("podresources-socket").DefValue = ""
}

func (c *nodeFlags) addBehaviour(f *pflag.FlagSet) {
	f.BoolVar(&c.drivers.LoadModules, "load-modules", false, "Load the kernel module of a userspace driver (vfio-pci, uio_pci_generic) if a NodeENI needs it.")
	f.BoolVar(&c.drivers.AllowUnsafeNoIOMMU, "allow-unsafe-noiommu", false,
		"Use vfio without an IOMMU on machines that have none. A pod with such a device can read and write all of the node's memory.")
	f.StringVar(&c.offer, "offer", string(nodestate.OfferPCIDP),
		"Who offers the devices to the kubelet: `pcidp` for the SR-IOV device plugin, by its config file; deviceplugin for the daemon itself. The Node label "+
			offerLabel+" wins over it.")
	f.StringVar(&c.restart, "restart", "",
		"How to restart the device plugin after a change of its config: `pods` deletes its pods on this node; none only logs. Defaults to pods with kube and to "+
			"none with dir.")
	cli.ListVar(f, &c.dpNamespaces, "dp-namespaces", pluginpods.DefaultNamespaces(), "`Namespaces` where the daemon looks for the device plugin.")
	cli.ListVar(f, &c.dpSelectors, "dp-selectors", pluginpods.DefaultSelectors(), "Label `selectors` of the device plugin's pods. A pod must match one of them.")
	f.BoolVar(&c.startupTaint, "startup-taint", false,
		"Remove the taint "+taint.Key+" from this Node once its devices are ready. Only for kube; needs the right to patch nodes.")
	f.BoolVar(&c.sourceRouting, "source-routing", false,
		"Send packets from an ENI's addresses through that ENI, by a rule and a route table of its own. Programs on the host and ipvlan in mode l3 need it.")
	f.StringVar(&c.manageAddresses, "manage-addresses", "",
		"Have EC2 assign `addresses` or prefixes to ENIs that pods share, and take back spare ones. Needs the rights of deploy/iam.")
	f.Lookup("manage-addresses").NoOptDefVal = manageSingle
	f.IntVar(&c.marks.Low, "addresses-low", 4, "With --manage-addresses: ask for more if an ENI has a smaller `number` of free addresses.")
	f.IntVar(&c.marks.High, "addresses-high", 12, "With --manage-addresses: give some back if an ENI has a larger `number` of free addresses.")
	f.DurationVar(&c.orphanGrace, "orphan-grace", 60*time.Second,
		"How long a pod's network namespace must be gone before its attachments are released, as a `duration`.")
	f.StringVar(&c.listen, "listen", defaultListen, "`Address` and port of metrics, healthz and readyz; off for none.")
	c.log.Add(f)
}

// complete has shells complete the flags that have few values.
func (c *nodeFlags) complete(cmd *cobra.Command) {
	for flag, values := range map[string][]string{
		"nodeeni-source": {sourceKube, "dir:"}, "attachments-from": {fromStatus, fromIMDS, fromController}, "restart": {restartPods, restartNone},
		"offer":            {string(nodestate.OfferPCIDP), string(nodestate.OfferDevicePlugin)},
		"manage-addresses": {manageSingle, managePrefixes},
	} {
		cli.Offer(cmd, flag, values...)
	}
	c.log.Complete(cmd)
}

// defaultListen is local: metrics tell how many devices and pods a node has.
const defaultListen = "127.0.0.1:9616"

// check fills in the defaults that depend on other flags, and returns all faults.
func (c *nodeFlags) check() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	oneOf := func(flag, value string, allowed ...string) { errs = append(errs, cli.OneOf(flag, value, allowed...)) }
	kind, dir, _ := strings.Cut(c.source, ":")
	fromKube := c.source == sourceKube
	switch {
	case fromKube:
	case kind == "dir" && dir != "":
		c.dir = dir
	default:
		fault("--nodeeni-source %q: want kube, or dir:PATH such as dir:/etc/multi-eni/nodeenis", c.source)
	}
	if c.attachmentsFrom != "" && !fromKube {
		fault("--attachments-from %q: is for --nodeeni-source=kube; manifests are always read with their status, and without one the ENI is found in the metadata",
			c.attachmentsFrom)
	}
	c.attachmentsFrom = cmp.Or(c.attachmentsFrom, fromStatus)
	oneOf("attachments-from", c.attachmentsFrom, fromStatus, fromIMDS, fromController)
	if c.restart == "" {
		c.restart = restartNone
		if fromKube {
			c.restart = restartPods
		}
	}
	oneOf("restart", c.restart, restartPods, restartNone)
	oneOf("offer", c.offer, string(nodestate.OfferPCIDP), string(nodestate.OfferDevicePlugin))
	if c.restart == restartPods && !fromKube {
		fault("--restart %q: is for --nodeeni-source=kube; give none, and restart the device plugin when the log says so", c.restart)
	}
	if c.manageAddresses != "" {
		oneOf("manage-addresses", c.manageAddresses, manageSingle, managePrefixes)
	}
	if c.marks.Low < 1 || c.marks.High <= c.marks.Low || c.marks.High > 1000 {
		fault("--addresses-low %d, --addresses-high %d: want 1 or more, and less than a high of 1000 at most", c.marks.Low, c.marks.High)
	}
	if c.startupTaint && !fromKube {
		fault("--startup-taint: is for --nodeeni-source=kube; leave it out")
	}
	if c.podresources == cli.Unset {
		c.podresources = ""
		if fromKube || c.offer == string(nodestate.OfferDevicePlugin) {
			c.podresources = filepath.Join(c.kubeletDir, podresources.SocketPath)
		}
	}
	for _, f := range []struct{ flag, path string }{
		{"--pcidp-config", c.pcidpConfig}, {"--inventory", c.inventory}, {"--state-dir", c.stateDir}, {"--attachments-dir", c.attachmentsDir},
		{"--lease-dir", c.leaseDir}, {"--sysfs", c.sysfs}, {"--cni-bin-dir", c.cniBinDir},
		{"--dev", c.dev}, {"--sysctls", c.sysctls}, {"--modules-root", c.modulesRoot}, {"--kubelet-dir", c.kubeletDir}, {"--device-info-dir", c.deviceInfoDir},
	} {
		if f.path == "" {
			fault("%s %q: want a path", f.flag, f.path)
		}
	}
	for _, f := range []struct{ flag, path string }{{"--sysfs", c.sysfs}, {"--modules-root", c.modulesRoot}} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			fault("%s %q: want an absolute path, for the program that changes drivers runs in another folder", f.flag, f.path)
		}
	}
	if c.listen != "" && c.listen != web.Off {
		if _, _, err := net.SplitHostPort(c.listen); err != nil {
			fault("--listen %q: want an address and a port such as %s, or off", c.listen, defaultListen)
		}
	}
	if c.orphanGrace <= 0 {
		fault("--orphan-grace %v: want more than 0, such as 60s", c.orphanGrace)
	}
	return errors.Join(append(errs, c.checkNodeName())...)
}

// checkNodeName defaults the node's name to the host's if there is no cluster.
func (c *nodeFlags) checkNodeName() (err error) {
	if c.usesAPI() {
		return client.ValidateNodeName(c.nodeName)
	}
	if c.nodeName == "" {
		if c.nodeName, err = os.Hostname(); err != nil {
			return fmt.Errorf("--node-name %q: not given, and the host has no name: %w", "", err)
		}
	}
	return nil
}

// ownPod is the pod of this process, as far as it is known.
func (c *nodeFlags) ownPod() client.OwnPod {
	return client.OwnPod{Namespace: c.podNamespace, Name: c.podName, UID: c.podUID}
}

// usesAPI says whether there is an API server to talk to.
func (c *nodeFlags) usesAPI() bool { return c.source == sourceKube }

// lookup says how the ENIs of NodeENIs from the API server are found.
func (c *nodeFlags) lookup() inventory.Lookup {
	switch c.attachmentsFrom {
	case fromIMDS:
		return inventory.LookupGuarded
	case fromController:
		return inventory.LookupEntries
	}
	return inventory.LookupNone
}

// ipv6Conf is the folder of the IPv6 settings of the host's links.
func (c *nodeFlags) ipv6Conf() link.IPv6Conf {
	return link.IPv6Conf(filepath.Join(c.sysctls, "net", "ipv6", "conf"))
}
