package deviceplugin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/test/deviceplugin/answers"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

// TestAnswers compares every answer and every file of the stand-in with the plugin's.
func TestAnswers(t *testing.T) {
	if nstest.OutsideAsRoot(t) { // root may read the folder that the plugin makes
		return
	}
	syscall.Umask(0o022)
	all := answers.Load(t)
	for _, c := range all.Cases {
		t.Run(c.Case, func(t *testing.T) {
			t.Parallel()
			r := newRun(t, c, all.Common)
			for i, want := range c.Steps {
				r.step(fmt.Sprintf("step %d, %s", i, want.Do), want)
			}
		})
	}
}

// run is a case on the stand-in, in a process of its own.
type run struct {
	*testing.T
	*process
	c       answers.Case
	common  answers.Common
	dir     string
	sysfs   string
	kubelet *oldKubelet
	pools   map[string]*pool
}

func newRun(t *testing.T, c answers.Case, common answers.Common) *run {
	t.Helper()
	r := &run{T: t, c: c, common: common, dir: socketDir(t), sysfs: c.Tree(t)}
	must(t, os.MkdirAll(r.path("device-plugins"), 0o755))
	if !c.Legacy {
		must(t, os.MkdirAll(r.path("plugins_registry"), 0o755))
	}
	write(t, r.path("config.json"), string(c.Config))
	write(t, r.path("route"), noRoutes)
	must(t, c.Put(r.path("devinfo")))
	r.startKubelet()
	t.Cleanup(func() { r.kubelet.stop() })
	return r
}

func (r *run) path(name string) string { return filepath.Join(r.dir, name) }

func (r *run) startKubelet() {
	r.Helper()
	r.kubelet = startOldKubelet(r.T, r.path("device-plugins"))
}

// step does a step, and compares its outcome.
func (r *run) step(name string, want answers.Step) {
	r.Helper()
	_, before := os.Stat(r.path("devinfo"))
	got := want
	got.Pools, got.Status, got.Sockets, got.Answer, got.Error, got.Folder = nil, nil, nil, nil, "", ""
	switch want.Do {
	case answers.Start:
		r.process = startProcess(r.T, append([]string{
			"-config-file=" + r.path("config.json"), "-sysfs=" + r.sysfs, "-routes=" + r.path("route"), "-device-info=" + r.path("devinfo"),
			"-plugins-registry=" + r.path("plugins_registry"), "-device-plugins=" + r.path("device-plugins"), "-check=20ms",
		}, r.c.Args...))
		r.started(&got)
	case answers.Kubelet:
		r.kubelet.stop()
		must(r.T, removeAll(r.path("device-plugins")))
		r.startKubelet()
		eventually(r.T, "registrations", func() bool { return len(r.kubelet.registered()) == len(want.Pools) })
		got.Pools = r.served()
	case answers.Gone:
		r.kubelet.stop()
		must(r.T, removeAll(r.path("device-plugins")))
		<-r.done
		r.ended(&got)
	case answers.Allocate:
		r.allocate(name, want, &got)
	case answers.Change:
		must(r.T, want.Apply(r.sysfs))
	case answers.Stop:
		r.signal(syscall.SIGTERM)
		r.ended(&got)
	case answers.Kill:
		r.signal(syscall.SIGKILL)
		r.ended(&got)
		got.Status = nil
	default:
		r.Fatalf("unknown step %q", want.Do)
	}
	if want.Unfit != "" { // the stand-in is stricter, and a refusal leaves no file
		want.Answer, want.Error, want.Files, got.Files = nil, "", nil, nil
	} else {
		var err error
		got.Files, err = answers.Files(r.path("devinfo"))
		must(r.T, err)
	}
	if mode, err := answers.Mode(r.path("devinfo")); err == nil && before != nil {
		got.Folder = mode
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		r.Errorf("%s (-plugin +stand-in):\n%s", name, diff)
	}
}

// started waits for the end of the start.
func (r *run) started(got *answers.Step) {
	r.Helper()
	eventually(r.T, "start", func() bool { return r.over() || r.logged("all servers started") })
	if r.over() {
		r.ended(got)
		return
	}
	got.Pools = r.served()
}

func (r *run) ended(got *answers.Step) {
	code := r.status()
	got.Status = &code
	for _, dir := range []string{"plugins_registry", "device-plugins"} {
		sockets, err := filepath.Glob(r.path(dir + "/*_*.sock"))
		must(r.T, err)
		for _, s := range sockets {
			got.Sockets = append(got.Sockets, filepath.Base(s))
		}
	}
}

