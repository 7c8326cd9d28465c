package reconcile

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/checkpoint"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func TestLongListHoldsUpNobody(t *testing.T) {
	n := newNode(t, 1, 2)
	n.declare("a", 1, "dpdkResourceName: intel.com/fast")
	n.declare("b", 2, "dpdkResourceName: intel.com/fast")
	n.settle()
	var list, subnets strings.Builder
	for i := range 14_000 {
		fmt.Fprintf(&list, "tenant-%d,", i)
	}
	for i := range 20 {
		fmt.Fprintf(&subnets, "%s,", subnet(100+i))
	}
	n.write(fmt.Sprintf("apiVersion: networking.k8s.aws/v1alpha1\nkind: NodeENI\nmetadata:\n  name: long\n  annotations: "+
		"{networking.k8s.aws/allowed-namespaces: \"%s\"}\n"+
		"spec:\n  nodeSelector: {}\n  deviceIndex: 4\n  subnetIDs: [%s]\n", list.String(), subnets.String()), "nodeenis", "long.yaml")
	n.undeclare("b")
	n.settle()
	rows := n.rows()
	if len(rows) != 21 || rows[0] != "a eth1 ready" || strings.HasPrefix(rows[len(rows)-1], "b ") {
		t.Errorf("%d rows, %q", len(rows), rows)
	}
	named := false
	for _, p := range n.inventory().Problems {
		named = named || p.Reason == "AllowedNamespacesTooLong" && p.NodeENI == "long"
		if strings.HasPrefix(string(p.Reason), "State") {
			t.Errorf("problem %+v", p)
		}
	}
	for _, d := range n.inventory().Devices {
		if d.NodeENI == "long" && (len(d.AllowedNamespaces) != 1 || d.AllowedNamespaces[0] != "") {
			t.Fatalf("%d namespaces may use %s", len(d.AllowedNamespaces), d.SubnetID)
		}
	}
	if !named {
		t.Error("no Problem names the NodeENI")
	}
}

func TestConfigTooLargeToRemember(t *testing.T) {
	n := newNode(t, 1, 2)
	n.declare("a", 1, "dpdkResourceName: intel.com/fast")
	n.write(`{"resourceList":[{"resourceName":"theirs","resourcePrefix":"corp.com","additionalInfo":{"*":{"x":"`+strings.Repeat("<", 250<<10)+`"}},`+
		`"selectors":[{"vendors":["8086"]}]}]}`, "pcidp/config.json")
	n.settleAfter(time.Minute)
	n.expect([]string{"a eth1 ready"}, []string{"ConfigTooLarge"}, pools{"intel.com/fast": {pci(1)}})
	n.undeclare("a")
	n.settle()
	if rows := n.rows(); len(rows) > 0 {
		t.Errorf("rows %q after the removal", rows)
	}
}

func TestTooLargeHasItsOwnMessage(t *testing.T) {
	for err, want := range map[error]string{fmt.Errorf("x: %w", nodestate.ErrTooLarge): "StateTooLarge", errors.New("disk full"): "StateUnwritable"} {
		if p := checkpoint.Unwritable(err).Problem; string(p.Reason) != want || strings.Contains(p.Message, "room on the disk") != (want == "StateUnwritable") {
			t.Errorf("%v: %+v", err, p)
		}
	}
}
