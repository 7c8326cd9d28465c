package onenode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	imageName = "localhost/multi-eni-cni"
	// shipped is the tag of the image of `make image`; next has programs of another version.
	shipped, next = "shipped", "next"
)

const imdsAddress = "169.254.169.254"

// bareNode has this many ENIs, and only the images of the product.
func bareNode(t *testing.T, enis int) *stage {
	t.Helper()
	return bareNodeWith(t, newENIs(enis)...)
}

func bareNodeWith(t *testing.T, enis ...eni) *stage {
	t.Helper()
	archive, err := nstest.Binary("image.tar")
	if err != nil {
		cluster.Unavailable(t, "bin/image.tar is not built; run: make image, which needs buildah")
	}
	s := newNode(t, enis...)
	s.paths = productPaths()
	s.ImportArchive(t, imageName+":"+shipped, archive)
	s.mountSysfs()
	s.serveIMDS()
	return s
}

// install applies manifests, and returns when all pods are ready and the device plugin has a config.
func (s *stage) install(manifests string) {
	s.Helper()
	s.installUntil(manifests, s.config())
	s.must(s.offers()())
}

// installUntil applies manifests, and returns when all pods are ready and these files are there besides the usual ones.
func (s *stage) installUntil(manifests string, files ...string) {
	s.Helper()
	before := s.files()
	s.Cleanup(func() {
		for _, o := range cluster.ReadFile(s.T, manifests) {
			if o.GetKind() != "CustomResourceDefinition" { // others use them
				s.cluster().Delete(cleanup{s.T}, o)
			}
		}
		cluster.Eventually(cleanup{s.T}, "end of the daemon", settle, func() error { return none("processes", processes(isDaemon)) })
		for _, f := range s.files() {
			if !slices.Contains(before, f) {
				s.must(os.Remove(f))
			}
		}
	})
	s.Cleanup(func() {
		if s.Failed() {
			s.Logf("log of the daemon:\n%s", s.log("multi-enid-*"))
		}
	})
	s.cluster().InstallCRDs(s.T) // Helm's template has none
	apply := []string{"apply", "-f", manifests}
	if overlay := filepath.Dir(manifests); s.exists(filepath.Join(overlay, "kustomization.yaml")) {
		apply = []string{"apply", "-k", overlay}
	}
	if out, err := s.kubectl(apply...); err != nil {
		s.Fatalf("kubectl apply: %v\n%s", err, out)
	}
	for _, path := range append(files, pluginPath, nodestate.DefaultPolicyPath, nodestate.DefaultInventoryPath) {
		cluster.Eventually(s.T, path, settle, func() error { _, err := os.Stat(path); return err })
	}
	s.awaitReady()
	s.useNetconf(map[string]any{ // as a NetworkAttachmentDefinition may be under the policy
		"cniVersion": "1.0.0", "name": "dataplane", "type": "multi-eni", "capabilities": map[string]any{"deviceID": true}, "ipam": map[string]any{"type": "eni-ipam"},
	})
}

func (s *stage) metrics(host string) (string, error) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), callTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, "9616")+"/metrics", nil)
	s.must(err)
	answer, err := (&http.Client{Timeout: callTimeout}).Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return string(text), err
}

// metricsAreServed at the address of the node, and at no other.
func (s *stage) metricsAreServed() {
	s.Helper()
	text, err := s.metrics(node.IP)
	if err != nil || !strings.Contains(text, "multi_eni_devices{phase=\"ready\"} 1\n") || !strings.Contains(text, "multi_eni_advertised_devices 1\n") {
		s.Errorf("metrics: %v\n%s", err, text)
	}
	if _, err := s.metrics("127.0.0.1"); err == nil {
		s.Error("metrics are served on 127.0.0.1 too")
	}
}

func (s *stage) exists(path string) bool {
	s.Helper()
	_, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.Fatal(err)
	}
	return err == nil
}

var pluginPath = filepath.Join(node.CNIBinDir, "multi-eni")

func (s *stage) awaitReady() {
	s.Helper()
	for _, name := range []string{"multi-eni-installer", "multi-enid"} {
		cluster.Eventually(s.T, name+" ready", settle, s.ready(name))
	}
}

