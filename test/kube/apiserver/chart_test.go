package apiserver

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
)

func manifest(t *testing.T, path string) map[string]*unstructured.Unstructured {
	t.Helper()
	all := map[string]*unstructured.Unstructured{}
	for _, o := range cluster.ReadFile(t, path) {
		all[o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName()] = o
	}
	return all
}

func TestChartIsWhatKustomizeMakes(t *testing.T) {
	const image = "images: [{name: multi-eni-cni, newName: example/multi-eni-cni, newTag: v7}]\n"
	for name, tt := range map[string]struct {
		overlay string
		flags   []string
	}{
		"as it comes":  {"resources: [DEPLOY]\n", nil},
		"DPDK":         {"resources: [DEPLOY]\ncomponents: [DEPLOY/components/dpdk]\n", []string{"--set=eniManager.dpdk.enabled=true"}},
		"monitoring":   {"resources: [DEPLOY]\ncomponents: [DEPLOY/components/monitoring]\n", []string{"--set=metrics.enabled=true"}},
		"startup":      {"resources: [DEPLOY]\ncomponents: [DEPLOY/components/startup-taint]\n", []string{"--set=eniManager.startupTaint=true"}},
		"addresses":    {"resources: [DEPLOY]\ncomponents: [DEPLOY/components/manage-addresses]\n", []string{"--set=eniManager.manageAddresses.enabled=true"}},
		"routing":      {"resources: [DEPLOY]\ncomponents: [DEPLOY/components/source-routing]\n", []string{"--set=eniManager.sourceRouting=true"}},
		"own offer":    {"resources: [DEPLOY]\ncomponents: [DEPLOY/components/offer]\n", []string{"--set=eniManager.offer=deviceplugin"}},
		"controller":   {"resources: [DEPLOY]\ncomponents: [DEPLOY/components/controller]\n", []string{"--set=controller.enabled=true"}},
		"host network": {"resources: [DEPLOY]\ncomponents: [DEPLOY/components/host-network]\n", []string{"--set=hostNetworkFiles=write"}},
		"prefixes": {
			"resources: [DEPLOY]\ncomponents: [DEPLOY/components/manage-addresses, DEPLOY/components/source-routing]\npatches:\n- target: {kind: DaemonSet, name: " +
				"multi-enid}\n  patch: |\n" +
				"    - {op: replace, path: /spec/template/spec/containers/0/args/5, value: --manage-addresses=prefixes}\n" +
				"    - {op: replace, path: /spec/template/spec/containers/0/args/6, value: --addresses-low=8}\n" +
				"    - {op: replace, path: /spec/template/spec/containers/0/args/7, value: --addresses-high=24}\n" +
				"- target: {kind: ServiceAccount, name: multi-enid}\n  patch: |\n" +
				"    - {op: add, path: /metadata/annotations, value: {eks.amazonaws.com/role-arn: arn:aws:iam::111122223333:role/multi-enid}}\n",
			[]string{
				"--set=eniManager.manageAddresses.enabled=true,eniManager.manageAddresses.mode=prefixes,eniManager.manageAddresses.low=8," +
					"eniManager.manageAddresses.high=24,eniManager.sourceRouting=true",
				`--set=serviceAccount.annotations.eks\.amazonaws\.com/role-arn=arn:aws:iam::111122223333:role/multi-enid`,
			},
		},
		"namespaced": {
			"resources: [DEPLOY]\ncomponents: [DEPLOY/components/namespaced-pods]\n",
			[]string{"--set=devicePlugin.clusterRole=false,devicePlugin.namespaces={kube-system,default}"},
		},
		"both": {"resources: [DEPLOY]\ncomponents: [DEPLOY/components/monitoring, DEPLOY/components/dpdk]\n",
			[]string{"--set=metrics.enabled=true,eniManager.dpdk.enabled=true"}},
	} {
		t.Run(name, func(t *testing.T) {
			want := manifest(t, cluster.Kustomize(t, tt.overlay+image))
			got := manifest(t, cluster.HelmTemplate(t, append(tt.flags, "--include-crds", "--set=image.repository=example/multi-eni-cni", "--set=image.tag=v7")...))
			if len(got) == 0 {
				t.Error("no object")
			}
			anyOrder := cmpopts.SortSlices(func(a, b any) bool { return fmt.Sprint(a) < fmt.Sprint(b) })
			if diff := cmp.Diff(want, got, anyOrder); diff != "" {
				t.Errorf("objects (-kustomize +helm):\n%s", diff)
			}
		})
	}
}

