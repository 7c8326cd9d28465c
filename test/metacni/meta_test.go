package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// kubelet answers only List.
type kubelet struct {
	podresources.UnimplementedPodResourcesListerServer
	pods []*podresources.PodResources
}

func (k *kubelet) List(context.Context, *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	return &podresources.ListPodResourcesResponse{PodResources: k.pods}, nil
}

func pod(namespace, name string, devices ...*podresources.ContainerDevices) *podresources.PodResources {
	return &podresources.PodResources{Namespace: namespace, Name: name, Containers: []*podresources.ContainerResources{
		{Name: "sidecar"}, {Name: "main", Devices: devices},
	}}
}

func devices(resource string, ids ...string) *podresources.ContainerDevices {
	return &podresources.ContainerDevices{ResourceName: resource, DeviceIds: ids}
}

// delegate is a plugin that records its calls, and fails where a file of its name and the interface's says so.
const delegate = `#!/bin/sh
cd "$(dirname "$0")"
echo "$(basename "$0") $CNI_COMMAND $CNI_IFNAME $CNI_ARGS $(cat)" >>calls
[ ! -e "fail.$CNI_COMMAND.$CNI_IFNAME" ] || { echo '{"cniVersion":"1.0.0","code":100,"msg":"told to fail"}'; exit 1; }
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.0.0","interfaces":[{"name":"'"$CNI_IFNAME"'"}]}'
`

type runtime struct {
	*testing.T
	dir  string
	args *skel.CmdArgs
}

