package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/deviceplugin"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/doctor"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/hostnet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/install"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/nodeeni"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/pluginpods"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/manifest"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/orphan"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/podresources"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/status"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

func (p program) doctorCommand(ctx context.Context) *cobra.Command {
	var c nodeFlags
	var policy, output, hostRoot string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check whether daemon, plugin and device plugin can do their work",
		Long: `Check whether the daemon, the CNI plugin and the SR-IOV device plugin can do their work
on this node. doctor prints one line for each check, with the remedy if it fails, and
changes nothing.

doctor asks the running daemon for its flags; a flag that you give wins. Run it where
the daemon runs: in its container, or on a node without one.

The exit code is 1 if a check has failed, and 2 if the command line is wrong.`,
		Example: `  kubectl -n kube-system exec ds/multi-enid -- /multi-enid doctor
  kubectl -n kube-system exec deploy/multi-enid-controller -- /multi-enid doctor --controller
  multi-enid doctor --output json`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.OneOf("output", output, "text", "json"); err != nil {
				return err
			}
			from, err := doctor.Configure(ctx, cmd.Flags(), version, p.getenv("KUBERNETES_SERVICE_HOST") != "")
			if err != nil {
				return err
			}
			if err := c.check(); err != nil {
				return &cli.UsageError{Err: err}
			}
			return p.doctor(ctx, c, from, policy, output, hostRoot)
		},
	}
	c.add(cmd.Flags(), p)
	c.complete(cmd)
	cmd.Flags().StringVar(&policy, "policy", nodestate.DefaultPolicyPath, "Policy `file` of the plugin.")
	cmd.Flags().StringVar(&hostRoot, "host-root", "/",
		"`Folder` where the host's etc, run and usr are mounted. doctor reads the configs of the host's network managers there.")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "`Format`: text or json.")
	cmd.Flags().Lookup("nodeeni-source").Usage = "`Source` of the NodeENIs: kube for the API server, or dir:PATH for a folder of manifests. Defaults to the " +
		"running daemon's."
	cli.Offer(cmd, "output", "text", "json")
	return cmd
}

// doctor prints the findings. It fails if a check has failed.
func (p program) doctor(ctx context.Context, c nodeFlags, from doctor.Finding, policy, output, hostRoot string) error {
	bootID, err := nodestate.BootID()
	if err != nil {
		return err
	}
	o := doctor.Options{
		NodeName: c.nodeName, BootID: bootID, Source: c.source,
		Drivers:       func(context.Context) (map[string][]string, error) { return manifest.New(c.dir).Drivers() },
		ENIs:          awsnode.New(awsnode.Config{}).ENIs,
		PluginVersion: install.PluginVersion, Look: orphan.Look,
		Running:     func(ctx context.Context) (bool, error) { return status.Running(ctx, status.Socket(c.inventory)) },
		PCIDPConfig: c.pcidpConfig, Inventory: c.inventory, StateDir: c.stateDir, AttachmentsDir: c.attachmentsDir, LeaseDir: c.leaseDir,
		Sysfs: c.sysfs, Policy: policy, BinDir: c.cniBinDir, HostRoot: hostRoot,
		HostLinks:     func() ([]hostnet.HostLink, error) { return hostnet.HostLinks(sysfs.NewFS(c.sysfs), c.ipv6Conf()) },
		Offer:         doctor.Offer{Mode: nodestate.OfferMode(c.offer), Folder: c.socketsDir(), Info: c.deviceInfoDir, Sockets: deviceplugin.SocketPattern},
		SourceRouting: c.sourceRouting, DriverPolicy: c.drivers, Dev: c.dev, ModulesRoot: c.modulesRoot,
	}
	if c.manageAddresses != "" {
		o.EC2 = awsnode.NewEC2(awsnode.New(awsnode.Config{}))
	}
	c.examineCluster(&o)
	found := append([]doctor.Finding{from}, doctor.Run(ctx, o)...)
	if output == "json" {
		enc := json.NewEncoder(p.stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(map[string]any{"findings": found}); err != nil {
			return err
		}
	} else {
		for _, f := range found {
			fmt.Fprintln(p.stdout, f)
		}
	}
	if n := doctor.Failed(found); n > 0 {
		return fmt.Errorf("%d of %d checks failed", n, len(found))
	}
	return nil
}

// examineCluster adds the questions to a cluster and to the kubelet.
func (c *nodeFlags) examineCluster(o *doctor.Options) {
	if c.podresources != "" {
		o.Kubelet = podresources.New(c.podresources, "", time.Now).Devices
	}
	if !c.usesAPI() {
		return
	}
	quiet := logrus.New() // the errors have the messages of client-go too
	quiet.SetOutput(io.Discard)
	api, err := client.Connect(client.Config{NodeName: c.nodeName, Kubeconfig: c.kubeconfig, UserAgent: "multi-enid-doctor/" + version, Log: quiet})
	if err != nil {
		o.ClusterErr = err
		if c.dir == "" {
			o.Drivers = func(context.Context) (map[string][]string, error) { return nil, err }
		}
		return
	}
	o.Cluster = api
	o.Offer.Label = func(ctx context.Context) (string, error) {
		node, err := api.Node(ctx)
		if err != nil || node == nil {
			return "", err
		}
		return node.Labels[offerLabel], nil
	}
	if c.dir == "" {
		o.Drivers = func(ctx context.Context) (map[string][]string, error) { return nodeeni.Drivers(ctx, api) }
	}
	if c.lookup() == inventory.LookupEntries {
		o.Slots = func(ctx context.Context) (inventory.Snapshot, error) { return nodeeni.Slots(ctx, api) }
		o.Drivers = func(ctx context.Context) (map[string][]string, error) { return nodeeni.SlotDrivers(ctx, api) }
	}
	o.StartupTaint = c.startupTaint
	if c.restart != restartPods {
		return
	}
	o.Namespaces = c.dpNamespaces
	o.DevicePlugin = func(ctx context.Context) (pluginrestart.PluginReport, error) {
		plugin, err := pluginpods.New(api, pluginpods.Options{Namespaces: c.dpNamespaces, Selectors: c.dpSelectors, Config: c.pcidpConfig, Log: quiet})
		if err != nil {
			return pluginrestart.PluginReport{}, err
		}
		return plugin.Find(ctx)
	}
}