func everyValue() []string {
	return []string{
		"--set=image.repository=r,image.tag=t,image.pullPolicy=Never,imagePullSecrets[0].name=s,cni.binDir=/x/cni,cni.linkedDirs={/x,/y}," +
			"cni.netnsDir=/z/netns,kubeletDir=/x/kubelet,nodeSelector.ng=multi-eni",
		"--set=tolerations[0].key=k,tolerations[0].operator=Exists", "--set=affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1",
		"--set=affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].key=k",
		"--set=affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].operator=Exists",
		"--set=priorityClassName=system-cluster-critical,seLinuxOptions.type=spc_t,podAnnotations.a=b,podLabels.c=d," +
			"resources.manager.limits.memory=1Gi,resources.installer.limits.memory=1Gi",
		"--set=logLevel=debug,eniManager.attachmentsFrom=imds,eniManager.extraArgs[0]=--orphan-grace=5s,serviceAccount.annotations.e=f,serviceAccount.name=other",
		"--set=eniManager.extraEnv[0].name=PROXY,eniManager.extraEnv[0].value=p,eniManager.extraVolumes[0].name=ca,eniManager.extraVolumes[0].hostPath.path=/ca",
		"--set=eniManager.extraVolumeMounts[0].name=ca,eniManager.extraVolumeMounts[0].mountPath=/etc/ssl",
		"--set=eniManager.manageAddresses.enabled=true,eniManager.manageAddresses.mode=prefixes,eniManager.manageAddresses.low=2," +
			"eniManager.manageAddresses.high=20,eniManager.sourceRouting=true,eniManager.offer=deviceplugin",
		"--set=eniManager.startupTaint=true,eniManager.dpdk.enabled=true,eniManager.dpdk.loadModules=false,eniManager.dpdk.allowUnsafeNoIOMMU=true," +
			"devicePlugin.namespaces[0]=sriov,devicePlugin.clusterRole=false",
		"--set=hostNetworkFiles=remove",
		// These are kinds of the Prometheus operator; test/tools/monitoring has its types.
		"--set=metrics.enabled=true,metrics.podMonitor.enabled=false,metrics.prometheusRule.enabled=false,metrics.dashboard.labels.sidecar=yes",
	}
}

