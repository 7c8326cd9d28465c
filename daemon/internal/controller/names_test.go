package controller

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

// network is the nodes' subnet, and others that are named pods; and groups.
func network(group string, named ...string) ([]fakeec2.Subnet, []fakeec2.Group) {
	subnets := []fakeec2.Subnet{{ID: a1, IPv4: netip.MustParsePrefix("10.1.0.0/16"), Zone: zone(0)}}
	for i, id := range named {
		in := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(2 + i), 0, 0}), 16)
		subnets = append(subnets, fakeec2.Subnet{ID: id, IPv4: in, Zone: zone(0), Tags: map[string]string{"Name": "pods"}})
	}
	return subnets, []fakeec2.Group{{ID: group, Name: "pods"}}
}

// namedWorld has two nodes, whose ENIs of a NodeENI with names have been and are gone.
func namedWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, func(c *fakeec2.Config) { c.Subnets, c.Groups = network(sg1, a2) })
	w.grow(2)
	w.lead()
	w.setNodeENI("blue", func(o *v1alpha1.NodeENI) {
		o.Spec = v1alpha1.NodeENISpec{
			NodeSelector: map[string]string{"role": "worker"}, SubnetName: "pods", SecurityGroupNames: []string{"pods"}, DeviceIndex: 1,
			DeleteOnTermination: new(true),
		}
	})
	w.wait(time.Minute, "attached", w.attached(2))
	w.setRoles("idle")
	w.wait(5*time.Minute, "removed", w.attached(0))
	return w
}

func (w *world) setRoles(role string) {
	for name := range w.daemons {
		w.setNode(name, func(n *fleet.Node) { n.Labels["role"] = role })
	}
}

// TestReplacedByName: a subnet or group that another one of the same name replaces is looked up again once EC2 has refused it.
func TestReplacedByName(t *testing.T) {
	for name, tt := range map[string]struct{ group, subnet string }{"subnet": {sg1, b1}, "group": {sg2, a2}, "both": {sg2, b1}} {
		t.Run(name, func(t *testing.T) {
			story(t, func(t *testing.T) {
				w := namedWorld(t)
				time.Sleep(20 * time.Minute)
				before := w.ec2.Tally("CreateNetworkInterface")
				looks := w.ec2.Tally("DescribeSubnets").Calls + w.ec2.Tally("DescribeSecurityGroups").Calls
				w.ec2.SetNetwork(network(tt.group, tt.subnet))
				w.setRoles("worker")
				w.wait(time.Minute, "attached", w.attached(2))
				for _, e := range w.live() {
					if e.SubnetID != tt.subnet || e.Groups[0] != tt.group {
						t.Errorf("%s is of %s and %v", e.ID, e.SubnetID, e.Groups)
					}
				}
				time.Sleep(time.Hour)
				if n := w.ec2.Tally("CreateNetworkInterface").Refused - before.Refused; n > 4 {
					t.Errorf("%d refused Creates, want one for each slot and change", n)
				}
				if n := w.ec2.Tally("DescribeSubnets").Calls + w.ec2.Tally("DescribeSecurityGroups").Calls - looks; n > 4 {
					t.Errorf("%d looks at subnets and groups, want one for each refused Create at most", n)
				}
			})
		})
	}
}

// TestNameOfTwo: two subnets that replace one under its name are ambiguous, until one of them goes.
func TestNameOfTwo(t *testing.T) {
	story(t, func(t *testing.T) {
		w := namedWorld(t)
		w.ec2.SetNetwork(network(sg1, b1, small))
		w.setRoles("worker")
		w.wait(10*time.Second, slots.AmbiguousSubnet, func() bool { return w.told()[slots.AmbiguousSubnet] > 0 })
		if told := w.eventsOf(slots.AmbiguousSubnet)[0]; !strings.Contains(told, b1) || !strings.Contains(told, small) {
			t.Errorf("told %q", told)
		}
		time.Sleep(time.Minute)
		if n := len(w.live()); n != 0 {
			t.Errorf("%d ENIs, want none", n)
		}
		w.ec2.SetNetwork(network(sg1, small))
		w.wait(6*time.Minute, "attached", w.attached(2))
	})
}
