package region

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode/sdk"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

// Actions that look.
const (
	describeInterfaces = "DescribeNetworkInterfaces"
	describeInstances  = "DescribeInstances"
	describeTypes      = "DescribeInstanceTypes"
	describeSubnets    = "DescribeSubnets"
	describeGroups     = "DescribeSecurityGroups"
)

const (
	// page is EC2's largest page; instance types have a smaller one.
	page, typesPage = 1000, 100
	// maxPages bounds a list against an answer that never ends: half a million ENIs.
	maxPages = 500
)

// Codes of things that EC2 does not list.
const (
	noInterface = "InvalidNetworkInterfaceID.NotFound"
	noInstance  = "InvalidInstanceID.NotFound"
	noType      = "InvalidInstanceType"
)

// pages asks page by page: ask fills in the token, and returns the next one.
func pages(action string, ask func(token *string) (next *string, err error)) error {
	var token *string
	for range maxPages {
		next, err := ask(token)
		if err != nil {
			return err
		}
		if aws.ToString(next) == "" {
			return nil
		}
		if aws.ToString(next) == aws.ToString(token) {
			return sdk.Classify(action, fmt.Errorf("the next page has the token of this one, %q", aws.ToString(next)))
		}
		token = next
	}
	return sdk.Classify(action, fmt.Errorf("more than %d pages", maxPages))
}

