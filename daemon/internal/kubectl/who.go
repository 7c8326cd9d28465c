package kubectl

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/show"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

func (p Program) whoCommand(ctx context.Context, f *flags) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "who POD | ENI | PCI-ADDRESS | nodeeni/NAME",
		Short: "Show which devices a pod has, or which pods have a device",
		Long: `Show which devices a pod has and where. With an ENI id, a PCI address or nodeeni/NAME, show
the pods that have the device.`,
		Example: `  kubectl multi-eni who router-0 -n dataplane
  kubectl multi-eni who dataplane/router-0
  kubectl multi-eni who eni-0a1b2c3d4e5f60718
  kubectl multi-eni who nodeeni/dataplane-a`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cli.Usagef("want one pod, ENI id, PCI address or nodeeni/NAME, not %d", len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if err := cli.OneOf("output", output, outputs()...); err != nil {
				return err
			}
			cluster, namespace, err := p.connect(f)
			if err != nil {
				return err
			}
			states, err := cluster.NodeStates(ctx)
			if err != nil {
				return err
			}
			found, err := who(states, parse(args[0], namespace))
			if err != nil {
				return err
			}
			if output == "json" || output == "yaml" {
				return encode(p.Stdout, output, map[string]any{"items": found})
			}
			var holds []show.Hold
			for _, h := range found {
				holds = append(holds, show.Hold{Node: h.Node, Pod: h.Pod, Device: viewDevice(h.Device)})
			}
			return show.PrintHolds(p.Stdout, holds, output == "wide")
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "`Format`: table, wide, json or yaml. Only table shortens long names.")
	cli.Offer(cmd, "output", outputs()...)
	return cmd
}

// question is the argument of who. One field is set.
type question struct{ pod, eni, pci, nodeENI string }

var (
	eniID      = regexp.MustCompile(`^eni-[0-9a-f]+$`)
	pciAddress = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)
)

func parse(word, namespace string) question {
	kind, name, typed := strings.Cut(word, "/")
	switch {
	case typed && slices.Contains([]string{"nodeeni", "nodeenis", "neni"}, kind):
		return question{nodeENI: name}
	case typed && slices.Contains([]string{"pod", "pods", "po"}, kind):
		return question{pod: namespace + "/" + name}
	case eniID.MatchString(word):
		return question{eni: word}
	case pciAddress.MatchString(strings.ToLower(word)):
		return question{pci: strings.ToLower(word)}
	case typed:
		return question{pod: word}
	}
	return question{pod: namespace + "/" + word}
}

func (q question) String() string {
	for name, value := range map[string]string{"pod ": q.pod, "ENI ": q.eni, "PCI address ": q.pci, "NodeENI ": q.nodeENI} {
		if value != "" {
			return name + value
		}
	}
	return "nothing"
}

// hold is a device, and a pod that has it; Pod is "" if no pod has it.
type hold struct {
	Pod    string                `json:"pod"`
	Node   string                `json:"node"`
	Device *v1alpha1.DeviceState `json:"device"`
}

// who answers a question. The error for an unknown pod has similar names.
func who(states []v1alpha1.ENINodeState, q question) ([]hold, error) {
	var found []hold
	var pods []string
	for i := range states {
		for j := range states[i].Status.Devices {
			d := &states[i].Status.Devices[j]
			pods = append(pods, d.Holders...)
			asked := q.eni != "" && d.ENIID == q.eni || q.pci != "" && d.PCIAddress == q.pci || q.nodeENI != "" && d.NodeENI == q.nodeENI
			for _, pod := range d.Holders {
				if asked || q.pod == pod {
					found = append(found, hold{pod, states[i].Name, d})
				}
			}
			if asked && len(d.Holders) == 0 {
				found = append(found, hold{"", states[i].Name, d})
			}
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	if q.pod == "" {
		return nil, fmt.Errorf("no node has a device of %s; kubectl multi-eni status --all shows all devices", q)
	}
	slices.Sort(pods)
	pods = slices.Compact(pods)
	near := cli.Nearest(q.pod, pods)
	_, name, _ := strings.Cut(q.pod, "/")
	for _, pod := range pods {
		if strings.HasSuffix(pod, "/"+name) && !slices.Contains(near, pod) {
			near = append(near, pod)
		}
	}
	hint := "it has no ENI, or is not there"
	if len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return nil, fmt.Errorf("no node says that %s has a device; %s", q, hint)
}
