package onenode

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func (s *stage) kubectl(args ...string) (string, error) {
	s.Helper()
	program, err := nstest.Binary("kube/kubectl")
	if err != nil {
		cluster.Unavailable(s.T, err.Error())
	}
	ctx, cancel := context.WithTimeout(s.Context(), settle)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append([]string{"--kubeconfig=" + s.kubeconfig(), "--cache-dir=" + s.path("kubectl-cache")}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *stage) kubectlPlugin(args ...string) (string, error) {
	s.Helper()
	program, err := nstest.Binary("kubectl-multi_eni")
	s.must(err)
	kubectl, err := nstest.Binary("kube/kubectl")
	if err != nil {
		cluster.Unavailable(s.T, err.Error())
	}
	ctx, cancel := context.WithTimeout(s.Context(), settle)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append(args, "--kubeconfig="+s.kubeconfig())...)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(kubectl)+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *stage) kubeconfig() string {
	s.Helper()
	const name = "admin"
	path := s.path("kubeconfig")
	s.must(clientcmd.WriteToFile(api.Config{
		Clusters:       map[string]*api.Cluster{name: {Server: s.Config.Host, CertificateAuthorityData: s.Config.CAData}},
		AuthInfos:      map[string]*api.AuthInfo{name: {ClientCertificateData: s.Config.CertData, ClientKeyData: s.Config.KeyData}},
		Contexts:       map[string]*api.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	}, path))
	return path
}

// reads checks the output for a node with one device in use, in the words of docs/quickstart.md.
func (s *stage) reads(a eni) {
	t := s.T
	daemon := []string{"-n", "kube-system", "exec", "ds/multi-enid", "-c", "multi-enid", "--", "/multi-enid"}
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"-n", "kube-system", "get", "pods", "-l", "app.kubernetes.io/part-of=multi-eni-cni"},
			[]string{"multi-enid-", "multi-eni-installer-", "1/1", "Running"}},
		{[]string{"get", "neni"}, []string{"NAME", "SUBNET", "RESOURCE", a.subnet, a.resource()}},
		{[]string{"get", "ens"}, []string{"READY", "PROBLEMS", "DEVICE PLUGIN", node.Name, "1/1", "Serving"}},
		{[]string{"describe", "ens", node.Name}, []string{"Eni ID:", a.id, a.PCI, "default/p1", "DevicePluginServing", "ConfigCurrent", "DevicesReady"}},
		{[]string{"get", "events", "--field-selector", "involvedObject.kind=NodeENI"}, []string{"DeviceReady", "nodeeni/" + a.letter, a.PCI}},
		{append(daemon, "status"), []string{a.PCI, "ready", "default/p1", "Serving", "No problems"}},
	} {
		var out string
		took := cluster.Eventually(t, "kubectl "+strings.Join(tt.args, " "), settle, func() (err error) {
			if out, err = s.kubectl(tt.args...); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			for _, want := range tt.want {
				if !strings.Contains(out, want) {
					return fmt.Errorf("it lacks %q:\n%s", want, out)
				}
			}
			return nil
		})
		t.Logf("kubectl %s (after %v)\n%s", strings.Join(tt.args, " "), took, out)
	}
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"status"}, []string{node.Name, "1/1", "Serving"}},
		{[]string{"who", "p1"}, []string{"default/p1", node.Name, a.id, a.PCI}},
		{[]string{"doctor", "--node", node.Name}, []string{"ok    CNI plugin: /opt/cni/bin/multi-eni"}},
	} {
		out, err := s.kubectlPlugin(tt.args...)
		if err != nil {
			t.Errorf("kubectl multi-eni %s: %v", strings.Join(tt.args, " "), err)
		}
		for _, want := range tt.want {
			if !strings.Contains(out, want) {
				t.Errorf("it lacks %q", want)
			}
		}
		t.Logf("kubectl multi-eni %s\n%s", strings.Join(tt.args, " "), out)
	}
}
