package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/addresses"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/driver"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/operate"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/podresources"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// nodeFlags is the command line of what works on this node: run and doctor.
type nodeFlags struct {
	nodeName, renamedFrom, source, attachmentsFrom, kubeconfig string
	podName, podNamespace, podUID                              string
	pcidpConfig, inventory, stateDir, attachmentsDir, leaseDir string
	sysfs, sysctls                                             string
	restart, podresources, cniBinDir, listen, logLevel, format string
	dev, modulesRoot                                           string
	drivers                                                    driver.Policy
	dpNamespaces, dpSelectors                                  []string
	orphanGrace                                                time.Duration
	startupTaint, sourceRouting                                bool
	manageAddresses                                            string
	marks                                                      addresses.Marks

	// dir is the folder of manifests; "" when NodeENIs come from the API server.
	dir string
}

// The values of --nodeeni-source, --attachments-from and --restart.
const (
	sourceKube  = "kube"
	fromStatus  = "status"
	fromIMDS    = "imds"
	restartPods = "pods"
	restartNone = "none"

	manageSingle   = "addresses"
	managePrefixes = "prefixes"
)

func (c *nodeFlags) add(f *pflag.FlagSet, p program) {
	f.StringVar(&c.nodeName, "node-name", p.getenv("NODE_NAME"), "name of this node, as its Node object and status.attachments have it ($NODE_NAME; without a cluster else the host's name)")
	f.StringVar(&c.renamedFrom, "renamed-from", "", "name that this node had before, so that a start under another name is meant; what is remembered stays this node's")
	f.StringVar(&c.podName, "pod-name", p.getenv("POD_NAME"), "name of the pod that this runs in ($POD_NAME); with the next two the daemon deletes its own Pod object when it is told to stop and a change of a driver hangs")
	f.StringVar(&c.podNamespace, "pod-namespace", p.getenv("POD_NAMESPACE"), "namespace of that pod ($POD_NAMESPACE)")
	f.StringVar(&c.podUID, "pod-uid", p.getenv("POD_UID"), "UID of that pod ($POD_UID)")
	f.StringVar(&c.source, "nodeeni-source", "", "where the NodeENIs are: kube, the API server; dir:PATH, a folder of manifests")
	f.StringVar(&c.attachmentsFrom, "attachments-from", "", "what says which ENIs a NodeENI has here: status, its status.attachments; imds, device index and subnet, for clusters where no controller writes that status (kube only; default status)")
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "how to reach the API server; default is the pod's service account")
	f.StringVar(&c.pcidpConfig, "pcidp-config", or(p.getenv("SRIOV_DP_CONFIG_PATH"), pcidp.DefaultPath), "config file of the SR-IOV device plugin ($SRIOV_DP_CONFIG_PATH)")
	f.StringVar(&c.inventory, "inventory", nodestate.DefaultInventoryPath, "inventory to write")
	f.StringVar(&c.stateDir, "state-dir", nodestate.DefaultStateDir, "folder of the daemon's own memory")
	f.StringVar(&c.attachmentsDir, "attachments-dir", nodestate.DefaultAttachmentsDir, "folder of the plugin's attachment records")
	f.StringVar(&c.leaseDir, "lease-dir", nodestate.DefaultLeaseDir, "folder of the leases of addresses by eni-ipam")
	f.StringVar(&c.sysfs, "sysfs", sysfs.DefaultRoot, "where sysfs is mounted")
	f.StringVar(&c.sysctls, "sysctls", "/proc/sys", "folder that has the host's net/ipv6/conf, to have idle ENIs ignore IPv6 router advertisements; a container needs a writable mount of it")
	f.StringVar(&c.dev, "dev", "/dev", "where the host's /dev is mounted, to see whether a program has a device open")
	f.StringVar(&c.modulesRoot, "modules-root", "/", "folder that has the host's lib/modules, for --load-modules")
	f.BoolVar(&c.drivers.LoadModules, "load-modules", false, "load the kernel module of a userspace driver (vfio-pci, uio_pci_generic) that a NodeENI asks for and the kernel lacks")
	f.BoolVar(&c.drivers.AllowUnsafeNoIOMMU, "allow-unsafe-noiommu", false, "switch on vfio's mode without an IOMMU where a machine has none; a pod with such a device can read and write all of the node's memory")
	f.StringVar(&c.restart, "restart", "", "how to restart the device plugin after its config has changed: pods deletes its pods on this node; none only logs it (default pods with kube, none with dir)")
	f.StringSliceVar(&c.dpNamespaces, "dp-namespaces", kube.DefaultPluginNamespaces(), "namespaces in which the device plugin is looked for")
	f.StringSliceVar(&c.dpSelectors, "dp-selectors", kube.DefaultPluginSelectors(), "label selectors of the device plugin's pods; one of them is enough")
	f.StringVar(&c.podresources, "podresources-socket", unset, "the kubelet's podresources socket; empty for none (default "+podresources.DefaultSocket+" with kube, none with dir)")
	f.Lookup("podresources-socket").DefValue = ""
	f.BoolVar(&c.startupTaint, "startup-taint", false, "take the taint "+kube.StartupTaintKey+" from this Node once the devices that are declared for it are ready (kube only; needs the right to patch nodes)")
	f.BoolVar(&c.sourceRouting, "source-routing", false, "have what comes from an ENI's addresses leave the host by that ENI, by a rule and a route table of its own (for host-side use, ipvlan in mode l3 and the like)")
	f.StringVar(&c.manageAddresses, "manage-addresses", "", "have EC2 assign what pods that share an ENI need, and take back what is left over: addresses, or prefixes (needs the rights of deploy/iam)")
	f.Lookup("manage-addresses").NoOptDefVal = manageSingle
	f.IntVar(&c.marks.Low, "addresses-low", 4, "with --manage-addresses: fewer free addresses of an ENI's pool than that, and more are asked for")
	f.IntVar(&c.marks.High, "addresses-high", 12, "with --manage-addresses: more free addresses than that, and some are given back")
	f.StringVar(&c.cniBinDir, "cni-bin-dir", "/opt/cni/bin", "folder of the CNI plugins, to release attachments of pods that died without DEL")
	f.DurationVar(&c.orphanGrace, "orphan-grace", 60*time.Second, "how long a pod's netns must be gone until its attachments are released")
	f.StringVar(&c.listen, "listen", defaultListen, "address of metrics, healthz and readyz; off for none")
	f.StringVar(&c.logLevel, "log-level", "info", "debug, info, warning or error")
	f.StringVar(&c.format, "log-format", "text", "text or json")
}

