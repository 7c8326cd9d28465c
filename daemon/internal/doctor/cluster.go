package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// right is a set of verbs that the daemon needs in a cluster.
type right struct {
	group, resource string
	verbs           []string
	// without and level are the consequence of a missing right.
	without string
	level   Level
	// grants is the file below deploy/ that grants it.
	grants string
}

// rights returns the rights of the ClusterRoles in deploy/. It leaves out pods.
func rights(o Options) []right {
	const base = "rbac.yaml"
	all := []right{
		{v1alpha1.GroupName, "nodeenis", []string{"get", "list", "watch"}, "no device of this node is known", Fail, base},
		{v1alpha1.GroupName, "eninodestates", []string{"get", "list", "watch", "create"}, "the cluster cannot see this node's devices", Fail, base},
		{v1alpha1.GroupName, "eninodestates/status", []string{"patch"}, "the cluster cannot see this node's devices", Fail, base},
		{"", "nodes", []string{"get", "list", "watch"}, "it is not known which NodeENIs select this node", Fail, base},
		{"", "events", []string{"create", "patch"}, "people are not told by events; nothing else depends on them", Warn, base},
	}
	if o.Slots != nil {
		all = all[1:] // it asks for its own ENINodeState only
	}
	if o.StartupTaint {
		all = append(all, right{"", "nodes", []string{"patch"}, "the startup taint stays on the Node", Fail, "components/startup-taint/rbac.yaml"})
	}
	return all
}

// cluster asks the API server. If that does not answer, the rest is not asked.
func cluster(ctx context.Context, o Options) []Finding {
	const check = "Kubernetes API"
	switch {
	case o.ClusterErr != nil:
		return fail(check, "outside a pod give --kubeconfig; in a pod, mount the service account's token", "%v", o.ClusterErr)
	case o.Cluster == nil:
		return ok(check, "not asked, nor RBAC and CRDs, since NodeENIs come from %s", o.Source)
	}
	version, err := o.Cluster.Version(ctx)
	if err != nil {
		return fail(check, "see the server's address in the kubeconfig or KUBERNETES_SERVICE_HOST, the network between, and the token; RBAC and CRDs were not "+
			"looked at", "%v", err)
	}
	all := ok(check, "%s answers", version)
	all = append(all, resources(ctx, o.Cluster)...)
	all = append(all, access(ctx, o)...)
	all = append(all, node(ctx, o)...)
	return append(all, reports(ctx, o)...)
}

func resources(ctx context.Context, c interface {
	Resources(ctx context.Context) ([]string, error)
}) []Finding {
	const check = "CRDs"
	const remedy = "run: kubectl apply -f deploy/crd"
	served, err := c.Resources(ctx)
	if err != nil {
		return fail(check, "see whether the API server is healthy", "they cannot be looked for: %v", err)
	}
	var missing []string
	for _, name := range []string{"nodeenis", "eninodestates"} {
		if !slices.Contains(served, name) {
			missing = append(missing, name+"."+v1alpha1.GroupName)
		}
	}
	if len(missing) > 0 {
		return fail(check, remedy, "not installed: %s", list(missing))
	}
	return ok(check, "nodeenis and eninodestates of %s are served", v1alpha1.APIVersion)
}

func access(ctx context.Context, o Options) []Finding {
	var all []Finding
	for _, r := range rights(o) {
		all = append(all, r.check(ctx, o.Cluster)...)
	}
	return append(all, pods(ctx, o)...)
}

func (r right) check(ctx context.Context, c Cluster) []Finding {
	resource, sub, _ := strings.Cut(r.resource, "/")
	name := "RBAC " + resource // as kubectl auth can-i writes it
	if r.group != "" {
		name += "." + r.group
	}
	if sub != "" {
		name += "/" + sub
	}
	denied, err := r.denied(ctx, c, "")
	switch {
	case err != nil:
		return fail(name, "see whether the API server is healthy", "it cannot be asked: %v", err)
	case len(denied) == 0:
		return ok(name, "%s allowed", strings.Join(r.verbs, ", "))
	}
	return []Finding{{Level: r.level, Check: name, Detail: fmt.Sprintf("%s denied: %s", strings.Join(denied, ", "), r.without),
		Remedy: "run: kubectl apply -f deploy/" + r.grants}}
}

// denied returns the verbs that the caller may not use.
func (r right) denied(ctx context.Context, c Cluster, namespace string) (verbs []string, err error) {
	for _, verb := range r.verbs {
		allowed, err := c.Allowed(ctx, verb, r.group, r.resource, namespace)
		if err != nil {
			return nil, err
		}
		if !allowed {
			verbs = append(verbs, verb)
		}
	}
	return verbs, nil
}

// pods checks the Roles in the namespaces that are searched for device plugins. The daemon may not ask whether a namespace exists.
func pods(ctx context.Context, o Options) []Finding {
	const check = "RBAC pods"
	r := right{resource: "pods", verbs: []string{"list", "delete"}}
	var may, mayNot []string
	for _, namespace := range o.Namespaces {
		denied, err := r.denied(ctx, o.Cluster, namespace)
		switch {
		case err != nil:
			return fail(check, "see whether the API server is healthy", "it cannot be asked: %v", err)
		case len(denied) == 0:
			may = append(may, namespace)
		default:
			mayNot = append(mayNot, fmt.Sprintf("%s (%s)", namespace, strings.Join(denied, ", ")))
		}
	}
	var all []Finding
	if len(may) > 0 {
		all = ok(check, "%s allowed in %s", strings.Join(r.verbs, ", "), list(may))
	}
	if len(mayNot) > 0 {
		all = append(all, warn(check, "if there is one, apply deploy/rbac.yaml, or a Role in that namespace as in deploy/components/namespaced-pods; else name "+
			"by --dp-namespaces only those that you use",
			"denied in %s: a device plugin there would serve its old config until people restart it", list(mayNot))...)
	}
	return all
}

func node(ctx context.Context, o Options) []Finding {
	const check = "Node object"
	exists, err := o.Cluster.NodeExists(ctx)
	switch {
	case err != nil:
		return fail(check, "see the RBAC findings above", "%s cannot be read: %v", o.NodeName, err)
	case !exists:
		return fail(check, "--node-name or NODE_NAME must be the Node's name, in a pod by fieldRef spec.nodeName; nothing is removed meanwhile",
			"there is no Node %s", o.NodeName)
	}
	return ok(check, "%s exists", o.NodeName)
}

// reports asks whether this node can report. The lifecycle controller takes a node that never does for one without a daemon.
func reports(ctx context.Context, o Options) []Finding {
	const check = "ENINodeState"
	listed, err := o.Cluster.MayReport(ctx)
	effect := "multi-enid controller would detach ENIs that pods have, 5 minutes after their NodeENI is deleted"
	if o.Slots != nil {
		effect = "no pod gets a device"
	}
	switch {
	case err != nil:
		return fail(check, "see the RBAC findings above; by deploy/admission/own-node.yaml the token must be bound to the daemon's pod",
			"this node cannot report, so %s: %v", effect, err)
	case listed > 0 && o.Slots == nil:
		return warn(check, "give it --attachments-from=controller (docs/controller.md); until then no ENI of this node is detached",
			"multi-enid controller gives this node %d ENIs, and the daemon does not follow it", listed)
	}
	return ok(check, "this node may report")
}

// list names values, or none.
func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
