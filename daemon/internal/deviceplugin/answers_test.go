package deviceplugin

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sirupsen/logrus"
	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/offer"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/deviceplugin/answers"
)

// notOurs are cases of configs that the daemon has no counterpart for.
var notOurs = map[string]string{
	"a name with a dot":       "such a name is refused in the NodeENI",
	"a pool without topology": "excludeTopology is a key of people's entries",
}

// TestAnswers compares what a pod gets with the answers of the SR-IOV device plugin, on the same machines.
func TestAnswers(t *testing.T) {
	all := answers.Load(t)
	for name := range notOurs {
		if !slices.ContainsFunc(all.Cases, func(c answers.Case) bool { return c.Case == name }) {
			t.Errorf("there is no case %q", name)
		}
	}
	for _, c := range all.Cases {
		if notOurs[c.Case] != "" {
			continue
		}
		t.Run(c.Case, func(t *testing.T) {
			t.Parallel()
			p := &played{T: t, c: c, common: all.Common, tree: c.Tree(t), info: filepath.Join(t.TempDir(), "dp"), dir: socketDir(t), end: func() {}}
			if err := c.Put(p.info); err != nil {
				t.Fatal(err)
			}
			p.kubelet = startKubelet(t, p.dir)
			for i, s := range c.Steps {
				p.step(fmt.Sprintf("step %d, %s", i, s.Do), s)
			}
			p.end()
		})
	}
}

// played is a case of the SR-IOV device plugin, played with the daemon's plugin.
type played struct {
	*testing.T
	c       answers.Case
	common  answers.Common
	tree    string
	info    string
	dir     string
	kubelet *socketKubelet
	plugin  *Plugin
	end     func()
}

func (p *played) step(name string, s answers.Step) {
	p.Helper()
	switch s.Do {
	case answers.Start:
		p.start()
		p.offer(name, s.Pools)
	case answers.Kubelet:
		p.kubelet.stop()
		p.kubelet.start()
		p.offer(name, s.Pools)
	case answers.Allocate:
		p.allocate(name, s)
	case answers.Change:
		if err := s.Apply(p.tree); err != nil {
			p.Fatal(err)
		}
	case answers.Stop, answers.Kill, answers.Gone:
		p.end()
		for _, r := range p.plugin.State().Resources {
			p.kubelet.hangUp(r.Name.String())
		}
		p.end = func() {}
	default:
		p.Fatalf("unknown step %q", s.Do)
	}
}

func (p *played) start() {
	log := logrus.New()
	log.SetOutput(io.Discard)
	p.plugin = New(Options{Kubelet: NewSockets(p.dir, nil), Devices: sysfs.NewFS(p.tree), DeviceInfo: p.info, Now: time.Now, Log: log})
	ctx, stop := context.WithCancel(p.Context())
	ended := make(chan struct{})
	go func() {
		p.plugin.Run(ctx)
		close(ended)
	}()
	p.end = func() {
		stop()
		<-ended
	}
}

// offer offers the pools' devices as they are in sysfs, and compares the kubelet's view.
func (p *played) offer(name string, pools []answers.Pool) {
	p.Helper()
	var names []device.ResourceName
	var devices []offer.Device
	for _, pool := range pools {
		names = append(names, device.ResourceName(pool.Resource))
		for _, d := range pool.Devices {
			fn, err := sysfs.NewFS(p.tree).PCI(device.PCIAddress(d.ID))
			if err != nil {
				p.Fatal(err)
			}
			devices = append(devices, offer.Device{Resource: device.ResourceName(pool.Resource), ID: fn.Address, Driver: fn.Driver, NUMANode: fn.NUMANode})
		}
	}
	p.plugin.Set(names, devices)
	for _, pool := range pools {
		var ids []string
		for _, d := range pool.Devices {
			ids = append(ids, d.ID)
		}
		p.kubelet.await(pool.Resource, ids...)
		client, list := p.kubelet.of(pool.Resource)
		if diff := cmp.Diff(pool.Devices, answers.Devices(list)); diff != "" {
			p.Errorf("%s: devices of %s (-theirs +ours):\n%s", name, pool.Resource, diff)
		}
		options, err := client.GetDevicePluginOptions(p.Context(), &deviceapi.Empty{})
		if err != nil || options.GetPreStartRequired() != p.common.PreStart {
			p.Errorf("%s: options of %s: %v, %v", name, pool.Resource, options, err)
		}
		p.prefer(client, ids)
	}
}