// TestInstallation installs a release's unchanged files on a bare node, runs a pod, and removes everything.
func TestInstallation(t *testing.T) {
	t.Run("kustomize", func(t *testing.T) {
		s := bareNode(t, 1)
		r := released(t)
		s.importFor(r, r.manifests())
		s.installation(r.manifests(), func(bool) { s.sourceRouted(s.enis[0], false) })
	})
	t.Run("helm", func(t *testing.T) {
		s := bareNode(t, 1)
		const startup = "networking.k8s.aws/not-ready"
		if out, err := s.kubectl("taint", "node", node.Name, startup+":NoSchedule"); err != nil {
			t.Fatalf("kubectl taint: %v\n%s", err, out)
		}
		// The release has no CRDs, and this node has none of the Prometheus operator.
		r := released(t)
		manifests := cluster.HelmTemplateOf(t, r.chart(), "--set=eniManager.startupTaint=true,eniManager.sourceRouting=true",
			"--set=metrics.enabled=true,metrics.podMonitor.enabled=false,metrics.prometheusRule.enabled=false")
		s.importFor(r, manifests)
		s.installation(manifests, func(inUse bool) {
			s.sourceRouted(s.enis[0], !inUse)
			if inUse {
				s.metricsAreServed()
			}
		})
		if out, err := s.kubectl("get", "node", node.Name, "-o", "jsonpath={.spec.taints}"); err != nil || strings.Contains(out, startup) {
			t.Errorf("taints %s, %v; want the one of the start gone", out, err)
		}
	})
}

// installation gives a pod a device and removes everything. It calls look without a pod (false), then with one (true).
func (s *stage) installation(manifests string, look func(inUse bool)) {
	t, before := s.T, s.files()
	s.install(manifests)
	// As in docs/install.md.
	report := s.doctor()
	t.Logf("doctor in the daemon's pod:\n%s", report)
	if !strings.Contains(report, "ok    CNI plugin: /opt/cni/bin/multi-eni") || strings.Contains(report, "FAIL") {
		t.Error("doctor finds faults")
	}

	a := s.enis[0]
	s.startDevicePlugin()
	cluster.Eventually(t, "device plugin", restart, func() error {
		if s.devicePlugins() == "" {
			return errors.New("it does not run")
		}
		return nil
	})
	// A container's start has whole seconds: at the time of a change, either config may have been read.
	time.Sleep(2 * time.Second)
	s.must(s.declare(a))
	cluster.Eventually(t, "allocatable 1", restart, s.counts(a, 1))
	look(false)
	s.ignoresRouters(a)
	s.must(s.create("p1", a.resource()))
	cluster.Eventually(t, "pod p1", settle, s.inPhase("p1", corev1.PodRunning))
	s.must(s.hasDevice("p1", a))
	has, err := s.addressesOf("p1")
	s.must(errors.Join(err, want(strings.Join(has, " "), a.own()+"/24"))) // alone, it has the ENI's own
	s.reads(a)
	look(true)

	t.Run("in use", func(t *testing.T) {
		s := s.with(t)
		s.deleteAll(manifests, "DaemonSet")
		cluster.Eventually(t, "end of the daemon", settle, func() error { return none("processes", processes(isDaemon)) })
		s.must(s.hasDevice("p1", a))
		if log := s.uninstall(); !strings.Contains(log, "nothing is removed") || !strings.Contains(log, a.PCI) {
			t.Errorf("uninstall says %q", log)
		}
		if _, err := os.Stat(pluginPath); err != nil {
			t.Error(err)
		}
		s.applyAll(manifests)
		s.awaitReady()
		s.must(s.hasDevice("p1", a))
	})

	s.must(s.delete("p1"))
	s.must(s.withdraw(a))
	cluster.Eventually(t, "placeholder", settle, s.offers())
	cluster.Eventually(t, "release", restart, s.lists(a, ""))
	s.must(s.home(a))
	s.sourceRouted(a, false)
	s.deleteAll(manifests, "DaemonSet")
	cluster.Eventually(t, "end of the daemon", settle, func() error { return none("processes", processes(isDaemon)) })
	log := s.uninstall()
	// The device plugin's config stays, or the device plugin would exit.
	s.must(os.Remove(s.config()))
	if after := s.files(); !slices.Equal(after, before) {
		t.Errorf("files after uninstall %q, before %q; it says:\n%s", after, before, log)
	}
}

