package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// ControllerOptions are the questions of the controller's doctor. Functions get a context with a deadline.
type ControllerOptions struct {
	// Namespace has the controller's Lease.
	Namespace string
	// Cluster is nil with ClusterErr, which says why it cannot be asked at all.
	Cluster    ControllerCluster
	ClusterErr error
	EC2        RegionEC2
	Now        func() time.Time
}

// ControllerCluster is the Kubernetes API, asked as the controller.
type ControllerCluster interface {
	Version(ctx context.Context) (string, error)
	Resources(ctx context.Context) ([]string, error)
	// AllowedOn says whether the caller may use the verb on a resource; namespace and name are "" for all.
	AllowedOn(ctx context.Context, verb, group, resource, namespace, name string) (bool, error)
	ClusterUID(ctx context.Context) (string, error)
	// Leader reads the Lease in the controller's namespace. holder is "" while nobody has it.
	Leader(ctx context.Context) (holder string, renewed time.Time, err error)
	// Rival returns the holder of another fresh Lease, as namespace and holder; "" for none.
	Rival(ctx context.Context) (string, error)
	// Survey reads NodeENIs, Nodes and ENINodeStates.
	Survey(ctx context.Context) (Survey, error)
}

// Survey is what the objects of the cluster say. All lists have names.
type Survey struct {
	Nodes, NodeENIs int
	// NoInstance are Nodes without an EC2 instance in their providerID, AutoMode those of EKS Auto Mode.
	NoInstance, AutoMode []string
	// OldDaemons are nodes with ENIs of the controller whose daemon speaks no protocol.
	OldDaemons []string
	// SilentDaemons are Ready nodes with ENIs of the controller on which no daemon has ever reported.
	SilentDaemons []string
	// Instances are the ids of the instances that NodeENIs select.
	Instances []string
	// Faults say why NodeENIs, or slots of them, cannot be had.
	Faults []SlotFault
	// Unreadable are objects that could not be decoded.
	Unreadable []string
}

// SlotFault is a fault of a NodeENI, on one node or on each.
type SlotFault struct{ NodeENI, Node, Reason, Message string }

// RegionEC2 has the questions to EC2. They change nothing.
type RegionEC2 interface {
	// Sample looks for resources to ask for permissions with. Cluster and instance may be "".
	Sample(ctx context.Context, cluster, instance string) (vpc.Sample, error)
	// Permissions asks for each action by a dry run with them.
	Permissions(ctx context.Context, s vpc.Sample) []vpc.Permission
	Instance(ctx context.Context, id string) (vpc.Instance, error)
}

// RunController carries out the controller's checks, one after the other. A check that ctx ends gives a finding.
func RunController(ctx context.Context, o ControllerOptions) []Finding {
	c := controllerDoctor{ControllerOptions: o}
	var all []Finding
	for _, check := range []func(context.Context) []Finding{c.api, c.election, c.objects, c.ec2, c.instances} {
		within, cancel := context.WithTimeout(ctx, checkTimeout)
		all = append(all, check(within)...)
		cancel()
	}
	return all
}

type controllerDoctor struct {
	ControllerOptions
	// cluster is its UID, survey the objects; zero where they could not be read.
	cluster string
	survey  *Survey
}

// controllerRight is a right of the controller's roles. Name and namespace narrow it as the roles do.
type controllerRight struct {
	group, resource, namespace, name string
	verbs                            []string
	without                          string
}

func (c *controllerDoctor) rights() []controllerRight {
	const ours, leases = v1alpha1.GroupName, "coordination.k8s.io"
	return []controllerRight{
		{ours, "nodeenis", "", "", []string{"list", "watch", "patch"}, "no NodeENI is known, or none can be deleted"},
		{ours, "nodeenis/status", "", "", []string{"patch"}, "NodeENIs do not show their ENIs"},
		{ours, "eninodestates", "", "", []string{"get", "list", "watch", "create", "patch", "delete"}, "daemons do not learn of their ENIs"},
		{"", "nodes", "", "", []string{"list", "watch"}, "it is not known which nodes there are"},
		{"", "namespaces", "", "kube-system", []string{"get"}, "the cluster has no id, so nothing is created"},
		{"", "events", "", "", []string{"create", "patch"}, "people are not told by Events"},
		{leases, "leases", "", leaseName, []string{"list"}, "another controller is not noticed, so nothing is changed"},
		{leases, "leases", c.Namespace, "", []string{"create"}, "nobody leads, so nothing is done"},
		{leases, "leases", c.Namespace, leaseName, []string{"get", "update"}, "nobody leads, so nothing is done"},
	}
}

// leaseName is the Lease of the election, which the public controller uses too.
const leaseName = "nodeeni-controller-leader-election"

