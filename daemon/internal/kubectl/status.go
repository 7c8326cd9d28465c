package kubectl

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/show"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// watchEvery is the pause between two looks of status --watch.
const watchEvery = 2 * time.Second

// outputs are the values of --output.
func outputs() []string { return []string{"table", "wide", "json", "yaml"} }

func (p Program) statusCommand(ctx context.Context, f *flags) *cobra.Command {
	var nodes []string
	var all, watch bool
	var output string
	cmd := &cobra.Command{
		Use:   "status [--node NAME]",
		Short: "Show how many devices of each node are ready, or one node in full",
		Long: `Show one line for each node: its ready devices, its pods that have devices, and its
problems. With --node or --all, show each node in full.`,
		Example: `  kubectl multi-eni status
  kubectl multi-eni status --node ip-10-0-1-23.ec2.internal
  kubectl multi-eni status --all --output yaml`,
		Args: cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := cli.OneOf("output", output, outputs()...); err != nil {
				return err
			}
			if all && len(nodes) > 0 {
				return cli.Usagef("--all and --node: give one of them")
			}
			cluster, _, err := p.connect(f)
			if err != nil {
				return err
			}
			look := func(out io.Writer) error {
				states, err := cluster.NodeStates(ctx)
				if err == nil {
					states, err = selected(states, nodes)
				}
				if err != nil {
					return err
				}
				return write(out, states, output, all || len(nodes) > 0)
			}
			if !watch {
				return look(p.Stdout)
			}
			return show.Watch(ctx, p.Stdout, watchEvery, look)
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&nodes, "node", nil, "`Name` of a node to show in full. May be repeated.")
	flags.BoolVar(&all, "all", false, "Show all nodes in full.")
	flags.StringVarP(&output, "output", "o", "table", "`Format`: table, wide, json or yaml. Only table shortens long names.")
	flags.BoolVarP(&watch, "watch", "w", false, "Look every two seconds, and print again after each change.")
	cli.Offer(cmd, "output", outputs()...)
	return cmd
}

// write prints states; json and yaml have the objects as the cluster has them.
func write(out io.Writer, states []v1alpha1.ENINodeState, format string, full bool) error {
	if format == "json" || format == "yaml" {
		for i := range states {
			states[i].ManagedFields = nil
		}
		list := v1alpha1.ENINodeStateList{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.NodeStateListKind}, Items: states}
		return encode(out, format, list)
	}
	wide := format == "wide"
	if len(states) == 0 {
		_, err := fmt.Fprintln(out, "No node has an ENINodeState: multi-enid has not run on any node yet.")
		return err
	}
	var nodes []show.Node
	for i := range states {
		nodes = append(nodes, view(&states[i]))
	}
	if !full {
		return show.PrintNodes(out, nodes, wide)
	}
	for i, n := range nodes {
		if i > 0 {
			fmt.Fprintln(out)
		}
		if err := n.Print(out, wide); err != nil {
			return err
		}
	}
	return nil
}

func encode(out io.Writer, format string, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	data := b.Bytes()
	if format == "yaml" {
		var err error
		if data, err = yaml.JSONToYAML(data); err != nil {
			return err
		}
	}
	_, err := out.Write(data)
	return err
}

// view returns an ENINodeState as it is printed for people.
func view(s *v1alpha1.ENINodeState) show.Node {
	n := show.Node{Name: s.Name, Source: "From the ENINodeState that multi-enid of this node writes after each change."}
	for i := range s.Status.Devices {
		d := &s.Status.Devices[i]
		n.Devices = append(n.Devices, viewDevice(d))
		for _, pod := range d.Holders {
			n.Pods = append(n.Pods, show.Pod{PCIAddress: d.PCIAddress, Name: pod})
		}
	}
	for i := range s.Spec.Attachments {
		a := &s.Spec.Attachments[i]
		n.Slots = append(n.Slots, show.Slot{
			Slot: a.Slot, NodeENI: a.NodeENI.Name, ENIID: a.ENIID, Wanted: a.Wanted, Phase: a.Phase, Reason: a.Reason, Message: a.Message,
			Released: a.Wanted == v1alpha1.WantedReleased && slices.Contains(s.Status.Released, v1alpha1.ReleasedENI{Slot: a.Slot, ENIID: a.ENIID, Release: a.Release}),
		})
	}
	for _, p := range s.Status.Problems {
		n.Problems = append(n.Problems, show.Problem(p))
	}
	for _, c := range s.Status.Conditions {
		if c.LastTransitionTime.After(n.Changed) {
			n.Changed = c.LastTransitionTime.Time
		}
		if c.Type == v1alpha1.ConditionDevicePluginServing {
			n.DevicePlugin = c.Reason
		}
		n.Facts = append(n.Facts, show.Fact{Name: c.Type, Text: string(c.Status) + " (" + c.Reason + "): " + c.Message})
	}
	if c := s.Status.Config; c != nil {
		n.Facts = append(n.Facts, show.Fact{Name: "Config", Text: strings.Join([]string{c.Path, "hash " + c.Hash}, ", ")})
	}
	if d := s.Status.DevicePlugin; d != nil {
		n.DevicePlugin = cmp.Or(n.DevicePlugin, d.State)
		text := strings.Join(append([]string{d.State}, d.Pods...), ", ")
		if !d.LastRestart.IsZero() {
			text += ", restarted " + d.LastRestart.UTC().Format(time.RFC3339)
		}
		n.Facts = append(n.Facts, show.Fact{Name: "Device plugin", Text: text})
	}
	if o := s.Status.Offer; o != nil && o.State != "" {
		n.Facts = append(n.Facts, show.OfferFact(o.Mode, o.Wanted, o.State, o.Message, len(o.Resources)))
		for _, r := range o.Resources {
			n.Offered = append(n.Offered, show.Offered{Resource: r.Name, Registered: r.Registered, Healthy: r.Healthy, Unhealthy: r.Unhealthy})
		}
	}
	return n
}

func viewDevice(d *v1alpha1.DeviceState) show.Device {
	return show.Device{
		ENIID: d.ENIID, NodeENI: d.NodeENI, MAC: d.MAC, PCIAddress: d.PCIAddress, Link: d.InterfaceName, Driver: d.Driver, SubnetID: d.SubnetID,
		Resource: d.ResourceName, Phase: d.Phase, Index: d.DeviceIndex, Card: d.NetworkCard, Addresses: d.Addresses, Prefixes: d.Prefixes, MTU: d.MTU,
	}
}
