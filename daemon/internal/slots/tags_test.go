package slots

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

func full() Slot {
	return Slot{
		ID: "0123456789abcdef", NodeENI: NodeENI{Name: "e", UID: "u", Generation: 2}, Node: "n", Instance: "i-1", VPC: "vpc-1", Subnet: "subnet-0123456789",
		Groups: []string{"sg-1"}, Index: 3, Card: 1,
		Options: Options{Description: "d", Tags: map[string]string{"team": "x"}, IPv6Addresses: 1, SecondaryAddresses: 2, Prefixes: 3,
			Tracking: vpc.Tracking{UDPStream: 60}, EnaExpress: new(true)},
	}
}

func TestCreation(t *testing.T) {
	s := full()
	want := vpc.Creation{
		Token: "0123456789abcdef-4", SubnetID: "subnet-0123456789", Description: "d", Groups: []string{"sg-1"}, SecondaryAddresses: 2, IPv6Addresses: 1, Prefixes: 3,
		Tracking: vpc.Tracking{UDPStream: 60},
		Tags: map[string]string{
			"Name": "nodeeni-e-n-23456789", "NodeENI": "e", "Node": "n", "SubnetID": "subnet-0123456789",
			"kubernetes.io/cluster/managed-by": "nodeeni-controller", "node.k8s.amazonaws.com/no_manage": "true",
			"multi-eni.networking.k8s.aws/cluster": "c", "multi-eni.networking.k8s.aws/nodeeni-uid": "u",
			"multi-eni.networking.k8s.aws/slot": "0123456789abcdef", "multi-eni.networking.k8s.aws/instance": "i-1", "team": "x",
		},
	}
	if diff := cmp.Diff(want, Creation(s, "c", 4)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(vpc.Joining{ENI: "eni-1", Instance: "i-1", DeviceIndex: 3, NetworkCard: 1, EnaExpress: true}, Joining(s, "eni-1")); diff != "" {
		t.Errorf("joining (-want +got):\n%s", diff)
	}
	s.Options.EnaExpress = new(false)
	if Joining(s, "eni-1").EnaExpress {
		t.Error("ENA Express, although it is false")
	}
	s.Options.EnaExpress = nil
	if Joining(s, "eni-1").EnaExpress {
		t.Error("ENA Express, although nobody asks for it")
	}
	if len(s.Options.Tags) != 1 {
		t.Error("the user's tags have changed")
	}
}

func TestRequestIsOfTheParameters(t *testing.T) {
	s := full()
	first := Request(s, "c")
	s.Index, s.Exact, s.Options.MTU, s.NodeENI.Generation = 9, 9, 9, 9 // these are not sent
	if Request(s, "c") != first || len(first) != 16 {
		t.Errorf("%s, then %s", first, Request(s, "c"))
	}
	s.Groups = []string{"sg-2"}
	if Request(s, "c") == first {
		t.Error("other groups are the same request")
	}
}

func TestNameIsShortEnough(t *testing.T) {
	s := full()
	s.NodeENI.Name = strings.Repeat("x", 253)
	name := Tags(s, "c")["Name"]
	if len(name) != 256 || !strings.HasSuffix(name, "x-23456789") {
		t.Errorf("%d: %s", len(name), name)
	}
	s.Subnet = "s"
	if name := Tags(s, "c")["Name"]; !strings.HasSuffix(name, "-s") {
		t.Error(name)
	}
}

func TestFromTags(t *testing.T) {
	e := vpc.Interface{VPCID: "vpc-1", Zone: "a", SubnetID: "subnet-0123456789", Groups: []string{"sg-1"}, Tags: Tags(full(), "c"),
		Attachment: &vpc.Attachment{DeviceIndex: 3, NetworkCard: 1}}
	want := Slot{ID: "0123456789abcdef", NodeENI: NodeENI{Name: "e", UID: "u"}, Node: "n", Instance: "i-1", VPC: "vpc-1", Zone: "a", Subnet: "subnet-0123456789",
		Groups: []string{"sg-1"}, Index: 3, Card: 1, Options: Options{DeleteOnTermination: true}}
	got, ok := FromTags(e, "c")
	if diff := cmp.Diff(want, got); diff != "" || !ok {
		t.Errorf("%v (-want +got):\n%s", ok, diff)
	}
	for _, other := range []string{"d", ""} {
		if _, ok := FromTags(e, other); ok {
			t.Errorf("it is cluster %q's", other)
		}
	}
	for _, tag := range []string{TagSlot, TagInstance, TagNodeENI, TagCluster} {
		e.Tags = Tags(full(), "c")
		delete(e.Tags, tag)
		if _, ok := FromTags(e, "c"); ok {
			t.Errorf("without %s", tag)
		}
	}
	if _, ok := FromTags(vpc.Interface{Tags: map[string]string{TagSlot: "s", TagInstance: "i", TagNodeENI: "u"}}, ""); ok {
		t.Error("an ENI of no cluster is ours")
	}
}

func TestFromEntry(t *testing.T) {
	e := v1alpha1.AttachmentEntry{Slot: "s", NodeENI: v1alpha1.NodeENIReference{Name: "e", UID: "u", Generation: 2}, InstanceID: "i", SubnetID: "b",
		SubnetCIDR:  "10.0.0.0/8",
		NetworkCard: 1, DeviceIndex: 2, MTU: 3, EnableDPDK: true, DPDKDriver: "d", DPDKPCIAddress: "p", ResourceName: "r", AllowedNamespaces: new("x")}
	want := Slot{ID: "s", NodeENI: NodeENI{"e", "u", 2}, Node: "n", Instance: "i", Subnet: "b", SubnetCIDR: "10.0.0.0/8", Exact: 2, Index: 2, Card: 1,
		Options: Options{DeleteOnTermination: true, MTU: 3, EnableDPDK: true, DPDKDriver: "d", DPDKPCIAddress: "p", DPDKResourceName: "r",
			AllowedNamespaces: new("x")}}
	if diff := cmp.Diff(want, FromEntry(Entry{"n", e})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func entryIn(phase string, n int) Entry {
	id := string(rune('a' + n%26))
	return Entry{"n" + id, v1alpha1.AttachmentEntry{InstanceID: "i-" + id, ENIID: "eni-" + id, AttachmentID: "at-" + id, SubnetID: "s", SubnetCIDR: "c", MTU: 1,
		DeviceIndex: 2, Phase: phase}}
}

func TestStatus(t *testing.T) {
	now, then := time.Unix(2000, 500), metav1.NewTime(time.Unix(1000, 0))
	var entries []Entry
	states := []string{"", "attached", "attached", "attached", "attached", "attached", "detaching", "", "", "", "", ""}
	phases := []string{"Wanted", "Attached", "Ready", "Draining", "Released", "External", "Detaching", "Deleting", "Parked", "Blocked", "Creating", "Attaching"}
	for i, phase := range phases {
		entries = append(entries, entryIn(phase, len(phases)-i))
	}
	noENI := entryIn("Ready", 20)
	noENI.ENIID = ""
	list, truncated, changed := Status(nil, append(entries, noENI), now)
	if truncated || !changed || len(list) != 6 {
		t.Fatalf("%v %v %d: %+v", truncated, changed, len(list), list)
	}
	for i, a := range list {
		want := states[6-i]
		id := string(rune('a' + 6 + i)) // Detaching is the first node
		w := v1alpha1.ENIAttachment{NodeID: "n" + id, InstanceID: "i-" + id, ENIID: "eni-" + id, AttachmentID: "at-" + id, SubnetID: "s", SubnetCIDR: "c", MTU: 1,
			DeviceIndex: 2, Status: want, LastUpdated: metav1.NewTime(time.Unix(2000, 0))}
		if diff := cmp.Diff(w, a); diff != "" {
			t.Errorf("%d (-want +got):\n%s", i, diff)
		}
	}

	// Nothing has changed; then one entry has.
	for i := range list {
		list[i].LastUpdated, list[i].DPDKBound = then, true
	}
	if again, _, changed := Status(list, entries, now); changed || !cmp.Equal(again, list) {
		t.Errorf("changed: %+v", again)
	}
	entries[1].MTU = 9
	again, _, changed := Status(list, entries, now)
	if !changed || !again[5].LastUpdated.Time.Equal(time.Unix(2000, 0)) || again[4].LastUpdated != then || !again[5].DPDKBound {
		t.Errorf("%v: %+v", changed, again)
	}
	if list, _, changed := Status(list, nil, now); !changed || len(list) != 0 {
		t.Errorf("%v %v", changed, list)
	}
}

func TestStatusIsBounded(t *testing.T) {
	var entries []Entry
	for i := range MaxStatus + 1 {
		e := entryIn("Ready", 0)
		e.DeviceIndex = MaxStatus + 1 - i
		entries = append(entries, e)
	}
	if list, truncated, _ := Status(nil, entries[1:], time.Unix(1, 0)); truncated || len(list) != MaxStatus {
		t.Errorf("%v: %d", truncated, len(list))
	}
	list, truncated, _ := Status(nil, entries, time.Unix(1, 0))
	if !truncated || len(list) != MaxStatus || list[0].DeviceIndex != 1 || list[MaxStatus-1].DeviceIndex != MaxStatus {
		t.Errorf("%v: %d", truncated, len(list))
	}
}
