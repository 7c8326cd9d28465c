package client

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

func TestConnectRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		node, kubeconfig string
		want             error
		says             string
	}{
		"no name":         {"", fakekube.Config, ErrNoNodeName, "--node-name"},
		"upper case":      {"Node", fakekube.Config, ErrNoNodeName, `"Node"`},
		"underscore":      {"a_b", fakekube.Config, ErrNoNodeName, `"a_b"`},
		"a path":          {"../a", fakekube.Config, ErrNoNodeName, `"../a"`},
		"too long":        {strings.Repeat("a", 254), fakekube.Config, ErrNoNodeName, "253"},
		"no name, no API": {"", "{", ErrNoNodeName, "it is empty"},
		"not YAML":        {"node-a", "{", ErrNoClient, "kubeconfig"},
		"no context":      {"node-a", "apiVersion: v1\nkind: Config\n", ErrNoClient, "kubeconfig"},
		"empty":           {"node-a", "", ErrNoClient, "kubeconfig"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Connect(Config{NodeName: tc.node, Kubeconfig: fakekube.WriteKubeconfig(t, tc.kubeconfig), Log: fakekube.Quiet()})
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want %v with %q", err, tc.want, tc.says)
			}
		})
	}
}

func TestConnectKeepsTheCause(t *testing.T) {
	_, err := Connect(Config{NodeName: "node-a", Kubeconfig: filepath.Join(t.TempDir(), "absent"), Log: fakekube.Quiet()})
	if !errors.Is(err, ErrNoClient) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want ErrNoClient and fs.ErrNotExist", err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	_, err = Connect(Config{NodeName: "node-a", Log: fakekube.Quiet()})
	if !errors.Is(err, ErrNoClient) || !strings.Contains(err.Error(), "--kubeconfig") {
		t.Errorf("error %v, want ErrNoClient and the way out", err)
	}
}

func TestConnectSendsNothing(t *testing.T) {
	c, err := Connect(Config{NodeName: "ip-10-0-0-1.ec2.internal", Kubeconfig: fakekube.WriteKubeconfig(t, fakekube.Config), UserAgent: "multi-enid/test",
		Log: fakekube.Quiet()})
	if err != nil {
		t.Fatal(err) // nothing listens at the address
	}
	if c.NodeName != "ip-10-0-0-1.ec2.internal" || c.Core == nil || c.NodeENIs == nil {
		t.Errorf("client %+v is not whole", c)
	}
}