// sourceRouted waits until the ENI's address has its source-routing rule, or none. It shows the daemon's rights.
func (s *stage) sourceRouted(e eni, wanted bool) {
	s.Helper()
	cluster.Eventually(s.T, fmt.Sprintf("source-based routing %v", wanted), settle, func() error {
		rules, err := netlink.RuleList(netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		rules = slices.DeleteFunc(rules, func(r netlink.Rule) bool { return r.Protocol != routing.SourceProtocol })
		if from := e.own() + "/32"; wanted && (len(rules) != 1 || rules[0].Src.String() != from) || !wanted && len(rules) > 0 {
			return fmt.Errorf("rules %v; wanted from %s: %v", rules, from, wanted)
		}
		return nil
	})
}

// ignoresRouters waits until the ENI's link ignores routers. The daemon needs its mount of /proc/sys/net for it.
func (s *stage) ignoresRouters(e eni) {
	s.Helper()
	cluster.Eventually(s.T, "accept_ra off", settle, func() error {
		got, err := link.DefaultIPv6Conf.AcceptRA(e.Name)
		return errors.Join(err, want(got, "0"))
	})
}

func isDaemon(args []string) bool { return args[0] == "/multi-enid" }

func (s *stage) render(folder, tag string) string {
	s.Helper()
	return s.renderWith(folder, tag, "")
}

func (s *stage) renderWith(folder, tag, more string) string {
	s.Helper()
	return cluster.Kustomize(s.T, fmt.Sprintf("resources: [DEPLOY/%s]\nimages: [{name: multi-eni-cni, newName: %s, newTag: %s}]\n%s", folder, imageName, tag,
		more))
}

// applyAll applies a rendered folder, the CRDs first, as kubectl does.
func (s *stage) applyAll(path string) {
	s.Helper()
	c := s.cluster()
	c.InstallCRDs(s.T)
	c.ApplyFile(s.T, path)
}

func (s *stage) deleteAll(path, kind string) {
	s.Helper()
	for _, o := range cluster.ReadFile(s.T, path) {
		if o.GetKind() == kind {
			s.cluster().Delete(s.T, o)
		}
	}
}

func (s *stage) ready(daemonSet string) func() error {
	return func() error {
		ctx, cancel := context.WithTimeout(s.Context(), callTimeout)
		defer cancel()
		d, err := s.Admin.AppsV1().DaemonSets("kube-system").Get(ctx, daemonSet, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if d.Status.ObservedGeneration != d.Generation || d.Status.NumberReady != 1 || d.Status.UpdatedNumberScheduled != 1 {
			return fmt.Errorf("DaemonSet %s: %+v", daemonSet, d.Status)
		}
		return nil
	}
}

func (s *stage) doctor() (report string) {
	s.Helper()
	cluster.Eventually(s.T, "an answer of doctor", settle, func() (err error) {
		report, err = s.kubectl("-n", "kube-system", "exec", "ds/multi-enid", "--", "/multi-enid", "doctor")
		if err == nil || strings.Contains(report, "FAIL") {
			return nil // it says which faults it has found
		}
		return fmt.Errorf("%w: %s", err, report)
	})
	return report
}

func (s *stage) uninstall() string {
	s.Helper()
	s.applyAll(s.render("uninstall", shipped))
	jobs := s.Admin.BatchV1().Jobs("kube-system")
	const name = "multi-eni-uninstall"
	cluster.Eventually(s.T, "end of the Job", settle, func() error {
		j, err := jobs.Get(s.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
			return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
		}) {
			return fmt.Errorf("%+v", j.Status)
		}
		return nil
	})
	pods, err := s.Admin.CoreV1().Pods("kube-system").List(s.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + name})
	s.must(err)
	if len(pods.Items) != 1 {
		s.Fatalf("%d pods of the Job", len(pods.Items))
	}
	log := s.log(pods.Items[0].Name)
	background := metav1.DeletePropagationBackground
	s.must(jobs.Delete(s.Context(), name, metav1.DeleteOptions{PropagationPolicy: &background}))
	cluster.Eventually(s.T, "end of the Job's pod", settle, func() error {
		pods, err := s.Admin.CoreV1().Pods("kube-system").List(s.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + name})
		if err != nil {
			return err
		}
		return none("pods", pods.Items)
	})
	return log
}

// log returns the log of a pod in kube-system from the node. The name may be a pattern.
func (s *stage) log(pod string) string {
	s.Helper()
	files, err := filepath.Glob("/var/lib/node/pod-logs/kube-system_" + pod + "_*/*/*.log")
	s.must(err)
	var all []byte
	for _, f := range files {
		data, err := os.ReadFile(f)
		s.must(err)
		all = append(all, data...)
	}
	return string(all)
}
