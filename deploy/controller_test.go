package deploy

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

const controllerDir = "components/controller/"

// TestControllerPermissionsAreTheseAndNoMore: all rights of the controller. It may not write a daemon's report.
func TestControllerPermissionsAreTheseAndNoMore(t *testing.T) {
	lease := []string{"nodeeni-controller-leader-election"}
	wantCluster := []rbacv1.PolicyRule{
		rule("networking.k8s.aws", "nodeenis", "list", "watch", "patch"),
		rule("networking.k8s.aws", "nodeenis/status", "patch"),
		rule("networking.k8s.aws", "eninodestates", "get", "list", "watch", "create", "patch", "delete"),
		rule("", "nodes", "list", "watch"),
		named(rule("", "namespaces", "get"), "kube-system"),
		rule("", "events", "create", "patch"),
		named(rule("coordination.k8s.io", "leases", "list"), lease...),
	}
	wantOwn := []rbacv1.PolicyRule{rule("coordination.k8s.io", "leases", "create"), named(rule("coordination.k8s.io", "leases", "get", "update"), lease...)}
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "multi-enid-controller", Namespace: "kube-system"}}
	seen := 0
	for _, o := range decode(t, controllerDir+"rbac.yaml") {
		var diff string
		switch o := o.(type) {
		case *corev1.ServiceAccount:
			diff = cmp.Diff("kube-system/multi-enid-controller", o.Namespace+"/"+o.Name)
		case *rbacv1.ClusterRole:
			diff = cmp.Diff(wantCluster, o.Rules)
		case *rbacv1.Role:
			diff = cmp.Diff(wantOwn, o.Rules) + cmp.Diff("kube-system", o.Namespace)
		case *rbacv1.ClusterRoleBinding:
			diff = cmp.Diff(subjects, o.Subjects) + cmp.Diff("ClusterRole multi-enid-controller", o.RoleRef.Kind+" "+o.RoleRef.Name)
		case *rbacv1.RoleBinding:
			diff = cmp.Diff(subjects, o.Subjects) + cmp.Diff("Role multi-enid-controller", o.RoleRef.Kind+" "+o.RoleRef.Name)
		default:
			t.Errorf("%T is no permission", o)
		}
		if diff != "" {
			t.Errorf("%T (-want +got):\n%s", o, diff)
		}
		seen++
	}
	if seen != 5 {
		t.Errorf("%d objects", seen)
	}
}

func named(r rbacv1.PolicyRule, names ...string) rbacv1.PolicyRule {
	r.ResourceNames = names
	return r
}

// TestControllerPolicy: denials are worded like RBAC's; a request that cannot be judged is denied.
func TestControllerPolicy(t *testing.T) {
	objects := decode(t, controllerDir+"admission.yaml")
	policy, ok := objects[0].(*admissionv1.ValidatingAdmissionPolicy)
	if !ok || len(objects) != 2 || policy.Spec.FailurePolicy == nil ||
		*policy.Spec.FailurePolicy != admissionv1.Fail || len(policy.Spec.Validations) == 0 {
		t.Fatalf("%d objects, %+v", len(objects), objects[0])
	}
	for _, v := range policy.Spec.Validations {
		if v.Reason == nil || *v.Reason != "Forbidden" || v.Message == "" {
			t.Errorf("%s: reason %v, message %q", v.Expression, v.Reason, v.Message)
		}
	}
	binding, ok := objects[1].(*admissionv1.ValidatingAdmissionPolicyBinding)
	if diff := cmp.Diff([]admissionv1.ValidationAction{admissionv1.Deny}, binding.Spec.ValidationActions); !ok || diff != "" {
		t.Errorf("validationActions (-want +got):\n%s", diff)
	}
	if binding.Spec.PolicyName != policy.Name {
		t.Errorf("binding of %q", binding.Spec.PolicyName)
	}
}

// TestControllerPod: it has no right on its node, and its probes, budget and affinity find its pods.
func TestControllerPod(t *testing.T) {
	objects := decode(t, controllerDir+"deployment.yaml")
	d, ok := objects[0].(*appsv1.Deployment)
	if !ok || len(objects) != 1 || *d.Spec.Replicas != 2 {
		t.Fatalf("%d objects, %+v", len(objects), objects[0])
	}
	pod, no, yes, user := d.Spec.Template.Spec, false, true, int64(65532)
	wantPod := &corev1.PodSecurityContext{
		RunAsNonRoot: &yes, RunAsUser: &user, RunAsGroup: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if diff := cmp.Diff(wantPod, pod.SecurityContext); diff != "" {
		t.Errorf("security context of the pod (-want +got):\n%s", diff)
	}
	if pod.HostNetwork || pod.HostPID || pod.HostIPC || len(pod.Volumes) > 0 || pod.ServiceAccountName != "multi-enid-controller" {
		t.Errorf("pod %+v", pod)
	}
	// A node can lose the startup taint only when the controller runs.
	startup := corev1.Toleration{Key: "networking.k8s.aws/not-ready", Operator: corev1.TolerationOpExists}
	if !slices.Contains(pod.Tolerations, startup) {
		t.Errorf("tolerations %v, want %v among them", pod.Tolerations, startup)
	}
	c := pod.Containers[0]
	want := &corev1.SecurityContext{
		ReadOnlyRootFilesystem: &yes, AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	if diff := cmp.Diff(want, c.SecurityContext); diff != "" || len(pod.Containers) != 1 {
		t.Errorf("security context (-want +got):\n%s", diff)
	}
	if c.Resources.Requests.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() || c.Ports[0].Name != "metrics" || c.Ports[0].ContainerPort != 9617 {
		t.Errorf("resources %+v, ports %+v", c.Resources, c.Ports)
	}
	for path, p := range map[string]*corev1.Probe{"/healthz": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
		if p.HTTPGet.Path != path || p.HTTPGet.Port.String() != "metrics" {
			t.Errorf("probe %+v, want %s", p.HTTPGet, path)
		}
	}
	budget, ok := decode(t, controllerDir+"disruption.yaml")[0].(*policyv1.PodDisruptionBudget)
	if !ok {
		t.Fatal("no PodDisruptionBudget")
	}
	const key = "app.kubernetes.io/name"
	affinity := pod.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution[0].PodAffinityTerm
	for place, labels := range map[string]map[string]string{
		"selector": d.Spec.Selector.MatchLabels, "budget": budget.Spec.Selector.MatchLabels, "affinity": affinity.LabelSelector.MatchLabels,
		"pod": {key: d.Spec.Template.Labels[key]},
	} {
		if diff := cmp.Diff(map[string]string{key: "multi-enid-controller"}, labels); diff != "" {
			t.Errorf("%s (-want +got):\n%s", place, diff)
		}
	}
}
