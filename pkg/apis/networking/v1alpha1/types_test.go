package v1alpha1

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The names are the public CRD's; whoever renames a field here breaks every manifest there is.
const wire = `{
  "apiVersion": "networking.k8s.aws/v1alpha1",
  "kind": "NodeENI",
  "metadata": {"name": "dataplane-a"},
  "spec": {
    "nodeSelector": {"ng": "multi-eni"},
    "subnetID": "subnet-0a1b2c3d",
    "subnetName": "a",
    "subnetIDs": ["subnet-0a1b2c3e"],
    "subnetNames": ["b"],
    "securityGroupIDs": ["sg-0a1b2c3d"],
    "securityGroupNames": ["c"],
    "deviceIndex": 2,
    "deleteOnTermination": false,
    "description": "d",
    "mtu": 9001,
    "enableDPDK": true,
    "dpdkDriver": "vfio-pci",
    "dpdkResourceName": "intel.com/fast",
    "dpdkPCIAddress": "0000:00:07.0"
  },
  "status": {
    "attachments": [{
      "nodeID": "node-1",
      "instanceID": "i-0a1b2c3d",
      "eniID": "eni-0a1b2c3d",
      "attachmentID": "eni-attach-0a1b2c3d",
      "subnetID": "subnet-0a1b2c3d",
      "subnetCIDR": "10.0.2.0/24",
      "mtu": 9001,
      "deviceIndex": 2,
      "status": "attached",
      "lastUpdated": "2025-05-01T10:00:00Z",
      "dpdkBound": true,
      "dpdkDriver": "vfio-pci",
      "dpdkResourceName": "intel.com/fast",
      "dpdkPCIAddress": "0000:00:07.0"
    }]
  }
}`

func TestWireNames(t *testing.T) {
	want := NodeENI{
		TypeMeta:   metav1.TypeMeta{APIVersion: APIVersion, Kind: Kind},
		ObjectMeta: metav1.ObjectMeta{Name: "dataplane-a"},
		Spec: NodeENISpec{
			NodeSelector: map[string]string{"ng": "multi-eni"},
			SubnetID:     "subnet-0a1b2c3d", SubnetName: "a",
			SubnetIDs: []string{"subnet-0a1b2c3e"}, SubnetNames: []string{"b"},
			SecurityGroupIDs: []string{"sg-0a1b2c3d"}, SecurityGroupNames: []string{"c"},
			DeviceIndex: 2, DeleteOnTermination: new(false), Description: "d", MTU: 9001,
			EnableDPDK: true, DPDKDriver: "vfio-pci", DPDKResourceName: "intel.com/fast", DPDKPCIAddress: "0000:00:07.0",
		},
		Status: NodeENIStatus{Attachments: []ENIAttachment{{
			NodeID: "node-1", InstanceID: "i-0a1b2c3d", ENIID: "eni-0a1b2c3d", AttachmentID: "eni-attach-0a1b2c3d",
			SubnetID: "subnet-0a1b2c3d", SubnetCIDR: "10.0.2.0/24", MTU: 9001, DeviceIndex: 2, Status: "attached",
			LastUpdated: metav1.Time{Time: time.Date(2025, 5, 1, 10, 0, 0, 0, time.UTC)},
			DPDKBound:   true, DPDKDriver: "vfio-pci", DPDKResourceName: "intel.com/fast", DPDKPCIAddress: "0000:00:07.0",
		}}},
	}
	var got NodeENI
	if err := json.Unmarshal([]byte(wire), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}

	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var wantJSON, gotJSON map[string]any
	if err := json.Unmarshal([]byte(wire), &wantJSON); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &gotJSON); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantJSON, gotJSON); diff != "" {
		t.Errorf("encoded (-want +got):\n%s", diff)
	}
}

// A client that reads and writes an object back must not turn "do not delete" into the CRD's default.
func TestFalseSurvives(t *testing.T) {
	data, err := json.Marshal(NodeENISpec{DeleteOnTermination: new(false)})
	if err != nil {
		t.Fatal(err)
	}
	var got NodeENI
	if err := json.Unmarshal(data, &got.Spec); err != nil {
		t.Fatal(err)
	}
	if *got.Defaulted().Spec.DeleteOnTermination {
		t.Errorf("deleteOnTermination: false came back as true from %s", data)
	}
}
