package fakeec2

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/multi-eni/multi-eni-cni/test/fakeec2/iam"
)

// scoped is built as the scoped-down policy of the VPC CNI is (docs/iam-policy.md in amazon-vpc-cni-k8s).
const scoped = `{"Version": "2012-10-17", "Statement": [
	{"Effect": "Allow", "Action": "ec2:DescribeNetworkInterfaces", "Resource": "*"},
	{"Effect": "Allow", "Action": "ec2:CreateTags", "Resource": "arn:aws:ec2:*:*:network-interface/*",
		"Condition": {"StringEquals": {"ec2:CreateAction": "CreateNetworkInterface"}}},
	{"Effect": "Allow", "Action": "ec2:CreateNetworkInterface", "Resource": "arn:aws:ec2:*:*:network-interface/*",
		"Condition": {"StringEquals": {"aws:RequestTag/cluster": "blue"}}},
	{"Effect": "Allow", "Action": "ec2:CreateNetworkInterface", "Resource": ["arn:aws:ec2:*:*:subnet/*", "arn:aws:ec2:*:*:security-group/*"],
		"Condition": {"ArnEquals": {"ec2:Vpc": "arn:aws:ec2:*:*:vpc/vpc-0a1b2c3d"}}},
	{"Effect": "Allow", "Resource": "arn:aws:ec2:*:*:network-interface/*", "Condition": {"StringEquals": {"aws:ResourceTag/cluster": "blue"}}, "Action":
		["ec2:AttachNetworkInterface", "ec2:DetachNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:ModifyNetworkInterfaceAttribute"]},
	{"Effect": "Allow", "Resource": "arn:aws:ec2:*:*:instance/*", "Condition": {"StringEquals": {"aws:ResourceTag/kubernetes.io/cluster/blue": "owned"}},
		"Action": ["ec2:AttachNetworkInterface", "ec2:DetachNetworkInterface", "ec2:ModifyNetworkInterfaceAttribute"]},
	{"Effect": "Allow", "Action": "ec2:ModifyNetworkInterfaceAttribute", "Resource": "arn:aws:ec2:*:*:security-group/*"}
]}`

