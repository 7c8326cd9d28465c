package apiserver

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

// The columns of `kubectl get neni`, and of -o wide.
func TestNodeENIColumns(t *testing.T) {
	c := cluster.Start(t)
	c.CreateNodeENI(t, v1alpha1.NodeENI{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: v1alpha1.NodeENISpec{
		NodeSelector: map[string]string{"ng": "a"}, SubnetID: "subnet-0a1b2c3d", SubnetIDs: []string{"subnet-0a1b2c3e"}, DeviceIndex: 2, MTU: 9001,
		EnableDPDK: true, DPDKResourceName: "intel.com/fast", DPDKPCIAddress: "0000:00:07.0",
	}, Status: v1alpha1.NodeENIStatus{Attachments: []v1alpha1.ENIAttachment{{NodeID: "node-a", ENIID: "eni-0a1b2c3d"},
		{NodeID: "node-b", ENIID: "eni-0a1b2c3e"}}}})
	columns, rows := table(t, c, nodeENIs)
	want := []string{"Name", "Subnet", "Index", "MTU", "DPDK", "Resource", "First node", "Subnets", "Subnet names", "PCI address", "Selector", "Age"}
	if diff := cmp.Diff(want, columns); diff != "" {
		t.Errorf("columns (-want +got):\n%s", diff)
	}
	if len(rows) != 1 {
		t.Fatalf("%d rows", len(rows))
	}
	delete(rows[0], "Age")
	if diff := cmp.Diff(map[string]any{
		"Name": "a", "Subnet": "subnet-0a1b2c3d", "Index": 2.0, "MTU": 9001.0, "DPDK": true, "Resource": "intel.com/fast",
		"First node": "node-a",
		"Subnets":    `["subnet-0a1b2c3e"]`, "Subnet names": nil, "PCI address": "0000:00:07.0", "Selector": `{"ng":"a"}`,
	}, numbers(rows[0])); diff != "" {
		t.Errorf("row (-want +got):\n%s", diff)
	}
}

func numbers(row map[string]any) map[string]any {
	for k, v := range row {
		if n, ok := v.(int64); ok {
			row[k] = float64(n)
		}
	}
	return row
}

func fullState() v1alpha1.ENINodeStateStatus {
	at := metav1.NewTime(time.Date(2025, 5, 1, 10, 0, 0, 0, time.UTC))
	return v1alpha1.ENINodeStateStatus{
		Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionConfigCurrent, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonConfigWritten, LastTransitionTime: at, Message: "m"},
			{Type: v1alpha1.ConditionDevicesReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonDevicesPending, LastTransitionTime: at, ObservedGeneration: 1},
			{Type: v1alpha1.ConditionDevicePluginServing, Status: metav1.ConditionTrue, Reason: "Offered", LastTransitionTime: at, Message: "all offered"},
		},
		DevicesReady: "1/2", ProblemCount: 1,
		NodeENIs: []v1alpha1.ObservedNodeENI{{Name: "a", UID: "0c2f", ObservedGeneration: 3}},
		Devices: []v1alpha1.DeviceState{
			{ENIID: "eni-0a1b2c3d", NodeENI: "a", Phase: "ready", MAC: "02:00:00:00:00:07", PCIAddress: "0000:00:07.0", InterfaceName: "eth1", Driver: "ena",
				DeviceIndex: 1, NetworkCard: 0, SubnetID: "subnet-0a1b2c3d", SubnetCIDR: "10.0.2.0/24", Addresses: []string{"10.0.2.15/24"},
				Prefixes: []string{"10.0.2.32/28"},
				MTU:      9001, ResourceName: "intel.com/fast", Holders: []string{"default/app"}},
			{NodeENI: "b", Phase: "pending", DeviceIndex: -1, NetworkCard: -1},
		},
		Config: &v1alpha1.ConfigState{Path: "/etc/pcidp/config.json", Hash: "ab", Current: true},
		DevicePlugin: &v1alpha1.DevicePluginState{State: "Serving", Pods: []string{"kube-system/sriovdp-x"}, ServedHash: "ab", LastRestart: at,
			LastResult: "verified", Message: "none"},
		Offer: &v1alpha1.OfferState{Mode: "deviceplugin", Wanted: "pcidp", State: "Offered", Message: "none",
			Resources: []v1alpha1.OfferedResource{{Name: "intel.com/fast", Registered: true, Healthy: 1, Unhealthy: 2}}},
		Problems: []v1alpha1.ProblemState{{Reason: "InvalidMTU", NodeENI: "b", Device: "eni-0a1b2c3d", Message: "spec.mtu -1 is not an MTU"}},
	}
}

func TestENINodeStateIsKeptAndPrinted(t *testing.T) {
	c := cluster.Start(t)
	admin := c.Admin.Discovery().RESTClient()
	want := v1alpha1.ENINodeState{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.NodeStateKind},
		ObjectMeta: metav1.ObjectMeta{Name: "node-1"}, Status: fullState()}
	body, err := json.Marshal(want)
	cluster.Must(t, err)
	if a := send(t, admin.Post().AbsPath(states).Param("fieldValidation", "Strict"), string(body)); a.Code != 201 {
		t.Fatalf("create: %d %s", a.Code, a.Message)
	}
	apply := admin.Patch("application/apply-patch+yaml").AbsPath(states, "node-1", "status").Param("fieldManager", "multi-enid").Param("force",
		"true").Param("fieldValidation", "Strict")
	data, err := apply.Body(body).Do(t.Context()).Raw()
	if err != nil {
		t.Fatalf("apply status: %v", err)
	}
	var got v1alpha1.ENINodeState
	cluster.Must(t, json.Unmarshal(data, &got))
	if diff := cmp.Diff(want.Status, got.Status); diff != "" {
		t.Errorf("status (-applied +kept):\n%s", diff)
	}

	columns, rows := table(t, c, states)
	if diff := cmp.Diff([]string{"Name", "Ready", "Problems", "Device plugin", "Offer", "Last restart", "Message", "Age"}, columns); diff != "" {
		t.Errorf("columns (-want +got):\n%s", diff)
	}
	if len(rows) != 1 {
		t.Fatalf("%d rows", len(rows))
	}
	row := numbers(rows[0])
	for column, want := range map[string]any{"Name": "node-1", "Ready": "1/2", "Problems": 1.0, "Device plugin": "Offered", "Offer": "deviceplugin",
		"Message": "all offered"} {
		if row[column] != want {
			t.Errorf("%s is %v, want %v", column, row[column], want)
		}
	}
}

func TestShortNames(t *testing.T) {
	c := cluster.Start(t)
	list, err := c.Admin.Discovery().ServerResourcesForGroupVersion(v1alpha1.APIVersion)
	cluster.Must(t, err)
	for name, short := range map[string]string{"nodeenis": "neni", "eninodestates": "ens"} {
		if !slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool {
			return r.Name == name && slices.Equal(r.ShortNames, []string{short}) && !r.Namespaced
		}) {
			t.Errorf("%s is not cluster-scoped with short name %s: %v", name, short, list.APIResources)
		}
	}
}
