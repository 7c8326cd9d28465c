package doctor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/orphan"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pluginrestart"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/sysfstree"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	bootID   = "6a1f4d0e-0000-4000-8000-000000000001"
	instance = "i-0a1b2c3d4e5f60718"
)

// server is the Kubernetes API of a test.
type server struct {
	err       error
	resources []string
	denied    []string // "verb resource" or "verb resource namespace"
	node      bool
}

func (s *server) Version(context.Context) (string, error)     { return "v1.36.3", s.err }
func (s *server) Resources(context.Context) ([]string, error) { return s.resources, nil }
func (s *server) NodeExists(context.Context) (bool, error)    { return s.node, nil }
func (s *server) Allowed(_ context.Context, verb, _, resource, namespace string) (bool, error) {
	return !slices.Contains(s.denied, strings.TrimSpace(verb+" "+resource+" "+namespace)), nil
}

// world is a node in a folder, where all is well, and the API server.
type world struct {
	*testing.T
	root   string
	server *server
	o      Options
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, root: t.TempDir(), server: &server{resources: []string{"nodeenis", "nodeenis/status", "eninodestates"}, node: true}}
	w.o = Options{
		NodeName: "node-a", BootID: bootID, Source: "kube", Cluster: w.server, Namespaces: []string{"kube-system", "default"},
		Drivers: func(context.Context) (map[string][]string, error) {
			return map[string][]string{"vfio-pci": {"fast"}}, nil
		},
		ENIs: func(context.Context) ([]vpc.ENI, error) {
			return []vpc.ENI{{MAC: primaryMAC, Primary: true}, {MAC: "02:00:00:00:00:01"}, {}}, nil
		},
		HostLinks: func() ([]HostLink, error) { return []HostLink{primary(), declared()}, nil }, HostRoot: w.path("root"),
		Kubelet: func(context.Context) (inventory.Kubelet, error) {
			return inventory.Kubelet{Allocatable: map[device.ResourceName][]device.PCIAddress{"intel.com/sriov_net": {"0000:00:06.0"}}}, nil
		},
		DevicePlugin: func(context.Context) (pluginrestart.PluginReport, error) {
			return pluginrestart.PluginReport{Pods: []string{"kube-system/sriovdp-x7k2p"}}, nil
		},
		PluginVersion: func(context.Context, string) (string, error) { return "v1.2.0", nil },
		Look:          func(string) (orphan.View, error) { return orphan.View{Propagated: true, Netns: true}, nil },
		Running:       func(context.Context) (bool, error) { return true, nil },
		PCIDPConfig:   w.path("etc/pcidp/config.json"), Inventory: w.path("run/inventory.json"), StateDir: w.path("state"),
		AttachmentsDir: w.path("records"), LeaseDir: w.path("leases"), Sysfs: w.path("sys"), Dev: w.path("dev"), ModulesRoot: w.path("host"), Policy: w.path("etc/policy.json"), BinDir: w.path("bin"),
	}
	w.must(os.MkdirAll(w.o.StateDir, 0o700))
	w.must(os.MkdirAll(w.o.AttachmentsDir, 0o700))
	w.must(os.MkdirAll(w.path("dev/vfio"), 0o755))
	w.sysfs("kernel", "7")
	w.write("etc/pcidp/config.json", `{"resourceList":[]}`, 0o644)
	w.write("bin/multi-eni", "", 0o755)
	w.write("etc/policy.json", fmt.Sprintf(`{"schemaVersion":1,"binDir":%q,"dataDir":%q,"leaseDir":%q,"inventory":%q}`, w.o.BinDir, w.o.AttachmentsDir, w.o.LeaseDir, w.o.Inventory), 0o644)
	w.inventory(nodestate.Inventory{NodeName: "node-a", BootID: bootID, Devices: []nodestate.Device{{
		ENIID: "eni-0a1b2c3d4e5f60001", NodeENI: "fast", MAC: "02:00:00:00:00:01", PCIAddress: "0000:00:06.0", Phase: nodestate.PhaseReady,
	}}})
	return w
}

