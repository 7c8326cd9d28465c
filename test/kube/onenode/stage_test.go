// Package onenode runs the whole product on one real node: the daemon under its own ServiceAccount, the plugin behind a
// CNI meta-plugin, a stand-in for the SR-IOV device plugin as a DaemonSet, and pods that request its devices.
package onenode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/multi-eni/multi-eni-cni/pkg/leases"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/deviceplugin"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
	"github.com/multi-eni/multi-eni-cni/test/kube/plane"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

func TestMain(m *testing.M) {
	os.Exit(node.Main(m, "^TestOfferTakeover$", "^TestOffer[^T]", "^Test(SharedENI|Story|Upgrade)"))
}

const (
	instanceID  = "i-0a1b2c3d4e5f60000"
	orphanGrace = 3 * time.Second
)

// stage is a node with a cluster, ENIs of veth pairs with a recorded sysfs, IMDS, the daemon, and metacni.
type stage struct {
	*testing.T
	*node.Node
	nodeENIs dynamic.ResourceInterface
	host     *nstest.Node
	enis     []eni
	metadata fakeimds.State
	imds     *fakeimds.Server // serves metadata where the daemon is a pod
	dir      string
	paths    paths
	// shared is the netconf of pods that request no device; nil for none.
	shared map[string]any
	// pods are netconfs of pods that request no device, in place of shared.
	pods map[string]any

	daemon    *plane.Process
	daemonEnv []string
	daemonCmd []string
}

type paths struct{ config, inventory, state, attachments string }

func productPaths() paths {
	return paths{"/etc/pcidp/config.json", nodestate.DefaultInventoryPath, nodestate.DefaultStateDir, nodestate.DefaultAttachmentsDir}
}

func newStage(t *testing.T, enis int) *stage {
	t.Helper()
	return newStageOf(t, newENIs(enis)...)
}

func newStageOf(t *testing.T, enis ...eni) *stage {
	t.Helper()
	s := newNode(t, enis...)
	s.paths = paths{s.path("pcidp/config.json"), s.path("inventory.json"), s.path("state"), s.path("attachments")}
	s.deploy()
	imds := fakeimds.Start(t, fakeimds.Config{State: s.metadata})
	s.installPlugin("multi-eni")
	s.useNetconf(map[string]any{
		"cniVersion": "1.0.0", "name": "dataplane", "type": "multi-eni", "capabilities": map[string]any{"deviceID": true},
		"sysfs": s.host.Sysfs, "dataDir": string(s.attachments()), "inventory": s.paths.inventory,
	})
	s.startDaemon(imds.URL)
	return s
}

func newNode(t *testing.T, enis ...eni) *stage {
	t.Helper()
	s := &stage{T: t, Node: node.Start(t), dir: t.TempDir()}
	s.freshKubelet()
	d, err := dynamic.NewForConfig(s.Config)
	s.must(err)
	s.nodeENIs = d.Resource(schema.GroupVersionResource{Group: "networking.k8s.aws", Version: "v1alpha1", Resource: "nodeenis"})
	s.host, err = nstest.NewNode(s.dir)
	s.must(err)
	s.Cleanup(func() { s.must(nstest.DeleteNetns(s.host.VPC)) })
	s.metadata = fakeimds.State{InstanceID: instanceID, ENIs: []fakeimds.ENI{
		{ID: "eni-0a1b2c3d4e5f60000", MAC: "02:00:00:00:00:00", Primary: true, SubnetID: "subnet-0a1b2c3d4e5f60000", SubnetIPv4CIDR: "10.0.0.0/24",
			IPv4s: []string{"10.0.0.10"}},
	}}
	s.enis = enis
	for i, e := range enis {
		s.must(s.host.Attach(e.ENI))
		s.Cleanup(func() { s.must(s.host.Detach(e.ENI)) })
		s.metadata.ENIs = append(s.metadata.ENIs, e.metadata(i+1))
	}
	s.Cleanup(s.empty)
	return s
}

// freshKubelet has the kubelet list no devices. It may list devices of the test before: it does not notice the end of a
// daemon that was killed during a change of the mode (ADR 0042).
func (s *stage) freshKubelet() {
	s.Helper()
	if s.kubeletLists()() == nil {
		return
	}
	s.KillKubelet()
	s.StartKubelet(s.T)
	cluster.Eventually(s.T, "a kubelet without devices", settle, s.kubeletLists())
}