func parse(t *testing.T, document string) *iam.Policy {
	t.Helper()
	p, err := iam.Parse([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPolicy(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Policy = parse(t, scoped)
		c.ENIs = []ENI{{ID: "eni-foreign", SubnetID: "subnet-1", Tags: map[string]string{"cluster": "red"}}}
	})
	eni := w.create("a", "subnet-1", "cluster", "blue")
	attachment, err := w.attach(eni, "i-1", 1, 0)
	w.want(err, "")
	modify := func(in *ec2.ModifyNetworkInterfaceAttributeInput) error {
		in.NetworkInterfaceId = &eni
		_, err := w.sdk.ModifyNetworkInterfaceAttribute(t.Context(), in)
		return err
	}
	w.want(modify(&ec2.ModifyNetworkInterfaceAttributeInput{Groups: []string{"sg-1"}}), "")
	w.want(modify(&ec2.ModifyNetworkInterfaceAttributeInput{Attachment: &types.NetworkInterfaceAttachmentChanges{AttachmentId: &attachment,
		DeleteOnTermination: aws.Bool(true)}}), "")
	w.want(w.detach(attachment, false), "")
	_, err = w.attach(eni, "i-3", 1, 0) // without the cluster's tag
	w.want(err, "UnauthorizedOperation")
	w.want(w.delete(eni), "")
	w.want(w.delete("eni-foreign"), "UnauthorizedOperation")
	eni = w.seed(ENI{ID: "eni-elsewhere", SubnetID: "subnet-1", Instance: "i-3", DeviceIndex: 2, Tags: map[string]string{"cluster": "blue"}})
	attachment = w.ENI(eni).Attachment()
	w.want(w.detach(attachment, false), "UnauthorizedOperation")
	w.want(modify(&ec2.ModifyNetworkInterfaceAttributeInput{Attachment: &types.NetworkInterfaceAttachmentChanges{AttachmentId: &attachment,
		DeleteOnTermination: aws.Bool(true)}}), "UnauthorizedOperation")
	if len(w.Denied()) != 4 {
		t.Errorf("denied: %q", w.Denied())
	}
	for name, in := range map[string]*ec2.CreateNetworkInterfaceInput{
		"no tag":    {SubnetId: aws.String("subnet-1")},
		"other tag": {SubnetId: aws.String("subnet-1"), TagSpecifications: tags("cluster", "red")},
		"other VPC": {SubnetId: aws.String("subnet-9"), TagSpecifications: tags("cluster", "blue")},
	} {
		for _, dry := range []bool{false, true} {
			in.DryRun = &dry
			if _, err := w.sdk.CreateNetworkInterface(t.Context(), in); code(err) != "UnauthorizedOperation" {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	_, err = w.sdk.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: []string{"eni-foreign"}, Tags: tags("cluster", "blue")[0].Tags})
	w.want(err, "UnauthorizedOperation")
	_, err = w.sdk.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{})
	w.want(err, "UnauthorizedOperation")
}

// TestAbsent: a policy that asks for a tag does not permit to detach an attachment that is gone. Without such a policy the answer says that it is gone.
func TestAbsent(t *testing.T) {
	for name, tt := range map[string]struct {
		policy                 string
		forbidden              bool
		wantDetach, wantDelete string
	}{
		"none":           {"", false, "InvalidAttachmentID.NotFound", "InvalidNetworkInterfaceID.NotFound"},
		"tags":           {scoped, false, "UnauthorizedOperation", "InvalidNetworkInterfaceID.NotFound"},
		"tags, for ENIs": {scoped, true, "UnauthorizedOperation", "UnauthorizedOperation"},
		"everything": {`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ec2:*","Resource":"*"}]}`, true,
			"InvalidAttachmentID.NotFound", "InvalidNetworkInterfaceID.NotFound"},
	} {
		w := newWorld(t, func(c *Config) {
			if c.AbsentForbidden = tt.forbidden; tt.policy != "" {
				c.Policy = parse(t, tt.policy)
			}
		})
		if err := w.detach("eni-attach-0", false); code(err) != tt.wantDetach {
			t.Errorf("%s: %v, want %s", name, err, tt.wantDetach)
		}
		if err := w.delete("eni-0"); code(err) != tt.wantDelete {
			t.Errorf("%s: %v, want %s", name, err, tt.wantDelete)
		}
	}
}

// TestEachStatementIsNeeded: without any statement of the policy one of the calls that it is for is denied.
func TestEachStatementIsNeeded(t *testing.T) {
	for without := range parse(t, scoped).Statements() {
		w := newWorld(t)
		w.Server.cfg.Policy = parse(t, scoped).Without(without)
		failed := map[string]bool{}
		try := func(what string, err error) {
			if code(err) == "UnauthorizedOperation" {
				failed[what] = true
			} else {
				w.want(err, "")
			}
		}
		_, err := w.describe("tag-key=cluster")
		try("describe", err)
		out, err := w.sdk.CreateNetworkInterface(t.Context(), &ec2.CreateNetworkInterfaceInput{SubnetId: aws.String("subnet-1"),
			TagSpecifications: tags("cluster", "blue")})
		try("create", err)
		if err == nil {
			eni := *out.NetworkInterface.NetworkInterfaceId
			_, err := w.attach(eni, "i-1", 1, 0)
			try("attach", err)
			_, err = w.sdk.ModifyNetworkInterfaceAttribute(t.Context(), &ec2.ModifyNetworkInterfaceAttributeInput{NetworkInterfaceId: &eni,
				Groups: []string{"sg-1"}})
			try("modify", err)
		}
		if len(failed) == 0 {
			t.Errorf("nothing fails without statement %d", without)
		}
	}
}

// TestDaemonsPolicy: deploy/iam/multi-enid.json permits to change addresses of an ENI with the tag NodeENI, and nothing else.
func TestDaemonsPolicy(t *testing.T) {
	document, err := os.ReadFile("../../deploy/iam/multi-enid.json")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *Config) { c.Policy = parse(t, string(document)) })
	tagged, bare := w.seed(ENI{ID: "eni-a", SubnetID: "subnet-1", Tags: map[string]string{"NodeENI": "fast"}}), w.seed(ENI{ID: "eni-b", SubnetID: "subnet-1"})
	for eni, want := range map[string]string{tagged: "", bare: "UnauthorizedOperation"} {
		_, err := w.sdk.AssignPrivateIpAddresses(t.Context(), &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: &eni,
			SecondaryPrivateIpAddressCount: aws.Int32(1)})
		w.want(err, want)
	}
	w.want(w.delete(tagged), "UnauthorizedOperation")
	_, err = w.attach(tagged, "i-1", 1, 0)
	w.want(err, "UnauthorizedOperation")
	_, err = w.describe("tag-key=NodeENI")
	w.want(err, "")
}

func (w *world) seed(e ENI) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.insert(e, w.now)
	return e.ID
}

// TestPoliciesParse: each policy that the repository ships has only elements and condition keys that the package iam knows.
func TestPoliciesParse(t *testing.T) {
	names, err := filepath.Glob("../../deploy/iam/*.json")
	if err != nil || !slices.Contains(names, "../../deploy/iam/multi-enid.json") {
		t.Fatal(names, err)
	}
	for _, name := range names {
		document, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := iam.Parse(document); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
