package awsnode

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/time/rate"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode/sdk"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
)

const (
	// ec2Attempts is how often the SDK tries a call, with its own waits for throttling.
	ec2Attempts = 4
	// ec2Apart and ec2Burst bound this daemon's calls: all nodes and controllers of an account share one bucket.
	ec2Apart = time.Second
	ec2Burst = 4
	// ec2Page is how many ENIs are asked for at once; an instance has fewer.
	ec2Page = 100
)

// EC2 reads and changes the addresses of this instance's ENIs. It is safe for concurrent use, and sends nothing before its first call.
type EC2 struct {
	imds    *Client
	limiter *rate.Limiter
	backOff time.Duration // the SDK's longest

	mu       sync.Mutex
	calls    *ec2Calls // nil until connected
	dry      *ec2Calls // the same as dry runs
	instance string
}

// NewEC2 returns a client for the instance whose metadata imds reads. Region and credentials are the SDK's usual: the environment's
// (from Pod Identity or IRSA), else the instance's role. AWS_ENDPOINT_URL_EC2 names another service to ask.
func NewEC2(imds *Client) *EC2 {
	return &EC2{imds: imds, limiter: rate.NewLimiter(rate.Every(ec2Apart), ec2Burst), backOff: retry.DefaultMaxBackoff}
}

