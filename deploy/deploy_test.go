// Package deploy tests the manifests for a cluster. test/kube applies them to a real API server.
package deploy

//go:generate mkdir -p chart/monitoring
//go:generate cp components/monitoring/alerts.yaml components/monitoring/dashboard.json chart/monitoring
//go:generate cp components/monitoring/podmonitor.yaml components/monitoring/podmonitor-controller.yaml chart/monitoring
//go:generate go tool -modfile=../test/tools/go.mod helm-docs --chart-search-root=chart --sort-values-order=file --log-level=warning

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

// decode reads every document of a file into its type; it fails on unknown or repeated fields and unknown kinds.
func decode(t *testing.T, path string) []runtime.Object {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, rbacv1.AddToScheme, admissionv1.AddToScheme,
		policyv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var all []runtime.Object
	for _, document := range documents(t, path) {
		o, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		all = append(all, o)
	}
	return all
}

func documents(t *testing.T, path string) [][]byte {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	reader := yaml.NewYAMLReader(bufio.NewReader(file))
	var all [][]byte
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if len(bytes.TrimSpace(document)) > 0 {
			all = append(all, document)
		}
	}
}

// Every file is decoded, except generated CRDs, Krew's manifest and rendered files, which the API server of test/kube reads.
func TestManifestsAreOfTheirTypes(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == "crd", path == "components", path == "chart", path == "krew":
			return fs.SkipDir
		case filepath.Base(path) == "kustomization.yaml":
			return nil
		case filepath.Ext(path) == ".yaml":
			if len(decode(t, path)) == 0 {
				t.Errorf("%s has no object", path)
			}
			seen++
		}
		return nil
	})
	if err != nil || seen == 0 {
		t.Errorf("%d files, %v", seen, err)
	}
}

func rule(group, resource string, verbs ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs}
}

// All rights of the daemon. Every node of every cluster gets a right that is added here.
func TestPermissionsAreTheseAndNoMore(t *testing.T) {
	wantCluster := []rbacv1.PolicyRule{
		rule("networking.k8s.aws", "nodeenis", "get", "list", "watch"),
		rule("networking.k8s.aws", "eninodestates", "get", "list", "watch", "create"),
		rule("networking.k8s.aws", "eninodestates/status", "patch"),
		rule("", "nodes", "get", "list", "watch"),
		rule("", "events", "create", "patch"),
	}
	wantPods := []rbacv1.PolicyRule{rule("", "pods", "list", "delete")}
	wantSubjects := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "multi-enid", Namespace: "kube-system"}}
	searched := map[string]int{} // Roles and bindings by namespace
	for _, o := range slices.Concat(decode(t, "rbac.yaml"), decode(t, "components/namespaced-pods/roles.yaml")) {
		switch o := o.(type) {
		case *corev1.ServiceAccount:
			if o.Namespace != wantSubjects[0].Namespace || o.Name != wantSubjects[0].Name {
				t.Errorf("ServiceAccount %s/%s", o.Namespace, o.Name)
			}
		case *rbacv1.ClusterRole:
			want := map[string][]rbacv1.PolicyRule{"multi-enid": wantCluster, "multi-enid-device-plugin": wantPods}[o.Name]
			if diff := cmp.Diff(want, o.Rules); diff != "" {
				t.Errorf("ClusterRole %s (-want +got):\n%s", o.Name, diff)
			}
			searched["cluster "+o.Name]++
		case *rbacv1.Role:
			searched[o.Namespace+" "+o.Name]++
			want := map[string][]rbacv1.PolicyRule{"multi-enid-device-plugin": wantPods, "multi-enid-own-pod": {rule("", "pods", "delete")}}[o.Name]
			if diff := cmp.Diff(want, o.Rules); diff != "" {
				t.Errorf("Role %s in %s (-want +got):\n%s", o.Name, o.Namespace, diff)
			}
		case *rbacv1.ClusterRoleBinding:
			if diff := cmp.Diff(wantSubjects, o.Subjects); diff != "" || o.RoleRef.Name != o.Name {
				t.Errorf("ClusterRoleBinding of %s (-want +got):\n%s", o.RoleRef.Name, diff)
			}
			searched["cluster "+o.Name]++
		case *rbacv1.RoleBinding:
			searched[o.Namespace+" "+o.Name]++
			if diff := cmp.Diff(wantSubjects, o.Subjects); diff != "" || o.RoleRef.Kind != "Role" || o.RoleRef.Name != o.Name {
				t.Errorf("RoleBinding in %s of %v (-want +got):\n%s", o.Namespace, o.RoleRef, diff)
			}
		default:
			t.Errorf("%T is no permission", o)
		}
	}
	want := map[string]int{"cluster multi-enid": 2, "cluster multi-enid-device-plugin": 2, "kube-system multi-enid-device-plugin": 2,
		"default multi-enid-device-plugin": 2, "kube-system multi-enid-own-pod": 2}
	if diff := cmp.Diff(want, searched); diff != "" {
		t.Errorf("Roles and bindings by namespace (-want +got):\n%s", diff)
	}
}

