package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/demo/terminal"
	"github.com/multi-eni/multi-eni-cni/test/kube/plane"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	root     = "/run/demo"
	manifest = root + "/nodeeni.yaml"
	confDir  = root + "/net.d"
	pod      = "pod-a"
	nodeENI  = "dataplane-a"
	nodeName = "demo-node"
)

const nodeENIManifest = `apiVersion: networking.k8s.aws/v1alpha1
kind: NodeENI
metadata:
  name: ` + nodeENI + `
spec:
  nodeSelector: {ng: multi-eni}
  subnetID: ` + podSubnet + `
  securityGroupIDs: [` + group + `]
  deviceIndex: 1
`

const netconf = `{
  "cniVersion": "1.1.0",
  "name": "` + nodeENI + `",
  "plugins": [{
    "type": "multi-eni",
    "select": {"nodeENI": "` + nodeENI + `"},
    "ipam": {"type": "eni-ipam"},
    "sysfs": "` + root + `/sys"
  }]
}
`

type stage struct {
	*terminal.Story
	repo       string
	node       *nstest.Node
	cloud      *cloud
	plane      *plane.Plane
	controller *plane.Process
	daemon     *plane.Process
}

// newStage returns an empty stage; close works at any time.
func newStage(ctx context.Context) *stage {
	return &stage{Story: &terminal.Story{Ctx: ctx, Patience: time.Minute}}
}

// set builds the node, the cloud and the control plane.
func (s *stage) set() (err error) {
	// As systemd does, so that the daemon sees mounts of pods' namespaces.
	if err := unix.Mount("", "/run", "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make /run a shared mount: %w", err)
	}
	if s.repo, err = nstest.Repo(); err != nil {
		return err
	}
	if s.node, err = nstest.NewNode(root); err != nil {
		return err
	}
	if err := s.node.AddPeerAddress(router + "/24"); err != nil {
		return err
	}
	if s.cloud, err = newCloud(s.Ctx, s.node); err != nil {
		return err
	}
	if err := errors.Join(nstest.NewNetns("/run/netns/"+pod), s.write(manifest, nodeENIManifest),
		s.write(filepath.Join(confDir, nodeENI+".conflist"), netconf)); err != nil {
		return err
	}
	return s.startPlane()
}

func (s *stage) write(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o600)
}

func (s *stage) startPlane() (err error) {
	bin := filepath.Join(s.repo, "bin")
	fmt.Println("Starting etcd and kube-apiserver. It takes some ten seconds.")
	s.plane, err = plane.Start(s.Ctx, plane.Options{Dir: filepath.Join(root, "plane"), Bin: filepath.Join(bin, "kube"), Addresses: plane.UplinkAddresses()})
	if err != nil {
		return err
	}
	admin := filepath.Join(root, "admin.kubeconfig")
	if err := s.plane.WriteUserKubeconfig(admin, "admin", "system:masters"); err != nil {
		return err
	}
	s.Env = append(os.Environ(),
		"PATH="+strings.Join([]string{bin + "/kube", bin, bin + "/tools", os.Getenv("PATH"), "/usr/sbin", "/sbin"}, ":"), "HOME="+root, "KUBECONFIG="+admin,
		"CNI_PATH="+bin+":"+bin+"/cni", "NETCONFPATH="+confDir, "CNI_IFNAME=net1")
	return s.addNode()
}

// addNode does the kubelet's part, and that of the cloud provider. It also makes the pod's namespace.
func (s *stage) addNode() error {
	client, err := kubernetes.NewForConfig(s.plane.Admin())
	if err != nil {
		return err
	}
	shop := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	if _, err := client.CoreV1().Namespaces().Create(s.Ctx, shop, metav1.CreateOptions{}); err != nil {
		return err
	}
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{
			"ng": "multi-eni", "topology.kubernetes.io/zone": zone, "topology.kubernetes.io/region": region, "node.kubernetes.io/instance-type": instanceType,
		}},
		Spec: corev1.NodeSpec{ProviderID: "aws:///" + zone + "/" + instanceID},
	}
	if n, err = client.CoreV1().Nodes().Create(s.Ctx, n, metav1.CreateOptions{}); err != nil {
		return err
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.Now()}}
	n.Status.NodeInfo.KubeletVersion = "v1.36.0"
	_, err = client.CoreV1().Nodes().UpdateStatus(s.Ctx, n, metav1.UpdateOptions{})
	return err
}