// Describe returns all ENIs of this instance, at least the primary, sorted by id. Errors: *vpc.EC2Error.
func (e *EC2) Describe(ctx context.Context) ([]vpc.Attached, error) {
	client, instance, err := e.connect(ctx)
	if err != nil {
		return nil, sdk.Classify("DescribeNetworkInterfaces", err)
	}
	in := &ec2.DescribeNetworkInterfacesInput{
		Filters: []types.Filter{{Name: aws.String("attachment.instance-id"), Values: []string{instance}}}, MaxResults: aws.Int32(ec2Page),
	}
	var all []vpc.Attached
	for more := true; more; more = aws.ToString(in.NextToken) != "" {
		if in.NextToken != nil {
			if err := e.limiter.Wait(ctx); err != nil {
				return nil, sdk.Classify("DescribeNetworkInterfaces", err)
			}
		}
		page, err := client.describe(ctx, in)
		if err != nil {
			return nil, sdk.Classify("DescribeNetworkInterfaces", err)
		}
		for i := range page.NetworkInterfaces {
			a, ok, err := attachedOf(&page.NetworkInterfaces[i])
			if err != nil {
				return nil, sdk.Classify("DescribeNetworkInterfaces", err)
			}
			if ok {
				all = append(all, a)
			}
		}
		in.NextToken = page.NextToken
	}
	if len(all) == 0 {
		return nil, &vpc.EC2Error{Kind: vpc.EC2Unknown, Service: "EC2", Err: vpc.ErrNoENIs}
	}
	slices.SortFunc(all, func(a, b vpc.Attached) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	return all, nil
}

func attachedOf(n *types.NetworkInterface) (a vpc.Attached, ok bool, err error) {
	if n.Attachment == nil || n.Attachment.Status != types.AttachmentStatusAttached && n.Attachment.Status != types.AttachmentStatusAttaching {
		return a, false, nil
	}
	var errs []error
	text := func(s *string, parse func(string) error) {
		if err := parse(aws.ToString(s)); err != nil {
			errs = append(errs, fmt.Errorf("network interface %s: %w", aws.ToString(n.NetworkInterfaceId), err))
		}
	}
	text(n.NetworkInterfaceId, func(s string) (err error) { a.ID, err = device.ParseENIID(s); return err })
	text(n.MacAddress, func(s string) (err error) { a.MAC, err = device.ParseMAC(s); return err })
	text(n.SubnetId, func(s string) (err error) { a.SubnetID, err = device.ParseSubnetID(s); return err })
	a.DeviceIndex, a.NetworkCard = int(aws.ToInt32(n.Attachment.DeviceIndex)), int(aws.ToInt32(n.Attachment.NetworkCardIndex))
	for _, tag := range n.TagSet {
		if aws.ToString(tag.Key) == vpc.NodeENITag {
			a.NodeENI = aws.ToString(tag.Value)
		}
	}
	address := func(s *string, primary bool) {
		text(s, func(s string) error {
			ip, err := netip.ParseAddr(s)
			if primary {
				a.Addresses = slices.Insert(a.Addresses, 0, ip)
			} else {
				a.Addresses = append(a.Addresses, ip)
			}
			return err
		})
	}
	prefix := func(s *string) {
		text(s, func(s string) error {
			p, err := netip.ParsePrefix(s)
			a.Prefixes = append(a.Prefixes, p)
			return err
		})
	}
	for _, ip := range n.PrivateIpAddresses {
		address(ip.PrivateIpAddress, aws.ToBool(ip.Primary))
	}
	for _, ip := range n.Ipv6Addresses {
		address(ip.Ipv6Address, false)
	}
	for _, p := range n.Ipv4Prefixes {
		prefix(p.Ipv4Prefix)
	}
	for _, p := range n.Ipv6Prefixes {
		prefix(p.Ipv6Prefix)
	}
	return a, true, errors.Join(errs...)
}

// Assign has EC2 choose n more addresses or prefixes for an ENI, and returns the answer's list, addresses with full length. The API reference
// does not say that the list has only new ones ("The private IP addresses assigned to the network interface", AssignPrivateIpAddresses).
// The call is made once: it has no ClientToken, and each execution adds n. Errors: *vpc.EC2Error.
func (e *EC2) Assign(ctx context.Context, eni device.ENIID, family vpc.Family, prefixes bool, n int) (got []netip.Prefix, err error) {
	client, _, err := e.connect(ctx)
	if err != nil {
		return nil, sdk.Classify("assign addresses to "+eni.String(), err)
	}
	id, count := aws.String(eni.String()), aws.Int32(int32(min(n, 1<<10))) //nolint:gosec // bounded
	var addresses, networks []string
	if family == vpc.IPv4 {
		in := &ec2.AssignPrivateIpAddressesInput{NetworkInterfaceId: id}
		if prefixes {
			in.Ipv4PrefixCount = count
		} else {
			in.SecondaryPrivateIpAddressCount = count
		}
		var out *ec2.AssignPrivateIpAddressesOutput
		if out, err = client.assign4(ctx, in); err == nil {
			for _, a := range out.AssignedPrivateIpAddresses {
				addresses = append(addresses, aws.ToString(a.PrivateIpAddress))
			}
			for _, p := range out.AssignedIpv4Prefixes {
				networks = append(networks, aws.ToString(p.Ipv4Prefix))
			}
		}
	} else {
		in := &ec2.AssignIpv6AddressesInput{NetworkInterfaceId: id}
		if prefixes {
			in.Ipv6PrefixCount = count
		} else {
			in.Ipv6AddressCount = count
		}
		var out *ec2.AssignIpv6AddressesOutput
		if out, err = client.assign6(ctx, in); err == nil {
			addresses, networks = out.AssignedIpv6Addresses, out.AssignedIpv6Prefixes
		}
	}
	if err != nil {
		return nil, sdk.Classify("assign addresses to "+eni.String(), err)
	}
	for _, s := range addresses {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, sdk.Classify("assign addresses to "+eni.String(), err)
		}
		got = append(got, netip.PrefixFrom(a, a.BitLen()))
	}
	for _, s := range networks {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, sdk.Classify("assign addresses to "+eni.String(), err)
		}
		got = append(got, p)
	}
	return got, nil
}

// Unassign gives one family's addresses (of full length) and prefixes back to the subnet, in one call. Errors: *vpc.EC2Error.
func (e *EC2) Unassign(ctx context.Context, eni device.ENIID, family vpc.Family, what []netip.Prefix) error {
	client, _, err := e.connect(ctx)
	if err != nil {
		return sdk.Classify("unassign addresses of "+eni.String(), err)
	}
	var addresses, prefixes []string
	for _, p := range what {
		if p.IsSingleIP() {
			addresses = append(addresses, p.Addr().String())
		} else {
			prefixes = append(prefixes, p.String())
		}
	}
	id := aws.String(eni.String())
	if family == vpc.IPv4 {
		_, err = client.unassign4(ctx, &ec2.UnassignPrivateIpAddressesInput{NetworkInterfaceId: id, PrivateIpAddresses: addresses, Ipv4Prefixes: prefixes})
	} else {
		_, err = client.unassign6(ctx, &ec2.UnassignIpv6AddressesInput{NetworkInterfaceId: id, Ipv6Addresses: addresses, Ipv6Prefixes: prefixes})
	}
	if err != nil {
		return sdk.Classify("unassign addresses of "+eni.String(), err)
	}
	return nil
}