// defaultListen is on this machine only: metrics tell how many devices and pods
// a node has.
const defaultListen = "127.0.0.1:9616"

// unset is the default of a flag to which the empty value means something.
const unset = "\x00"

// check fills in the defaults that depend on other flags, and returns every
// fault.
func (c *nodeFlags) check() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	oneOf := func(flag, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			fault("--%s %q: want %s", flag, value, strings.Join(allowed, " or "))
		}
	}
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
		fault("--attachments-from %q: is for --nodeeni-source=kube; manifests are always read with their status, and without one the ENI is found in the metadata", c.attachmentsFrom)
	}
	c.attachmentsFrom = or(c.attachmentsFrom, fromStatus)
	oneOf("attachments-from", c.attachmentsFrom, fromStatus, fromIMDS)
	if c.restart == "" {
		c.restart = restartNone
		if fromKube {
			c.restart = restartPods
		}
	}
	oneOf("restart", c.restart, restartPods, restartNone)
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
	if c.podresources == unset {
		c.podresources = ""
		if fromKube {
			c.podresources = podresources.DefaultSocket
		}
	}
	for _, f := range []struct{ flag, path string }{
		{"--pcidp-config", c.pcidpConfig}, {"--inventory", c.inventory}, {"--state-dir", c.stateDir}, {"--attachments-dir", c.attachmentsDir}, {"--lease-dir", c.leaseDir}, {"--sysfs", c.sysfs}, {"--cni-bin-dir", c.cniBinDir},
		{"--dev", c.dev}, {"--sysctls", c.sysctls}, {"--modules-root", c.modulesRoot},
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
	if c.listen != "" && c.listen != operate.Off {
		if _, _, err := net.SplitHostPort(c.listen); err != nil {
			fault("--listen %q: want an address and a port such as %s, or off", c.listen, defaultListen)
		}
	}
	if c.orphanGrace <= 0 {
		fault("--orphan-grace %v: want more than 0, such as 60s", c.orphanGrace)
	}
	return errors.Join(append(errs, c.checkNodeName())...)
}

// checkNodeName takes the host's name where no cluster has given the node one.
func (c *nodeFlags) checkNodeName() (err error) {
	if c.usesAPI() {
		return kube.ValidateNodeName(c.nodeName)
	}
	if c.nodeName == "" {
		if c.nodeName, err = os.Hostname(); err != nil {
			return fmt.Errorf("--node-name %q: not given, and the host has no name: %w", "", err)
		}
	}
	return nil
}

// ownPod is the pod that this runs in, as far as it is known.
func (c *nodeFlags) ownPod() kube.OwnPod {
	return kube.OwnPod{Namespace: c.podNamespace, Name: c.podName, UID: c.podUID}
}

// usesAPI says whether there is an API server to talk to.
func (c *nodeFlags) usesAPI() bool { return c.source == sourceKube }

// lookup says how the ENIs of NodeENIs from the API server are found.
func (c *nodeFlags) lookup() inventory.Lookup {
	if c.attachmentsFrom == fromIMDS {
		return inventory.LookupGuarded
	}
	return inventory.LookupNone
}

func newLog(p program, level, format string) (*logrus.Logger, error) {
	log := logrus.New()
	log.SetOutput(p.stderr)
	var errs []error
	parsed, err := logrus.ParseLevel(level)
	if err != nil {
		errs = append(errs, fmt.Errorf("--log-level %q: want debug, info, warning or error", level))
	}
	log.SetLevel(parsed)
	switch format {
	case "text":
		log.SetFormatter(&logrus.TextFormatter{FullTimestamp: true, DisableColors: true})
	case "json":
		log.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	default:
		errs = append(errs, fmt.Errorf("--log-format %q: want text or json", format))
	}
	return log, errors.Join(errs...)
}

func or(v, otherwise string) string {
	if v == "" {
		return otherwise
	}
	return v
}
