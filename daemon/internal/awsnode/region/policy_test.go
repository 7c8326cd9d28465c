package region

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/slots"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2/iam"
)

type document struct {
	Version   string
	Statement []map[string]any
}

// shipped reads a policy of deploy/iam as somebody fills it in for the cluster "blue".
func shipped(t *testing.T, name string) document {
	t.Helper()
	data, err := os.ReadFile("../../../../deploy/iam/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, data); err != nil || compact.Len() > 6144 { // a managed policy's limit, without white space
		t.Errorf("%s: %d characters, %v", name, compact.Len(), err)
	}
	var d document
	if err := json.Unmarshal([]byte(strings.NewReplacer("CLUSTER_UID", cluster, "CLUSTER_NAME", "blue").Replace(string(data))), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d document) policy(t *testing.T) *iam.Policy {
	t.Helper()
	data, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	p, err := iam.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// estate is a region with ENIs of several owners: eni-…1 of this cluster, eni-…2 of another, eni-…3 without tags, eni-…4 of the public
// controller, eni-…5 of this cluster and attached, eni-…6 of the public controller and of another cluster.
func estate(p *iam.Policy) fakeec2.Config {
	cfg := account()
	cfg.Policy = p
	cfg.Instances = append(cfg.Instances, fakeec2.Instance{ID: "i-0000dead", Type: "m5.4xlarge", SubnetID: subnet1},
		fakeec2.Instance{ID: "i-0000beef", Type: "m5.4xlarge", SubnetID: subnet1, Tags: map[string]string{"kubernetes.io/cluster/red": "owned"}})
	other := map[string]string{slots.TagCluster: "another"}
	public := map[string]string{slots.TagManagedBy: slots.ManagedBy, vpc.NodeENITag: "a"}
	both := maps.Clone(other)
	maps.Copy(both, public)
	for i, tags := range []map[string]string{tags("one"), other, nil, public, tags("five"), both} {
		n := string(rune('1' + i))
		e := fakeec2.ENI{ID: "eni-0000000" + n, MAC: "02:00:00:00:00:0" + n, SubnetID: subnet1, Groups: []string{group1}, Tags: tags}
		if n == "5" {
			e.Instance, e.DeviceIndex, e.AttachmentStatus, e.AttachmentID = instance1, 5, "attached", "eni-attach-00000005"
		}
		if n == "2" {
			e.Instance, e.DeviceIndex, e.AttachmentStatus, e.AttachmentID = instance1, 2, "attached", "eni-attach-00000002"
		}
		cfg.ENIs = append(cfg.ENIs, e)
	}
	return cfg
}

// controllerCalls are all calls that the controller makes.
func controllerCalls(t *testing.T) map[string]func(c *Client) error {
	ctx := t.Context()
	look := func(_ any, err error) error { return err }
	return map[string]func(c *Client) error{
		"DescribeNetworkInterfaces": func(c *Client) error { return look(c.Interfaces(ctx, vpc.Query{})) },
		"DescribeInstances":         func(c *Client) error { return look(c.Instance(ctx, instance1)) },
		"DescribeInstanceTypes":     func(c *Client) error { return look(c.InstanceType(ctx, "m5.4xlarge")) },
		"DescribeSubnets":           func(c *Client) error { return look(c.Subnets(ctx, []string{subnet1}, nil)) },
		"DescribeSecurityGroups":    func(c *Client) error { return look(c.SecurityGroups(ctx, []string{group1}, nil)) },
		"create": func(c *Client) error {
			return look(c.Create(ctx, vpc.Creation{Token: "a", SubnetID: subnet1, Groups: []string{group1}, Tags: tags("new")}))
		},
		"attach": func(c *Client) error {
			return look(c.Attach(ctx, vpc.Joining{ENI: "eni-00000001", Instance: instance1, DeviceIndex: 1}))
		},
		"termination": func(c *Client) error {
			return c.SetDeleteOnTermination(ctx, "eni-00000005", "eni-attach-00000005", true)
		},
		"groups":            func(c *Client) error { return c.SetGroups(ctx, "eni-00000005", []string{group2}) },
		"source-dest-check": func(c *Client) error { return c.SetSourceDestCheck(ctx, "eni-00000001", false) },
		"move":              func(c *Client) error { return c.SetTags(ctx, "eni-00000001", tags("two")) },
		"detach":            func(c *Client) error { return c.Detach(ctx, "eni-attach-00000005", false) },
		"detach with force": func(c *Client) error { return c.Detach(ctx, "eni-attach-00000005", true) },
		"delete":            func(c *Client) error { return c.Delete(ctx, "eni-00000001") },
	}
}

// fresh is the region of the present call.
type fresh struct{ *fakeec2.Server }

// failing makes each call in a region of its own and returns the denied ones.
func failing(t *testing.T, p *iam.Policy, calls map[string]func(c *Client) error) (failed []string) {
	t.Helper()
	var of fresh
	c := New(Config{QPS: 1000, Burst: 1000, HTTPClient: &of})
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		of.Server = fakeec2.New(estate(p))
		err := calls[name](c)
		var e *vpc.EC2Error
		switch {
		case err == nil:
		case errors.As(err, &e) && e.Kind == vpc.EC2Forbidden:
			failed = append(failed, name)
		default:
			t.Errorf("%s: %v", name, err)
		}
	}
	return failed
}

// TestPolicyAllows: the shipped policy allows each call that the controller makes, and none of its statements or actions is spare.
func TestPolicyAllows(t *testing.T) {
	environment(t, nil)
	synctest.Test(t, policyAllows)
}

func policyAllows(t *testing.T) {
	d := shipped(t, "multi-enid-controller.json")
	calls := controllerCalls(t)
	if failed := failing(t, d.policy(t), calls); failed != nil {
		t.Errorf("denied: %q", failed)
	}
	for i, s := range d.Statement {
		less := document{d.Version, slices.Delete(slices.Clone(d.Statement), i, i+1)}
		if failed := failing(t, less.policy(t), calls); failed == nil {
			t.Errorf("nothing needs the statement %v", s["Sid"])
		}
		for _, part := range []string{"Action", "Resource"} {
			list, _ := s[part].([]any)
			for j := range list {
				one := maps.Clone(s)
				one[part] = slices.Delete(slices.Clone(list), j, j+1)
				less.Statement = slices.Clone(d.Statement)
				less.Statement[i] = one
				if failed := failing(t, less.policy(t), calls); failed == nil {
					t.Errorf("nothing needs %v of the statement %v", list[j], s["Sid"])
				}
			}
		}
	}
}

// TestPolicyDenies: near misses.
func TestPolicyDenies(t *testing.T) {
	environment(t, nil)
	synctest.Test(t, policyDenies)
}

func policyDenies(t *testing.T) {
	ctx := t.Context()
	retag := map[string]string{slots.TagCluster: "another"}
	calls := map[string]func(c *Client) error{
		"tag an ENI without tags":        func(c *Client) error { return c.SetTags(ctx, "eni-00000003", tags("x")) },
		"tag another cluster's ENI":      func(c *Client) error { return c.SetTags(ctx, "eni-00000002", tags("x")) },
		"give an ENI to another cluster": func(c *Client) error { return c.SetTags(ctx, "eni-00000001", retag) },
		"tag a public and another's ENI": func(c *Client) error { return c.SetTags(ctx, "eni-00000006", tags("x")) },
		"any tag on a public ENI":        func(c *Client) error { return c.SetTags(ctx, "eni-00000004", map[string]string{"Name": "x"}) },
		"detach another cluster's ENI":   func(c *Client) error { return c.Detach(ctx, "eni-attach-00000002", false) },
		"create for another cluster": func(c *Client) error {
			_, err := c.Create(ctx, vpc.Creation{Token: "a", SubnetID: subnet1, Groups: []string{group1}, Tags: retag})
			return err
		},
		"create without tags": func(c *Client) error {
			_, err := c.Create(ctx, vpc.Creation{Token: "a", SubnetID: subnet1, Groups: []string{group1}})
			return err
		},
	}
	for _, eni := range []string{"eni-00000002", "eni-00000003", "eni-00000004"} {
		calls["delete "+eni] = func(c *Client) error { return c.Delete(ctx, eni) }
		calls["source-dest-check of "+eni] = func(c *Client) error { return c.SetSourceDestCheck(ctx, eni, false) }
		calls["groups of "+eni] = func(c *Client) error { return c.SetGroups(ctx, eni, []string{group2}) }
		calls["attach "+eni] = func(c *Client) error {
			_, err := c.Attach(ctx, vpc.Joining{ENI: eni, Instance: instance1, DeviceIndex: 1})
			return err
		}
	}
	for _, instance := range []string{"i-0000dead", "i-0000beef"} {
		calls["attach to "+instance] = func(c *Client) error {
			_, err := c.Attach(ctx, vpc.Joining{ENI: "eni-00000001", Instance: instance, DeviceIndex: 1})
			return err
		}
	}
	d, adopt := shipped(t, "multi-enid-controller.json"), shipped(t, "multi-enid-controller-adopt.json")
	adopting := document{d.Version, slices.Concat(d.Statement, adopt.Statement)}
	for name, p := range map[string]document{"controller": d, "adopting": adopting} {
		if diff := cmp.Diff(slices.Sorted(maps.Keys(calls)), failing(t, p.policy(t), calls)); diff != "" {
			t.Errorf("%s: denied (-want +got):\n%s", name, diff)
		}
	}
	take := map[string]func(c *Client) error{"take": func(c *Client) error { return c.SetTags(ctx, "eni-00000004", tags("x")) }}
	if failing(t, d.policy(t), take) == nil || failing(t, adopting.policy(t), take) != nil {
		t.Error("tagging an ENI of the public controller is allowed by default, or denied to --adopt")
	}
}

// rights is a question for permissions: with a policy, in a region.
type rights struct {
	policy  *iam.Policy
	empty   bool // the region has no ENI but the instances' own
	ignores bool // of the service: dry runs
	denied  []string
	unknown []string
}

// TestPermissions: dry runs change nothing, name each missing right, and are not sent to a service that ignores them.
func TestPermissions(t *testing.T) {
	environment(t, nil)
	d := shipped(t, "multi-enid-controller.json")
	lacking := func(sid string) *iam.Policy {
		return document{d.Version, slices.DeleteFunc(slices.Clone(d.Statement), func(s map[string]any) bool { return s["Sid"] == sid })}.policy(t)
	}
	for name, tt := range map[string]rights{
		"all":          {policy: d.policy(t)},
		"no look":      {policy: lacking("LookUp"), denied: allActions[:5], unknown: allActions[5:]},
		"no tags":      {policy: lacking("TagNewENIs"), denied: []string{createInterface}},
		"no groups":    {policy: lacking("GiveENIsOtherGroups"), denied: []string{modifyInterface}},
		"no instances": {policy: lacking("OnInstancesOfThisCluster"), denied: []string{attachInterface, modifyInterface, detachInterface}},
		"no ENI yet":   {policy: d.policy(t), empty: true, unknown: []string{attachInterface, modifyInterface, detachInterface, deleteInterface}},
		"ignored":      {policy: d.policy(t), ignores: true, unknown: allActions},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, tt.test) })
	}
}