func (s *stage) empty() {
	ctx, cancel := context.WithTimeout(context.Background(), settle) // the test's own is over
	defer cancel()
	now := int64(0)
	gone := metav1.DeleteOptions{GracePeriodSeconds: &now}
	// the test has ended before it made the CRDs
	if err := s.nodeENIs.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
		s.must(err)
	}
	s.must(s.Admin.CoreV1().Pods("default").DeleteCollection(ctx, gone, metav1.ListOptions{}))
}

func (s *stage) deploy() {
	s.Helper()
	repo, err := nstest.Repo()
	s.must(err)
	c := s.cluster()
	c.InstallCRDs(s.T)
	c.ApplyFile(s.T, filepath.Join(repo, "deploy/rbac.yaml"))
}

func (s *stage) cluster() *cluster.Cluster {
	s.Helper()
	d, err := dynamic.NewForConfig(s.Config)
	s.must(err)
	return &cluster.Cluster{Admin: s.Admin, Dynamic: d}
}

func (s *stage) installPlugin(binary string) {
	s.Helper()
	path, err := nstest.Binary(binary)
	s.must(err)
	content, err := os.ReadFile(path)
	s.must(err)
	to := filepath.Join(node.CNIBinDir, filepath.Base(binary))
	s.must(os.WriteFile(to+".new", content, 0o755))
	s.must(os.Rename(to+".new", to))
	s.Cleanup(func() { s.must(os.Remove(to)) })
}

// useNetconf sets new pods' network: eth0, and the kubelet's devices by this netconf, without ipam unless it has one.
func (s *stage) useNetconf(device map[string]any) {
	s.Helper()
	s.installPlugin("kube/metacni")
	s.must(os.WriteFile(stageConf, []byte(s.netconf(device)), 0o644))
	s.Cleanup(func() { s.must(os.Remove(stageConf)) })
}

// stageConf sorts before any other network of the node.
var stageConf = filepath.Join(node.CNIConfDir, "00-stage.conflist")

func (s *stage) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

func (s *stage) attachments() nodestate.AttachmentDir {
	return nodestate.AttachmentDir(s.paths.attachments)
}

func (s *stage) netconf(device map[string]any) string {
	s.Helper()
	type object = map[string]any
	hostLocal := func(subnet, dir string) object {
		return object{"type": "host-local", "ranges": []any{[]any{object{"subnet": subnet}}}, "dataDir": s.path(dir)}
	}
	if device["ipam"] == nil {
		device["ipam"] = hostLocal("10.0.2.0/24", "leases")
	}
	pods := hostLocal("10.89.0.0/24", "leases-default")
	pods["routes"] = []object{{"dst": node.ServiceIP + "/32"}} // for the controller's pods
	plugin := object{
		"type": "metacni", "dataDir": s.path("metacni"), "podResources": node.PodResourcesSocket,
		"default": object{"cniVersion": "1.0.0", "name": "default", "type": "bridge", "bridge": "cni0", "isGateway": true,
			"ipam": pods},
		"device": device,
	}
	if s.shared != nil {
		plugin["shared"] = s.shared
	}
	if s.pods != nil {
		plugin["pods"] = s.pods
	}
	b, err := json.Marshal(object{"cniVersion": "1.0.0", "name": "node", "plugins": []any{plugin}})
	s.must(err)
	return string(b)
}

func (s *stage) startDaemon(imds string, flags ...string) {
	s.Helper()
	binary, err := nstest.Binary("multi-enid")
	s.must(err)
	s.must(os.MkdirAll(filepath.Dir(s.config()), 0o755))
	s.daemonEnv = []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT=" + imds}
	s.daemonCmd = append([]string{
		binary, "run", "--node-name=" + node.Name, "--nodeeni-source=kube", "--kubeconfig=" + s.WriteKubeconfig(s.T, "kube-system", "multi-enid"),
		"--pcidp-config=" + s.config(), "--inventory=" + s.paths.inventory, "--state-dir=" + s.paths.state,
		"--attachments-dir=" + string(s.attachments()), "--sysfs=" + s.host.Sysfs, "--cni-bin-dir=" + node.CNIBinDir, "--orphan-grace=" + orphanGrace.String(),
	}, flags...)
	s.Cleanup(func() {
		s.daemon.Kill()
		if log, err := os.ReadFile(s.path("multi-enid.log")); s.Failed() {
			s.Logf("log of multi-enid (%v):\n%s", err, log)
		}
	})
	s.runDaemon()
	first := s.config()
	if slices.Contains(flags, "--offer=deviceplugin") { // then it writes none
		first = s.paths.inventory
	}
	cluster.Eventually(s.T, "first file", settle, func() error { _, err := os.Stat(first); return err })
}