func newRuntime(t *testing.T, pods ...*podresources.PodResources) *runtime {
	t.Helper()
	dir, err := os.MkdirTemp("", "meta") // short enough for a socket
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "kubelet.sock"))
	must(t, err)
	s := grpc.NewServer()
	podresources.RegisterPodResourcesListerServer(s, &kubelet{pods: pods})
	go s.Serve(l) //nolint:errcheck // it ends with the test
	t.Cleanup(s.Stop)
	r := &runtime{T: t, dir: dir}
	for _, name := range []string{"bridge", "multi-eni"} {
		r.write(name, delegate, 0o755)
	}
	r.args = &skel.CmdArgs{
		ContainerID: "sandbox", Netns: "/run/netns/pod", IfName: "eth0", Path: dir,
		Args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=space;K8S_POD_NAME=pod;K8S_POD_UID=uid",
		StdinData: fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":"node","type":"metacni","dataDir":%q,"podResources":%q,
			"default":{"cniVersion":"1.0.0","name":"default","type":"bridge"},
			"device":{"cniVersion":"1.0.0","name":"dataplane","type":"multi-eni","mtu":9001,"capabilities":{"deviceID":true}}}`,
			filepath.Join(dir, "data"), filepath.Join(dir, "kubelet.sock")),
	}
	return r
}

func (r *runtime) write(name, content string, mode os.FileMode) {
	r.Helper()
	must(r.T, os.WriteFile(filepath.Join(r.dir, name), []byte(content), mode))
}

func (r *runtime) fail(verbAndInterface string) {
	r.Helper()
	r.write("fail."+verbAndInterface, "", 0o600)
}

// calls are the delegates' calls since the last look: plugin, verb, interface, and device.
func (r *runtime) calls() []string {
	r.Helper()
	path := filepath.Join(r.dir, "calls")
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	must(r.T, err)
	var out []string
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		f := strings.SplitN(line, " ", 5)
		if f[3] != r.args.Args {
			r.Errorf("CNI_ARGS %q", f[3])
		}
		var conf struct {
			DeviceID, PCIBusID string
			MTU                int
			RuntimeConfig      struct{ DeviceID string }
		}
		must(r.T, json.Unmarshal([]byte(f[4]), &conf))
		call := strings.Join(f[:3], " ")
		if f[0] == "multi-eni" {
			if conf.DeviceID != conf.PCIBusID || conf.DeviceID != conf.RuntimeConfig.DeviceID || conf.MTU != 9001 {
				r.Errorf("netconf %s", f[4])
			}
			call += " " + conf.DeviceID
		}
		out = append(out, call)
	}
	return out
}

func (r *runtime) want(want ...string) {
	r.Helper()
	if diff := cmp.Diff(want, r.calls()); diff != "" {
		r.Errorf("calls (-want +got):\n%s", diff)
	}
}

func (r *runtime) add() (string, error) {
	var out bytes.Buffer
	err := add(r.args, &out)
	return out.String(), err
}

func (r *runtime) del() {
	r.Helper()
	if err := del(r.args); err != nil {
		r.Errorf("DEL: %v", err)
	}
}

func TestGivesEachAllocatedDevice(t *testing.T) {
	r := newRuntime(t, pod("space", "other", devices("intel.com/a", "0000:00:09.0")),
		pod("space", "pod", devices("intel.com/b", "0000:00:07.0"), devices("intel.com/a", "0000:00:08.0")))
	out, err := r.add()
	must(t, err)
	if !strings.Contains(out, `"name": "eth0"`) || strings.Contains(out, "net1") {
		t.Errorf("result %s, want eth0's", out)
	}
	r.want("bridge ADD eth0", "multi-eni ADD net1 0000:00:08.0", "multi-eni ADD net2 0000:00:07.0")
	r.del()
	r.want("multi-eni DEL net2 0000:00:07.0", "multi-eni DEL net1 0000:00:08.0", "bridge DEL eth0")
	r.del() // as runtimes do
	r.want()
}

func TestPodWithoutDevices(t *testing.T) {
	r := newRuntime(t, pod("space", "other", devices("intel.com/a", "0000:00:09.0")), pod("elsewhere", "pod", devices("intel.com/a", "0000:00:08.0")))
	if _, err := r.add(); err != nil {
		t.Fatal(err)
	}
	r.want("bridge ADD eth0")
}

func TestShared(t *testing.T) {
	r := newRuntime(t, pod("space", "own", devices("intel.com/a", "0000:00:08.0")))
	r.args.StdinData = bytes.Replace(r.args.StdinData, []byte("{"), []byte(`{"shared":{"cniVersion":"1.0.0","name":"shared","type":"multi-eni","mtu":9001},`), 1)
	if _, err := r.add(); err != nil {
		t.Fatal(err)
	}
	r.want("bridge ADD eth0", "multi-eni ADD net1 ")
	r.del()
	r.want("multi-eni DEL net1 ", "bridge DEL eth0")
	r.args.Args = strings.Replace(r.args.Args, "K8S_POD_NAME=pod", "K8S_POD_NAME=own", 1)
	if _, err := r.add(); err != nil {
		t.Fatal(err)
	}
	r.want("bridge ADD eth0", "multi-eni ADD net1 0000:00:08.0")
}

func TestPods(t *testing.T) {
	r := newRuntime(t)
	r.args.StdinData = bytes.Replace(r.args.StdinData, []byte("{"), []byte(`{"shared":{"cniVersion":"1.0.0","name":"shared","type":"bridge"},
		"pods":{"pod":{"cniVersion":"1.0.0","name":"its-own","type":"multi-eni","mtu":9001}},`), 1)
	if _, err := r.add(); err != nil {
		t.Fatal(err)
	}
	r.want("bridge ADD eth0", "multi-eni ADD net1 ")
	r.del()
	r.want("multi-eni DEL net1 ", "bridge DEL eth0")
	r.args.Args = strings.Replace(r.args.Args, "K8S_POD_NAME=pod", "K8S_POD_NAME=other", 1)
	if _, err := r.add(); err != nil {
		t.Fatal(err)
	}
	r.want("bridge ADD eth0", "bridge ADD net1")
}

func TestUndoesAFailedADD(t *testing.T) {
	r := newRuntime(t, pod("space", "pod", devices("intel.com/a", "0000:00:07.0", "0000:00:08.0")))
	r.fail("ADD.net1")
	if _, err := r.add(); err == nil || !strings.Contains(err.Error(), "told to fail") {
		t.Errorf("ADD: %v", err)
	}
	r.want("bridge ADD eth0", "multi-eni ADD net1 0000:00:07.0", "multi-eni DEL net1 0000:00:07.0", "bridge DEL eth0")
	r.del() // the runtime's, after any failed ADD
	r.want("multi-eni DEL net2 0000:00:08.0", "multi-eni DEL net1 0000:00:07.0", "bridge DEL eth0")
}

// TestReturnsTheErrorsOfDEL: the runtime repeats DEL, then without the device.
func TestReturnsTheErrorsOfDEL(t *testing.T) {
	r := newRuntime(t, pod("space", "pod", devices("intel.com/a", "0000:00:07.0")))
	if _, err := r.add(); err != nil {
		t.Fatal(err)
	}
	r.calls()
	r.fail("DEL.net1")
	if err := del(r.args); err == nil || !strings.Contains(err.Error(), "told to fail") {
		t.Errorf("DEL: %v", err)
	}
	r.want("multi-eni DEL net1 0000:00:07.0", "bridge DEL eth0")
	if err := del(r.args); err == nil {
		t.Error("DEL succeeds while its delegate fails")
	}
	r.want("multi-eni DEL net1 ", "bridge DEL eth0")
	must(t, os.Remove(filepath.Join(r.dir, "fail.DEL.net1")))
	r.del()
	r.want("multi-eni DEL net1 ", "bridge DEL eth0")
	r.del()
	r.want()
}

func TestRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*runtime){
		"unknown key": func(r *runtime) {
			r.args.StdinData = bytes.Replace(r.args.StdinData, []byte("{"), []byte(`{"x":1,`), 1)
		},
		"no default": func(r *runtime) {
			r.args.StdinData = bytes.Replace(r.args.StdinData, []byte(`"default"`), []byte(`"ipam"`), 1)
		},
		"no pod": func(r *runtime) { r.args.Args = "IgnoreUnknown=1" },
		"device not object": func(r *runtime) {
			r.args.StdinData = bytes.Replace(r.args.StdinData, []byte(`"device":{`), []byte(`"device":null,"dns":{`), 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRuntime(t, pod("space", "pod", devices("intel.com/a", "0000:00:07.0")))
			spoil(r)
			if _, err := r.add(); err == nil {
				t.Error("accepted")
			}
			r.want()
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
