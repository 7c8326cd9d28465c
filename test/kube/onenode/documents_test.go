package onenode

import (
	"context"
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/multi-eni/multi-eni-cni/test/imagetar"
	"github.com/multi-eni/multi-eni-cni/test/kube/cluster"
	"github.com/multi-eni/multi-eni-cni/test/kube/node"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

const (
	busyboxImage      = "docker.io/library/busybox:1.37"
	devicePluginImage = "ghcr.io/k8snetworkplumbingwg/sriov-network-device-plugin:v3.11.0"
)

// pinned begins the addresses of other projects' manifests. testdata has stand-ins with the names that matter.
const pinned = "https://raw.githubusercontent.com/"

// TestDocuments runs the first-day documents. EC2's is last: it gives the Node an instance for good.
func TestDocuments(t *testing.T) {
	t.Run("local.md", followLocal)
	t.Run("quickstart.md", followQuickstart)
}

func followQuickstart(t *testing.T) {
	s := bareNodeWith(t)
	primary := nstest.ENI{PCI: "0000:00:05.0", Name: "eth0", MAC: s.metadata.ENIs[0].MAC}
	s.must(s.host.Attach(primary))
	s.Cleanup(func() { s.must(s.host.Detach(primary)) })
	archive, err := nstest.Binary("image.tar")
	s.must(err)
	s.ImportArchive(t, imageName+":v1", archive)
	s.importBusybox()
	s.importDevicePlugin()
	before := s.files()
	// As the cloud provider does.
	about := `{"spec":{"providerID":"aws:///` + zone + `/` + instanceID + `"},"metadata":{"labels":{"topology.kubernetes.io/zone":"` + zone +
		`","node.kubernetes.io/instance-type":"m5.large"}}}`
	if out, err := s.kubectl("patch", "node", node.Name, "-p", about); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// Earlier tests left Events about a NodeENI of the same name.
	if out, err := s.kubectl("delete", "events", "--all"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	nads, _ := s.networks("quickstart.md")
	s.useNetconf(nads["a"])
	c := s.newCloud(newENI(0))
	r := s.newDocumentReader(nil)
	const enabled = "--set controller.enabled=true"
	r.instead[enabled] = enabled + " " + c.serve()
	r.env = append(r.env, "NODE="+node.Name, "SUBNET="+c.place.subnet, "GROUP="+group, "IMAGE="+imageName, "CLUSTER="+clusterName)
	r.follow("quickstart.md")
	for _, e := range c.ec2.All() {
		if e.Deleted.IsZero() && (e.DeviceIndex > 0 || e.Instance == "") {
			t.Errorf("EC2 still has %s, after the calls %q", e.ID, c.ec2.Calls())
		}
	}
	if denied := c.ec2.Denied(); len(denied) > 0 {
		t.Errorf("the role lacks %q", denied)
	}
	s.nothingLeft(before)
}

func followLocal(t *testing.T) {
	archive, err := nstest.Binary("local.tar")
	if err != nil {
		cluster.Unavailable(t, "bin/local.tar is not built; run: make local")
	}
	s := newNode(t)
	s.paths = productPaths()
	s.ImportNamed(t, archive)
	s.importBusybox()
	before := s.files()
	nads, pods := s.networks("local.md")
	s.pods = map[string]any{}
	for pod, network := range pods {
		s.pods[pod] = nads[network]
	}
	s.useNetconf(map[string]any{"cniVersion": "1.0.0", "name": "none", "type": "multi-eni"})
	s.newDocumentReader(nil).follow("local.md")
	s.nothingLeft(before)
	if links, err := filepath.Glob("/sys/class/net/veni*"); err != nil || s.exists("/run/multi-eni-local/sys") || len(links) > 0 {
		t.Errorf("the stand-ins are left: %q, %v", links, err)
	}
}

// newDocumentReader has kubectl, helm and the pinned manifests. After a failure it deletes leftovers.
func (s *stage) newDocumentReader(programs map[string]string) *reader {
	s.Helper()
	all := map[string]string{}
	for name, path := range map[string]string{"kubectl": "kube/kubectl", "helm": "kube/helm"} {
		program, err := nstest.Binary(path)
		s.must(err)
		all[name] = program
	}
	for name, path := range programs {
		all[name] = path
	}
	dir, err := filepath.Abs("testdata/raw.githubusercontent.com")
	s.must(err)
	r := s.newReader(all)
	r.instead[pinned] = dir + "/"
	s.Cleanup(func() { s.tidy(dir) })
	s.Cleanup(func() {
		if s.Failed() {
			s.Logf("log of daemon and controller:\n%s\nof the stand-ins:\n%s\nof the device plugin:\n%s", s.log("multi-enid-*"), s.log("multi-eni-local-*"),
				s.log("kube-sriov-*"))
		}
	})
	return r
}

func (s *stage) tidy(manifests string) {
	s.Helper()
	ctx := context.Background() // the test's own is over
	for _, name := range []string{"multi-enid", "multi-eni-installer", "multi-eni-local", "kube-multus-ds", "kube-sriov-device-plugin"} {
		if err := s.Admin.AppsV1().DaemonSets("kube-system").Delete(ctx, name, metav1.DeleteOptions{}); err == nil {
			s.Logf("deleted DaemonSet %s", name)
		}
	}
	if err := s.Admin.AppsV1().Deployments("kube-system").Delete(ctx, "multi-enid-controller", metav1.DeleteOptions{}); err == nil {
		s.Log("deleted Deployment multi-enid-controller")
	}
	files, err := filepath.Glob(manifests + "/*/*/*/*/*.y*ml")
	s.must(err)
	for _, file := range files {
		for _, o := range cluster.ReadFile(s.T, file) {
			if o.GetKind() != "CustomResourceDefinition" {
				s.cluster().Delete(cleanup{s.T}, o)
			}
		}
	}
	s.cluster().Delete(cleanup{s.T}, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "network-attachment-definitions.k8s.cni.cncf.io"},
	}})
	s.cluster().InstallCRDs(cleanup{s.T}) // others use them
	cluster.Eventually(cleanup{s.T}, "end of the processes", settle, func() error {
		return none("processes", append(processes(isDaemon), processes(isDevicePlugin)...))
	})
}