func TestPolicyOnlyWarns(t *testing.T) {
	var policies, bindings int
	for _, o := range decode(t, "admission/nodeeni-warnings.yaml") {
		switch o := o.(type) {
		case *admissionv1.ValidatingAdmissionPolicy:
			policies++
			if o.Spec.FailurePolicy == nil || *o.Spec.FailurePolicy != admissionv1.Ignore {
				t.Errorf("failurePolicy is not Ignore")
			}
			for _, v := range o.Spec.Validations {
				if v.Message == "" {
					t.Errorf("%s: no message for when messageExpression fails", v.Expression)
				}
			}
		case *admissionv1.ValidatingAdmissionPolicyBinding:
			bindings++
			if diff := cmp.Diff([]admissionv1.ValidationAction{admissionv1.Warn}, o.Spec.ValidationActions); diff != "" {
				t.Errorf("validationActions (-want +got):\n%s", diff)
			}
		}
	}
	if policies != 1 || bindings != 1 {
		t.Errorf("%d policies, %d bindings", policies, bindings)
	}
}

// TestPolicyKeepsToTheOwnNode: denials are worded like RBAC's; a request that cannot be judged is denied.
func TestPolicyKeepsToTheOwnNode(t *testing.T) {
	objects := decode(t, "admission/own-node.yaml")
	policy, ok := objects[0].(*admissionv1.ValidatingAdmissionPolicy)
	if !ok || len(objects) != 2 {
		t.Fatalf("objects %T, %d", objects[0], len(objects))
	}
	if policy.Spec.FailurePolicy == nil || *policy.Spec.FailurePolicy != admissionv1.Fail {
		t.Error("failurePolicy is not Fail")
	}
	var expressions string
	for _, v := range policy.Spec.Validations {
		if v.Reason == nil || *v.Reason != metav1.StatusReasonForbidden || v.Message == "" {
			t.Errorf("%s: reason %v, message %q", v.Expression, v.Reason, v.Message)
		}
		expressions += v.Expression
	}
	binding, ok := objects[1].(*admissionv1.ValidatingAdmissionPolicyBinding)
	if diff := cmp.Diff([]admissionv1.ValidationAction{admissionv1.Deny}, binding.Spec.ValidationActions); !ok || diff != "" {
		t.Errorf("validationActions (-want +got):\n%s", diff)
	}
	for _, value := range []string{"'sriov-device-plugin'", "'kube-sriov-device-plugin'", "'sriovdp'"} {
		if !strings.Contains(expressions, value) {
			t.Errorf("no rule has the label %s", value)
		}
	}
}

// TestUninstallNodes: the Job has a pod on each node that docs/install.md counts.
func TestUninstallNodes(t *testing.T) {
	job, ok := decode(t, "uninstall/job.yaml")[0].(*batchv1.Job)
	if !ok {
		t.Fatal("no Job")
	}
	pod := job.Spec.Template.Spec
	want := []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
		{Key: "eks.amazonaws.com/compute-type", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"fargate"}},
	}}}
	got := pod.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if diff := cmp.Diff(want, got) + cmp.Diff(map[string]string{corev1.LabelOSStable: "linux"}, pod.NodeSelector); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	guide, err := os.ReadFile("../docs/install.md")
	if err != nil || !strings.Contains(string(guide), "get nodes -l 'kubernetes.io/os=linux,eks.amazonaws.com/compute-type!=fargate' ") {
		t.Errorf("docs/install.md counts other nodes: %v", err)
	}
}

// TestContainers: no pod that we ship has a right beyond named capabilities.
func TestContainers(t *testing.T) {
	for file, capabilities := range map[string][]corev1.Capability{
		"installer.yaml":     {"DAC_OVERRIDE"},
		"daemon.yaml":        {"NET_ADMIN", "SYS_ADMIN", "DAC_OVERRIDE"},
		"uninstall/job.yaml": {"DAC_OVERRIDE"},
	} {
		for _, o := range decode(t, file) {
			var pod corev1.PodSpec
			switch o := o.(type) {
			case *appsv1.DaemonSet:
				pod = o.Spec.Template.Spec
			case *batchv1.Job:
				pod = o.Spec.Template.Spec
			default:
				t.Errorf("%s has a %T", file, o)
				continue
			}
			if pod.PriorityClassName != "system-node-critical" ||
				!slices.ContainsFunc(pod.Tolerations, func(t corev1.Toleration) bool { return t.Key == "" && t.Operator == corev1.TolerationOpExists }) {
				t.Errorf("%s: priority %q, tolerations %v", file, pod.PriorityClassName, pod.Tolerations)
			}
			if token := pod.AutomountServiceAccountToken; pod.ServiceAccountName == "" && (token == nil || *token) {
				t.Errorf("%s has a token for which it has no use", file)
			}
			if !pod.HostNetwork && file == "daemon.yaml" { // instance metadata answer a pod's network only with a hop limit of 2
				t.Errorf("%s is not in the host's network", file)
			}
			for _, c := range pod.Containers {
				sc := c.SecurityContext
				if diff := cmp.Diff(&corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: capabilities}, sc.Capabilities); diff != "" {
					t.Errorf("%s: capabilities (-want +got):\n%s", file, diff)
				}
				no, yes := false, true
				rest := corev1.SecurityContext{
					ReadOnlyRootFilesystem: &yes, AllowPrivilegeEscalation: &no,
					SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}, Capabilities: sc.Capabilities,
				}
				if diff := cmp.Diff(&rest, sc); diff != "" {
					t.Errorf("%s: security context (-want +got):\n%s", file, diff)
				}
				if c.Resources.Requests.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
					t.Errorf("%s: resources %+v", file, c.Resources)
				}
			}
		}
	}
}
