// Package kubectl is the plugin for kubectl. It shows the ENINodeStates of a cluster. It compiles on every system that kubectl runs on.
package kubectl

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/outside"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// Name is the file name under which kubectl finds the plugin: `kubectl multi-eni`.
const Name = "kubectl-multi_eni"

// Program is the plugin and its environment.
type Program struct {
	Stdout, Stderr io.Writer
	Version        string
	// Connect makes the client; nil is outside.Connect.
	Connect func(outside.Config) (Cluster, error)
	// Exec runs kubectl; nil runs the one in PATH.
	Exec func(ctx context.Context, args []string, stdout, stderr io.Writer) error
}

// Cluster has the questions to a cluster.
type Cluster interface {
	// NodeStates returns the ENINodeStates of all nodes.
	NodeStates(ctx context.Context) ([]v1alpha1.ENINodeState, error)
	// DaemonPods returns the pods of the daemon, in all namespaces.
	DaemonPods(ctx context.Context) ([]outside.Pod, error)
}

// Main runs the plugin and returns its exit code.
func (p Program) Main(ctx context.Context, args []string) int {
	root := p.Command(ctx)
	root.Use = "multi-eni"
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl multi-eni"}
	root.CompletionOptions.DisableDefaultCmd = true // kubectl asks in another way
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	cli.Prepare(root, p.Version)
	return cli.Execute(ctx, root, args, p.Stderr)
}

type flags struct {
	kubeconfig, context, namespace string
}

// Command is the plugin as a command.
func (p Program) Command(ctx context.Context) *cobra.Command {
	var f flags
	root := &cobra.Command{
		Use:   "kubectl",
		Short: "Show the ENIs of a cluster's nodes, from outside the nodes",
		Long: `Show the ENIs of a cluster's nodes: which pods have them, and all problems. status and who
read only ENINodeState objects (ClusterRole multi-eni-view of docs/operations.md). doctor
runs in the daemon's pods, so it needs the right to exec into them.`,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "Kubeconfig `file`. Defaults to $KUBECONFIG, else to ~/.kube/config.")
	flags.StringVar(&f.context, "context", "", "`Context` of the kubeconfig. Defaults to the current one.")
	flags.StringVarP(&f.namespace, "namespace", "n", "", "`Namespace` of the pod that who looks for. Defaults to the context's.")
	root.AddCommand(p.statusCommand(ctx, &f), p.whoCommand(ctx, &f), p.doctorCommand(ctx, &f))
	return root
}

func (p Program) connect(f *flags) (cluster Cluster, namespace string, err error) {
	config := outside.Config{Kubeconfig: f.kubeconfig, Context: f.context, Namespace: f.namespace, UserAgent: Name + "/" + p.Version}
	if p.Connect != nil {
		cluster, err = p.Connect(config)
		return cluster, config.Namespace, err
	}
	client, err := outside.Connect(config)
	if err != nil {
		return nil, "", err
	}
	return client, client.Namespace, nil
}

// selected returns the states of the named nodes, or all without a name. The error for an unknown name has similar names.
func selected(states []v1alpha1.ENINodeState, nodes []string) ([]v1alpha1.ENINodeState, error) {
	if len(nodes) == 0 {
		return states, nil
	}
	var found []v1alpha1.ENINodeState
	for _, node := range nodes {
		i := slices.IndexFunc(states, func(s v1alpha1.ENINodeState) bool { return s.Name == node })
		if i < 0 {
			var names []string
			for _, s := range states {
				names = append(names, s.Name)
			}
			return nil, unknownNode(node, "no ENINodeState", names)
		}
		found = append(found, states[i])
	}
	return found, nil
}

func unknownNode(node, lacks string, names []string) error {
	hint := "multi-enid has not run there, or there is no such node"
	if near := cli.Nearest(node, names); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return fmt.Errorf("node %q has %s; %s", node, lacks, hint)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	cmd := exec.CommandContext(ctx, "kubectl", args...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd.Run()
}
