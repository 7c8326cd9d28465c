package replicas

import (
	"fmt"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const publicNamespace = "eni-controller-system"

var (
	command   = regexp.MustCompile(`(?m)^ {4,}(kubectl|helm) (?:.*\\\n)*.*$`)
	nodeName  = regexp.MustCompile(`\bNODE(,| |$)`)
	extraFlag = regexp.MustCompile(`- "?(--(?:adopt|leak-sweep)=\w+)"?`)
)

// migration runs the commands of docs/migration.md. helm upgrade is a dry run by the API server. There is no kubelet: the command in the
// controller's pod runs here, and the pod's log is the file of the process that the test starts in the Deployment's place.
type migration struct {
	*region
	dir        string
	env        []string
	controller *replica
}

func newMigration(r *region) *migration {
	r.Helper()
	m := &migration{region: r, dir: r.TempDir()}
	repo, err := nstest.Repo()
	cluster.Must(r, err)
	cluster.Must(r, os.Symlink(filepath.Join(repo, "deploy"), filepath.Join(m.dir, "deploy")))
	var programs []string
	for _, name := range []string{"kube/kubectl", "kube/helm", "multi-enid", "kubectl-multi_eni"} {
		program, err := nstest.Binary(name)
		if err != nil {
			cluster.Unavailable(r, err.Error())
		}
		programs = append(programs, program)
	}
	front := httptest.NewServer(r.ec2)
	r.Cleanup(front.Close)
	for name, script := range map[string]string{
		"kubectl": `case "$*" in
"-n kube-system exec deploy/multi-enid-controller -- /multi-enid "*) shift 6; exec ` + programs[2] + ` "$@" --kubeconfig=` + r.kubeconfig + ` ;;
"-n kube-system logs -l app.kubernetes.io/name=multi-enid-controller "*) exec cat ` + m.dir + `/log ;;
esac
exec ` + programs[0] + ` "$@"`,
		"helm":              "exec " + programs[1] + ` "$@" --install --dry-run=server --take-ownership`,
		"kubectl-multi_eni": "exec " + programs[3] + ` "$@"`,
	} {
		cluster.Must(r, os.WriteFile(filepath.Join(m.dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	}
	m.env = []string{
		"PATH=" + m.dir + ":" + os.Getenv("PATH"), "HOME=" + m.dir, "KUBECONFIG=" + r.WriteAdminKubeconfig(r), "AWS_ENDPOINT_URL_EC2=" + front.URL,
		"AWS_REGION=eu-central-1", "AWS_ACCESS_KEY_ID=AKIDDOCTOR", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true",
		"POD_NAMESPACE=" + accountNamespace,
	}
	r.EnsureNamespace(r, publicNamespace)
	for kind, name := range map[string]string{"Deployment": "eni-controller", "DaemonSet": "eni-manager"} {
		labels := map[string]any{"app": name}
		o := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apps/v1", "kind": kind, "metadata": map[string]any{"name": name, "namespace": publicNamespace},
			"spec": map[string]any{"selector": map[string]any{"matchLabels": labels}, "template": map[string]any{
				"metadata": map[string]any{"labels": labels}, "spec": map[string]any{"containers": []any{map[string]any{"name": "c", "image": "public"}}},
			}},
		}}
		r.Apply(r, o)
		r.Cleanup(func() { r.Delete(r, o) })
	}
	return m
}

func (m *migration) run(command string) string {
	m.Helper()
	cmd := exec.CommandContext(m.Context(), "sh", "-ec", nodeName.ReplaceAllString(strings.ReplaceAll(command, " --watch", ""), fleetNode+"$1"))
	cmd.Dir, cmd.Env = m.dir, m.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		m.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

// wants fails unless the output has the texts.
func (m *migration) wants(command, out string, texts ...string) {
	m.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			m.Errorf("%s\nlacks %q:\n%s", command, text, out)
		}
	}
}

func (m *migration) publicReplicas(want int32) {
	m.Helper()
	d, err := m.Admin.AppsV1().Deployments(publicNamespace).Get(m.Context(), "eni-controller", metav1.GetOptions{})
	cluster.Must(m, err)
	if *d.Spec.Replicas != want {
		m.Errorf("%d replicas, want %d", *d.Spec.Replicas, want)
	}
}

// upgraded starts or stops the controller as the chart does.
func (m *migration) upgraded(command, out string) {
	m.Helper()
	if strings.Contains(command, "enabled=false") {
		if strings.Contains(out, "kind: Deployment") {
			m.Errorf("%s\nkeeps the controller:\n%s", command, out)
		}
		cluster.Must(m, m.controller.proc.Stop())
		return
	}
	m.wants(command, out, "kind: Deployment", "--attachments-from=controller")
	var flags []string
	for _, f := range extraFlag.FindAllStringSubmatch(out, -1) {
		flags = append(flags, f[1])
	}
	m.controller = m.start("a", flags...)
	cluster.Must(m, os.Symlink(m.controller.proc.Log, filepath.Join(m.dir, "log")))
	m.report(m.device(m.awaitEntry("adopted", attached), "ready", "default/p"), nil)
	m.awaitEntry("Ready", func(e v1alpha1.AttachmentEntry) bool { return e.Phase == "Ready" })
	m.controller.awaitLog("ENI belongs to no slot", 0)
}

// TestMigrationCommands runs all commands of docs/migration.md, in their order.
func TestMigrationCommands(t *testing.T) {
	e := fakeec2.ENI{
		ID: "eni-0a1b2c3d4e5f6000a", MAC: "06:00:00:00:00:0a", SubnetID: fleetSubnet, Instance: fleetInstance, DeviceIndex: 1, DeleteOnTermination: true,
		IPv4: []netip.Addr{netip.MustParseAddr("10.0.1.10")}, Groups: []string{fleetGroup}, Tags: publicTags(),
	}
	lost := fakeec2.ENI{
		ID: "eni-0a1b2c3d4e5f6000b", MAC: "06:00:00:00:00:0b", SubnetID: fleetSubnet, IPv4: []netip.Addr{netip.MustParseAddr("10.0.1.11")},
		Groups: []string{fleetGroup}, Tags: publicTags(),
	}
	r := newRegion(t, e, lost)
	r.declareENI()
	r.PatchNodeENI(t, "a", map[string]any{"metadata": map[string]any{"finalizers": []any{finalizer}}})
	r.PatchNodeENI(t, "a", map[string]any{"status": publicStatus(e, "2026-01-02T03:04:05Z")}, "status")
	repo, err := nstest.Repo()
	cluster.Must(t, err)
	text, err := os.ReadFile(filepath.Join(repo, "docs/migration.md"))
	cluster.Must(t, err)
	m := newMigration(r)
	judges := []struct {
		has   string
		judge func(command, out string)
	}{
		{"tee enis-before.txt", func(c, out string) { m.wants(c, out, "a      "+e.ID) }},
		{"--replicas=0", func(string, string) { m.publicReplicas(0) }},
		{"helm upgrade", m.upgraded},
		{"PHASE:", func(c, out string) { m.wants(c, out, fmt.Sprintf("%s   %s   Ready", fleetNode, e.ID)) }},
		{"doctor --controller", func(c, out string) {
			m.wants(c, out, "ok    leader: ", "ok    other controller: none", "ok    objects: NodeENIs: 1, Nodes: 1")
		}},
		{"logs", func(c, out string) { m.wants(c, out, lost.ID) }},
		{"| sort", func(c, out string) { m.wants(c, "\n"+out, "\n"+e.ID+"\n") }},
		{"--replicas=1", func(string, string) { m.publicReplicas(1) }},
		{"kubectl multi-eni status", func(c, out string) { m.wants(c, out, e.ID) }},
	}
	all := command.FindAllString(string(text), -1)
	for _, c := range all {
		c = strings.TrimSpace(c)
		out := m.run(c)
		for _, j := range judges {
			if strings.Contains(c, j.has) {
				j.judge(c, out)
			}
		}
	}
	for _, j := range judges {
		if !strings.Contains(strings.Join(all, "\n"), j.has) {
			t.Errorf("no command has %q any more", j.has)
		}
	}
	if len(all) < 15 {
		t.Errorf("only %d commands: %q", len(all), all)
	}
}
