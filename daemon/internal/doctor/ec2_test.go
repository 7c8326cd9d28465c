package doctor

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

// TestEC2Rights: a tag or a right that is missing gives one finding.
func TestEC2Rights(t *testing.T) {
	find(t, map[string]fault{
		"EC2 may not be asked": {func(w *world) {
			w.ec2(fakeec2.Config{ENIs: []fakeec2.ENI{eni("fast")}, May: func(string, fakeec2.ENI) bool { return false }})
		}, Fail, "EC2", []string{"DescribeNetworkInterfaces", "UnauthorizedOperation", "deploy/iam/multi-enid.json", "Pod Identity", "IRSA"}},
		"ENI without the tag": {func(w *world) { w.ec2(fakeec2.Config{ENIs: []fakeec2.ENI{eni("")}}) },
			Warn, "EC2 tags", []string{`eni-0a1b2c3d4e5f60001 has the tag NodeENI=""`,
				"aws ec2 create-tags --resources eni-0a1b2c3d4e5f60001 --tags Key=NodeENI,Value=fast"}},
		"ENI of another NodeENI": {func(w *world) { w.ec2(fakeec2.Config{ENIs: []fakeec2.ENI{eni("slow")}}) },
			Warn, "EC2 tags", []string{`NodeENI="slow"`, "Value=fast"}},
		"rights in EC2 denied": {func(w *world) {
			w.ec2(fakeec2.Config{ENIs: []fakeec2.ENI{eni("fast")}, May: func(action string, _ fakeec2.ENI) bool { return !strings.HasPrefix(action, "Unassign") }})
		}, Fail, "EC2 rights", []string{"UnassignPrivateIpAddresses, UnassignIpv6Addresses denied on eni-0a1b2c3d4e5f60001", "deploy/iam/multi-enid.json",
			"tag NodeENI"}},
		"rights in EC2 unknown": {func(w *world) {
			w.ec2(fakeec2.Config{ENIs: []fakeec2.ENI{eni("fast")}}).Fail("AssignIpv6Addresses", fakeec2.Empty500)
		}, Warn, "EC2 rights", []string{"AssignIpv6Addresses", "500", "EC2Forbidden"}},
	})
}

// TestEC2Unreachable: each way in which EC2 cannot be asked names its own remedy.
func TestEC2Unreachable(t *testing.T) {
	find(t, map[string]fault{
		"EC2 refuses": {func(w *world) {
			w.ec2(fakeec2.Config{ENIs: []fakeec2.ENI{eni("fast")}}).Fail("DescribeNetworkInterfaces", "OperationNotPermitted")
		}, Warn, "EC2", []string{"OperationNotPermitted", "later"}},
		"EC2 elsewhere": {func(w *world) { w.ec2(fakeec2.Config{}) }, Fail, "EC2", []string{"no ENI of this instance", "AWS_REGION"}},
		"no credentials": {func(w *world) {
			w.ec2(fakeec2.Config{})
			w.Setenv("AWS_ACCESS_KEY_ID", "")
			w.Setenv("AWS_EC2_METADATA_DISABLED", "true") // no role of the instance's either
		}, Fail, "EC2", []string{"cannot be asked", "credentials", "Pod Identity", "NAT gateway", "VPC endpoint"}},
		"clock": {func(w *world) { w.ec2(fakeec2.Config{}).Fail("DescribeNetworkInterfaces", "RequestExpired") }, Fail, "EC2", []string{"RequestExpired", "clock"}},
		"signature": {func(w *world) { w.ec2(fakeec2.Config{}).Fail("DescribeNetworkInterfaces", "SignatureDoesNotMatch") },
			Fail, "EC2", []string{"SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"}},
		"key": {func(w *world) { w.ec2(fakeec2.Config{}).Fail("DescribeNetworkInterfaces", "AuthFailure") }, Fail, "EC2", []string{"AuthFailure", "access key"}},
		"region elsewhere": {func(w *world) { w.ec2(fakeec2.Config{}).Fail("DescribeNetworkInterfaces", fakeec2.Redirect) },
			Fail, "EC2", []string{"301", "AWS_REGION"}},
		"page of a proxy": {func(w *world) { w.ec2(fakeec2.Config{}).Fail("DescribeNetworkInterfaces", fakeec2.HTML) },
			Fail, "EC2", []string{"not EC2's", "HTTPS_PROXY"}},
		"error of a proxy": {func(w *world) {
			w.ec2(fakeec2.Config{}).Fail("DescribeNetworkInterfaces", slices.Repeat([]string{fakeec2.HTML503}, 4)...)
		}, Fail, "EC2", []string{"503", "HTTPS_PROXY"}},
	})
}