// served connects to each pool like a kubelet, and returns the pools.
func (r *run) served() (out []answers.Pool) {
	r.Helper()
	r.pools = map[string]*pool{}
	if r.c.Legacy {
		for _, q := range r.kubelet.registered() {
			p := r.pool(filepath.Join(r.path("device-plugins"), q.GetEndpoint()))
			if _, err := p.info(); status.Code(err) != codes.Unimplemented {
				r.Errorf("%s has the registration service of plugins_registry: %v", q.GetResourceName(), err)
			}
			want := &deviceapi.RegisterRequest{Version: deviceapi.Version, Endpoint: q.GetEndpoint(), ResourceName: q.GetResourceName()}
			if q.String() != want.String() {
				r.Errorf("it registers by %v, want %v", q, want)
			}
			r.pools[q.GetResourceName()] = p
		}
	} else {
		sockets, err := filepath.Glob(r.path("plugins_registry/*.sock"))
		must(r.T, err)
		for _, socket := range sockets {
			p := r.pool(socket)
			info, err := p.info()
			must(r.T, err)
			if diff := cmp.Diff([]any{r.common.Type, r.common.Versions, socket}, []any{info.GetType(), info.GetSupportedVersions(), info.GetEndpoint()}); diff != "" {
				r.Errorf("plugin info (-plugin +stand-in):\n%s", diff)
			}
			r.pools[info.GetName()] = p
		}
	}
	for name, p := range r.pools {
		out = append(out, answers.Pool{Resource: name, Socket: filepath.Base(p.socket), Devices: r.list(p)})
	}
	slices.SortFunc(out, func(a, b answers.Pool) int { return strings.Compare(a.Resource, b.Resource) })
	return out
}

// list returns the pool's devices, and compares its options.
func (r *run) list(p *pool) []answers.Device {
	r.Helper()
	options, err := p.client.GetDevicePluginOptions(r.Context(), &deviceapi.Empty{})
	must(r.T, err)
	stream, err := p.client.ListAndWatch(r.Context(), &deviceapi.Empty{})
	must(r.T, err)
	list, err := stream.Recv()
	must(r.T, err)
	devices := answers.Devices(list.GetDevices())
	q := &deviceapi.ContainerPreferredAllocationRequest{AllocationSize: 1}
	for _, d := range devices {
		q.AvailableDeviceIDs = append(q.AvailableDeviceIDs, d.ID)
	}
	preferred, err := p.client.GetPreferredAllocation(r.Context(), &deviceapi.PreferredAllocationRequest{
		ContainerRequests: []*deviceapi.ContainerPreferredAllocationRequest{q},
	})
	must(r.T, err)
	got := r.common
	got.PreStart, got.PreferredAllocation, got.Preferred = options.GetPreStartRequired(), options.GetGetPreferredAllocationAvailable(), nil
	for _, c := range preferred.GetContainerResponses() {
		got.Preferred = append(got.Preferred, c.GetDeviceIDs()...)
	}
	if diff := cmp.Diff(r.common, got, cmpopts.EquateEmpty()); diff != "" {
		r.Errorf("options and preferences (-plugin +stand-in):\n%s", diff)
	}
	_, err = p.client.PreStartContainer(r.Context(), &deviceapi.PreStartContainerRequest{DevicesIds: q.GetAvailableDeviceIDs()})
	must(r.T, err)
	return devices
}

func (r *run) allocate(name string, want answers.Step, got *answers.Step) {
	r.Helper()
	var q deviceapi.AllocateRequest
	for _, ids := range want.Request {
		q.ContainerRequests = append(q.ContainerRequests, &deviceapi.ContainerAllocateRequest{DevicesIds: ids})
	}
	p := r.pools[want.Resource]
	if p == nil {
		r.Fatalf("%s: %s is not served", name, want.Resource)
	}
	a, err := p.client.Allocate(r.Context(), &q)
	switch {
	case err == nil && want.Unfit != "":
		r.Errorf("%s: allocated, but %s", name, want.Unfit)
	case err == nil:
		got.Answer, err = answers.Containers(a)
		must(r.T, err)
	case want.Unfit == "":
		got.Error = status.Code(err).String()
	}
}

// removeAll removes a folder's content.
func removeAll(dir string) (err error) {
	all, err := filepath.Glob(filepath.Join(dir, "*"))
	for _, path := range all {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}