func (s *stage) nothingLeft(before []string) {
	s.Helper()
	s.must(os.Remove(s.config())) // it stays, as the document says
	if after := s.files(); !slices.Equal(after, before) {
		s.Errorf("files after the removal %q, before %q", after, before)
	}
	for _, r := range []schema.GroupVersionResource{
		{Group: "apps", Version: "v1", Resource: "daemonsets"}, {Version: "v1", Resource: "serviceaccounts"}, {Group: "batch", Version: "v1", Resource: "jobs"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
		{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicies"},
		{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
	} {
		all, err := s.cluster().Dynamic.Resource(r).List(s.Context(), metav1.ListOptions{})
		s.must(err)
		for _, o := range all.Items {
			if strings.HasPrefix(o.GetName(), "multi-eni") || strings.HasSuffix(o.GetName(), "networking.k8s.aws") {
				s.Errorf("%s %s is left", r.Resource, o.GetName())
			}
		}
	}
}

var heredoc = regexp.MustCompile(`(?s)<<END\n(.*?)\nEND\n`)

// networks returns a document's NetworkAttachmentDefinitions by name, and each pod's network, as Multus passes it.
func (s *stage) networks(document string) (configs map[string]map[string]any, pods map[string]string) {
	s.Helper()
	repo, err := nstest.Repo()
	s.must(err)
	text, err := os.ReadFile(filepath.Join(repo, "docs", document))
	s.must(err)
	configs, pods = map[string]map[string]any{}, map[string]string{}
	for _, m := range heredoc.FindAllStringSubmatch(string(text), -1) {
		for _, o := range strings.Split(m[1], "\n---\n") {
			var object struct {
				Kind     string
				Metadata struct {
					Name        string
					Annotations map[string]string
				}
				Spec struct{ Config string }
			}
			s.must(yaml.Unmarshal([]byte(o), &object))
			switch object.Kind {
			case "NetworkAttachmentDefinition":
				config := map[string]any{}
				s.must(json.Unmarshal([]byte(object.Spec.Config), &config))
				configs[object.Metadata.Name] = config
			case "Pod":
				pods[object.Metadata.Name] = object.Metadata.Annotations["k8s.v1.cni.cncf.io/networks"]
			}
		}
	}
	return configs, pods
}

func (s *stage) importBusybox() {
	s.Helper()
	program := s.busybox()
	files := []imagetar.File{program}
	for _, name := range []string{"sleep", "ip", "ping"} {
		files = append(files, imagetar.File{Name: "bin/" + name, Link: "/" + program.Name})
	}
	s.ImportFiles(s.T, busyboxImage, files...)
}

// busybox returns the machine's busybox, which must be static.
func (s *stage) busybox() imagetar.File {
	s.Helper()
	const remedy = "install the Debian/Ubuntu package busybox-static"
	path, err := exec.LookPath("busybox")
	if err != nil {
		if path, err = nstest.Binary("kube/busybox"); err != nil {
			cluster.Unavailable(s.T, "busybox: not found: "+remedy)
		}
	}
	program, err := elf.Open(path)
	s.must(err)
	defer program.Close()
	if libraries, err := program.ImportedLibraries(); err != nil || len(libraries) > 0 {
		cluster.Unavailable(s.T, path+" is not static: "+remedy)
	}
	data, err := os.ReadFile(path)
	s.must(err)
	return imagetar.File{Name: "bin/busybox", Data: data}
}

// importDevicePlugin gives the stand-in the real one's name. It reads a mounted sysfs tree: privileged pods see /sys.
func (s *stage) importDevicePlugin() {
	s.Helper()
	const tree = "/run/k8s.cni.cncf.io/devinfo/dp/sys"
	s.must(os.MkdirAll(tree, 0o755))
	s.must(unix.Mount(s.host.Sysfs, tree, "", unix.MS_BIND, ""))
	s.Cleanup(func() { s.must(unix.Unmount(tree, unix.MNT_DETACH)) })
	path, err := nstest.Binary("kube/sriovdp")
	s.must(err)
	program, err := os.ReadFile(path)
	s.must(err)
	s.ImportFiles(s.T, devicePluginImage,
		imagetar.File{Name: "start", Data: []byte("#!/bin/busybox sh\nexec /" + devicePluginName + " -sysfs=/var" + tree + "\n")},
		imagetar.File{Name: devicePluginName, Data: program}, s.busybox())
}