func (s *stage) runDaemon() {
	s.Helper()
	var err error
	s.daemon, err = plane.StartProcess(s.path("multi-enid.log"), s.daemonEnv, s.daemonCmd...)
	s.must(err)
}

func (s *stage) config() string { return s.paths.config }

func (s *stage) declare(e eni) error {
	ctx, cancel := context.WithTimeout(s.Context(), callTimeout)
	defer cancel()
	index := int64(e.letter[0]-'a') + 1
	spec := map[string]any{"nodeSelector": map[string]any{"kubernetes.io/hostname": node.Name}, "subnetID": e.subnet, "deviceIndex": index,
		"securityGroupIDs": []any{"sg-0a1b2c3d4e5f60001"}}
	if !e.shared {
		spec["dpdkResourceName"] = e.resource()
	}
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.k8s.aws/v1alpha1", "kind": "NodeENI", "metadata": map[string]any{"name": e.letter}, "spec": spec,
	}}
	u, err := s.nodeENIs.Create(ctx, u, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	u.Object["status"] = map[string]any{"attachments": []any{map[string]any{
		"nodeID": node.Name, "instanceID": instanceID, "eniID": e.id, "attachmentID": "eni-attach-0a1b2c3d4e5f6000" + e.letter, "subnetID": e.subnet,
		"subnetCIDR": e.cidr(), "deviceIndex": index, "status": "attached", "lastUpdated": "2026-01-02T03:04:05Z",
	}}}
	_, err = s.nodeENIs.UpdateStatus(ctx, u, metav1.UpdateOptions{})
	return err
}

func (s *stage) withdraw(e eni) error {
	ctx, cancel := context.WithTimeout(s.Context(), callTimeout)
	defer cancel()
	return s.nodeENIs.Delete(ctx, e.letter, metav1.DeleteOptions{})
}

func (s *stage) offered() (dpmodel.Verdict, error) {
	devices, err := deviceplugin.Discover(sysfs.NewFS(s.host.Sysfs), "/proc/net/route")
	if err != nil {
		return dpmodel.Verdict{}, err
	}
	b, err := os.ReadFile(s.config())
	if err != nil {
		return dpmodel.Verdict{}, err
	}
	v := dpmodel.Judge(b, devices)
	if !v.Runs() || len(v.Skipped) > 0 {
		return v, fmt.Errorf("the device plugin would not run on, or skip entries of, this config: %+v\n%s", v, b)
	}
	return v, nil
}

func (s *stage) inventory() (nodestate.Inventory, error) {
	return nodestate.ReadInventory(s.paths.inventory)
}

func (s *stage) records() ([]nodestate.Attachment, error) {
	all, bad, err := s.attachments().List()
	if len(bad) > 0 {
		return all, bad[0]
	}
	return all, err
}

func (s *stage) leases() (out []string, err error) {
	entries, err := os.ReadDir(s.path("leases/dataplane"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err == nil {
			out = append(out, e.Name())
		}
	}
	held, err := leases.Dir(leases.DefaultDir).Held()
	for _, l := range held {
		out = append(out, l.Address.String())
	}
	return out, err
}

func (s *stage) home(e eni) error {
	l, err := net.InterfaceByName(e.Name)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Name, err)
	}
	if l.HardwareAddr.String() != e.MAC {
		return fmt.Errorf("%s has MAC %s, want %s", e.Name, l.HardwareAddr, e.MAC)
	}
	return nil
}

func want[T comparable](got, want T) error {
	if got != want {
		return fmt.Errorf("%v, want %v", got, want)
	}
	return nil
}

func join[T fmt.Stringer](all []T) string {
	var out []string
	for _, v := range all {
		out = append(out, v.String())
	}
	return strings.Join(out, ",")
}

func none[T any](what string, all []T) error {
	if len(all) > 0 {
		return fmt.Errorf("%s: %v", what, all)
	}
	return nil
}