// account writes the kubeconfig of a ServiceAccount of deploy/.
func (s *stage) account(name string) (path string, err error) {
	cmd := exec.CommandContext(s.Ctx, filepath.Join(s.repo, "bin/kube/kubectl"), "--namespace=kube-system", "create", "token", name, "--duration=1h")
	cmd.Env = s.Env
	token, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("create a token of %s: %w", name, err)
	}
	path = filepath.Join(root, name+".kubeconfig")
	return path, errors.Join(s.write(path+".token", string(token)), s.plane.WriteTokenKubeconfig(path, plane.Address, path+".token"))
}

// start runs multi-enid in the background as a ServiceAccount.
func (s *stage) start(account string, env []string, args ...string) (*plane.Process, error) {
	kubeconfig, err := s.account(account)
	if err != nil {
		return nil, err
	}
	args = append(args, "--kubeconfig="+kubeconfig)
	fmt.Printf("   $ multi-enid %s &\n", strings.Join(args, " "))
	return plane.StartProcess(filepath.Join(root, account+".log"), env, append([]string{filepath.Join(s.repo, "bin/multi-enid")}, args...)...)
}

const listen = "127.0.0.1:9617"

// awaitEvents waits until the API server tells both programs of a NodeENI at once.
func (s *stage) awaitEvents() error {
	client, err := dynamic.NewForConfig(s.plane.Admin())
	if err != nil {
		return err
	}
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(strings.Replace(nodeENIManifest, "{ng: multi-eni}", "{ng: none}", 1)), &o.Object); err != nil {
		return err
	}
	kind := schema.GroupVersionResource{Group: "networking.k8s.aws", Version: "v1alpha1", Resource: "nodeenis"}
	return plane.AwaitEvents(s.Ctx, client.Resource(kind), o)
}

// ready says whether the controller has read the cluster.
func (s *stage) ready() bool {
	r, err := http.NewRequestWithContext(s.Ctx, http.MethodGet, "http://"+listen+"/readyz", nil)
	if err != nil {
		return false
	}
	answer, err := (&http.Client{Timeout: time.Second}).Do(r)
	if err != nil {
		return false
	}
	return answer.Body.Close() == nil && answer.StatusCode == http.StatusOK
}

// phase returns the phase of the NodeENI's device in the daemon's inventory, or "".
func phase() nodestate.Phase {
	inv, err := nodestate.ReadInventory(nodestate.DefaultInventoryPath)
	if err != nil || len(inv.Devices) != 1 {
		return ""
	}
	return inv.Devices[0].Phase
}

// runs is an error once one of the two programs has ended.
func (s *stage) runs() error {
	for _, p := range []*plane.Process{s.controller, s.daemon} {
		if p == nil {
			continue
		}
		select {
		case <-p.Exited():
			return fmt.Errorf("multi-enid ended: %s", plane.Tail(p.Log))
		default:
		}
	}
	return s.cloud.faulty()
}

func (s *stage) stop() error {
	err := errors.Join(s.daemon.Stop(), s.controller.Stop())
	s.daemon, s.controller = nil, nil
	return err
}

func (s *stage) close() {
	if err := s.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if s.plane != nil {
		s.plane.Stop()
	}
	if s.cloud != nil {
		s.cloud.close()
	}
}

// link says whether the host has the link with a MAC.
func link(mac string) bool {
	all, err := net.Interfaces()
	if err != nil {
		return false
	}
	for _, l := range all {
		if l.HardwareAddr.String() == mac {
			return true
		}
	}
	return false
}
