package netconf

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

const samples = "../../../conf"

// TestSamples: libcni reads every file in conf/netconf and conf/conflist, multi-eni
// accepts it with the keys that libcni and Multus add, and the sample policy allows it.
func TestSamples(t *testing.T) {
	policy := samplePolicy(t)
	for folder, ext := range map[string]string{"netconf": ".json", "conflist": ".conflist"} {
		for name, content := range sampleFiles(t, folder, ext) {
			t.Run(name, func(t *testing.T) {
				if ext == ".json" {
					plugin, err := libcni.NetworkPluginConfFromBytes([]byte(content))
					if err != nil || plugin.Network.Type != "multi-eni" {
						t.Fatalf("a netconf of %+v, %v; want multi-eni's", plugin, err)
					}
					checkSample(t, policy, map[string]any{}, plugin)
					return
				}
				list, err := libcni.NetworkConfFromBytes([]byte(content))
				if err != nil || list.Plugins[0].Network.Type != "multi-eni" {
					t.Fatalf("a list %+v, %v; want multi-eni first", list, err)
				}
				checkSample(t, policy, map[string]any{"name": list.Name, "cniVersion": list.CNIVersion}, list.Plugins[0])
			})
		}
	}
}

// checkSample parses a netconf with the keys that libcni adds in a list, and with the
// device that Multus adds if the device plugin allocates one.
func checkSample(t *testing.T, policy *Policy, injected map[string]any, plugin *libcni.PluginConfig) {
	t.Helper()
	if plugin.Network.Capabilities["deviceID"] {
		injected["deviceID"], injected["pciBusID"] = pci, pci
		injected["runtimeConfig"] = map[string]any{"deviceID": pci}
	}
	plugin, err := libcni.InjectConf(plugin, injected)
	must(t, err)
	c, err := Parse(plugin.Bytes)
	must(t, err)
	if c.Select.Empty() {
		t.Error("the sample selects nothing")
	}
	if err := policy.Check(c); err != nil {
		t.Errorf("the sample policy: %v", err)
	}
	if c.Delegate == nil {
		return
	}
	conf, err := c.DelegateConfig(pci, link, 0)
	must(t, err)
	checkDelegateDevice(t, c, conf)
}

// TestPodSamples: each file of conf/pods has a NetworkAttachmentDefinition with the
// netconf of the same name, and pods that request it and the resource that it allocates.
func TestPodSamples(t *testing.T) {
	netconfs := sampleFiles(t, "netconf", ".json")
	const named, allocated = "k8s.v1.cni.cncf.io/networks", "k8s.v1.cni.cncf.io/resourceName"
	for name, content := range sampleFiles(t, "pods", ".yaml") {
		first, second, _ := strings.Cut(content, "\n---\n")
		var nad struct {
			Kind     string
			Metadata struct {
				Name        string
				Annotations map[string]string
			}
			Spec struct{ Config string }
		}
		if err := yaml.Unmarshal([]byte(first+"\n"), &nad); err != nil || nad.Kind != "NetworkAttachmentDefinition" {
			t.Errorf("%s: begins with a %q, %v", name, nad.Kind, err)
			continue
		}
		equal(t, netconfs[name], nad.Spec.Config, "%s: netconf", name)
		plugin, err := libcni.NetworkPluginConfFromBytes([]byte(nad.Spec.Config))
		must(t, err)
		resource := nad.Metadata.Annotations[allocated]
		if (resource != "") != plugin.Network.Capabilities["deviceID"] {
			t.Errorf("%s: resource %q, capabilities %v", name, resource, plugin.Network.Capabilities)
		}
		if !strings.Contains(second, named+": "+nad.Metadata.Name+"\n") || strings.Count(second, "{"+resource+": \"1\"") != 2 && resource != "" {
			t.Errorf("%s: the pod does not ask for network %s, or not for resource %q", name, nad.Metadata.Name, resource)
		}
	}
}

func samplePolicy(t *testing.T) *Policy {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(samples, "policy.json"))
	must(t, err)
	p, err := ParsePolicy(data)
	must(t, err)
	equal(t, DefaultPaths(), p.ResolvePaths(&Config{}), "paths of the sample policy")
	written, err := json.MarshalIndent(p, "", "  ")
	if diff := cmp.Diff(string(written)+"\n", string(data)); diff != "" || err != nil {
		t.Errorf("the sample policy as it is written: %v (-want +got):\n%s", err, diff)
	}
	return p
}

func sampleFiles(t *testing.T, folder, ext string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(samples, folder))
	if err != nil || len(entries) == 0 {
		t.Fatalf("no samples in %s: %v", folder, err)
	}
	files := map[string]string{}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ext {
			t.Errorf("%s/%s: want a name that ends in %s", folder, e.Name(), ext)
			continue
		}
		data, err := os.ReadFile(filepath.Join(samples, folder, e.Name()))
		must(t, err)
		files[strings.TrimSuffix(e.Name(), ext)] = string(data)
	}
	return files
}