func TestChartValues(t *testing.T) {
	c := cluster.Start(t)
	if out, err := cluster.Helm(t, append(everyValue(), "lint", cluster.Chart(t), "--strict")...); err != nil {
		t.Errorf("helm lint: %v\n%s", err, out)
	}
	path := cluster.HelmTemplate(t, everyValue()...)
	for _, o := range cluster.ReadFile(t, path) {
		if err := c.TryApply(t, o); err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	data, err := os.ReadFile(path)
	cluster.Must(t, err)
	for part, times := range map[string]int{
		`image: "r:t"`: 2, "other": 7, "name: PROXY": 1, "name: ca": 2, "/ca": 1, "/etc/ssl": 1, "=/x/cni": 2, `"/x/cni"`: 4, `"/y"`: 2, `"/z/netns"`: 2,
		"/x/kubelet/": 1, "sidecar: ": 1, `grafana_dashboard: "1"`: 1,
		"imagePullPolicy: Never": 2, "- name: s\n": 2, "ng: multi-eni": 2, "key: k\n": 4, "system-cluster-critical": 2, "type: spc_t\n": 2,
		"a: b\n": 2, "c: d\n": 2, "memory: 1Gi": 2, "--log-level=debug": 1, "--attachments-from=imds": 1, "--orphan-grace=5s": 1,
		"--manage-addresses=prefixes\n": 1, "--addresses-low=2\n": 1, "--addresses-high=20\n": 1, "--source-routing\n": 1,
		"--offer=deviceplugin\n": 1, "path: /var/lib/kubelet/device-plugins,": 1,
		"e: f\n": 1, "privileged: true": 1, "--load-modules": 0, "--startup-taint": 1, "name: multi-enid-startup-taint": 3, "--allow-unsafe-noiommu": 1,
		"--dp-namespaces=sriov\n": 1, "namespace: sriov\n": 2, "request.namespace in ['sriov']": 1,
		"--listen=[$(NODE_IP)]:9616": 1, "host: 127.0.0.1": 0, "--host-network=remove\n": 1, "mountPath: /host/etc": 1, "kind: ConfigMap": 1, "kind: P": 0,
	} {
		if got := strings.Count(string(data), part); got != times {
			t.Errorf("%q %d times, want %d", part, got, times)
		}
	}
	none := manifest(t, cluster.HelmTemplate(t, "--set=serviceAccount.create=false,rbac.create=false,admission.create=false"))
	if len(none) != 2 {
		t.Errorf("%d objects without accounts, permissions and policies, want the DaemonSets", len(none))
	}
}

// TestChartController: each value of the controller is in its objects, and without the controller there is none of them.
func TestChartController(t *testing.T) {
	c := cluster.Start(t)
	path := cluster.HelmTemplate(t, "--set=controller.enabled=true,controller.replicas=3,controller.region=eu-west-1,controller.resources.limits.memory=1Gi,"+
		"controller.nodeSelector.ng=system,controller.tolerations[0].key=k,controller.tolerations[0].operator=Exists,controller.serviceAccount.name=other,"+
		"controller.serviceAccount.annotations.e=f,controller.extraArgs[0]=--adopt=public,controller.extraEnv[0].name=PROXY,controller.extraEnv[0].value=p,"+
		"logLevel=debug,podLabels.c=d,podAnnotations.a=b,imagePullSecrets[0].name=s")
	for _, o := range cluster.ReadFile(t, path) {
		if err := c.TryApply(t, o); err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	data, err := os.ReadFile(path)
	cluster.Must(t, err)
	for part, times := range map[string]int{
		"replicas: 3\n": 1, "name: AWS_REGION, value: \"eu-west-1\"": 1, "memory: 1Gi\n": 1, "ng: system\n": 1, "key: k\n": 1, "e: f\n": 1,
		"key: networking.k8s.aws/not-ready,": 1,
		"  name: other\n":                    3, "serviceAccountName: other\n": 1, ":other'\n": 1,
		"--adopt=public\n": 1, "name: PROXY\n": 1, "--log-level=debug\n": 2, "c: d\n": 3, "a: b\n": 3, "- name: s\n": 3, "--attachments-from=controller\n": 1,
	} {
		if got := strings.Count(string(data), part); got != times {
			t.Errorf("%q %d times, want %d", part, got, times)
		}
	}
	data, err = os.ReadFile(cluster.HelmTemplate(t))
	if cluster.Must(t, err); strings.Contains(string(data), "multi-enid-controller\n") {
		t.Error("without controller.enabled there is a part of it")
	}
}

func TestChartRefuses(t *testing.T) {
	for set, want := range map[string]string{
		"image.tga=v1":                            "tga",
		"image.tag=true":                          "/image/tag",
		"image.tag=a/b":                           "/image/tag",
		"image.digest=sha256:12":                  "/image/digest",
		"image.repository=r@sha256:12":            "/image/repository",
		"cni.binDir=opt/cni/bin":                  "/cni/binDir",
		"cni.binDri=/opt/cni/bin":                 "binDri",
		"kubeletDir=":                             "/kubeletDir",
		"eniManager.offer=dra":                    "/eniManager/offer",
		"metrics.podMonitor=false":                "/metrics/podMonitor",
		"serviceAccount.name=Multi":               "/serviceAccount/name",
		"eniManager.extraVolumeMounts[0].name=ca": "/eniManager/extraVolumeMounts/0",
		"image.pullPolicy=Sometimes":              "/image/pullPolicy",
		"logLevel=loud":                           "/logLevel",
		"eniManager.dpdk.enabled=maybe":           "/eniManager/dpdk/enabled",
		"eniManager.dpdk.bindingScript=x.py":      "bindingScript",
		"eniManager.extraArgs[0]=restart":         "/eniManager/extraArgs/0",
		"devicePlugin.namespaces[0]=Kube":         "/devicePlugin/namespaces/0",
		"devicePlugin.namespaces=null":            "devicePlugin",
		"seLinuxOptions.typ=spc_t":                "typ",
		"eniManager.startupTaint=true,devicePlugin.clusterRole=false,admission.create=false": "eniManager.startupTaint",
		"admission.create=false":                                                    "devicePlugin.clusterRole=false",
		"devicePlugin.clusterRole=maybe":                                            "/devicePlugin/clusterRole",
		"eniManager.manageAddresses=true":                                           "/eniManager/manageAddresses",
		"eniManager.manageAddresses.mode=all":                                       "/eniManager/manageAddresses/mode",
		"eniManager.manageAddresses.low=0":                                          "/eniManager/manageAddresses/low",
		"eniManager.manageAddresses.high=1001":                                      "/eniManager/manageAddresses/high",
		"eniManager.manageAddresses.enabled=true,eniManager.manageAddresses.low=12": "low must be less than high",
		"eniManager.sourceRouting=maybe":                                            "/eniManager/sourceRouting",
		"hostNetworkFiles=true":                                                     "/hostNetworkFiles",
		"awsRegion=eu-west-1":                                                       "awsRegion",
		"controller.replicas=0":                                                     "/controller/replicas",
		"controller.region=Ireland":                                                 "/controller/region",
		"controller.enabled=true,eniManager.attachmentsFrom=imds":                   "leave eniManager.attachmentsFrom out",
		"controller.enabled=true,admission.create=false,devicePlugin.clusterRole=false,devicePlugin.namespaces={default}": "controller.enabled",
	} {
		if out, err := cluster.Helm(t, "template", "x", cluster.Chart(t), "--set="+set); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v, %q; want it refused with %q", set, err, out, want)
		}
	}
}

func TestChartImage(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "values.yaml")
		cluster.Must(t, os.WriteFile(path, []byte(text), 0o600))
		return "--values=" + path
	}
	for _, tt := range []struct{ flag, want string }{
		{"--set=image.tag=", "r:dev"},
		{"--set=image.tag=1", "r:1"},
		{"--set=image.tag=0", "r:0"},
		{"--set=image.tag=1.10", "r:1.10"},
		{"--set=image.tag=007", "r:007"},
		{"--set=image.tag=1e3", "r:1e3"},
		{"--set=image.tag=20261129220000", "r:20261129220000"},
		{"--set-string=image.tag=1", "r:1"},
		{file("image: {tag: 20261129220000}"), "r:20261129220000"},
		{file(`image: {tag: "1.10"}`), "r:1.10"},
		{file("image: {tag: 1.10}"), ""}, // YAML reads 1.1
		{"--set=image.tag=1234567890123456789", ""},
		{"--set=image.tag=v1,image.digest=" + digest, "r@" + digest},
	} {
		out, err := cluster.Helm(t, "template", "x", cluster.Chart(t), "--set=image.repository=r", tt.flag)
		if tt.want == "" {
			if err == nil || !strings.Contains(out, "/image/tag") {
				t.Errorf("%s: %v; want it refused by its name", tt.flag, err)
			}
			continue
		}
		if got := strings.Count(out, fmt.Sprintf("image: %q\n", tt.want)); err != nil || got != 2 {
			t.Errorf("%s: %v, %q %d times, want twice", tt.flag, err, tt.want, got)
		}
	}
}

