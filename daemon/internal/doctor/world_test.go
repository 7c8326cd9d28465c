package doctor

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/awsnode"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/hostnet"
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
	resources []string
	denied    []string // "verb resource" or "verb resource namespace"
	node      bool
	listed    int
	// fails has the error of each question that the server does not answer: version, resources, node, report, or as in denied.
	fails map[string]error
}

func (s *server) Version(context.Context) (string, error) { return "v1.36.3", s.fails["version"] }
func (s *server) Resources(context.Context) ([]string, error) {
	return s.resources, s.fails["resources"]
}
func (s *server) NodeExists(context.Context) (bool, error) { return s.node, s.fails["node"] }
func (s *server) MayReport(context.Context) (int, error)   { return s.listed, s.fails["report"] }
func (s *server) Allowed(_ context.Context, verb, _, resource, namespace string) (bool, error) {
	question := strings.TrimSpace(verb + " " + resource + " " + namespace)
	return !slices.Contains(s.denied, question), s.fails[question]
}

// world is a healthy node in a folder, and its API server.
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
		HostLinks: func() ([]hostnet.HostLink, error) { return []hostnet.HostLink{primary(), declared()}, nil }, HostRoot: w.path("root"),
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
		AttachmentsDir: w.path("records"), LeaseDir: w.path("leases"), Sysfs: w.path("sys"), Dev: w.path("dev"), ModulesRoot: w.path("host"),
		Policy: w.path("etc/policy.json"), BinDir: w.path("bin"),
	}
	w.must(os.MkdirAll(w.o.StateDir, 0o700))
	w.must(os.MkdirAll(w.o.AttachmentsDir, 0o700))
	w.must(os.MkdirAll(w.path("dev/vfio"), 0o755))
	w.sysfs("kernel", "7")
	w.write("etc/pcidp/config.json", `{"resourceList":[]}`, 0o644)
	w.write("bin/multi-eni", "", 0o755)
	w.write("etc/policy.json", fmt.Sprintf(`{"schemaVersion":1,"binDir":%q,"dataDir":%q,"leaseDir":%q,"inventory":%q}`, w.o.BinDir, w.o.AttachmentsDir,
		w.o.LeaseDir, w.o.Inventory), 0o644)
	w.inventory(nodestate.Inventory{NodeName: "node-a", BootID: bootID, Devices: []nodestate.Device{{
		ENIID: "eni-0a1b2c3d4e5f60001", NodeENI: "fast", MAC: "02:00:00:00:00:01", PCIAddress: "0000:00:06.0", Phase: nodestate.PhaseReady,
	}}})
	return w
}

// sysfs makes a recorded tree, and adds an ENI's function in the IOMMU group.
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
	w.must(os.Chmod(w.path(name), mode)) // despite the umask
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

// ec2 has the daemon manage addresses. It returns EC2.
func (w *world) ec2(cfg fakeec2.Config) *fakeec2.Server {
	w.Helper()
	imds := fakeimds.Start(w.T, fakeimds.Config{State: fakeimds.State{InstanceID: instance, Region: "eu-central-1"}})
	s := fakeec2.Start(w.T, cfg)
	w.o.EC2 = awsnode.NewEC2(awsnode.New(awsnode.Config{Endpoint: imds.URL}))
	return s
}

// eni is the ENI of the inventory, with the tag NodeENI unless that is "".
func eni(tag string) fakeec2.ENI {
	e := fakeec2.ENI{ID: "eni-0a1b2c3d4e5f60001", MAC: "02:00:00:00:00:01", SubnetID: "subnet-00000001", Instance: instance, DeviceIndex: 1,
		IPv4: []netip.Addr{netip.MustParseAddr("10.0.1.15")}}
	if tag != "" {
		e.Tags = map[string]string{vpc.NodeENITag: tag}
	}
	return e
}

// report returns doctor's output, with the node's folder as /node.
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

// fault is one fault of a node, and the one finding that is not OK because of it.
type fault struct {
	happen func(w *world)
	level  Level
	check  string
	says   []string
}

// find runs all checks on a node with each fault. A finding must name the value and the way out; all other findings stay OK.
func find(t *testing.T, faults map[string]fault) {
	t.Helper()
	for name, tt := range faults {
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

// says runs one check, and compares the beginnings of its findings.
func (w *world) says(check func(context.Context, Options) []Finding, want ...string) {
	w.Helper()
	var got []string
	for i, f := range check(w.Context(), w.o) {
		line := strings.ReplaceAll(strings.Join(strings.Fields(f.String()), " "), w.root, "/node")
		if i < len(want) && strings.HasPrefix(line, want[i]) {
			line = want[i]
		}
		got = append(got, line)
		if (f.Level == OK) != (f.Remedy == "") {
			w.Errorf("remedy where none is needed, or none: %s", line)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.Errorf("findings (-want +got):\n%s", diff)
	}
}

func (w *world) imds(enis []vpc.ENI, err error) {
	w.o.ENIs = func(context.Context) ([]vpc.ENI, error) { return enis, err }
}

func (w *world) plugin(r pluginrestart.PluginReport, err error) {
	w.o.DevicePlugin = func(context.Context) (pluginrestart.PluginReport, error) { return r, err }
}

func (w *world) running(is bool, err error) {
	w.o.Running = func(context.Context) (bool, error) { return is, err }
}

func (w *world) look(v orphan.View, err error) {
	w.o.Look = func(string) (orphan.View, error) { return v, err }
}