// ec2Answers is EC2 with fixed answers.
type ec2Answers struct {
	enis        []vpc.Attached
	err         error
	permissions []vpc.Permission
}

func (e ec2Answers) Describe(context.Context) ([]vpc.Attached, error) { return e.enis, e.err }
func (e ec2Answers) Permissions(context.Context, device.ENIID) []vpc.Permission {
	return e.permissions
}

// TestManagedKinds: the level of a finding follows the kind of EC2's error.
func TestManagedKinds(t *testing.T) {
	w := newWorld(t)
	failed := func(kind vpc.EC2Kind) error {
		return &vpc.EC2Error{Kind: kind, Code: "X", Err: errors.New("DescribeNetworkInterfaces: X")}
	}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{failed(vpc.EC2Throttled), "warn EC2: ENIs cannot be looked up: DescribeNetworkInterfaces: X; ask again later"},
		{failed(vpc.EC2Refused), "warn EC2: ENIs cannot be looked up: "},
		{failed(vpc.EC2Forbidden), "FAIL EC2: ENIs cannot be looked up, so no address is assigned or given back: DescribeNetworkInterfaces: X; give the " +
			"role the policy"},
		{failed(vpc.EC2Unknown), "FAIL EC2: ENIs cannot be looked up, so no address"},
		{failed(vpc.EC2NotSent), "FAIL EC2: it cannot be asked: DescribeNetworkInterfaces: X; "},
		{errors.New("no region"), "FAIL EC2: it cannot be asked: no region; "},
	} {
		w.o.EC2 = ec2Answers{err: tt.err}
		w.says(managed, tt.want)
	}
	w.o.EC2 = nil
	w.says(managed, "ok EC2: not asked, since nobody manages addresses (--manage-addresses)")
}

// TestChanges: rights that EC2 grants, denies, and does not tell are three findings.
func TestChanges(t *testing.T) {
	w := newWorld(t)
	tagged := []vpc.Attached{{ID: "eni-0a1b2c3d4e5f60009"}, {ID: "eni-0a1b2c3d4e5f60001", NodeENI: "fast"}}
	refused := func(kind vpc.EC2Kind) *vpc.EC2Error { return &vpc.EC2Error{Kind: kind, Err: errors.New("no answer")} }
	w.o.EC2 = ec2Answers{permissions: []vpc.Permission{
		{Action: "A"}, {Action: "B", Err: refused(vpc.EC2Forbidden)}, {Action: "C", Err: refused(vpc.EC2Refused)},
		{Action: "D", Err: refused(vpc.EC2Unknown)},
	}}
	check := func(ctx context.Context, o Options) []Finding { return changes(ctx, o, tagged) }
	w.says(check,
		"ok EC2 rights: A allowed on eni-0a1b2c3d4e5f60001", "ok EC2 rights: C: EC2 answers no dry run; ",
		"FAIL EC2 rights: B denied on eni-0a1b2c3d4e5f60001; ", "warn EC2 rights: EC2 does not say of D (no answer) whether they are allowed; ",
	)
}

