package fakeec2

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
)

// world is a Server, its clock, and the SDK's client for it.
type world struct {
	*testing.T
	*Server
	sdk *ec2.Client
	now time.Time
}

func (w *world) pass(d time.Duration) { w.now = w.now.Add(d) }

func newWorld(t *testing.T, edit ...func(*Config)) *world {
	t.Helper()
	w := &world{T: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	cfg := Config{
		Subnets: []Subnet{
			{ID: "subnet-1", IPv4: netip.MustParsePrefix("10.0.1.0/24"), IPv6: netip.MustParsePrefix("2001:db8:1::/64"),
				Tags: map[string]string{"Name": "blue"}},
			{ID: "subnet-2", IPv4: netip.MustParsePrefix("10.0.2.0/28"), Zone: "eu-central-1b"},
			{ID: "subnet-9", IPv4: netip.MustParsePrefix("10.9.0.0/24"), VPCID: "vpc-9"},
		},
		Groups: []Group{{ID: "sg-1", Name: "pods", Tags: map[string]string{"Name": "blue"}}, {ID: "sg-2", Name: "more"}, {ID: "sg-3", Name: "3"},
			{ID: "sg-4", Name: "4"}, {ID: "sg-5", Name: "5"}, {ID: "sg-6", Name: "6"}, {ID: "sg-9", Name: "pods", VPCID: "vpc-9"}},
		Instances: []Instance{
			{ID: "i-1", Type: "c5n.xlarge", SubnetID: "subnet-1", Tags: map[string]string{"kubernetes.io/cluster/blue": "owned"}},
			{ID: "i-2", Type: "m5.large", SubnetID: "subnet-2"}, {ID: "i-3", Type: "p4d.24xlarge", SubnetID: "subnet-1"},
			{ID: "i-9", Type: "m5.large", SubnetID: "subnet-9"},
		},
		Now: func() time.Time { return w.now }, OnUnknown: func(r string) { t.Errorf("unknown: %s", r) },
	}
	for _, e := range edit {
		e(&cfg)
	}
	w.Server = New(cfg)
	w.sdk = ec2.New(ec2.Options{
		HTTPClient: w.Server, Region: DefaultRegion, Retryer: aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "secret"}, nil
		}),
	})
	return w
}

// code is an error's code of EC2, or "none", or "" for success.
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	if err != nil {
		return "none"
	}
	return ""
}

func (w *world) want(err error, want string) {
	w.Helper()
	if got := code(err); got != want {
		w.Errorf("code %q (%v), want %q", got, err, want)
	}
}

func tags(kv ...string) []types.TagSpecification {
	spec := types.TagSpecification{ResourceType: types.ResourceTypeNetworkInterface}
	for i := 0; i < len(kv); i += 2 {
		spec.Tags = append(spec.Tags, types.Tag{Key: &kv[i], Value: &kv[i+1]})
	}
	return []types.TagSpecification{spec}
}

func (w *world) create(token, subnet string, tag ...string) string {
	w.Helper()
	in := &ec2.CreateNetworkInterfaceInput{ClientToken: &token, SubnetId: &subnet}
	if len(tag) > 0 {
		in.TagSpecifications = tags(tag...)
	}
	out, err := w.sdk.CreateNetworkInterface(w.Context(), in)
	if err != nil {
		w.Fatal(err)
	}
	return *out.NetworkInterface.NetworkInterfaceId
}

func (w *world) attach(eni, instance string, index int32, card ...int32) (string, error) {
	in := &ec2.AttachNetworkInterfaceInput{NetworkInterfaceId: &eni, InstanceId: &instance, DeviceIndex: &index}
	if len(card) > 0 {
		in.NetworkCardIndex = &card[0]
	}
	out, err := w.sdk.AttachNetworkInterface(w.Context(), in)
	if err != nil {
		return "", err
	}
	return *out.AttachmentId, nil
}

func (w *world) detach(attachment string, force bool) error {
	_, err := w.sdk.DetachNetworkInterface(w.Context(), &ec2.DetachNetworkInterfaceInput{AttachmentId: &attachment, Force: &force})
	return err
}

