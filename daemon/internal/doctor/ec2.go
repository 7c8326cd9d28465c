package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// EC2 is awsnode.EC2.
type EC2 interface {
	Describe(ctx context.Context) ([]awsnode.Attached, error)
	Permissions(ctx context.Context, eni device.ENIID) []awsnode.Permission
}

// rightsRemedy is the way to a right in EC2.
const rightsRemedy = "give the role the policy deploy/iam/multi-enid.json, by EKS Pod Identity or IRSA (docs/addresses.md)"

// managed looks at what --manage-addresses needs: a way to EC2, the tag of each ENI,
// and the rights to change its addresses.
func managed(ctx context.Context, o Options) []Finding {
	const check = "EC2"
	if o.EC2 == nil {
		return ok(check, "not asked, since nobody manages addresses (--manage-addresses)")
	}
	enis, err := o.EC2.Describe(ctx)
	var refused *awsnode.EC2Error
	switch {
	case errors.As(err, &refused) && refused.Kind == awsnode.EC2Forbidden:
		return fail(check, rightsRemedy, "ENIs cannot be looked up, so no address is assigned or given back: %v", err)
	case errors.As(err, &refused) && refused.Code != "":
		return warn(check, "ask again later", "ENIs cannot be looked up: %v", err)
	case err != nil:
		return fail(check, "credentials come by EKS Pod Identity, by IRSA or from the instance's role (docs/addresses.md); from a private subnet EC2 is reached by a NAT gateway or the VPC endpoint ec2", "it cannot be asked: %v", err)
	case len(enis) == 0:
		return fail(check, "see AWS_REGION and AWS_ENDPOINT_URL_EC2, and of which account the role is", "it knows no ENI of this instance")
	}
	all := ok(check, "DescribeNetworkInterfaces allowed, ENIs of this instance: %d", len(enis))
	all = append(all, tags(o, enis)...)
	return append(all, changes(ctx, o, enis)...)
}

// tags compares the tags of the ENIs with the NodeENIs that have them.
func tags(o Options, enis []awsnode.Attached) (all []Finding) {
	const check = "EC2 tags"
	inv, err := nodestate.ReadInventory(o.Inventory)
	if err != nil || inv.BootID != o.BootID { // the finding about the inventory says so
		return nil
	}
	tagged := 0
	for _, d := range inv.Devices {
		i := slices.IndexFunc(enis, func(e awsnode.Attached) bool { return e.ID == d.ENIID })
		switch {
		case i < 0, (sysfs.PCIFunction{Driver: d.Driver}).UserspaceDriver(): // not attached, as the daemon says; or without a pool
		case enis[i].NodeENI == d.NodeENI:
			tagged++
		default:
			all = append(all, warn(check, fmt.Sprintf("run: aws ec2 create-tags --resources %s --tags Key=%s,Value=%s", d.ENIID, awsnode.NodeENITag, d.NodeENI),
				"%s has the tag %s=%q, so its addresses are neither assigned nor given back", d.ENIID, awsnode.NodeENITag, enis[i].NodeENI)...)
		}
	}
	if all == nil {
		return ok(check, "ENIs with the name of their NodeENI: %d", tagged)
	}
	return all
}

// changes asks for the rights to change an ENI that has the tag: what holds for one
// does for all.
func changes(ctx context.Context, o Options, enis []awsnode.Attached) []Finding {
	const check = "EC2 rights"
	i := slices.IndexFunc(enis, func(e awsnode.Attached) bool { return e.NodeENI != "" })
	if i < 0 {
		return ok(check, "not asked, for no ENI of this instance has the tag %s", awsnode.NodeENITag)
	}
	var may, mayNot, unknown []string
	for _, p := range o.EC2.Permissions(ctx, enis[i].ID) {
		switch {
		case p.Err == nil:
			may = append(may, p.Action)
		case p.Err.Kind == awsnode.EC2Forbidden:
			mayNot = append(mayNot, p.Action)
		default:
			unknown = append(unknown, fmt.Sprintf("%s (%v)", p.Action, p.Err))
		}
	}
	var all []Finding
	if may != nil {
		all = ok(check, "%s allowed on %s", strings.Join(may, ", "), enis[i].ID)
	}
	if mayNot != nil {
		all = append(all, fail(check, rightsRemedy+"; it reaches ENIs that have the tag "+awsnode.NodeENITag, "%s denied on %s", strings.Join(mayNot, ", "), enis[i].ID)...)
	}
	if unknown != nil {
		all = append(all, warn(check, "compare the role's policy with deploy/iam/multi-enid.json; multi-enid status shows EC2Forbidden once one is denied", "EC2 does not say of %s whether they are allowed", strings.Join(unknown, ", "))...)
	}
	return all
}