// TestTags: without an inventory of this boot the tags are not compared.
func TestTags(t *testing.T) {
	w := newWorld(t)
	check := func(_ context.Context, o Options) []Finding {
		return tags(o, []vpc.Attached{{ID: "eni-0a1b2c3d4e5f60001", NodeENI: "slow"}})
	}
	w.says(check, `warn EC2 tags: eni-0a1b2c3d4e5f60001 has the tag NodeENI="slow", so its addresses are neither assigned nor given back; run: aws ec2 `+
		`create-tags`)
	w.inventory(nodestate.Inventory{NodeName: "node-a", BootID: "an earlier one", Devices: []nodestate.Device{{ENIID: "eni-0a1b2c3d4e5f60001", NodeENI: "fast"}}})
	w.says(check)
	w.write("run/inventory.json", "{", 0o600)
	w.says(check)
}

// TestManaged: on a healthy node EC2 is asked for each right once, and changes nothing. It is not asked without a tagged ENI.
func TestManaged(t *testing.T) {
	w := newWorld(t)
	w.inventory(nodestate.Inventory{NodeName: "node-a", BootID: bootID, Devices: []nodestate.Device{
		{ENIID: "eni-0a1b2c3d4e5f60001", NodeENI: "fast", MAC: "02:00:00:00:00:01", PCIAddress: "0000:00:06.0", Driver: "ena", Phase: nodestate.PhaseReady},
		{ENIID: "eni-0a1b2c3d4e5f60000", NodeENI: "dpdk", MAC: "02:00:00:00:00:02", PCIAddress: "0000:00:07.0", Driver: "vfio-pci", Phase: nodestate.PhaseReady},
		// has no pool
		{ENIID: "eni-0a1b2c3d4e5f60002", NodeENI: "late", Phase: nodestate.PhasePending},
	}})
	untagged := eni("")
	untagged.ID = "eni-0a1b2c3d4e5f60000"
	s := w.ec2(fakeec2.Config{DryRun: true, ENIs: []fakeec2.ENI{untagged, eni("fast")}, May: func(action string, e fakeec2.ENI) bool {
		return action == "DescribeNetworkInterfaces" || e.Tags[vpc.NodeENITag] != ""
	}})
	report := w.report()
	for _, line := range []string{
		"ok    EC2: DescribeNetworkInterfaces allowed, ENIs of this instance: 2\n",
		"ok    EC2 tags: ENIs with the name of their NodeENI: 1\n",
		"ok    EC2 rights: AssignPrivateIpAddresses, UnassignPrivateIpAddresses, AssignIpv6Addresses, UnassignIpv6Addresses allowed on eni-0a1b2c3d4e5f60001\n",
	} {
		if !strings.Contains(report, line) {
			t.Errorf("report lacks %q:\n%s", line, report)
		}
	}
	if got := len(s.Calls()); got != 5 {
		t.Errorf("%d calls", got)
	}
	if diff := cmp.Diff(eni("fast"), s.ENI("eni-0a1b2c3d4e5f60001"), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("the ENI was changed (-want +got):\n%s", diff)
	}

	w.inventory(nodestate.Inventory{NodeName: "node-a", BootID: bootID})
	s.Change("eni-0a1b2c3d4e5f60001", func(e *fakeec2.ENI) { e.Tags = nil })
	if got := w.report(); !strings.Contains(got, "ok    EC2 rights: not asked, for no ENI of this instance has the tag NodeENI\n") {
		t.Errorf("report:\n%s", got)
	}
}

// TestNoDryRuns: an EC2 that answers no dry run is no fault.
func TestNoDryRuns(t *testing.T) {
	w := newWorld(t)
	w.ec2(fakeec2.Config{ENIs: []fakeec2.ENI{eni("fast")}})
	const want = "ok    EC2 rights: AssignPrivateIpAddresses, UnassignPrivateIpAddresses, AssignIpv6Addresses, UnassignIpv6Addresses: EC2 answers no dry run; "
	if got := w.report(); !strings.Contains(got, want) {
		t.Errorf("report:\n%s", got)
	}
}
