package controlplane

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/doctor"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// cluster answers the controller's doctor.
type cluster struct {
	api   *client.Client
	fleet *fleet.Fleet
	ec2   subnets
}

// subnets is EC2, as far as a survey needs it.
type subnets interface {
	Subnets(ctx context.Context, ids, names []string) ([]vpc.Subnet, error)
	SecurityGroups(ctx context.Context, ids, names []string) ([]vpc.SecurityGroup, error)
	Instance(ctx context.Context, id string) (vpc.Instance, error)
}

func (c *cluster) Version(ctx context.Context) (string, error) { return c.api.Version(ctx) }

func (c *cluster) Resources(ctx context.Context) ([]string, error) { return c.api.Resources(ctx) }

func (c *cluster) AllowedOn(ctx context.Context, verb, group, resource, namespace, name string) (bool, error) {
	return c.api.AllowedOn(ctx, verb, group, resource, namespace, name)
}

func (c *cluster) ClusterUID(ctx context.Context) (string, error) { return c.fleet.ClusterUID(ctx) }

func (c *cluster) Leader(ctx context.Context) (string, time.Time, error) { return c.fleet.Leader(ctx) }

func (c *cluster) Rival(ctx context.Context) (string, error) {
	r, err := c.fleet.Rival(ctx)
	if err != nil || r == nil {
		return "", err
	}
	return fmt.Sprintf("%s (namespace %s)", r.Holder, r.Namespace), nil
}

// pollEvery is how often Survey looks whether the objects have been read.
const pollEvery = 50 * time.Millisecond

func (c *cluster) Survey(ctx context.Context) (doctor.Survey, error) {
	for {
		seen, err := c.fleet.Snapshot()
		if err == nil {
			return c.survey(ctx, seen), nil
		}
		select {
		case <-ctx.Done():
			for _, trouble := range c.fleet.Troubles() {
				return doctor.Survey{}, trouble
			}
			return doctor.Survey{}, err
		case <-time.After(pollEvery):
		}
	}
}

// survey judges the objects. EC2 is asked for subnets and security groups; without its answer their faults are not known.
func (c *cluster) survey(ctx context.Context, seen fleet.Snapshot) doctor.Survey {
	s := doctor.Survey{NodeENIs: len(seen.NodeENIs), Nodes: len(seen.Nodes)}
	in := slots.Input{Cluster: "doctor"}
	for _, name := range slices.Sorted(maps.Keys(seen.NodeENIs)) {
		o := seen.NodeENIs[name]
		if o.Fault != "" {
			s.Unreadable = append(s.Unreadable, "NodeENI "+name)
		}
		if o.Known {
			in.NodeENIs = append(in.NodeENIs, o.Is)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(seen.Nodes)) {
		o := seen.Nodes[name]
		if o.Fault != "" {
			s.Unreadable = append(s.Unreadable, "Node "+name)
			continue
		}
		n := slots.Node{Name: name, ProviderID: o.Is.ProviderID, Labels: o.Is.Labels}
		switch {
		case n.Auto():
			s.AutoMode = append(s.AutoMode, name)
		case n.Instance() == "":
			s.NoInstance = append(s.NoInstance, name)
		}
		in.Nodes = append(in.Nodes, n)
	}
	in.Catalog = c.catalog(ctx, &in)
	found := slots.Slots(in)
	selected := map[string]bool{}
	for _, f := range found.Faults {
		if f.Reason != slots.AutoModeNode && f.Reason != slots.NoInstance { // the lists of nodes have these
			s.Faults = append(s.Faults, doctor.SlotFault{NodeENI: f.NodeENI.Name, Node: f.Node, Reason: f.Reason, Message: f.Message})
		}
	}
	instances := map[string]bool{}
	for _, slot := range found.Slots {
		selected[slot.Node], instances[slot.Instance] = true, true
	}
	s.Instances = slices.Sorted(maps.Keys(instances))
	for _, name := range slices.Sorted(maps.Keys(seen.States)) {
		o := seen.States[name]
		if o.Fault != "" {
			s.Unreadable = append(s.Unreadable, "ENINodeState "+name)
		} else if selected[name] && o.Is.Reported && o.Is.Protocol < v1alpha1.Protocol {
			s.OldDaemons = append(s.OldDaemons, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(selected)) {
		if n, o := seen.Nodes[name], seen.States[name]; n != nil && n.Is.Ready && (o == nil || o.Fault == "" && !o.Is.Reported) {
			s.SilentDaemons = append(s.SilentDaemons, name)
		}
	}
	return s
}

// catalog asks EC2 for the subnets and groups of the NodeENIs. It sets the nodes' VPC, which is that of the first node, for names.
func (c *cluster) catalog(ctx context.Context, in *slots.Input) slots.Catalog {
	out := slots.Catalog{
		SubnetIDs: map[string][]vpc.Subnet{}, SubnetNames: map[string][]vpc.Subnet{},
		GroupIDs: map[string][]vpc.SecurityGroup{}, GroupNames: map[string][]vpc.SecurityGroup{},
	}
	subnetIDs, subnetNames, groupIDs, groupNames := slots.Need(in.NodeENIs)
	if subnets, err := c.ec2.Subnets(ctx, subnetIDs, subnetNames); err == nil {
		fill(out.SubnetIDs, subnetIDs, subnets, func(s vpc.Subnet) string { return s.ID })
		fill(out.SubnetNames, subnetNames, subnets, func(s vpc.Subnet) string { return s.Name })
	}
	if groups, err := c.ec2.SecurityGroups(ctx, groupIDs, groupNames); err == nil {
		fill(out.GroupIDs, groupIDs, groups, func(g vpc.SecurityGroup) string { return g.ID })
		fill(out.GroupNames, groupNames, groups, func(g vpc.SecurityGroup) string { return g.Name })
	}
	if len(subnetNames) == 0 {
		return out
	}
	for _, n := range in.Nodes {
		if id := n.Instance(); id != "" {
			if instance, err := c.ec2.Instance(ctx, id); err == nil {
				for i := range in.Nodes {
					in.Nodes[i].VPC = instance.VPCID
				}
			}
			break
		}
	}
	return out
}

// fill sorts an answer by its key. A key without an answer has none in EC2.
func fill[T any](out map[string][]T, asked []string, answer []T, key func(T) string) {
	for _, k := range asked {
		out[k] = nil
	}
	for _, a := range answer {
		if _, ok := out[key(a)]; ok {
			out[key(a)] = append(out[key(a)], a)
		}
	}
}