// sysfs makes a recorded tree, with one ENI's function in the IOMMU group more.
func (w *world) sysfs(tree, group string) {
	w.Helper()
	recorded, err := sysfstree.Recorded(tree)
	w.must(err)
	w.must(os.RemoveAll(w.o.Sysfs))
	w.must(os.Mkdir(w.o.Sysfs, 0o755))
	w.must(sysfstree.Grow(w.o.Sysfs, string(recorded)))
	w.must(sysfstree.Plug(w.o.Sysfs, sysfstree.Function{Address: "0000:00:06.0", Driver: "ena", IOMMUGroup: group, NUMANode: -1}))
}

func (w *world) path(name string) string { return filepath.Join(w.root, name) }

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) write(name, content string, mode os.FileMode) {
	w.Helper()
	w.must(os.MkdirAll(filepath.Dir(w.path(name)), 0o755))
	w.must(os.WriteFile(w.path(name), []byte(content), 0o600))
	w.must(os.Chmod(w.path(name), mode)) // whatever the umask
}

func (w *world) inventory(inv nodestate.Inventory) {
	w.Helper()
	w.must(nodestate.WriteInventory(w.o.Inventory, inv))
}

func (w *world) record(container string, edit func(*nodestate.Attachment)) {
	w.Helper()
	a := nodestate.Attachment{
		AttachmentID: nodestate.AttachmentID{ContainerID: container, IfName: "net1"}, BootID: bootID, Mode: nodestate.ModeExclusive,
		Netns: nodestate.Netns{Path: "/run/netns/" + container, Inode: 1}, Device: nodestate.AttachedDevice{PCIAddress: "0000:00:06.0"},
	}
	if edit != nil {
		edit(&a)
	}
	r, err := nodestate.AttachmentDir(w.o.AttachmentsDir).Begin(a)
	w.must(err)
	r.Close()
}

// ec2 has the daemon manage addresses, and EC2 in a state.
func (w *world) ec2(cfg fakeec2.Config) *fakeec2.Server {
	w.Helper()
	imds := fakeimds.Start(w.T, fakeimds.Config{State: fakeimds.State{InstanceID: instance, Region: "eu-central-1"}})
	s := fakeec2.Start(w.T, cfg)
	w.o.EC2 = awsnode.NewEC2(awsnode.New(awsnode.Config{Endpoint: imds.URL}))
	return s
}

// eni is that of the inventory, with a tag NodeENI unless it is "".
func eni(tag string) fakeec2.ENI {
	e := fakeec2.ENI{ID: "eni-0a1b2c3d4e5f60001", MAC: "02:00:00:00:00:01", SubnetID: "subnet-00000001", Instance: instance, DeviceIndex: 1, IPv4: []netip.Addr{netip.MustParseAddr("10.0.1.15")}}
	if tag != "" {
		e.Tags = map[string]string{vpc.NodeENITag: tag}
	}
	return e
}

