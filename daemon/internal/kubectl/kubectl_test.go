package kubectl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/cli"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/outside"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/show"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
)

type world struct {
	states []v1alpha1.ENINodeState
	pods   []outside.Pod
	err    error
}

func (w world) NodeStates(context.Context) ([]v1alpha1.ENINodeState, error) { return w.states, w.err }
func (w world) DaemonPods(context.Context) ([]outside.Pod, error)           { return w.pods, w.err }

func twoNodes() world {
	state := func(node string, s v1alpha1.ENINodeStateStatus) v1alpha1.ENINodeState {
		return v1alpha1.ENINodeState{ObjectMeta: metav1.ObjectMeta{Name: node, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "noise"}}}, Status: s}
	}
	return world{
		states: []v1alpha1.ENINodeState{
			state("node-a", v1alpha1.ENINodeStateStatus{
				Devices: []v1alpha1.DeviceState{
					{ENIID: "eni-00000000000000001", NodeENI: "dataplane-a", Phase: "ready", PCIAddress: "0000:00:06.0", InterfaceName: "eth1",
						Addresses: []string{"10.0.1.15/24"}, Holders: []string{"shop/web-0", "shop/web-1"}},
					{ENIID: "eni-00000000000000002", NodeENI: "dataplane-b", Phase: "ready", PCIAddress: "0000:00:07.0", Driver: "vfio-pci", ResourceName: "intel.com/fast"},
				},
				DevicePlugin: &v1alpha1.DevicePluginState{State: "Serving", Pods: []string{"kube-system/sriovdp-x"}},
				Conditions:   []metav1.Condition{{Type: "DevicesReady", Status: "True", Reason: "AllReady", Message: "2 ready for pods"}},
			}),
			state("node-b", v1alpha1.ENINodeStateStatus{
				Devices:  []v1alpha1.DeviceState{{NodeENI: "dataplane-a", Phase: "pending", DeviceIndex: -1, NetworkCard: -1}},
				Problems: []v1alpha1.ProblemState{{Reason: "NotAttached", NodeENI: "dataplane-a", Message: "no ENI is attached"}},
			}),
		},
		pods: []outside.Pod{
			{Namespace: "cni", Name: "multi-enid-b", Node: "node-b", Phase: "Running"}, {Namespace: "cni", Name: "multi-enid-a", Node: "node-a", Phase: "Running"},
			{Namespace: "cni", Name: "multi-enid-c", Node: "node-c", Phase: "Pending"},
		},
	}
}

type failed struct{ error }

func (failed) ExitCode() int { return 1 }

// call runs the plugin against a world. The calls of kubectl are noted.
func call(t *testing.T, w world, args ...string) (code int, stdout, stderr string, kubectl []string) {
	t.Helper()
	var out, errOut bytes.Buffer
	p := Program{
		Stdout: &out, Stderr: &errOut, Version: "v1",
		Connect: func(outside.Config) (Cluster, error) { return w, nil },
		Exec: func(_ context.Context, args []string, stdout, _ io.Writer) error {
			kubectl = append(kubectl, strings.Join(args, " "))
			fmt.Fprintln(stdout, "ok    all")
			if slices.Contains(args, "multi-enid-b") {
				return failed{errors.New("exit status 1")}
			}
			return nil
		},
	}
	code = p.Main(t.Context(), args)
	return code, out.String(), errOut.String(), kubectl
}

func words(s string) string { return strings.Join(strings.Fields(s), " ") }

func TestStatus(t *testing.T) {
	code, stdout, stderr, _ := call(t, twoNodes(), "status")
	want := `NODE READY PODS PROBLEMS DEVICE PLUGIN REASONS node-a 2/2 2 0 Serving - node-b 0/1 0 1 - NotAttached`
	if code != 0 || stderr != "" || words(stdout) != want {
		t.Errorf("exit code %d, %q\n%s", code, stderr, stdout)
	}
	for _, tt := range []struct {
		args      []string
		want, not []string
	}{
		{[]string{"--node", "node-a"}, []string{"Node node-a", "eni-00000000000000001  dataplane-a", "shop/web-1", "(vfio-pci)", "No problems.", "DevicesReady:"},
			[]string{"node-b"}},
		{[]string{"--all"}, []string{"Node node-a", "Node node-b", "NotAttached dataplane-a: no ENI is attached"}, nil},
		{[]string{"-o", "json"}, []string{`"kind": "ENINodeStateList"`, `"name": "node-b"`, `"devices": [`}, []string{"noise"}},
		{[]string{"-o", "yaml", "--node=node-a"}, []string{"kind: ENINodeStateList", "eniID: eni-00000000000000002"}, []string{"node-b"}},
	} {
		code, stdout, stderr, _ := call(t, twoNodes(), append([]string{"status"}, tt.args...)...)
		if code != 0 || stderr != "" {
			t.Errorf("%v: exit code %d, %q", tt.args, code, stderr)
		}
		for _, w := range tt.want {
			if !strings.Contains(stdout, w) {
				t.Errorf("%v lacks %q:\n%s", tt.args, w, stdout)
			}
		}
		for _, n := range tt.not {
			if strings.Contains(stdout, n) {
				t.Errorf("%v has %q:\n%s", tt.args, n, stdout)
			}
		}
		for line := range strings.Lines(stdout) {
			if !slices.Contains(tt.args, "-o") && utf8.RuneCountInString(line) > show.Columns+1 {
				t.Errorf("%v: a line is too long: %s", tt.args, line)
			}
		}
	}
	if code, stdout, _, _ := call(t, world{}, "status"); code != 0 || !strings.Contains(stdout, "No node has an ENINodeState") {
		t.Errorf("of no node: exit code %d, %s", code, stdout)
	}
}