var allActions = []string{describeInterfaces, describeInstances, describeTypes, describeSubnets, describeGroups, createInterface, attachInterface,
	modifyInterface, detachInterface, deleteInterface}

func (r rights) test(t *testing.T) {
	cfg := estate(r.policy)
	if r.empty {
		cfg.ENIs = nil
	}
	s := fakeec2.New(cfg)
	before := s.All()
	c := New(Config{QPS: 1000, Burst: 1000, HTTPClient: s})
	if r.ignores {
		conn, err := c.connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conn.dry = conn.look
	}
	sample, err := c.Sample(t.Context(), cluster, instance1)
	if mayLook := !slices.Contains(r.denied, describeInterfaces); mayLook != (err == nil) {
		t.Error(err)
	}
	var actions, denied, unknown []string
	for _, p := range c.Permissions(t.Context(), sample) {
		actions = append(actions, p.Action)
		switch {
		case p.Err == nil:
		case p.Err.Kind == vpc.EC2Forbidden:
			denied = append(denied, p.Action)
		default:
			unknown = append(unknown, p.Action)
		}
	}
	if diff := cmp.Diff([][]string{allActions, r.denied, r.unknown}, [][]string{actions, denied, unknown}); diff != "" {
		t.Errorf("actions, denied, unknown (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, s.All(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" || c.Mutations() != 0 {
		t.Errorf("something was changed: %s, %d calls", diff, c.Mutations())
	}
}
