package region

import (
	"net/netip"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
)

func TestTypeOf(t *testing.T) {
	card := func(index, n int32) types.NetworkCardInfo {
		return types.NetworkCardInfo{NetworkCardIndex: aws.Int32(index), MaximumNetworkInterfaces: aws.Int32(n)}
	}
	for name, tt := range map[string]struct {
		info *types.NetworkInfo
		want []vpc.Card // nil: senseless
	}{
		"cards in any order": {&types.NetworkInfo{MaximumNetworkInterfaces: aws.Int32(5), NetworkCards: []types.NetworkCardInfo{card(1, 3), card(0, 2)}},
			[]vpc.Card{{Index: 0, Interfaces: 2}, {Index: 1, Interfaces: 3}}},
		"no cards":     {&types.NetworkInfo{MaximumNetworkInterfaces: aws.Int32(4)}, []vpc.Card{{Interfaces: 4}}},
		"no limit":     {&types.NetworkInfo{}, nil},
		"no ENIs":      {&types.NetworkInfo{MaximumNetworkInterfaces: aws.Int32(0)}, nil},
		"nothing":      {nil, nil},
		"a wrong card": {&types.NetworkInfo{MaximumNetworkInterfaces: aws.Int32(4), NetworkCards: []types.NetworkCardInfo{card(-1, 3)}}, nil},
	} {
		got, err := typeOf(&types.InstanceTypeInfo{InstanceType: "m5.large", NetworkInfo: tt.info})
		if (tt.want == nil) != (err != nil) {
			t.Errorf("%s: %v", name, err)
		}
		if tt.want != nil {
			want(t, name, got.Cards, tt.want, err)
		}
	}
}

func TestSubnetOf(t *testing.T) {
	v6 := func(cidr string, state types.SubnetCidrBlockStateCode) types.SubnetIpv6CidrBlockAssociation {
		return types.SubnetIpv6CidrBlockAssociation{Ipv6CidrBlock: aws.String(cidr), Ipv6CidrBlockState: &types.SubnetCidrBlockState{State: state}}
	}
	gone, here := v6("2001:db8:1::/64", types.SubnetCidrBlockStateCodeDisassociated), v6("2001:db8:2::/64", types.SubnetCidrBlockStateCodeAssociated)
	for name, tt := range map[string]struct {
		v4   *string
		v6   []types.SubnetIpv6CidrBlockAssociation
		want string // "": senseless
	}{
		"both":      {aws.String("10.0.0.0/24"), []types.SubnetIpv6CidrBlockAssociation{here}, "10.0.0.0/24"},
		"IPv6 only": {nil, []types.SubnetIpv6CidrBlockAssociation{gone, here}, "2001:db8:2::/64"},
		"host bits": {aws.String("10.0.0.1/24"), nil, ""},
		"no range":  {nil, []types.SubnetIpv6CidrBlockAssociation{gone}, ""},
		"nonsense":  {aws.String("10.0.0.0"), nil, ""},
	} {
		got, err := subnetOf(&types.Subnet{SubnetId: aws.String(subnet1), VpcId: aws.String("vpc-1"), AvailabilityZone: aws.String("a"), CidrBlock: tt.v4,
			Ipv6CidrBlockAssociationSet: tt.v6})
		if (tt.want == "") != (err != nil) || tt.want != "" && got.CIDR != netip.MustParsePrefix(tt.want) {
			t.Errorf("%s: %v, %v", name, got.CIDR, err)
		}
	}
}

// TestForeignENIs: ENIs of AWS' own services are readable. A load balancer's is attached to no instance.
func TestForeignENIs(t *testing.T) {
	n := &types.NetworkInterface{
		NetworkInterfaceId: aws.String("eni-00000001"), MacAddress: aws.String("02:00:00:00:00:01"), SubnetId: aws.String(subnet1), VpcId: aws.String("vpc-1"),
		AvailabilityZone: aws.String("a"), Status: "in-use", InterfaceType: "network_load_balancer",
		Attachment: &types.NetworkInterfaceAttachment{AttachmentId: aws.String("ela-attach-00000001"), DeviceIndex: aws.Int32(1), Status: "attached"},
		PrivateIpAddresses: []types.NetworkInterfacePrivateIpAddress{{PrivateIpAddress: aws.String("10.0.0.9")},
			{PrivateIpAddress: aws.String("10.0.0.4"), Primary: aws.Bool(true)}},
	}
	got := interfaceOf(n)
	if got.Unreadable != nil || got.Attachment.Instance != "" || got.Attachment.NetworkCard != 0 || got.Addresses[0] != netip.MustParseAddr("10.0.0.4") {
		t.Errorf("%+v", got)
	}
}