// prefer asks for each number of each set of devices. An answer must be one that a kubelet may also choose by itself, as it
// does with the SR-IOV device plugin: so many available devices, and all that it must include.
func (p *played) prefer(client deviceapi.DevicePluginClient, ids []string) {
	p.Helper()
	for available := range 1 << len(ids) {
		for must := range 1 << len(ids) {
			if must&^available != 0 {
				continue
			}
			from, with := subset(ids, available), subset(ids, must)
			for size := max(1, len(with)); size <= len(from); size++ {
				out, err := client.GetPreferredAllocation(p.Context(), &deviceapi.PreferredAllocationRequest{
					ContainerRequests: []*deviceapi.ContainerPreferredAllocationRequest{
						{AvailableDeviceIDs: from, MustIncludeDeviceIDs: with, AllocationSize: int32(size)},
					},
				})
				if err != nil || len(out.GetContainerResponses()) != 1 {
					p.Fatalf("%d of %q: %v, %v", size, from, out, err)
				}
				got := slices.Clone(out.GetContainerResponses()[0].GetDeviceIDs())
				slices.Sort(got)
				if distinct := len(slices.Compact(slices.Clone(got))); distinct != size || len(got) != size || !within(got, from) || !within(with, got) {
					p.Errorf("preferred are %q; want %d of %q, with %q", got, size, from, with)
				}
			}
		}
	}
}

func subset(ids []string, bits int) (out []string) {
	for i, id := range ids {
		if bits>>i&1 != 0 {
			out = append(out, id)
		}
	}
	return out
}

func within(some, all []string) bool {
	return !slices.ContainsFunc(some, func(id string) bool { return !slices.Contains(all, id) })
}

// allocate compares an answer and the device-info files of its devices.
func (p *played) allocate(name string, s answers.Step) {
	p.Helper()
	want, refused := p.expected(s)
	var q deviceapi.AllocateRequest
	for _, ids := range s.Request {
		q.ContainerRequests = append(q.ContainerRequests, &deviceapi.ContainerAllocateRequest{DevicesIds: ids})
	}
	client, _ := p.kubelet.of(s.Resource)
	answer, err := client.Allocate(p.Context(), &q)
	if refused != "" {
		if err == nil {
			p.Errorf("%s: %q is allocated, though %s: %v", name, s.Request, refused, answer)
		}
		return
	}
	if err != nil {
		p.Fatalf("%s: %v", name, err)
	}
	got, err := answers.Containers(answer)
	if err != nil {
		p.Error(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		p.Errorf("%s (-theirs +ours):\n%s", name, diff)
	}
	files, err := answers.Files(p.info)
	if err != nil {
		p.Fatal(err)
	}
	for _, id := range slices.Concat(s.Request...) {
		file := strings.ReplaceAll(s.Resource, "/", "-") + "-" + id + "-device.json"
		theirs, there := s.Files[file]
		if diff := cmp.Diff(theirs, files[file]); !there || diff != "" {
			p.Errorf("%s: %s (theirs is there: %t; -theirs +ours):\n%s", name, file, there, diff)
		}
	}
}

// expected returns the answer, or why a plugin without memory refuses. An answer that depends on the past is replaced
// by the later one to the same request.
func (p *played) expected(s answers.Step) (_ []answers.Container, refused string) {
	if s.Unfit != "" || s.Stale == "" {
		return s.Answer, s.Unfit
	}
	for _, o := range p.c.Steps {
		if o.Stale == "" && o.Do == answers.Allocate && cmp.Equal(o.Request, s.Request) {
			return o.Answer, ""
		}
	}
	return nil, s.Stale
}
