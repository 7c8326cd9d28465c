package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
)

func shipped(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../deploy", path))
	must(t, err)
	if err := yaml.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// TestShippedFlags: the daemon accepts the flags of deploy/, each component together with the
// others. The chart's values for the marks are the defaults.
func TestShippedFlags(t *testing.T) {
	var daemon struct {
		Spec struct {
			Template struct {
				Spec struct{ Containers []struct{ Args []string } }
			}
		}
	}
	shipped(t, "daemon.yaml", &daemon)
	args := daemon.Spec.Template.Spec.Containers[0].Args[1:]
	components, err := filepath.Glob("../deploy/components/*/args.yaml")
	if err != nil || len(components) != 7 {
		t.Fatalf("components with flags: %q, %v", components, err)
	}
	for _, c := range components {
		var patch []struct{ Value string }
		shipped(t, strings.TrimPrefix(c, "../deploy/"), &patch)
		for _, p := range patch {
			args = append(args, p.Value)
		}
	}
	var c, plain nodeFlags
	p := program{getenv: func(name string) string { return map[string]string{"NODE_NAME": "node-a"}[name] }}
	flags := pflag.NewFlagSet("run", pflag.ContinueOnError)
	plain.add(pflag.NewFlagSet("plain", pflag.ContinueOnError), p)
	c.add(flags, p)
	if diff := cmp.Diff(plain.dpNamespaces, namespaces(args[2])); diff != "" {
		t.Errorf("the daemon searches other namespaces than by default (-default +shipped):\n%s", diff)
	}
	if err := flags.Parse(args); err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	if err := c.check(); err != nil {
		t.Errorf("%q: %v", args, err)
	}
	if c.manageAddresses != manageSingle || !c.sourceRouting || !c.startupTaint || c.marks != plain.marks || c.offer != string(nodestate.OfferDevicePlugin) {
		t.Errorf("flags %+v", c)
	}
	var values struct {
		DevicePlugin struct{ Namespaces []string }
		ENIManager   struct {
			Offer           string
			ManageAddresses struct {
				Mode      string
				Low, High int
			}
		}
	}
	shipped(t, "chart/values.yaml", &values)
	if diff := cmp.Diff(plain.dpNamespaces, values.DevicePlugin.Namespaces); diff != "" {
		t.Errorf("the chart searches other namespaces than by default (-default +chart):\n%s", diff)
	}
	policy, err := os.ReadFile("../deploy/admission/own-node.yaml")
	if want := "request.namespace in ['" + strings.Join(plain.dpNamespaces, "', '") + "']"; err != nil || !strings.Contains(string(policy), want) {
		t.Errorf("the admission policy lacks %q: %v", want, err)
	}
	if values.ENIManager.Offer != plain.offer {
		t.Errorf("the chart's offer is %q, the daemon's %q", values.ENIManager.Offer, plain.offer)
	}
	if m := values.ENIManager.ManageAddresses; m.Mode != manageSingle || m.Low != plain.marks.Low || m.High != plain.marks.High {
		t.Errorf("the chart has %+v, the daemon %+v", m, plain.marks)
	}
}

// namespaces returns the namespaces that the flag lists.
func namespaces(flag string) []string {
	list, _ := strings.CutPrefix(flag, "--dp-namespaces=")
	return strings.Split(list, ",")
}