func (c *controllerDoctor) api(ctx context.Context) []Finding {
	const check = "Kubernetes API"
	if c.ClusterErr != nil {
		return fail(check, "outside a pod give --kubeconfig; in a pod, mount the service account's token", "%v", c.ClusterErr)
	}
	version, err := c.Cluster.Version(ctx)
	if err != nil {
		c.ClusterErr = err
		return fail(check, "see the server's address in the kubeconfig or KUBERNETES_SERVICE_HOST, the network between, and the token", "%v", err)
	}
	all := ok(check, "%s answers", version)
	all = append(all, resources(ctx, c.Cluster)...)
	for _, r := range c.rights() {
		all = append(all, r.check(ctx, c.Cluster)...)
	}
	uid, err := c.Cluster.ClusterUID(ctx)
	if err != nil {
		return append(all, fail("cluster", "grant get on the namespace kube-system, as deploy/components/controller does", "its id cannot be read: %v", err)...)
	}
	c.cluster = uid
	return append(all, ok("cluster", "its ENIs have the tag %s=%s", clusterTag, uid)...)
}

// clusterTag is the tag of everything that the controller makes.
const clusterTag = "multi-eni.networking.k8s.aws/cluster"

func (r controllerRight) check(ctx context.Context, c ControllerCluster) []Finding {
	name := "RBAC " + r.resource
	if r.group != "" {
		base, sub, _ := strings.Cut(r.resource, "/")
		name = "RBAC " + base + "." + r.group
		if sub != "" {
			name += "/" + sub
		}
	}
	where := ""
	if r.name != "" {
		where = " on " + r.name
	}
	if r.namespace != "" {
		where += " in " + r.namespace
	}
	var denied []string
	for _, verb := range r.verbs {
		allowed, err := c.AllowedOn(ctx, verb, r.group, r.resource, r.namespace, r.name)
		if err != nil {
			return fail(name, "see whether the API server is healthy", "it cannot be asked: %v", err)
		}
		if !allowed {
			denied = append(denied, verb)
		}
	}
	if denied != nil {
		return fail(name, "apply deploy/components/controller, or set controller.enabled=true in the chart; run doctor in the controller's pod",
			"%s denied%s: %s", strings.Join(denied, ", "), where, r.without)
	}
	return ok(name, "%s allowed%s", strings.Join(r.verbs, ", "), where)
}

// freshLease is how old a renewal of a living leader may be: the Lease lasts 15 s.
const freshLease = 20 * time.Second

func (c *controllerDoctor) election(ctx context.Context) []Finding {
	const check = "leader"
	if c.ClusterErr != nil {
		return nil
	}
	holder, renewed, err := c.Cluster.Leader(ctx)
	var all []Finding
	switch {
	case err != nil:
		all = fail(check, "see the RBAC findings above, and --namespace", "the Lease %s in %s cannot be read: %v", leaseName, c.Namespace, err)
	case holder == "":
		all = warn(check, "start the controller: set controller.enabled=true in the chart, or add deploy/components/controller", "nobody leads in %s", c.Namespace)
	case c.Now().Sub(renewed) > freshLease:
		all = warn(check, "look at the pods of the controller", "%s, but it has not renewed its Lease since %s", holder, renewed.UTC().Format(time.RFC3339))
	default:
		all = ok(check, "%s", holder)
	}
	rival, err := c.Cluster.Rival(ctx)
	const other = "other controller"
	switch {
	case err != nil:
		return append(all, fail(other, "grant list on leases, as deploy/components/controller does", "it cannot be looked for: %v", err)...)
	case rival != "":
		return append(all, fail(other, "scale the other one to 0 (docs/migration.md); until then this one changes nothing",
			"%s holds a Lease of the same name", rival)...)
	}
	return append(all, ok(other, "none")...)
}

// shown is how many names one finding lists.
const shown = 5

// some names the first few of a list.
func some(names []string) string {
	slices.Sort(names)
	if n := len(names); n > shown {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), n-shown)
	}
	return strings.Join(names, ", ")
}