func (w *world) delete(eni string) error {
	_, err := w.sdk.DeleteNetworkInterface(w.Context(), &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: &eni})
	return err
}

// describe lists ENIs by filters, each "name=value,value".
func (w *world) describe(filters ...string) (out []types.NetworkInterface, err error) {
	in := &ec2.DescribeNetworkInterfacesInput{}
	for _, f := range filters {
		name, values, _ := strings.Cut(f, "=")
		in.Filters = append(in.Filters, types.Filter{Name: &name, Values: strings.Split(values, ",")})
	}
	for {
		page, err := w.sdk.DescribeNetworkInterfaces(w.Context(), in)
		if err != nil {
			return nil, err
		}
		out = append(out, page.NetworkInterfaces...)
		if in.NextToken = page.NextToken; in.NextToken == nil {
			return out, nil
		}
	}
}

func (w *world) byID(eni string) (types.NetworkInterface, error) {
	out, err := w.sdk.DescribeNetworkInterfaces(w.Context(), &ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: []string{eni}})
	if err != nil || len(out.NetworkInterfaces) != 1 {
		return types.NetworkInterface{}, err
	}
	return out.NetworkInterfaces[0], nil
}

func TestLifeOfAnENI(t *testing.T) {
	var told []Event
	w := newWorld(t, func(c *Config) {
		c.AttachTakes, c.DetachTakes = 3*time.Second, 5*time.Second
		c.OnEvent = func(e Event) { told = append(told, e) }
	})
	eni := w.create("slot-1", "subnet-1", "slot", "abc", "NodeENI", "fast")
	if again := w.create("slot-1", "subnet-1", "slot", "abc", "NodeENI", "fast"); again != eni {
		t.Errorf("the same token made %s after %s", again, eni)
	}
	attachment, err := w.attach(eni, "i-1", 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	status := func(want string) {
		t.Helper()
		found, err := w.describe("tag:slot=abc")
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		got := "available"
		if a := found[0].Attachment; a != nil {
			got = string(a.Status)
			if *a.AttachmentId != attachment || *a.InstanceId != "i-1" || *a.DeviceIndex != 1 || *a.NetworkCardIndex != 0 || *a.DeleteOnTermination {
				t.Errorf("attachment %+v", a)
			}
		}
		if got != want {
			t.Errorf("status %s, want %s", got, want)
		}
	}
	status("attaching")
	w.want(w.delete(eni), "InvalidNetworkInterface.InUse")
	w.pass(3 * time.Second)
	status("attached")
	w.want(w.delete(eni), "InvalidParameterValue")
	w.want(w.detach(attachment, false), "")
	status("detaching")
	w.want(w.detach(attachment, false), "IncorrectState")
	w.pass(5 * time.Second)
	status("available")
	w.want(w.detach(attachment, false), "InvalidAttachmentID.NotFound")
	w.want(w.delete(eni), "")
	w.want(w.delete(eni), "InvalidNetworkInterfaceID.NotFound")
	if _, err := w.byID(eni); code(err) != "InvalidNetworkInterfaceID.NotFound" {
		t.Error(err)
	}
	if again := w.create("slot-1", "subnet-1", "slot", "abc", "NodeENI", "fast"); again != eni {
		t.Errorf("the token of a deleted ENI made %s after %s", again, eni)
	}
	if sum := w.Tally(""); sum.Mutating != 4 {
		t.Errorf("%+v", sum)
	}
	var seen []string
	for _, e := range w.Events() {
		seen = append(seen, strings.Join([]string{e.Action, e.ENI.Tags["slot"], e.Code}, " "))
	}
	if len(told) != len(seen) {
		t.Errorf("told of %d events of %d", len(told), len(seen))
	}
	if want := "CreateNetworkInterface abc ,CreateNetworkInterface abc ,AttachNetworkInterface abc "; !strings.HasPrefix(strings.Join(seen, ","), want) {
		t.Errorf("events %q", seen)
	}
}
