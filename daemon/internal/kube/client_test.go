package kube

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`

func writeKubeconfig(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConnectRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		node, kubeconfig string
		want             error
		says             string
	}{
		"no name":         {"", kubeconfig, ErrNoNodeName, "--node-name"},
		"upper case":      {"Node", kubeconfig, ErrNoNodeName, `"Node"`},
		"underscore":      {"a_b", kubeconfig, ErrNoNodeName, `"a_b"`},
		"a path":          {"../a", kubeconfig, ErrNoNodeName, `"../a"`},
		"too long":        {strings.Repeat("a", 254), kubeconfig, ErrNoNodeName, "253"},
		"no name, no API": {"", "{", ErrNoNodeName, "it is empty"},
		"not YAML":        {"node-a", "{", ErrNoClient, "kubeconfig"},
		"no context":      {"node-a", "apiVersion: v1\nkind: Config\n", ErrNoClient, "kubeconfig"},
		"empty":           {"node-a", "", ErrNoClient, "kubeconfig"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Connect(Config{NodeName: tc.node, Kubeconfig: writeKubeconfig(t, tc.kubeconfig), Log: quiet()})
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want %v with %q", err, tc.want, tc.says)
			}
		})
	}
}

func TestConnectKeepsTheCause(t *testing.T) {
	_, err := Connect(Config{NodeName: "node-a", Kubeconfig: filepath.Join(t.TempDir(), "absent"), Log: quiet()})
	if !errors.Is(err, ErrNoClient) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want ErrNoClient and fs.ErrNotExist", err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	_, err = Connect(Config{NodeName: "node-a", Log: quiet()})
	if !errors.Is(err, ErrNoClient) || !strings.Contains(err.Error(), "--kubeconfig") {
		t.Errorf("error %v, want ErrNoClient and the way out", err)
	}
}

func TestConnectSendsNothing(t *testing.T) {
	c, err := Connect(Config{NodeName: "ip-10-0-0-1.ec2.internal", Kubeconfig: writeKubeconfig(t, kubeconfig), UserAgent: "multi-enid/test", Log: quiet()})
	if err != nil {
		t.Fatal(err) // nothing listens at the address
	}
	if c.nodeName != "ip-10-0-0-1.ec2.internal" || c.core == nil || c.neni == nil {
		t.Errorf("client %+v is not whole", c)
	}
}
