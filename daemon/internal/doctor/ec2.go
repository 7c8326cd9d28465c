package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

// EC2 has the questions to EC2. They change nothing.
type EC2 interface {
	Describe(ctx context.Context) ([]vpc.Attached, error)
	Permissions(ctx context.Context, eni device.ENIID) []vpc.Permission
}

// managed checks the needs of --manage-addresses: a way to EC2, the tag of each ENI, and the rights to change its addresses.
func managed(ctx context.Context, o Options) []Finding {
	const check = "EC2"
	if o.EC2 == nil {
		return ok(check, "not asked, since nobody manages addresses (--manage-addresses)")
	}
	enis, err := o.EC2.Describe(ctx)
	var failed *vpc.EC2Error
	if err != nil && !errors.As(err, &failed) {
		failed = &vpc.EC2Error{Kind: vpc.EC2NotSent, Err: err}
	}
	switch {
	case err == nil:
	case failed.Kind == vpc.EC2NotSent:
		return fail(check, failed.Remedy(), "it cannot be asked: %v", err)
	case failed.Kind == vpc.EC2Throttled || failed.Kind == vpc.EC2Refused:
		return warn(check, failed.Remedy(), "ENIs cannot be looked up: %v", err)
	default:
		return fail(check, failed.Remedy(), "ENIs cannot be looked up, so no address is assigned or given back: %v", err)
	}
	all := ok(check, "DescribeNetworkInterfaces allowed, ENIs of this instance: %d", len(enis))
	all = append(all, tags(o, enis)...)
	return append(all, changes(ctx, o, enis)...)
}

// tags compares the tags of the ENIs with the NodeENIs that have them.
func tags(o Options, enis []vpc.Attached) (all []Finding) {
	const check = "EC2 tags"
	inv, err := nodestate.ReadInventory(o.Inventory)
	if err != nil || inv.BootID != o.BootID { // the finding about the inventory says so
		return nil
	}
	tagged := 0
	for _, d := range inv.Devices {
		i := slices.IndexFunc(enis, func(e vpc.Attached) bool { return e.ID == d.ENIID })
		switch {
		case i < 0, (sysfs.PCIFunction{Driver: d.Driver}).UserspaceDriver(): // not attached, as the daemon says; or without a pool
		case enis[i].NodeENI == d.NodeENI:
			tagged++
		default:
			all = append(all, warn(check, fmt.Sprintf("run: aws ec2 create-tags --resources %s --tags Key=%s,Value=%s", d.ENIID, vpc.NodeENITag, d.NodeENI),
				"%s has the tag %s=%q, so its addresses are neither assigned nor given back", d.ENIID, vpc.NodeENITag, enis[i].NodeENI)...)
		}
	}
	if all == nil {
		return ok(check, "ENIs with the name of their NodeENI: %d", tagged)
	}
	return all
}

// changes asks for the rights to change one tagged ENI. All tagged ENIs have the same.
func changes(ctx context.Context, o Options, enis []vpc.Attached) []Finding {
	const check = "EC2 rights"
	i := slices.IndexFunc(enis, func(e vpc.Attached) bool { return e.NodeENI != "" })
	if i < 0 {
		return ok(check, "not asked, for no ENI of this instance has the tag %s", vpc.NodeENITag)
	}
	var may, mayNot, silent, unknown []string
	remedy := ""
	for _, p := range o.EC2.Permissions(ctx, enis[i].ID) {
		switch {
		case p.Err == nil:
			may = append(may, p.Action)
		case p.Err.Kind == vpc.EC2Forbidden:
			mayNot, remedy = append(mayNot, p.Action), p.Err.Remedy()
		case p.Err.Kind == vpc.EC2Refused:
			silent = append(silent, p.Action)
		default:
			unknown = append(unknown, fmt.Sprintf("%s (%v)", p.Action, p.Err))
		}
	}
	var all []Finding
	if may != nil {
		all = ok(check, "%s allowed on %s", strings.Join(may, ", "), enis[i].ID)
	}
	if silent != nil { // the API's model has no dry run for them
		all = append(all, ok(check, "%s: EC2 answers no dry run; multi-enid status shows EC2Forbidden once one is denied, compare the role's policy with "+
			"deploy/iam/multi-enid.json",
			strings.Join(silent, ", "))...)
	}
	if mayNot != nil {
		all = append(all, fail(check, remedy+"; it reaches ENIs that have the tag "+vpc.NodeENITag, "%s denied on %s", strings.Join(mayNot, ", "), enis[i].ID)...)
	}
	if unknown != nil {
		all = append(all, warn(check, "compare the role's policy with deploy/iam/multi-enid.json; multi-enid status shows EC2Forbidden once one is denied",
			"EC2 does not say of %s whether they are allowed", strings.Join(unknown, ", "))...)
	}
	return all
}
