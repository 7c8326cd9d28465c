package kubeletmodel

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// The same over unix sockets: a registration, a container with a device, and the kubelet's restart.
func TestUnixSockets(t *testing.T) {
	dir, err := os.MkdirTemp("", "k") // a path short enough for sockets (unix(7))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	o := Options{Dial: DialUnix, Node: NewNode(), Folder: dir}
	f := NewPlugin(nic, "one.sock", "a", "b")
	for range 2 {
		if err := RemoveSockets(dir); err != nil {
			t.Fatal(err)
		}
		k := Start(o)
		servers, err := k.Serve(dir, filepath.Join(dir, "podresources.sock"))
		if err != nil {
			t.Fatal(err)
		}
		stop := serveUnix(t, filepath.Join(dir, f.Socket), f)
		kubelet := dialUnix(t, filepath.Join(dir, "kubelet.sock"))
		r := &deviceapi.RegisterRequest{Version: deviceapi.Version, Endpoint: f.Socket, ResourceName: nic}
		if _, err := deviceapi.NewRegistrationClient(kubelet).Register(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { return len(k.Allocatable()[nic]) == 2 })
		c := Container{Name: "c", Wants: map[string]int{nic: 1}}
		o.Node.AddPod(Pod{UID: "p", Containers: []Container{c}})
		if err := k.Admit(t.Context(), "p", c); err != nil {
			t.Fatal(err)
		}
		list, err := podresourcesapi.NewPodResourcesListerClient(dialUnix(t, filepath.Join(dir, "podresources.sock"))).
			List(t.Context(), &podresourcesapi.ListPodResourcesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if got := list.GetPodResources()[0].GetContainers()[0].GetDevices()[0].GetDeviceIds(); !cmp.Equal(got, []string{"a"}) {
			t.Errorf("podresources lists %q", got)
		}
		k.Kill()
		servers.Stop()
		stop()
	}
}

func serveUnix(t *testing.T, path string, plugin deviceapi.DevicePluginServer) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	deviceapi.RegisterDevicePluginServer(s, plugin)
	go func() { _ = s.Serve(l) }()
	return s.Stop
}

func dialUnix(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func eventually(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 10 s")
		}
	}
}
