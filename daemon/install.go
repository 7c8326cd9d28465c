package main

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/deviceplugin"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/install"
	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func (p program) installCommand(ctx context.Context) *cobra.Command {
	i := install.Installer{Out: p.stdout, Err: p.stderr}
	var keep bool
	cmd := &cobra.Command{
		Use:   "install --to DIR",
		Short: "Install the CNI plugins, and the default policy",
		Long: `Install the CNI plugins multi-eni and eni-ipam into the runtime's folder of plugins. A
plugin that runs meanwhile is not disturbed. install also writes the default policy,
unless there is a policy.`,
		Example: `  multi-enid install --to /opt/cni/bin
  multi-enid install --to /opt/cni/bin --keep`,
		Args: cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if i.To == "" {
				return cli.Usagef("--to %q: want the runtime's folder of CNI plugins, such as /opt/cni/bin", i.To)
			}
			if err := cli.OneOf("host-network", i.Host.Mode, install.HostLeave, install.HostWrite, install.HostRemove); err != nil {
				return err
			}
			i.Host.PrimaryMAC = awsnode.New(awsnode.Config{}).PrimaryMAC
			if keep {
				return i.Keep(ctx)
			}
			return i.Once(ctx)
		},
	}
	f := cmd.Flags()
	f.StringVar(&i.To, "to", "", "`Folder` of CNI plugins to install into. Required.")
	f.BoolVar(&i.Mkdir, "mkdir", false, "Make the folder of --to if it does not exist.")
	f.StringVar(&i.From, "from", "", "`Folder` to install from. Defaults to the folder of multi-enid itself.")
	f.StringVar(&i.Policy, "policy", nodestate.DefaultPolicyPath, "Policy `file` to write unless it exists; empty writes none.")
	f.BoolVar(&keep, "keep", false, "Stay, and install again after somebody has changed or removed a file. Removes nothing at the end.")
	f.StringVar(&i.Host.Mode, "host-network", install.HostLeave,
		"What to do with the files that keep systemd-networkd and NetworkManager off all ENIs but the primary one: `leave`, write or remove.")
	f.StringVar(&i.Host.Root, "host-root", "/", "`Folder` where the host's etc and sys are mounted, for --host-network.")
	return cmd
}

func (p program) uninstallCommand() *cobra.Command {
	r := install.Removal{Out: p.stdout}
	var kubeletDir string
	cmd := &cobra.Command{
		Use:   "uninstall --from DIR",
		Short: "Remove what install and run have put on this node",
		Long: `Remove the CNI plugins and all files that install and run have put on this node. If a
pod has a device or an address, uninstall says so and removes nothing.`,
		Example: `  multi-enid uninstall --from /opt/cni/bin`,
		Args:    cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if r.From == "" {
				return cli.Usagef("--from %q: want the runtime's folder of CNI plugins, such as /opt/cni/bin", r.From)
			}
			r.DevicePlugins = filepath.Join(kubeletDir, deviceplugin.SocketsDir)
			return r.Run()
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.From, "from", "", "`Folder` of CNI plugins to remove from. Required.")
	f.StringVar(&r.Policy, "policy", nodestate.DefaultPolicyPath, "Policy `file` to remove unless somebody has changed it; empty leaves it.")
	f.StringVar(&r.AttachmentsDir, "attachments-dir", nodestate.DefaultAttachmentsDir, "`Folder` of the plugin's attachment records.")
	f.StringVar(&r.LeaseDir, "lease-dir", leases.DefaultDir, "`Folder` of the address leases.")
	f.StringVar(&r.StateDir, "state-dir", nodestate.DefaultStateDir, "`Folder` of the daemon's checkpoint.")
	f.StringVar(&r.Inventory, "inventory", nodestate.DefaultInventoryPath, "`File` of the inventory.")
	f.StringVar(&r.HostRoot, "host-root", "/", "`Folder` where the host's etc is mounted. The files of install --host-network are removed from it.")
	f.StringVar(&kubeletDir, "kubelet-dir", deviceplugin.DefaultKubeletDir,
		"`Folder` with the kubelet's device-plugins. The daemon's own sockets are removed from there.")
	f.StringVar(&r.DeviceInfo, "device-info-dir", "/run/k8s.cni.cncf.io/devinfo/dp", "`Folder` of the device-info files that Multus reads.")
	f.BoolVar(&r.Force, "force", false, "Remove it even if pods have attachments or devices were not given back. Their records stay.")
	return cmd
}
