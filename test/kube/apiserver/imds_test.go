package apiserver

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

func unattached(t *testing.T, c *cluster.Cluster, name string, e cluster.ENI, selector map[string]string) {
	t.Helper()
	c.CreateNodeENI(t, v1alpha1.NodeENI{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.NodeENISpec{NodeSelector: selector, SubnetID: e.SubnetID, DeviceIndex: e.Index, DPDKResourceName: "intel.com/" + name},
	})
}

// said returns the rows and problems of the inventory, as "NodeENI phase" and "NodeENI reason".
func said(n *cluster.Node) ([]string, error) {
	inv, err := n.Inventory()
	all := []string{}
	for _, d := range inv.Devices {
		all = append(all, fmt.Sprintf("%s %s", d.NodeENI, d.Phase))
	}
	for _, p := range inv.Problems {
		all = append(all, fmt.Sprintf("%s %s", p.NodeENI, p.Reason))
	}
	slices.Sort(all)
	return all, err
}

func untilSaid(t *testing.T, n *cluster.Node, want ...string) {
	t.Helper()
	cluster.Eventually(t, fmt.Sprint(want), 90*time.Second, func() error {
		got, err := said(n)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("inventory says %q", got)
		}
		return err
	})
}

// TestENIsWithoutAnAttachingController: with --attachments-from=imds an ENI is found by device index and
// subnet, half a minute after it was seen unused. It is not found while something else uses it, or on a
// node that is not selected. By default only the status counts.
func TestENIsWithoutAnAttachingController(t *testing.T) {
	c := cluster.Start(t)
	n := c.NewNode(t, "node-1", map[string]string{"role": "dataplane"})
	ours, theirs := n.Attach(t, 1), n.Attach(t, 2)
	useLikeVPCCNI(t, theirs.Name)
	unattached(t, c, "ours", ours, map[string]string{"role": "dataplane"})
	unattached(t, c, "theirs", theirs, map[string]string{})
	unattached(t, c, "elsewhere", ours, map[string]string{"role": "web"})

	t.Run("status", func(t *testing.T) {
		d := n.StartDaemon(t, "--restart=none", "--podresources-socket=")
		untilSaid(t, n, "ours NotAttached", "theirs NotAttached")
		d.Term(t)
	})
	t.Run("imds", func(t *testing.T) {
		n.StartDaemon(t, "--restart=none", "--podresources-socket=", "--attachments-from=imds")
		untilSaid(t, n, "ours ready", "theirs ForeignENI", "theirs pending")
		c.DeleteNodeENI(t, "ours")
		untilSaid(t, n, "theirs ForeignENI", "theirs pending")
	})
}

// useLikeVPCCNI gives a link a route table, as the VPC CNI does for an ENI of pod addresses.
func useLikeVPCCNI(t *testing.T, name string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	cluster.Must(t, err)
	everything, err := netlink.ParseIPNet("0.0.0.0/0")
	err = errors.Join(err, netlink.LinkSetUp(link), netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: everything, Table: 3,
		Scope: netlink.SCOPE_LINK}))
	cluster.Must(t, err)
}
