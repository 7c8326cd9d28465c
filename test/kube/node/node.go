package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/plane"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// Fixed places and names of the node.
const (
	// Name is the Node object's name.
	Name = "node-1"
	// PauseImage runs until it is told to end. The node has it; never pull it.
	PauseImage = "localhost/pause:1"
	// PodResourcesSocket is the kubelet's podresources API.
	PodResourcesSocket = "/var/lib/kubelet/pod-resources/kubelet.sock"
	// DevicePluginsDir is where device plugins register.
	DevicePluginsDir = "/var/lib/kubelet/device-plugins"
	// CNIConfDir has 10-pods.conflist, a bridge; the first file by name wins.
	CNIConfDir = "/var/lib/node/cni/net.d"
	// CNIBinDir has the reference plugins; tests may add to it.
	CNIBinDir = "/opt/cni/bin"
	// CNICacheDir is containerd's record of results.
	CNICacheDir = "/var/lib/cni"

	containerdSocket = "/run/containerd/containerd.sock"
)

const startTimeout = 2 * time.Minute

// Node is a running node. The first Start of a test binary starts it. Tests use it one after the other and
// delete their objects. Methods that take a test end it on failure.
type Node struct {
	// Admin has all rights.
	Admin kubernetes.Interface
	// Config is Admin's, for clients of other kinds.
	Config *rest.Config

	dir, bin            string
	plane               *plane.Plane
	containerd, kubelet *plane.Process
	others              []*plane.Process
}

var shared struct {
	sync.Once
	node *Node
	err  error
}

func stopShared() {
	n := shared.node
	if n == nil {
		return
	}
	n.kubelet.Kill()
	for _, p := range n.others {
		p.Kill()
	}
	n.containerd.Kill()
	if n.plane != nil {
		n.plane.Stop()
	}
}

// Start returns the node, Ready.
func Start(t testing.TB) *Node {
	t.Helper()
	cluster.Available(t)
	dir := os.Getenv(insideEnv)
	if dir == "" {
		t.Fatal("this package has no TestMain that calls node.Main")
	}
	shared.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*startTimeout) // the node outlives the test
		defer cancel()
		shared.node = &Node{dir: dir}
		shared.err = shared.node.start(ctx)
	})
	if shared.err != nil {
		t.Fatalf("start the node: %v", shared.err)
	}
	return shared.node
}

func (n *Node) start(ctx context.Context) error {
	repo, err := nstest.Repo()
	if err != nil {
		return err
	}
	n.bin = filepath.Join(repo, "bin", "kube")
	for _, step := range []func(context.Context) error{n.startPlane, serveService, n.configure, n.startContainerd, n.importPause, n.startControllers,
		n.startKubelet, n.awaitReady} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) startPlane(ctx context.Context) (err error) {
	n.plane, err = plane.Start(ctx, plane.Options{
		Dir: filepath.Join(n.dir, "plane"), Bin: n.bin, Addresses: []net.IP{net.ParseIP(IP), net.ParseIP(ServiceIP)}, ServiceAccounts: true,
	})
	if err != nil {
		return err
	}
	n.Config = n.plane.Admin()
	n.Admin, err = kubernetes.NewForConfig(n.Config)
	return err
}

// serveService forwards the service kubernetes to the API server, as kube-proxy would, until the process ends.
func serveService(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(ServiceIP, "443"))
	if err != nil {
		return fmt.Errorf("serve the service kubernetes: %w", err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go forward(c)
		}
	}()
	return nil
}

func forward(c net.Conn) {
	defer c.Close()
	api, err := net.Dial("tcp", plane.Address)
	if err != nil {
		return // as a service without endpoints
	}
	defer api.Close()
	go func() {
		io.Copy(api, c) //nolint:errcheck,gosec // either end may close
		api.Close()     //nolint:gosec // likewise
	}()
	io.Copy(c, api) //nolint:errcheck,gosec // likewise
}

// Log returns the path of a program's log: kubelet, containerd, etcd or kube-*.
func (n *Node) Log(name string) string { return n.plane.Log(name) }

func (n *Node) startContainerd(ctx context.Context) (err error) {
	if n.containerd, err = plane.StartProcess(n.Log("containerd"), nil, "containerd", "--config", n.file("containerd.toml")); err != nil {
		return err
	}
	return n.await(ctx, "containerd", func(ctx context.Context) error { return n.ctr(ctx, "version") })
}