// filter matches the values as they are. EC2 takes * and ? for wildcards unless they are escaped ("List and filter using the CLI and API").
func filter(name string, values ...string) types.Filter {
	exact := make([]string, len(values))
	for i, v := range values {
		exact[i] = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`).Replace(v)
	}
	return types.Filter{Name: aws.String(name), Values: exact}
}

// Interfaces lists the ENIs of a query, sorted by id. One that makes no sense is Unreadable, and never left out.
func (c *Client) Interfaces(ctx context.Context, q vpc.Query) ([]vpc.Interface, error) {
	var filters []types.Filter
	for _, key := range slices.Sorted(maps.Keys(q.Tags)) {
		if values := q.Tags[key]; len(values) > 0 {
			filters = append(filters, filter("tag:"+key, values...))
		} else {
			filters = append(filters, filter("tag-key", key))
		}
	}
	if len(q.Instances) > 0 {
		filters = append(filters, filter("attachment.instance-id", q.Instances...))
	}
	if len(q.Subnets) > 0 {
		filters = append(filters, filter("subnet-id", q.Subnets...))
	}
	if q.Status != "" {
		filters = append(filters, filter("status", q.Status))
	}
	raw, err := c.listInterfaces(ctx, filters...)
	if err != nil {
		return nil, err
	}
	all := make([]vpc.Interface, 0, len(raw))
	for i := range raw {
		all = append(all, interfaceOf(&raw[i]))
	}
	slices.SortFunc(all, func(a, b vpc.Interface) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

// listInterfaces returns each ENI once: one may move to a later page while pages are read.
func (c *Client) listInterfaces(ctx context.Context, filters ...types.Filter) (all []types.NetworkInterface, err error) {
	at := map[string]int{}
	err = pages(describeInterfaces, func(token *string) (*string, error) {
		out, err := look(ctx, c, describeInterfaces, func(c *calls) call[ec2.DescribeNetworkInterfacesInput, ec2.DescribeNetworkInterfacesOutput] {
			return c.interfaces
		}, &ec2.DescribeNetworkInterfacesInput{Filters: filters, MaxResults: aws.Int32(page), NextToken: token})
		if err != nil {
			return nil, err
		}
		for _, n := range out.NetworkInterfaces {
			id := aws.ToString(n.NetworkInterfaceId)
			if i, again := at[id]; again && id != "" {
				all[i] = n
				continue
			}
			at[id] = len(all)
			all = append(all, n)
		}
		return out.NextToken, nil
	})
	return all, err
}

func (c *Client) listInstances(ctx context.Context, filters ...types.Filter) (all []types.Instance, err error) {
	err = pages(describeInstances, func(token *string) (*string, error) {
		out, err := look(ctx, c, describeInstances, func(c *calls) call[ec2.DescribeInstancesInput, ec2.DescribeInstancesOutput] { return c.instances },
			&ec2.DescribeInstancesInput{Filters: filters, MaxResults: aws.Int32(page), NextToken: token})
		if err != nil {
			return nil, err
		}
		for _, r := range out.Reservations {
			all = append(all, r.Instances...)
		}
		return out.NextToken, nil
	})
	return all, err
}

func (c *Client) listTypes(ctx context.Context, filters ...types.Filter) (all []types.InstanceTypeInfo, err error) {
	err = pages(describeTypes, func(token *string) (*string, error) {
		out, err := look(ctx, c, describeTypes, func(c *calls) call[ec2.DescribeInstanceTypesInput, ec2.DescribeInstanceTypesOutput] {
			return c.instanceTypes
		},
			&ec2.DescribeInstanceTypesInput{Filters: filters, MaxResults: aws.Int32(typesPage), NextToken: token})
		if err != nil {
			return nil, err
		}
		all = append(all, out.InstanceTypes...)
		return out.NextToken, nil
	})
	return all, err
}

func (c *Client) listSubnets(ctx context.Context, filters ...types.Filter) (all []types.Subnet, err error) {
	err = pages(describeSubnets, func(token *string) (*string, error) {
		out, err := look(ctx, c, describeSubnets, func(c *calls) call[ec2.DescribeSubnetsInput, ec2.DescribeSubnetsOutput] { return c.subnets },
			&ec2.DescribeSubnetsInput{Filters: filters, MaxResults: aws.Int32(page), NextToken: token})
		if err != nil {
			return nil, err
		}
		all = append(all, out.Subnets...)
		return out.NextToken, nil
	})
	return all, err
}

func (c *Client) listGroups(ctx context.Context, filters ...types.Filter) (all []types.SecurityGroup, err error) {
	err = pages(describeGroups, func(token *string) (*string, error) {
		out, err := look(ctx, c, describeGroups, func(c *calls) call[ec2.DescribeSecurityGroupsInput, ec2.DescribeSecurityGroupsOutput] {
			return c.groups
		},
			&ec2.DescribeSecurityGroupsInput{Filters: filters, MaxResults: aws.Int32(page), NextToken: token})
		if err != nil {
			return nil, err
		}
		all = append(all, out.SecurityGroups...)
		return out.NextToken, nil
	})
	return all, err
}

// lookup makes the batcher of a kind of thing by the values of one filter. A filter is used for ids, too: it names no error for an id that
// does not exist, so one absent ENI neither fails the others nor costs a call of its own. Callers count absence only when it is said twice.
// unique values have one thing at most.
func lookup[Raw, V any](list func(context.Context, ...types.Filter) ([]Raw, error), name string, unique bool, key func(*Raw) string,
	parse func(*Raw) (V, error)) *batcher[[]V] {
	return &batcher[[]V]{ask: func(ctx context.Context, values []string) []answer[[]V] {
		return divide(ctx, values, func(values []string) ([]answer[[]V], error) {
			raw, err := list(ctx, filter(name, values...))
			if err != nil {
				return nil, err
			}
			answers := map[string]answer[[]V]{}
			var lost error // concerns one of the values, and nobody knows which
			for i := range raw {
				v, err := parse(&raw[i])
				k := key(&raw[i])
				a, asked := answers[k], slices.Contains(values, k)
				if err == nil && asked {
					a.value = append(a.value, v)
				}
				a.err = errors.Join(a.err, err)
				if answers[k] = a; !asked && err != nil {
					lost = err
				}
			}
			out := make([]answer[[]V], len(values))
			for i, value := range values {
				out[i] = answers[value]
				err := out[i].err
				if !unique || len(out[i].value) == 0 {
					err = errors.Join(err, lost)
				}
				if err != nil {
					out[i] = answer[[]V]{err: &vpc.EC2Error{Kind: vpc.EC2Unknown, Service: "EC2", Err: err}}
				}
			}
			return out, nil
		})
	}}
}

// divisions bounds the calls that find out which values EC2 refuses.
const divisions = 16

// divide asks for all values at once. If EC2 refuses the question, or the SDK cannot read the answer, it asks for the halves, so that one
// value does not fail all.
func divide[V any](ctx context.Context, values []string, ask func([]string) ([]answer[V], error)) []answer[V] {
	calls := 0
	var half func(values []string) []answer[V]
	half = func(values []string) []answer[V] {
		calls++
		out, err := ask(values)
		if err == nil {
			return out
		}
		var e *vpc.EC2Error
		if ctx.Err() == nil && len(values) > 1 && calls < divisions && errors.As(err, &e) && (e.Kind == vpc.EC2Refused || e.Kind == vpc.EC2Unknown && !passing(e)) {
			return append(half(values[:len(values)/2]), half(values[len(values)/2:])...)
		}
		for range values {
			out = append(out, answer[V]{err: err})
		}
		return out
	}
	return half(values)
}

func (c *Client) batches() {
	readable := func(n *types.NetworkInterface) (vpc.Interface, error) { i := interfaceOf(n); return i, i.Unreadable }
	interfaces := func(name string, unique bool, key func(*types.NetworkInterface) string) *batcher[[]vpc.Interface] {
		return lookup(c.listInterfaces, name, unique, key, readable)
	}
	c.byID = interfaces("network-interface-id", true, func(n *types.NetworkInterface) string { return aws.ToString(n.NetworkInterfaceId) })
	c.bySlot = interfaces("tag:"+slots.TagSlot, false, func(n *types.NetworkInterface) string { return tagsOf(n.TagSet)[slots.TagSlot] })
	c.byInstance = interfaces("attachment.instance-id", false, func(n *types.NetworkInterface) string {
		if n.Attachment == nil {
			return ""
		}
		return aws.ToString(n.Attachment.InstanceId)
	})
	c.instances = lookup(c.listInstances, "instance-id", true, func(n *types.Instance) string { return aws.ToString(n.InstanceId) }, instanceOf)
	c.types = lookup(c.listTypes, "instance-type", true, func(n *types.InstanceTypeInfo) string { return string(n.InstanceType) }, typeOf)
	c.subnetByID = lookup(c.listSubnets, "subnet-id", true, func(n *types.Subnet) string { return aws.ToString(n.SubnetId) }, subnetOf)
	c.subnetByName = lookup(c.listSubnets, "tag:Name", false, func(n *types.Subnet) string { return tagsOf(n.Tags)["Name"] }, subnetOf)
	c.groupByID = lookup(c.listGroups, "group-id", true, func(n *types.SecurityGroup) string { return aws.ToString(n.GroupId) }, groupOf)
	c.groupByName = lookup(c.listGroups, "group-name", false, func(n *types.SecurityGroup) string { return aws.ToString(n.GroupName) }, groupOf)
}