// TestStatusOfOffer: the daemon's own offer takes the column of the device plugin.
func TestStatusOfOffer(t *testing.T) {
	w := twoNodes()
	w.states[0].Status.DevicePlugin = &v1alpha1.DevicePluginState{State: "NotFound"}
	w.states[0].Status.Conditions = []metav1.Condition{{Type: "DevicePluginServing", Status: "True", Reason: "Offered", Message: "m"}}
	w.states[0].Status.Offer = &v1alpha1.OfferState{Mode: "deviceplugin", Wanted: "deviceplugin", State: "Offered",
		Resources: []v1alpha1.OfferedResource{{Name: "intel.com/fast", Registered: true, Healthy: 2, Unhealthy: 1}}}
	if _, stdout, stderr, _ := call(t, w, "status"); !strings.Contains(words(stdout), "node-a 2/2 2 0 Offered -") {
		t.Errorf("%s%s", stderr, stdout)
	}
	_, stdout, stderr, _ := call(t, w, "status", "--node=node-a")
	for _, want := range []string{"Offer: deviceplugin, Offered, 1 resource", "RESOURCE REGISTERED HEALTHY UNHEALTHY intel.com/fast yes 2 1"} {
		if !strings.Contains(words(stdout), want) {
			t.Errorf("lacks %q: %s%s", want, stderr, stdout)
		}
	}
}

func TestWho(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"web-0", "-n", "shop"}, "shop/web-0 node-a eni-00000000000000001 dataplane-a 0000:00:06.0 ready"},
		{[]string{"shop/web-1"}, "shop/web-1 node-a eni-00000000000000001"},
		{[]string{"pod/web-1", "-n=shop"}, "shop/web-1 node-a"},
		{[]string{"eni-00000000000000001"}, "shop/web-1 node-a"},
		{[]string{"0000:00:07.0"}, "- node-a eni-00000000000000002"},
		{[]string{"nodeeni/dataplane-a"}, "- node-b - dataplane-a - pending"},
		{[]string{"shop/web-0", "-o", "json"}, `"pod": "shop/web-0", "node": "node-a", "device": {`},
	} {
		code, stdout, stderr, _ := call(t, twoNodes(), append([]string{"who"}, tt.args...)...)
		if code != 0 || !strings.Contains(words(stdout), tt.want) {
			t.Errorf("%v: exit code %d, %q\n%s", tt.args, code, stderr, stdout)
		}
	}
}

func TestDoctor(t *testing.T) {
	code, stdout, stderr, kubectl := call(t, twoNodes(), "doctor", "--node=node-a", "--context=prod", "--kubeconfig=k")
	want := []string{"--kubeconfig=k --context=prod exec --namespace=cni multi-enid-a --container=multi-enid -- /multi-enid doctor --output=text"}
	if code != 0 || !slices.Equal(kubectl, want) || stdout != "ok    all\n" {
		t.Errorf("exit code %d, %q, %q, %q", code, kubectl, stdout, stderr)
	}
	code, stdout, stderr, kubectl = call(t, twoNodes(), "doctor", "--all")
	if code != cli.Failure || len(kubectl) != 2 || !strings.Contains(stderr, "1 of 2 nodes") ||
		!strings.HasPrefix(stdout, "Node node-a:\nok    all\n\nNode node-b:\n") {
		t.Errorf("exit code %d, %q, %q, %q", code, kubectl, stdout, stderr)
	}
}

func TestErrors(t *testing.T) {
	broken := world{err: fmt.Errorf("%w: ask somebody", outside.ErrForbidden)}
	for _, tt := range []struct {
		world world
		args  []string
		code  int
		want  string
	}{
		{twoNodes(), []string{"status", "--node=node-x"}, cli.Failure, `node "node-x" has no ENINodeState; did you mean node-a or node-b?`},
		{twoNodes(), []string{"status", "--node=ip-10-0-0-1"}, cli.Failure, "multi-enid has not run there"},
		{twoNodes(), []string{"status", "--all", "--node=node-a"}, cli.Usage, "Try 'kubectl multi-eni status --help'."},
		{twoNodes(), []string{"stauts"}, cli.Usage, "did you mean status?"},
		{twoNodes(), []string{"who"}, cli.Usage, "want one pod"},
		{twoNodes(), []string{"who", "web-0"}, cli.Failure, "did you mean shop/web-0?"},
		{twoNodes(), []string{"who", "eni-00000000000000009"}, cli.Failure, "no node has a device of ENI eni-00000000000000009"},
		{twoNodes(), []string{"doctor"}, cli.Usage, "--node NAME"},
		{twoNodes(), []string{"doctor", "--node=node-d"}, cli.Failure, `node "node-d" has no pod of multi-enid; did you mean`},
		{twoNodes(), []string{"doctor", "--node=node-c"}, cli.Failure, "does not run"},
		{world{}, []string{"doctor", "--all"}, cli.Failure, "not installed"},
		{broken, []string{"status"}, cli.Failure, "not allowed: ask somebody"},
		{broken, []string{"who", "a/b"}, cli.Failure, "not allowed"},
		{broken, []string{"doctor", "--all"}, cli.Failure, "not allowed"},
	} {
		code, stdout, stderr, _ := call(t, tt.world, tt.args...)
		if code != tt.code || stdout != "" || !strings.Contains(stderr, tt.want) {
			t.Errorf("%v: exit code %d, %q, want %q:\n%s", tt.args, code, stdout, tt.want, stderr)
		}
	}
}