func (c *controllerDoctor) objects(ctx context.Context) []Finding {
	const check = "objects"
	if c.ClusterErr != nil {
		return nil
	}
	s, err := c.Cluster.Survey(ctx)
	if err != nil {
		return fail(check, "see the RBAC findings above", "they cannot be read: %v", err)
	}
	c.survey = &s
	all := ok(check, "NodeENIs: %d, Nodes: %d", s.NodeENIs, s.Nodes)
	if len(s.Unreadable) > 0 {
		all = append(all, fail(check, "compare them with docs/api.md; their ENIs stay as they are meanwhile", "not to be read: %s", some(s.Unreadable))...)
	}
	if len(s.NoInstance) > 0 {
		all = append(all, warn("nodes", "the cloud provider must set spec.providerID; until then they get no ENI", "no EC2 instance in spec.providerID: %s",
			some(s.NoInstance))...)
	}
	if len(s.AutoMode) > 0 {
		all = append(all, warn("nodes", "use a managed node group, or leave them out by spec.nodeSelector", "of EKS Auto Mode, so without ENIs of NodeENIs: %s",
			some(s.AutoMode))...)
	}
	if len(s.OldDaemons) > 0 {
		all = append(all, warn("daemons", "update them, and give them --attachments-from=controller; until then no ENI of them is detached",
			"too old to release an ENI, or not started so: %s", some(s.OldDaemons))...)
	}
	if len(s.SilentDaemons) > 0 {
		all = append(all, warn("daemons", "run multi-enid doctor in the daemon's pod there; until a daemon reports, each of their ENIs is detached 5 minutes "+
			"after its NodeENI is deleted, although a daemon without the right to report may have given it to a pod",
			"none has ever reported on: %s", some(s.SilentDaemons))...)
	}
	for i, f := range s.Faults {
		where := "NodeENI " + f.NodeENI
		if f.Node != "" {
			where += " on " + f.Node
		}
		if i == shown {
			return append(all, warn("NodeENIs", "see the Events of each", "%d more have faults", len(s.Faults)-shown)...)
		}
		all = append(all, warn(where, f.Message, "%s", f.Reason)...)
	}
	return all
}

func (c *controllerDoctor) ec2(ctx context.Context) []Finding {
	const check = "EC2"
	var may, unknown []string
	var all []Finding
	instance := ""
	if c.survey != nil && len(c.survey.Instances) > 0 {
		instance = c.survey.Instances[0]
	}
	sample, err := c.EC2.Sample(ctx, c.cluster, instance)
	var failed *vpc.EC2Error
	if errors.As(err, &failed) && failed.Kind != vpc.EC2Forbidden { // Permissions says which action is denied
		return fail(check, controllerRemedy(failed), "it cannot be asked: %v", err)
	}
	for _, p := range c.EC2.Permissions(ctx, sample) {
		switch {
		case p.Err == nil:
			may = append(may, p.Action)
		case p.Err.Kind == vpc.EC2NotSent || p.Err.Kind == vpc.EC2Unauthenticated:
			return fail(check, controllerRemedy(p.Err), "it cannot be asked: %v", p.Err)
		case p.Err.Kind == vpc.EC2Forbidden:
			all = append(all, fail(check, controllerRemedy(p.Err), "%s denied", p.Action)...)
		default:
			unknown = append(unknown, fmt.Sprintf("%s (%v)", p.Action, p.Err))
		}
	}
	if unknown != nil {
		all = append(all, warn(check, "compare the role's policy with deploy/iam/multi-enid-controller.json", "EC2 does not say of %s whether they are allowed",
			strings.Join(unknown, ", "))...)
	}
	if may != nil {
		all = append(ok(check, "%s allowed", strings.Join(may, ", ")), all...)
	}
	return all
}

// controllerRemedy names the controller's policy instead of the daemon's.
func controllerRemedy(e *vpc.EC2Error) string {
	return strings.NewReplacer("deploy/iam/multi-enid.json", "deploy/iam/multi-enid-controller.json", "docs/addresses.md", "docs/controller.md",
		"the daemon", "the controller").Replace(e.Remedy())
}

// asked is how many instances doctor reads: all of a cluster have the same tags as a rule.
const asked = 50

// instances looks for instances on which the policy does not permit AttachNetworkInterface.
func (c *controllerDoctor) instances(ctx context.Context) []Finding {
	const check = "instances"
	if c.survey == nil || c.cluster == "" || len(c.survey.Instances) == 0 {
		return nil
	}
	ids := c.survey.Instances[:min(asked, len(c.survey.Instances))]
	var untagged []string
	for _, id := range ids {
		i, err := c.EC2.Instance(ctx, id)
		if err != nil {
			return warn(check, "see the EC2 findings above", "%s cannot be read: %v", id, err)
		}
		if !tagged(i.Tags) {
			untagged = append(untagged, id)
		}
	}
	if untagged != nil {
		return fail(check, "tag them kubernetes.io/cluster/NAME=owned, with the cluster's name, as managed node groups do (deploy/iam/README.md)",
			"without a tag of the cluster, which the policy wants for AttachNetworkInterface: %s", some(untagged))
	}
	return ok(check, "%d have a tag of the cluster", len(ids))
}

// tagged says whether an instance belongs to a cluster, by the tag that EKS and others give it, and that deploy/iam asks for.
func tagged(tags map[string]string) bool {
	for key, value := range tags {
		if strings.HasPrefix(key, "kubernetes.io/cluster/") && (value == "owned" || value == "shared") {
			return true
		}
	}
	return false
}
