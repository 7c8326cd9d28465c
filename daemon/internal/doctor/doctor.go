// Package doctor looks at a node once. It reports faults that keep the daemon, the plugin or
// the device plugin from their work, each with its remedy. It changes nothing.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/driver"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/hostnet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/orphan"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// Level says how bad a finding is.
type Level string

// The levels of a finding.
const (
	// OK: as it should be, or not needed here.
	OK Level = "ok"
	// Warn: something is not done, or may not be; the rest works.
	Warn Level = "warn"
	// Fail: the daemon or the plugin cannot do its work.
	Fail Level = "FAIL"
)

// Finding is a result of one check.
type Finding struct {
	Level Level `json:"level"`
	// Check is the subject, such as kubelet.
	Check string `json:"check"`
	// Detail is the observation.
	Detail string `json:"detail"`
	// Remedy is the way out; "" when Level is OK.
	Remedy string `json:"remedy,omitempty"`
}

// String is the finding as one line.
func (f Finding) String() string {
	line := fmt.Sprintf("%-4s  %s: %s", f.Level, f.Check, f.Detail)
	if f.Remedy != "" {
		line += "; " + f.Remedy
	}
	return line
}

// Failed counts the findings of level Fail.
func Failed(all []Finding) int {
	n := 0
	for _, f := range all {
		if f.Level == Fail {
			n++
		}
	}
	return n
}

// checkTimeout bounds one check, so that one without an answer does not hold up the others.
const checkTimeout = 20 * time.Second

// Cluster is the Kubernetes API, asked as this node's daemon.
type Cluster interface {
	// Version returns the server's version, such as v1.36.3.
	Version(ctx context.Context) (string, error)
	// Resources returns the plural names of the served resources of our API group and version; none if the server does not know the group.
	Resources(ctx context.Context) ([]string, error)
	// Allowed says whether the caller may use the verb on a resource ("nodes",
	// "eninodestates/status") of an API group, in one namespace, or with "" in all.
	Allowed(ctx context.Context, verb, group, resource, namespace string) (bool, error)
	// NodeExists says whether there is a Node object of this node's name.
	NodeExists(ctx context.Context) (bool, error)
	// MayReport is an error if this node's ENINodeState cannot be written. listed is how many ENIs the lifecycle controller's list has for this node.
	MayReport(ctx context.Context) (listed int, err error)
}

// Options are the node, and the functions that look at it. Fields are required unless they
// say otherwise. Functions get a context with a deadline.
type Options struct {
	NodeName, BootID string
	// Source is the value of --nodeeni-source.
	Source string
	// Cluster is nil without a cluster. ClusterErr says why it cannot be asked at all.
	Cluster    Cluster
	ClusterErr error
	// StartupTaint says that the daemon removes a taint from its Node.
	StartupTaint bool
	// Namespaces are searched for device plugins.
	Namespaces []string
	// Drivers returns the userspace drivers that NodeENIs want on this node, each with the NodeENIs' names.
	Drivers func(context.Context) (map[string][]string, error)
	// Slots reads the controller's list for this node; nil unless it names the ENIs. Then the daemon needs no right to NodeENIs.
	Slots func(context.Context) (inventory.Snapshot, error)
	// ENIs asks IMDS.
	ENIs func(context.Context) ([]vpc.ENI, error)
	// EC2 is nil if the daemon does not manage addresses.
	EC2 EC2
	// HostLinks returns the links of this network namespace.
	HostLinks func() ([]hostnet.HostLink, error)
	// HostRoot is the host's root folder as far as it is mounted, for etc, run and usr.
	HostRoot string
	// SourceRouting says that the daemon makes rules and routes.
	SourceRouting bool
	// Kubelet asks the podresources API; nil without a kubelet. DevicePlugin looks for the device plugin; nil if others restart it.
	Kubelet      func(context.Context) (inventory.Kubelet, error)
	DevicePlugin func(context.Context) (pluginrestart.PluginReport, error)
	// Offer is zero for a daemon that leaves the offer to the device plugin.
	Offer Offer
	// PluginVersion runs the plugin's VERSION.
	PluginVersion func(ctx context.Context, path string) (string, error)
	// Look says how a folder is seen.
	Look func(folder string) (orphan.View, error)
	// Running says whether the daemon of this node answers.
	Running func(context.Context) (bool, error)

	// DriverPolicy is the daemon's. Dev is the host's /dev, and ModulesRoot has its lib/modules.
	DriverPolicy     driver.Policy
	Dev, ModulesRoot string

	PCIDPConfig, Inventory, StateDir, AttachmentsDir, LeaseDir, Sysfs, Policy, BinDir string
}