func (n *Node) startControllers(context.Context) error {
	for name, flags := range map[string][]string{
		"kube-scheduler": nil,
		"kube-controller-manager": {
			"--service-account-private-key-file=" + n.plane.Key("service-account.key"), "--root-ca-file=" + n.plane.Key("ca.crt"),
		},
	} {
		kubeconfig := n.file(name + ".kubeconfig")
		if err := n.plane.WriteUserKubeconfig(kubeconfig, "system:"+name, "system:masters"); err != nil {
			return err
		}
		argv := append([]string{filepath.Join(n.bin, name), "--kubeconfig=" + kubeconfig, "--leader-elect=false", "--bind-address=127.0.0.1"}, flags...)
		p, err := plane.StartProcess(n.Log(name), nil, argv...)
		if err != nil {
			return err
		}
		n.others = append(n.others, p)
	}
	return nil
}

func (n *Node) startKubelet(context.Context) (err error) {
	kubeconfig := n.file("kubelet.kubeconfig")
	if err := n.plane.WriteUserKubeconfig(kubeconfig, "system:node:"+Name, "system:nodes"); err != nil {
		return err
	}
	n.kubelet, err = plane.StartProcess(n.Log("kubelet"), nil, filepath.Join(n.bin, "kubelet"), "--config="+n.file("kubelet.yaml"),
		"--kubeconfig="+kubeconfig, "--hostname-override="+Name, "--node-ip="+IP, "--cert-dir="+n.file("kubelet-pki"), "-v=2")
	return err
}

func (n *Node) awaitReady(ctx context.Context) error {
	return n.await(ctx, "kubelet", func(ctx context.Context) error {
		node, err := n.Admin.CoreV1().Nodes().Get(ctx, Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return n.accountReady(ctx)
			}
		}
		return fmt.Errorf("Node not Ready: %v", node.Status.Conditions)
	})
}

// accountReady says whether pods can be made in the default namespace.
func (n *Node) accountReady(ctx context.Context) error {
	_, err := n.Admin.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
	return err
}

func (n *Node) await(ctx context.Context, name string, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", name, err, plane.Tail(n.Log(name)))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// KillContainerd ends containerd as a crash does. Its containers continue.
func (n *Node) KillContainerd() { n.containerd.Kill() }

// StartContainerd runs containerd again, and returns when it answers.
func (n *Node) StartContainerd(t testing.TB) {
	t.Helper()
	cluster.Must(t, n.startContainerd(t.Context()))
}

// KillKubelet ends the kubelet as a crash does. Its pods continue.
func (n *Node) KillKubelet() { n.kubelet.Kill() }

// StartKubelet runs the kubelet again, and returns when the Node is Ready. It may have been Ready all the time.
func (n *Node) StartKubelet(t testing.TB) {
	t.Helper()
	cluster.Must(t, errors.Join(n.startKubelet(t.Context()), n.awaitReady(t.Context())))
}

// ctr runs containerd's own client on the containers of Kubernetes.
func (n *Node) ctr(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "ctr", append([]string{"--address", containerdSocket, "--namespace", "k8s.io"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ctr %s: %w: %s", args[0], err, out)
	}
	return nil
}

// WriteKubeconfig writes a kubeconfig of an existing ServiceAccount with a token for a day, and returns its path.
func (n *Node) WriteKubeconfig(t testing.TB, namespace, account string) string {
	t.Helper()
	day := int64(24 * 60 * 60)
	answer, err := n.Admin.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &day}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("request a token: %v", err)
	}
	dir := t.TempDir()
	token, path := filepath.Join(dir, "token"), filepath.Join(dir, "kubeconfig")
	cluster.Must(t, os.WriteFile(token, []byte(answer.Status.Token), 0o600))
	cluster.Must(t, n.plane.WriteTokenKubeconfig(path, plane.Address, token))
	return path
}

func (n *Node) file(name string) string { return filepath.Join(n.dir, name) }

// RunKubelet runs the kubelet again, and returns at once.
func (n *Node) RunKubelet(t testing.TB) {
	t.Helper()
	cluster.Must(t, n.startKubelet(t.Context()))
}

// AwaitReady waits until the Node is Ready.
func (n *Node) AwaitReady(t testing.TB) {
	t.Helper()
	cluster.Must(t, n.awaitReady(t.Context()))
}

// StopAPIServer ends kube-apiserver. The test must start it again, or it starts when the test ends.
func (n *Node) StopAPIServer(t testing.TB) {
	t.Helper()
	n.plane.KillAPIServer()
	t.Cleanup(func() {
		if !n.plane.APIServerRuns() {
			cluster.Must(t, n.plane.StartAPIServer(context.Background()))
		}
	})
}

// StartAPIServer runs kube-apiserver again, and returns when it is ready.
func (n *Node) StartAPIServer(t testing.TB) {
	t.Helper()
	cluster.Must(t, n.plane.StartAPIServer(t.Context()))
}