// TestChartMonitoringLabels: objects of the Prometheus operator get the extra labels and the release's namespace only.
func TestChartMonitoringLabels(t *testing.T) {
	plain := manifest(t, cluster.HelmTemplate(t, "--set=metrics.enabled=true"))
	labelled := manifest(t, cluster.HelmTemplate(t, "--set=metrics.enabled=true,metrics.podMonitor.labels.release=a,metrics.prometheusRule.labels.release=b"))
	for kind, release := range map[string]string{"PodMonitor": "a", "PrometheusRule": "b"} {
		name := kind + " kube-system/multi-enid"
		want, got := plain[name], labelled[name]
		if want == nil || got == nil {
			t.Fatalf("no %s", name)
		}
		labels := want.GetLabels()
		labels["release"] = release
		want.SetLabels(labels)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestChartSaysNothing(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"lint", cluster.Chart(t), "--strict", "--quiet"},
		{"template", "x", cluster.Chart(t)},
		{"package", cluster.Chart(t), "--destination", dir},
	} {
		if said, err := cluster.HelmWarnings(t, args...); err != nil || said != "" {
			t.Errorf("helm %s: %v\n%s", args[0], err, said)
		}
	}
}

// TestChartNotes: helm prints the next steps after an installation, and warns of an image that no node can pull.
func TestChartNotes(t *testing.T) {
	c := cluster.Start(t)
	const warning = "WARNING: image.repository has its default."
	for set, warned := range map[string]bool{"image.repository=r": false, "image.tag=v1": true} {
		out, err := cluster.Helm(t, "install", "x", cluster.Chart(t), "--namespace=helm", "--take-ownership", "--dry-run=client",
			"--kubeconfig="+c.WriteAdminKubeconfig(t), "--set="+set)
		_, notes, found := strings.Cut(out, "\nNOTES:\n")
		if err != nil || !found {
			t.Fatalf("helm install: %v\n%s", err, out)
		}
		for _, part := range []string{"kubectl -n helm rollout status ds/multi-enid\n", "kubectl describe ens NODE\n", "docs/quickstart.md\n",
			"docs/troubleshooting.md\n"} {
			if !strings.Contains(notes, part) {
				t.Errorf("notes without %q:\n%s", part, notes)
			}
		}
		if got := strings.Contains(notes, warning); got != warned {
			t.Errorf("%s: a warning %v, want %v", set, got, warned)
		}
	}
}