// report is what doctor prints, with the node's folder as /node.
func (w *world) report() string {
	w.Helper()
	var b strings.Builder
	for _, f := range Run(w.Context(), w.o) {
		fmt.Fprintln(&b, f)
	}
	return strings.ReplaceAll(b.String(), w.root, "/node")
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run: go test ./daemon/internal/doctor -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// TestReports shows whole reports as people read them.
func TestReports(t *testing.T) {
	for name, tt := range map[string]struct {
		happen func(w *world)
		failed int
	}{
		"healthy": {func(*world) {}, 0},
		"fresh": {func(w *world) {
			for _, name := range []string{"run", "state", "records", "etc", "bin"} {
				w.must(os.RemoveAll(w.path(name)))
			}
			w.o.Running = func(context.Context) (bool, error) { return false, nil }
			w.o.DevicePlugin = func(context.Context) (pluginrestart.PluginReport, error) {
				return pluginrestart.PluginReport{}, pluginrestart.ErrNoDevicePlugin
			}
			w.server.resources, w.server.denied, w.server.node = nil, []string{"list nodeenis", "watch nodeenis", "patch eninodestates/status", "patch events", "delete pods default"}, false
			w.o.Drivers = func(context.Context) (map[string][]string, error) { return nil, errors.New("list NodeENIs: forbidden") }
		}, 5},
		"folder": {func(w *world) {
			w.o.Source, w.o.Cluster, w.o.Kubelet, w.o.DevicePlugin = "dir:/etc/multi-eni/nodeenis", nil, nil, nil
			w.o.Drivers = func(context.Context) (map[string][]string, error) { return nil, nil }
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tt.happen(w)
			golden(t, name, w.report())
			if got := Failed(Run(t.Context(), w.o)); got != tt.failed {
				t.Errorf("%d checks failed; want %d", got, tt.failed)
			}
		})
	}
}

// TestFindings: each thing that can be wrong gives one finding, with the way
// out, and nothing else changes.
func TestFindings(t *testing.T) {
	tests := map[string]struct {
		happen func(w *world)
		level  Level
		check  string
		says   []string
	}{
		"no node name": {func(w *world) { w.o.NodeName = "" }, Fail, "node name", []string{"NODE_NAME"}},
		"no client":    {func(w *world) { w.o.ClusterErr = errors.New("no Kubernetes client") }, Fail, "Kubernetes API", []string{"--kubeconfig"}},
		"API gone":     {func(w *world) { w.server.err = errors.New("connection refused") }, Fail, "Kubernetes API", []string{"connection refused", "not looked at"}},
		"one CRD":      {func(w *world) { w.server.resources = []string{"nodeenis"} }, Fail, "CRDs", []string{"eninodestates.networking.k8s.aws", "deploy/crd"}},
		"startup taint": {func(w *world) {
			w.o.StartupTaint, w.server.denied = true, []string{"patch nodes"}
		}, Fail, "RBAC nodes", []string{"patch denied", "deploy/components/startup-taint/rbac.yaml"}},
		"denied":        {func(w *world) { w.server.denied = []string{"watch nodeenis"} }, Fail, "RBAC nodeenis.networking.k8s.aws", []string{"watch denied", "deploy/rbac.yaml"}},
		"denied events": {func(w *world) { w.server.denied = []string{"create events"} }, Warn, "RBAC events", []string{"create denied"}},
		"denied pods":   {func(w *world) { w.server.denied = []string{"delete pods default"} }, Warn, "RBAC pods", []string{"denied in default (delete)", "--dp-namespaces", "components/namespaced-pods"}},
		"no Node":       {func(w *world) { w.server.node = false }, Fail, "Node object", []string{"node-a", "spec.nodeName"}},
		"no IMDS": {func(w *world) {
			w.o.ENIs = func(context.Context) ([]vpc.ENI, error) { return nil, errors.New("timeout") }
		}, Fail, "instance metadata", []string{"hop-limit 2", "hostNetwork"}},
		"IMDS of others": {func(w *world) { w.o.ENIs = func(context.Context) ([]vpc.ENI, error) { return nil, nil } }, Fail, "instance metadata", []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT"}},
		"odd IMDS": {func(w *world) {
			w.o.ENIs = func(context.Context) ([]vpc.ENI, error) {
				return nil, &vpc.ValueError{Key: "mac", Value: "<html>", Err: errors.New("no MAC")}
			}
		}, Fail, "instance metadata", []string{"<html>", "proxy"}},
		"odd value of one ENI": {func(w *world) {
			w.o.ENIs = func(context.Context) ([]vpc.ENI, error) {
				return []vpc.ENI{{ID: "eni-0a1b2c3d4e5f60001"}, {Unreadable: &vpc.ValueError{Key: "network/interfaces/macs/x/subnet-id", Value: "<html>", Err: errors.New("no subnet")}}}, nil
			}
		}, Fail, "instance metadata", []string{"macs/x/subnet-id", "<html>", "proxy"}},
		"EC2 may not be asked": {func(w *world) {
			w.ec2(fakeec2.Config{ENIs: []fakeec2.ENI{eni("fast")}, May: func(string, fakeec2.ENI) bool { return false }})
		}, Fail, "EC2", []string{"DescribeNetworkInterfaces", "UnauthorizedOperation", "deploy/iam/multi-enid.json", "Pod Identity", "IRSA"}},
		"EC2 refuses": {func(w *world) {
			w.ec2(fakeec2.Config{ENIs: []fakeec2.ENI{eni("fast")}}).Fail("DescribeNetworkInterfaces", "OperationNotPermitted")
		}, Warn, "EC2", []string{"OperationNotPermitted", "later"}},
		"EC2 elsewhere": {func(w *world) {
			w.ec2(fakeec2.Config{})
		}, Fail, "EC2", []string{"no ENI of this instance", "AWS_REGION"}},
		"no credentials": {func(w *world) {
			w.ec2(fakeec2.Config{})
			w.Setenv("AWS_ACCESS_KEY_ID", "")
			w.Setenv("AWS_EC2_METADATA_DISABLED", "true") // no role of the instance's either
		}, Fail, "EC2", []string{"cannot be asked", "credentials", "Pod Identity", "NAT gateway", "VPC endpoint"}},
		"ENI without the tag": {func(w *world) {
			w.ec2(fakeec2.Config{ENIs: []fakeec2.ENI{eni("")}})
		}, Warn, "EC2 tags", []string{`eni-0a1b2c3d4e5f60001 has the tag NodeENI=""`, "aws ec2 create-tags --resources eni-0a1b2c3d4e5f60001 --tags Key=NodeENI,Value=fast"}},
		"ENI of another NodeENI": {func(w *world) {
			w.ec2(fakeec2.Config{ENIs: []fakeec2.ENI{eni("slow")}})
		}, Warn, "EC2 tags", []string{`NodeENI="slow"`, "Value=fast"}},
		"rights in EC2 denied": {func(w *world) {
			w.ec2(fakeec2.Config{ENIs: []fakeec2.ENI{eni("fast")}, May: func(action string, _ fakeec2.ENI) bool { return !strings.HasPrefix(action, "Unassign") }})
		}, Fail, "EC2 rights", []string{"UnassignPrivateIpAddresses, UnassignIpv6Addresses denied on eni-0a1b2c3d4e5f60001", "deploy/iam/multi-enid.json", "tag NodeENI"}},
		"rights in EC2 unknown": {func(w *world) {
			w.ec2(fakeec2.Config{ENIs: []fakeec2.ENI{eni("fast")}}).Fail("AssignIpv6Addresses", fakeec2.Empty500)
		}, Warn, "EC2 rights", []string{"AssignIpv6Addresses", "500", "EC2Forbidden"}},
		"clock": {func(w *world) {
			w.ec2(fakeec2.Config{}).Fail("DescribeNetworkInterfaces", "RequestExpired")
		}, Fail, "EC2", []string{"RequestExpired", "clock"}},
		"signature": {func(w *world) {
			w.ec2(fakeec2.Config{}).Fail("DescribeNetworkInterfaces", "SignatureDoesNotMatch")
		}, Fail, "EC2", []string{"SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"}},
		"key": {func(w *world) {
			w.ec2(fakeec2.Config{}).Fail("DescribeNetworkInterfaces", "AuthFailure")
		}, Fail, "EC2", []string{"AuthFailure", "access key"}},
		"region elsewhere": {func(w *world) {
			w.ec2(fakeec2.Config{}).Fail("DescribeNetworkInterfaces", fakeec2.Redirect)
		}, Fail, "EC2", []string{"301", "AWS_REGION"}},
		"page of a proxy": {func(w *world) {
			w.ec2(fakeec2.Config{}).Fail("DescribeNetworkInterfaces", fakeec2.HTML)
		}, Fail, "EC2", []string{"not EC2's", "HTTPS_PROXY"}},
		"error of a proxy": {func(w *world) {
			w.ec2(fakeec2.Config{}).Fail("DescribeNetworkInterfaces", slices.Repeat([]string{fakeec2.HTML503}, 4)...)
		}, Fail, "EC2", []string{"503", "HTTPS_PROXY"}},
		"config is a ConfigMap": {func(w *world) {
			w.must(os.Remove(w.o.PCIDPConfig))
			w.must(os.Symlink("..data/config.json", w.o.PCIDPConfig))
		}, Fail, "device plugin config", []string{"..data/config.json", "hostPath"}},
		"config is a folder": {func(w *world) {
			w.must(os.Remove(w.o.PCIDPConfig))
			w.must(os.Mkdir(w.o.PCIDPConfig, 0o755))
		}, Fail, "device plugin config", []string{"--pcidp-config"}},
		"config is no JSON": {func(w *world) { w.write("etc/pcidp/config.json", "{", 0o644) }, Warn, "device plugin config", []string{"not JSON"}},
		"config's folder is a file": {func(w *world) {
			w.must(os.RemoveAll(w.path("etc/pcidp")))
			w.write("etc/pcidp", "", 0o644)
		}, Fail, "device plugin config", []string{"/node/etc/pcidp is no folder"}},
		"inventory of another boot": {func(w *world) { w.inventory(nodestate.Inventory{NodeName: "node-a", BootID: "x"}) }, Warn, "inventory", []string{"earlier boot"}},
		"inventory of another node": {func(w *world) { w.inventory(nodestate.Inventory{NodeName: "node-b", BootID: bootID}) }, Warn, "inventory", []string{"node-b", "node-a"}},
		"inventory torn":            {func(w *world) { w.write("run/inventory.json", "{", 0o600) }, Fail, "inventory", []string{"writes it anew"}},
		"problems": {func(w *world) {
			w.inventory(nodestate.Inventory{NodeName: "node-a", BootID: bootID, Problems: []nodestate.Problem{{Reason: "X", Message: "x"}}})
		}, Warn, "inventory", []string{"problems: 1", "multi-enid status"}},
		"state folder open": {func(w *world) { w.must(os.Chmod(w.o.StateDir, 0o777)) }, Fail, "state folder", []string{"chmod 0700 /node/state"}},
		"records open":      {func(w *world) { w.must(os.Chmod(w.o.AttachmentsDir, 0o770)) }, Fail, "attachment records", []string{"mode 0770", "chmod 0700"}},
		"records linked": {func(w *world) {
			w.must(os.Rename(w.o.AttachmentsDir, w.path("elsewhere")))
			w.must(os.Symlink("elsewhere", w.o.AttachmentsDir))
		}, Fail, "attachment records", []string{"no folder"}},
		"record torn": {func(w *world) { w.write("records/c1-net1.json", "{", 0o600) }, Warn, "attachment records", []string{"c1-net1.json", "remove the file"}},
		"sysfs empty": {func(w *world) {
			w.must(os.RemoveAll(w.path("sys/bus/pci/devices")))
			w.must(os.Mkdir(w.path("sys/bus/pci/devices"), 0o755))
		}, Fail, "sysfs", []string{"--sysfs"}},
		"sysfs not mounted": {func(w *world) { w.must(os.RemoveAll(w.path("sys/bus/pci/devices"))) }, Fail, "sysfs", []string{"--sysfs"}},
		"no plugin":         {func(w *world) { w.must(os.Remove(w.path("bin/multi-eni"))) }, Fail, "CNI plugin", []string{"multi-enid install --to /node/bin"}},
		"plugin open":       {func(w *world) { w.must(os.Chmod(w.path("bin/multi-eni"), 0o777)) }, Fail, "CNI plugin", []string{"writable by others"}},
		"plugin of another machine": {func(w *world) {
			w.o.PluginVersion = func(context.Context, string) (string, error) { return "", errors.New("exec format error") }
		}, Fail, "CNI plugin", []string{"VERSION", "exec format error"}},
		"no policy":      {func(w *world) { w.must(os.Remove(w.o.Policy)) }, Warn, "policy", []string{"multi-enid install"}},
		"policy invalid": {func(w *world) { w.write("etc/policy.json", "{", 0o644) }, Fail, "policy", []string{"refuses every ADD"}},
		"policy open":    {func(w *world) { w.must(os.Chmod(w.o.Policy, 0o666)) }, Fail, "policy", []string{"chmod go-w"}},
		"policy of before": {func(w *world) {
			w.write("etc/policy.json", fmt.Sprintf(`{"schemaVersion":1,"delegates":["sriov"],"binDir":%q,"dataDir":%q,"leaseDir":%q,"inventory":%q}`,
				w.o.BinDir, w.o.AttachmentsDir, w.o.LeaseDir, w.o.Inventory), 0o644)
		}, Warn, "policy", []string{"spoofchk and trust of sriov", "conf/policy.json"}},
		"policy elsewhere": {func(w *world) {
			w.write("etc/policy.json", fmt.Sprintf(`{"schemaVersion":1,"binDir":%q,"leaseDir":%q,"inventory":%q}`, w.o.BinDir, w.o.LeaseDir, w.o.Inventory), 0o644)
		}, Fail, "policy", []string{"dataDir", nodestate.DefaultAttachmentsDir, "--attachments-dir"}},
		"not propagated": {func(w *world) {
			w.record("c1", func(a *nodestate.Attachment) { a.Netns.Path = "/var/run/netns/c1" })
			w.o.Look = func(folder string) (orphan.View, error) { return orphan.View{Netns: folder == "/var/run/netns"}, nil }
		}, Warn, "netns folder", []string{"/var/run/netns is not propagated", "HostToContainer"}},
		"no netns folder": {func(w *world) {
			w.o.Look = func(string) (orphan.View, error) { return orphan.View{}, os.ErrNotExist }
		}, Warn, "netns folder", []string{"/run/netns cannot be looked at"}},
		"no netns at present": {func(w *world) {
			w.o.Look = func(string) (orphan.View, error) { return orphan.View{Propagated: true}, nil }
		}, Warn, "netns folder", []string{"no network namespace at present"}},
		"no kubelet": {func(w *world) {
			w.o.Kubelet = func(context.Context) (inventory.Kubelet, error) {
				return inventory.Kubelet{}, errors.New("no such socket")
			}
		}, Fail, "kubelet", []string{"--podresources-socket"}},
		"no device plugin": {func(w *world) {
			w.o.DevicePlugin = func(context.Context) (pluginrestart.PluginReport, error) {
				return pluginrestart.PluginReport{}, fmt.Errorf("search: %w", pluginrestart.ErrNoDevicePlugin)
			}
		}, Warn, "device plugin", []string{"kube-system, default", "--dp-selectors"}},
		"device plugin with a ConfigMap": {func(w *world) {
			w.o.DevicePlugin = func(context.Context) (pluginrestart.PluginReport, error) {
				return pluginrestart.PluginReport{Pods: []string{"default/dp"}, Problems: []nodestate.Problem{{Reason: "DevicePluginConfigMap", Message: "mount the folder"}}}, nil
			}
		}, Warn, "device plugin", []string{"DevicePluginConfigMap", "mount the folder"}},
		"device plugin not searchable": {func(w *world) {
			w.o.DevicePlugin = func(context.Context) (pluginrestart.PluginReport, error) {
				return pluginrestart.PluginReport{}, errors.New("forbidden")
			}
		}, Fail, "device plugin", []string{"forbidden"}},
		"daemon not running": {func(w *world) { w.o.Running = func(context.Context) (bool, error) { return false, nil } }, Warn, "daemon", []string{"not running"}},
		"daemon unknown": {func(w *world) {
			w.o.Running = func(context.Context) (bool, error) { return false, errors.New("permission denied") }
		}, Warn, "daemon", []string{"permission denied"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tt.happen(w)
			var bad []Finding
			for _, f := range Run(t.Context(), w.o) {
				if f.Level != OK {
					bad = append(bad, f)
				}
				if f.Check == "" || f.Detail == "" || (f.Level == OK) != (f.Remedy == "") {
					t.Errorf("finding without words, or a remedy where none is needed: %+v", f)
				}
			}
			if len(bad) != 1 || bad[0].Level != tt.level || bad[0].Check != tt.check {
				t.Fatalf("findings %v; want one %s of %s", bad, tt.level, tt.check)
			}
			line := strings.ReplaceAll(bad[0].String(), w.root, "/node")
			for _, s := range tt.says {
				if !strings.Contains(line, s) {
					t.Errorf("%q does not say %q", line, s)
				}
			}
		})
	}
}

// TestManaged: where all is well, EC2 is asked for each right once, and changes
// nothing. Without tagged ENIs there is none to ask about.
func TestManaged(t *testing.T) {
	w := newWorld(t)
	w.inventory(nodestate.Inventory{NodeName: "node-a", BootID: bootID, Devices: []nodestate.Device{
		{ENIID: "eni-0a1b2c3d4e5f60001", NodeENI: "fast", MAC: "02:00:00:00:00:01", PCIAddress: "0000:00:06.0", Driver: "ena", Phase: nodestate.PhaseReady},
		{ENIID: "eni-0a1b2c3d4e5f60000", NodeENI: "dpdk", MAC: "02:00:00:00:00:02", PCIAddress: "0000:00:07.0", Driver: "vfio-pci", Phase: nodestate.PhaseReady}, // has no pool
		{ENIID: "eni-0a1b2c3d4e5f60002", NodeENI: "late", Phase: nodestate.PhasePending},
	}})
	untagged := eni("")
	untagged.ID = "eni-0a1b2c3d4e5f60000"
	s := w.ec2(fakeec2.Config{DryRun: true, ENIs: []fakeec2.ENI{untagged, eni("fast")}, May: func(action string, e fakeec2.ENI) bool {
		return action == "DescribeNetworkInterfaces" || e.Tags[vpc.NodeENITag] != ""
	}})
	report := w.report()
	for _, line := range []string{
		"ok    EC2: DescribeNetworkInterfaces allowed, ENIs of this instance: 2\n",
		"ok    EC2 tags: ENIs with the name of their NodeENI: 1\n",
		"ok    EC2 rights: AssignPrivateIpAddresses, UnassignPrivateIpAddresses, AssignIpv6Addresses, UnassignIpv6Addresses allowed on eni-0a1b2c3d4e5f60001\n",
	} {
		if !strings.Contains(report, line) {
			t.Errorf("report lacks %q:\n%s", line, report)
		}
	}
	if got := len(s.Calls()); got != 5 {
		t.Errorf("%d calls", got)
	}
	if diff := cmp.Diff(eni("fast"), s.ENI("eni-0a1b2c3d4e5f60001"), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("the ENI was changed (-want +got):\n%s", diff)
	}

	w.inventory(nodestate.Inventory{NodeName: "node-a", BootID: bootID})
	s.Change("eni-0a1b2c3d4e5f60001", func(e *fakeec2.ENI) { e.Tags = nil })
	if got := w.report(); !strings.Contains(got, "ok    EC2 rights: not asked, for no ENI of this instance has the tag NodeENI\n") {
		t.Errorf("report:\n%s", got)
	}
}

// TestNoDryRuns: that EC2 answers no dry run of a change is as it should be.
func TestNoDryRuns(t *testing.T) {
	w := newWorld(t)
	w.ec2(fakeec2.Config{ENIs: []fakeec2.ENI{eni("fast")}})
	const want = "ok    EC2 rights: AssignPrivateIpAddresses, UnassignPrivateIpAddresses, AssignIpv6Addresses, UnassignIpv6Addresses: EC2 answers no dry run; "
	if got := w.report(); !strings.Contains(got, want) {
		t.Errorf("report:\n%s", got)
	}
}

// TestRecords: how many there are, and how many hold something.
func TestRecords(t *testing.T) {
	w := newWorld(t)
	w.record("c1", nil)
	w.record("c2", func(a *nodestate.Attachment) { a.BootID = "x" })
	if got := w.report(); !strings.Contains(got, "attachment records: /node/records: 2, of pods of this boot: 1\n") {
		t.Errorf("report:\n%s", got)
	}
}

// TestHostNamespace: on the host itself nothing has to be propagated.
func TestHostNamespace(t *testing.T) {
	w := newWorld(t)
	w.o.Look = func(string) (orphan.View, error) { return orphan.View{Host: true}, nil }
	if got := w.report(); !strings.Contains(got, "ok    netns folder: /run/netns is seen as the host sees it\n") {
		t.Errorf("report:\n%s", got)
	}
}

// TestEndsInTime: a check that gets no answer does not keep the others.
func TestEndsInTime(t *testing.T) {
	w := newWorld(t)
	w.o.ENIs = func(ctx context.Context) ([]vpc.ENI, error) {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("a check without a time limit")
		}
		return nil, context.DeadlineExceeded
	}
	if got := w.report(); !strings.Contains(got, "FAIL  instance metadata: it cannot be read: context deadline exceeded") || !strings.Contains(got, "ok    daemon: ") {
		t.Errorf("report:\n%s", got)
	}
}
