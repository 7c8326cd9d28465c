package kubectl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"

	"github.com/spf13/cobra"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/outside"
)

func (p Program) doctorCommand(ctx context.Context, f *flags) *cobra.Command {
	var nodes []string
	var all bool
	var output string
	cmd := &cobra.Command{
		Use:   "doctor --node NAME",
		Short: "Run multi-enid doctor in the daemon's pod of a node",
		Long: `Run multi-enid doctor in the daemon's pod of a node, by kubectl exec. It checks whether
daemon, plugin and device plugin can do their work, and changes nothing. The exit code
is 1 if a check has failed.`,
		Example: `  kubectl multi-eni doctor --node ip-10-0-1-23.ec2.internal
  kubectl multi-eni doctor --all`,
		Args: cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := cli.OneOf("output", output, "text", "json"); err != nil {
				return err
			}
			if all == (len(nodes) > 0) {
				return cli.Usagef("give --node NAME for one node, or --all for every node")
			}
			cluster, _, err := p.connect(f)
			if err != nil {
				return err
			}
			pods, err := daemons(ctx, cluster, nodes)
			if err != nil {
				return err
			}
			return p.doctors(ctx, f, pods, output)
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&nodes, "node", nil, "`Name` of a node to examine. May be repeated.")
	flags.BoolVar(&all, "all", false, "Examine all nodes, one after the other.")
	flags.StringVarP(&output, "output", "o", "text", "`Format`: text or json.")
	cli.Offer(cmd, "output", "text", "json")
	return cmd
}

// daemons returns the running daemons of the named nodes, or of all.
func daemons(ctx context.Context, cluster Cluster, nodes []string) ([]outside.Pod, error) {
	pods, err := cluster.DaemonPods(ctx)
	if err != nil {
		return nil, err
	}
	if len(pods) == 0 {
		return nil, fmt.Errorf("%w: no pod has the label app.kubernetes.io/name=multi-enid", outside.ErrNotInstalled)
	}
	slices.SortFunc(pods, func(a, b outside.Pod) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Name, b.Name)) })
	var names, running []string
	for _, pod := range pods {
		names = append(names, pod.Node)
		if pod.Phase == "Running" {
			running = append(running, pod.Node)
		}
	}
	for _, node := range nodes {
		switch {
		case !slices.Contains(names, node):
			return nil, unknownNode(node, "no pod of multi-enid", names)
		case !slices.Contains(running, node):
			return nil, fmt.Errorf("the pod of multi-enid on node %q does not run; see kubectl get pods -A -l app.kubernetes.io/name=multi-enid", node)
		}
	}
	return slices.DeleteFunc(pods, func(pod outside.Pod) bool {
		return pod.Phase != "Running" || len(nodes) > 0 && !slices.Contains(nodes, pod.Node)
	}), nil
}

// doctors runs the doctor of each pod, and goes on after a doctor that found faults.
func (p Program) doctors(ctx context.Context, f *flags, pods []outside.Pod, output string) error {
	kubectl := p.Exec
	if kubectl == nil {
		kubectl = run
	}
	failed := 0
	for i, pod := range pods {
		if len(pods) > 1 && output == "text" {
			if i > 0 {
				fmt.Fprintln(p.Stdout)
			}
			fmt.Fprintf(p.Stdout, "Node %s:\n", pod.Node)
		}
		var args []string
		if f.kubeconfig != "" {
			args = append(args, "--kubeconfig="+f.kubeconfig)
		}
		if f.context != "" {
			args = append(args, "--context="+f.context)
		}
		args = append(args, "exec", "--namespace="+pod.Namespace, pod.Name, "--container=multi-enid", "--", "/multi-enid", "doctor", "--output="+output)
		err := kubectl(ctx, args, p.Stdout, p.Stderr)
		var exit interface{ ExitCode() int }
		switch {
		case errors.Is(err, exec.ErrNotFound):
			return fmt.Errorf("doctor needs kubectl in PATH: %w", err)
		case err != nil && !errors.As(err, &exit):
			return fmt.Errorf("node %s: %w", pod.Node, err)
		case err != nil:
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("doctor of %d of %d nodes has failed", failed, len(pods))
	}
	return nil
}