// Run carries out all checks, one after the other. A check that ctx ends gives a finding.
func Run(ctx context.Context, o Options) []Finding {
	var all []Finding
	for _, check := range []func(context.Context, Options) []Finding{
		nodeName, cluster, slots, metadata, managed, routing, hostNetwork, drivers,
		config, inventoryFile, stateDir, attachments, sysfsTree,
		binary, policy, netns, kubelet, devicePlugin, offer, daemon,
	} {
		within, cancel := context.WithTimeout(ctx, checkTimeout)
		all = append(all, check(within, o)...)
		cancel()
	}
	return all
}

func ok(check, format string, args ...any) []Finding {
	return []Finding{{Level: OK, Check: check, Detail: fmt.Sprintf(format, args...)}}
}

func warn(check, remedy, format string, args ...any) []Finding {
	return []Finding{{Level: Warn, Check: check, Detail: fmt.Sprintf(format, args...), Remedy: remedy}}
}

func fail(check, remedy, format string, args ...any) []Finding {
	return []Finding{{Level: Fail, Check: check, Detail: fmt.Sprintf(format, args...), Remedy: remedy}}
}

func nodeName(_ context.Context, o Options) []Finding {
	if o.NodeName == "" {
		return fail("node name", "give --node-name, or set NODE_NAME from the pod's spec.nodeName", "none is given")
	}
	return ok("node name", "%s", o.NodeName)
}

func metadata(ctx context.Context, o Options) []Finding {
	const check = "instance metadata"
	enis, err := o.ENIs(ctx)
	var value *vpc.ValueError
	switch {
	case errors.As(err, &value):
		return fail(check, "this is no EC2 metadata, or a proxy changes it: see AWS_EC2_METADATA_SERVICE_ENDPOINT", "%v", err)
	case err != nil:
		return fail(check, "a daemon in a pod needs hostNetwork, or an instance whose metadata hop limit is 2 or more "+
			"(aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2); IMDS must not be disabled", "it cannot be read: %v", err)
	case len(enis) == 0:
		return fail(check, "this is no EC2 metadata: see AWS_EC2_METADATA_SERVICE_ENDPOINT", "it answers, but knows of no ENI")
	}
	var all []Finding
	for _, e := range enis {
		if e.Unreadable != nil {
			all = append(all, fail(check, "a proxy may change it: see AWS_EC2_METADATA_SERVICE_ENDPOINT; other ENIs are not concerned", "%v", e.Unreadable)...)
		}
	}
	return append(all, ok(check, "token granted, ENIs readable: %d", len(enis)-len(all))...)
}

func kubelet(ctx context.Context, o Options) []Finding {
	const check = "kubelet"
	if o.Kubelet == nil {
		return ok(check, "not asked, for want of a --podresources-socket")
	}
	known, err := o.Kubelet(ctx)
	if err != nil {
		return fail(check, "mount the host's /var/lib/kubelet/pod-resources, or correct --podresources-socket; until then no device is taken from its pod, but "+
			"a restart cannot be verified either",
			"its podresources API cannot be asked: %v", err)
	}
	return ok(check, "podresources answers, resources with devices: %d", len(known.Allocatable))
}

func devicePlugin(ctx context.Context, o Options) []Finding {
	const check = "device plugin"
	if o.DevicePlugin == nil {
		return ok(check, "not looked for, since others restart it (--restart=none)")
	}
	report, err := o.DevicePlugin(ctx)
	var all []Finding
	for _, p := range report.Problems {
		all = append(all, Finding{Level: Warn, Check: check, Detail: string(p.Reason), Remedy: p.Message})
	}
	switch {
	case errors.Is(err, pluginrestart.ErrNoDevicePlugin) && o.Offer.own(ctx):
		return append(all, ok(check, "none found on this node, and none is needed: the daemon offers the devices itself")...)
	case errors.Is(err, pluginrestart.ErrNoDevicePlugin):
		return append(all, warn(check, "install the SR-IOV network device plugin, or name its namespace and labels by --dp-namespaces and --dp-selectors; "+
			"without it devices with a resource name are not offered to pods", "none found on this node in %s", list(o.Namespaces))...)
	case err != nil:
		return append(all, fail(check, "see the RBAC findings above", "it cannot be looked for: %v", err)...)
	}
	all = append(all, servedEntries(o, report.Prefixes)...)
	if len(report.Prefixes) > 0 {
		return append(all, ok(check, "%s, resource prefix %s", list(report.Pods), list(report.Prefixes))...)
	}
	return append(all, ok(check, "%s", list(report.Pods))...)
}

func daemon(ctx context.Context, o Options) []Finding {
	const check = "daemon"
	running, err := o.Running(ctx)
	switch {
	case err != nil:
		return warn(check, "run doctor as the daemon's user, in its container", "it cannot be told whether it runs: %v", err)
	case !running:
		return warn(check, "start multi-enid run; pods that have their devices keep them meanwhile", "multi-enid is not running here")
	}
	return ok(check, "multi-enid is running")
}
