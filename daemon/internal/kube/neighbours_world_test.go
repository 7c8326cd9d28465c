package kube_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/vpc"
	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/link"
	"github.com/multi-eni/multi-eni-cni/pkg/link/routing"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

// slot is a place for an ENI: its device index and its PCI address. Slot 0 has
// the primary one.
type slot struct {
	index    int
	plugged  bool
	instance uint64
	// generation tells one ENI in this place from the next.
	generation int
	// vpc: the VPC CNI has attached it for pods of its own, which its rules show
	// as soon as there are any.
	vpc, marked bool
	up          bool
	// rec is the attachment of the pod that has it.
	rec *nodestate.Record
}

func (s *slot) id() device.ENIID {
	return device.ENIID(fmt.Sprintf("eni-%017x", s.generation<<8|s.index))
}

func (s *slot) mac() device.MAC {
	return device.MAC(fmt.Sprintf("02:00:00:00:%02x:%02x", s.generation, s.index))
}

// declaredENI is the NodeENI of a slot.
type declaredENI struct {
	there    bool
	since    time.Time
	resource string
}

// neighbourhood is a node with everything that runs on it, and the API server.
// All of it is changed within do only.
type neighbourhood struct {
	t   *testing.T
	rnd *rand.Rand
	dir string
	// lock holds a token while nobody is at work. It is no mutex, since synctest
	// lets no time pass while somebody waits for one.
	lock chan struct{}
	// imds is the metadata's answer.
	imds  atomic.Pointer[[]vpc.ENI]
	story []string
	fault string
	began time.Time

	// guarded: NodeENIs name subnet and index, and the VPC CNI attaches ENIs too.
	// deaf: no inotify instance is left.
	guarded, deaf bool
	declared      [5]declaredENI
	slots         [5]slot
	instances     uint64
	kernel        neighbourKernel
	plugin        devicePluginModel

	// backup is people's copy of the config, theirs the content that they wrote last.
	backup, theirs []byte
	last           []byte // content after the last look at it
	contentSince   time.Time
	// changeTimes are the times of this neighbourhood at which files were changed, by
	// the kernel's.
	changeTimes map[syscall.Timespec]time.Time

	// down: the API server does not answer. refused: no Event is accepted.
	down, refused bool
	terminating   [3]bool
	requests      int
	events        []string
	// version is the API server's. At version stateDeleted the ENINodeState was last
	// deleted.
	version, stateDeleted int
	// cut is closed when the watches end.
	cut   chan struct{}
	state *v1alpha1.ENINodeState

	// daemon
	away        bool
	wake        chan struct{}
	halt        func()
	running     sync.WaitGroup
	daemonSince time.Time
	// served is when it last said that the config is served.
	served time.Time
}

func newNeighbourhood(t *testing.T, seed uint64, dir string) *neighbourhood {
	w := &neighbourhood{t: t, rnd: newRand(seed), dir: dir, lock: make(chan struct{}, 1), began: time.Now(), instances: 100, version: 1, cut: make(chan struct{}), changeTimes: map[syscall.Timespec]time.Time{}}
	w.lock <- struct{}{}
	w.guarded, w.deaf = w.rnd.IntN(3) == 0, w.rnd.IntN(4) == 0
	w.kernel.w, w.plugin.w = w, w
	for e := range w.slots {
		w.instances++
		w.slots[e] = slot{index: e, plugged: e < 3, instance: w.instances}
	}
	w.slots[0].up = true
	for _, d := range []string{"pcidp", "records", "state"} {
		w.must(os.MkdirAll(w.path(d), 0o755))
	}
	w.tellIMDS()
	return w
}

func (w *neighbourhood) start() {
	w.do(func() {
		w.note("guarded: %t, without inotify: %t", w.guarded, w.deaf)
		w.plugin.install()
		w.launch()
	})
}

// stop ends all goroutines.
func (w *neighbourhood) stop() {
	w.do(func() {
		if !w.away {
			w.halt()
		}
		w.plugin.uninstall()
	})
}

func (w *neighbourhood) path(elem ...string) string {
	return filepath.Join(w.dir, filepath.Join(elem...))
}

func (w *neighbourhood) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// do runs f alone.
func (w *neighbourhood) do(f func()) {
	<-w.lock
	defer func() { w.tellIMDS(); w.lock <- struct{}{} }()
	f()
}

// unlocked lets others work while f waits for them.
func (w *neighbourhood) unlocked(f func()) {
	w.tellIMDS()
	w.lock <- struct{}{}
	defer func() { <-w.lock }()
	f()
}

// tellIMDS has the metadata say what is plugged in now. The daemon asks beside its Sync, and
// one that was told to stop does not wait for the answer.
func (w *neighbourhood) tellIMDS() {
	var all []vpc.ENI
	for e := range w.slots {
		if s := &w.slots[e]; s.plugged {
			all = append(all, vpc.ENI{
				ID: s.id(), MAC: s.mac(), DeviceIndex: e, Primary: e == 0, SubnetID: "subnet-00000000",
				SubnetCIDR: netip.MustParsePrefix("10.0.0.0/16"), Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/16")},
			})
		}
	}
	w.imds.Store(&all)
}

func (w *neighbourhood) note(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf("%-10s ", time.Since(w.began).Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

// wrong notes a fault if it is the first.
func (w *neighbourhood) wrong(format string, args ...any) {
	if w.fault == "" {
		w.note("WRONG")
		w.fault = fmt.Sprintf(format, args...)
	}
}

func (w *neighbourhood) failed() (failed bool) {
	w.do(func() { failed = w.fault != "" })
	return failed || w.t.Failed()
}

// woken tells the daemon that something has happened of which the API server or
// the kernel tells it, touched that a file has changed.
func (w *neighbourhood) woken() {
	if w.wake != nil {
		signal(w.wake)
	}
}

func (w *neighbourhood) touched() {
	if !w.deaf {
		w.woken()
	}
}

// edited notes that people have written the config.
func (w *neighbourhood) edited(content []byte) {
	if json.Valid(content) { // else the daemon makes up for it by what was there
		w.theirs = content
	}
	w.changed()
	w.touched()
}

// changed notes since when the config is as it is.
func (w *neighbourhood) changed() {
	if now := w.content(); !bytes.Equal(now, w.last) {
		w.last, w.contentSince = now, time.Now()
	}
	w.configSeen(w.path("pcidp", "config.json"))
}

// configSeen is the file as the kernel would tell of it at the times of this
// neighbourhood: each change time is the moment at which it was first seen, which
// changed sees to.
func (w *neighbourhood) configSeen(path string) nodestate.SeenConfig {
	inode, changed := w.changeTime(path)
	_, folder := w.changeTime(filepath.Dir(path))
	seen := nodestate.SeenConfig{Inode: inode, Changed: changed, Folder: folder, Since: changed}
	if folder.After(changed) {
		seen.Since = folder
	}
	return seen
}

func (w *neighbourhood) changeTime(path string) (inode uint64, changed time.Time) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, time.Time{}
	}
	w.must(err)
	st := info.Sys().(*syscall.Stat_t) //nolint:errcheck,forcetypeassert // this is Linux
	if _, seen := w.changeTimes[st.Ctim]; !seen {
		w.changeTimes[st.Ctim] = time.Now().UTC().Round(0)
	}
	return st.Ino, w.changeTimes[st.Ctim]
}

// looked is called after each Sync.
func (w *neighbourhood) looked() {
	before := w.last
	w.changed()
	if !bytes.Equal(before, w.last) {
		w.note("config is now %s", oneLine(w.last))
	}
}

// snapshot is the NodeENIs as the API server has them.
func (w *neighbourhood) snapshot() inventory.Snapshot {
	snap := inventory.Snapshot{Complete: true, Lookup: inventory.LookupNone}
	if w.guarded {
		snap.Lookup = inventory.LookupGuarded
	}
	for e := range w.declared {
		d := w.declared[e]
		if !d.there {
			continue
		}
		o := v1alpha1.NodeENI{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", e), UID: types.UID(fmt.Sprint(e))}}
		o.Spec.SubnetID, o.Spec.DeviceIndex, o.Spec.DPDKResourceName = "subnet-00000000", e, d.resource
		if s := &w.slots[e]; s.plugged && !w.guarded {
			o.Status.Attachments = []v1alpha1.ENIAttachment{{NodeID: "node-a", ENIID: s.id().String(), DeviceIndex: e}}
		}
		snap.Objects = append(snap.Objects, o)
	}
	return snap
}

// neighbourKernel is the node's kernel, and IMDS.
type neighbourKernel struct{ w *neighbourhood }

// ENIs implements reconcile.Metadata.
func (k *neighbourKernel) ENIs(context.Context) ([]vpc.ENI, error) {
	return slices.Clone(*k.w.imds.Load()), nil
}

func (k *neighbourKernel) PCIAddresses() ([]device.PCIAddress, error) {
	var all []device.PCIAddress
	for e := range k.w.slots {
		if k.w.slots[e].plugged {
			all = append(all, seqPCI(e))
		}
	}
	return all, nil
}

func (k *neighbourKernel) PCI(addr device.PCIAddress) (sysfs.PCIFunction, error) {
	for e := range k.w.slots {
		if s := &k.w.slots[e]; s.plugged && seqPCI(e) == addr {
			return sysfs.PCIFunction{Address: addr, Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena", IOMMUGroup: -1, NUMANode: -1, Instance: s.instance}, nil
		}
	}
	return sysfs.PCIFunction{}, os.ErrNotExist
}

func (k *neighbourKernel) Links() ([]link.Link, error) {
	var all []link.Link
	for e := range k.w.slots {
		if s := &k.w.slots[e]; s.plugged && s.rec == nil {
			all = append(all, link.Link{Index: 10 + e, Name: fmt.Sprintf("eth%d", e), MAC: s.mac(), MTU: 1500, Parent: seqPCI(e), Up: s.up})
		}
	}
	return all, nil
}

func (k *neighbourKernel) SetUp(index int) error {
	s := &k.w.slots[index-10]
	if s.vpc && s.marked {
		k.w.wrong("the link of %s is set up, which the VPC CNI uses", s.id())
	}
	s.up = true
	return nil
}

func (k *neighbourKernel) SetDown(int) error {
	return fmt.Errorf("no link is to be taken from the kernel")
}
func (k *neighbourKernel) SetMTU(int, int) error { return fmt.Errorf("no MTU was asked for") }
func (k *neighbourKernel) Clutter() (routing.Clutter, error) {
	return routing.Clutter{Defaults: routing.DefaultRoutes{{Index: 10, Family: syscall.AF_INET}}}, nil
}
func (k *neighbourKernel) ClearRoutes(int) (routing.Cleared, error) {
	return routing.Cleared{}, errors.New("there are none")
}
func (k *neighbourKernel) ClearAddress(int, netip.Prefix) error { return errors.New("there is none") }
func (k *neighbourKernel) GiveBack(link.Functions, link.Link, nodestate.AttachedDevice) error {
	return nil
}

func (k *neighbourKernel) Ethtool(string) (nodestate.Settings, error) {
	return nodestate.Settings{}, nil
}

func (k *neighbourKernel) ForeignUse() (map[int]string, error) {
	foreign := map[int]string{}
	for e := range k.w.slots {
		if s := &k.w.slots[e]; s.plugged && s.vpc && s.marked {
			foreign[10+e] = "table 3 has its routes"
		}
	}
	return foreign, nil
}

func (k *neighbourKernel) EnsureSources([]routing.Source) (bool, error) { return false, nil }

// devices is the machine as the device plugin sees it.
func (w *neighbourhood) devices() []dpmodel.Device {
	var all []dpmodel.Device
	for e := range w.slots {
		if w.slots[e].plugged {
			all = append(all, dpmodel.Device{Address: seqPCI(e), Vendor: 0x1d0f, Device: 0xec20, Class: 0x020000, Driver: "ena", VFID: -1, DefaultRoute: e == 0})
		}
	}
	return all
}

// devicePluginModel is the device plugin's DaemonSet with its pod on this node.
type devicePluginModel struct {
	w         *neighbourhood
	installed bool
	// prefixed: it was given a resource prefix of its own.
	prefixed bool
	pod      *sriovdpPod
	pods     int
}

// sriovdpPod is one pod. It reads the config soon after its container has
// started, exits where the plugin would, and is started again by the kubelet.
type sriovdpPod struct {
	uid string
	// started is when its container has, zero before; crashed while it waits to be
	// started again.
	started time.Time
	crashed bool
	crashes int
	read    []byte
	runs    bool
	// ending is when its deletion began.
	ending time.Time
	// next is the timer of its next change.
	next *time.Timer
}

// prefix is its -resource-prefix.
func (m *devicePluginModel) prefix() string {
	if m.prefixed {
		return "example.org"
	}
	return "intel.com"
}

func (m *devicePluginModel) args() []string {
	if m.prefixed {
		return []string{"--resource-prefix=example.org"}
	}
	return nil
}

// judge reads content as the device plugin would.
func (m *devicePluginModel) judge(content []byte) dpmodel.Verdict {
	return dpmodel.Judge(content, m.w.devices(), m.args()...)
}

func (m *devicePluginModel) install() {
	m.installed, m.prefixed = true, m.w.rnd.IntN(4) == 0
	m.schedule()
}

func (m *devicePluginModel) uninstall() {
	m.installed = false
	m.end()
}

// schedule makes a pod, as the DaemonSet's controller does.
func (m *devicePluginModel) schedule() {
	if !m.installed || m.pod != nil {
		return
	}
	m.pods++
	p := &sriovdpPod{uid: fmt.Sprintf("dp-%d", m.pods)}
	m.pod = p
	m.later(p, 500*time.Millisecond+m.delay(3*time.Second), func() { m.run(p) })
}

func (m *devicePluginModel) delay(most time.Duration) time.Duration {
	return time.Duration(m.w.rnd.Int64N(int64(most)))
}

// later has f called unless the pod is another by then.
func (m *devicePluginModel) later(p *sriovdpPod, d time.Duration, f func()) {
	p.next = time.AfterFunc(d, func() {
		m.w.do(func() {
			if m.pod == p {
				f()
			}
		})
	})
}

// run starts the container, which reads its config soon.
func (m *devicePluginModel) run(p *sriovdpPod) {
	p.started, p.crashed, p.read, p.runs = time.Now(), false, nil, false
	m.later(p, m.delay(900*time.Millisecond), func() {
		p.read = append([]byte{}, m.w.content()...)
		p.runs = m.judge(p.read).Runs()
		m.w.note("device plugin %s has read the config, runs: %t", p.uid, p.runs)
		if !p.runs {
			p.crashed, p.crashes = true, p.crashes+1
			m.later(p, min(10*time.Second<<min(p.crashes-1, 5), 5*time.Minute), func() { m.run(p) })
		}
	})
}

// end lets the pod go at once.
func (m *devicePluginModel) end() {
	if m.pod != nil && m.pod.next != nil {
		m.pod.next.Stop()
	}
	m.pod = nil
}

// remove deletes the pod as the API server and the kubelet do.
func (m *devicePluginModel) remove() {
	p := m.pod
	if !p.ending.IsZero() {
		return
	}
	p.ending = time.Now()
	p.next.Stop()
	m.later(p, m.delay(2*time.Second), func() {
		m.end()
		time.AfterFunc(m.delay(time.Second), func() { m.w.do(m.schedule) })
	})
}

// happen is something that the daemon has no part in.
func (m *devicePluginModel) happen(rnd *rand.Rand) string {
	p := m.pod
	switch n := rnd.IntN(4); {
	case !m.installed:
		m.install()
		m.w.woken()
		return "device plugin installed"
	case p == nil || !p.ending.IsZero():
		return "nothing"
	case n == 0:
		m.installed = false
		m.remove()
		return "device plugin removed"
	case n == 1:
		m.remove()
		return "device plugin's pod deleted"
	case p.read == nil:
		return "nothing"
	}
	p.next.Stop()
	m.run(p)
	return "device plugin's container restarts"
}

func (m *devicePluginModel) heal() {
	if !m.installed {
		m.install()
		m.w.woken()
	}
}

// kubelet is the podresources API.
func (m *devicePluginModel) kubelet(context.Context) (known inventory.Kubelet, err error) {
	m.w.do(func() {
		known.Allocatable = map[device.ResourceName][]device.PCIAddress{}
		known.Allocated = map[device.PCIAddress][]inventory.Container{}
		if p := m.pod; p != nil && p.runs {
			for name, offered := range m.judge(p.read).Resources {
				known.Allocatable[device.ResourceName(name)] = offered
			}
		}
	})
	return known, nil
}

// object is the pod as the API server has it.
func (m *devicePluginModel) object() corev1.Pod {
	p, controller := m.pod, true
	o := corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "kube-system", Name: p.uid, UID: types.UID(p.uid), Labels: map[string]string{"app": "sriovdp"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "sriovdp", UID: "ds", Controller: &controller}},
		},
		Spec: corev1.PodSpec{
			NodeName:   "node-a",
			Volumes:    []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: m.w.path("pcidp")}}}},
			Containers: []corev1.Container{{Name: "dp", Args: append([]string{"--log-level=10"}, m.args()...), VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/etc/pcidp"}}}},
		},
	}
	if !p.ending.IsZero() {
		at := metav1.NewTime(p.ending)
		o.DeletionTimestamp = &at
	}
	state, ready := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}, corev1.ConditionFalse
	last := corev1.ContainerState{}
	started := metav1.NewTime(p.started.Truncate(time.Second))
	switch {
	case p.crashed:
		state.Waiting.Reason = "CrashLoopBackOff"
		last.Terminated = &corev1.ContainerStateTerminated{StartedAt: started}
	case !p.started.IsZero():
		state, ready = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}}, corev1.ConditionTrue
	}
	o.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "dp", State: state, LastTerminationState: last}}
	o.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	return o
}

func podNamespace(e int) string { return fmt.Sprintf("ns%d", 1+e%2) }

// client speaks to the API server of this neighbourhood.
func (w *neighbourhood) client() *client.Client {
	config := &rest.Config{Host: "http://api", QPS: -1, Transport: apiTransport{w}}
	c, err := client.New(config, "node-a")
	w.must(err)
	c.Core = fakekube.Core(w.t, config)
	return c
}

type apiTransport struct{ w *neighbourhood }

// RoundTrip implements http.RoundTripper.
func (a apiTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := httptest.NewRecorder()
	down := false
	var watch io.ReadCloser
	a.w.do(func() {
		if down = a.w.down; down {
			return
		}
		if q := r.URL.Query(); q.Get("watch") == "true" && q.Get("sendInitialEvents") == "" {
			a.w.requests++
			body := &watchBody{done: r.Context().Done(), cut: a.w.cut}
			if from, _ := strconv.Atoi(q.Get("resourceVersion")); from < a.w.stateDeleted { // it was there then
				body.pending = []byte(fakekube.Event("DELETED", `{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":{"name":"node-a","resourceVersion":"`+strconv.Itoa(a.w.stateDeleted)+`"}}`) + "\n")
			}
			watch = body
			return
		}
		a.w.serve(answer, r)
	})
	if watch != nil {
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: watch, Request: r}, nil
	}
	if down {
		return nil, fmt.Errorf("connection refused")
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return answer.Result(), nil
}

// watchBody is a watch with one event or none, until its end.
type watchBody struct {
	pending   []byte
	done, cut <-chan struct{}
}

// Read implements io.Reader.
func (b *watchBody) Read(p []byte) (int, error) {
	if len(b.pending) > 0 {
		n := copy(p, b.pending)
		b.pending = b.pending[n:]
		return n, nil
	}
	select {
	case <-b.done:
	case <-b.cut:
	}
	return 0, io.EOF
}

// Close implements io.Closer.
func (b *watchBody) Close() error { return nil }

// cutWatches ends all watches, as the API server's end does.
func (w *neighbourhood) cutWatches() {
	close(w.cut)
	w.cut = make(chan struct{})
}

// serve answers one request.
func (w *neighbourhood) serve(answer http.ResponseWriter, r *http.Request) {
	w.requests++
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			w.wrong("read the body of %s: %v", r.URL, err)
		}
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case strings.HasPrefix(r.URL.Path, statesPath):
		w.serveState(answer, r, body)
	case len(parts) >= 5 && parts[4] == "events":
		w.serveEvent(answer, parts[3], body)
	case len(parts) == 5 && parts[4] == "pods" && r.Method == http.MethodGet:
		list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
		if w.plugin.pod != nil && parts[3] == "kube-system" {
			list.Items = append(list.Items, w.plugin.object())
		}
		fakekube.Respond(answer, http.StatusOK, list)
	case len(parts) == 6 && parts[4] == "pods" && r.Method == http.MethodDelete:
		w.serveDelete(answer, parts[5], body)
	default:
		w.wrong("request %s %s is not known", r.Method, r.URL)
		fakekube.Refuse(answer, http.StatusTeapot)
	}
}

func (w *neighbourhood) serveDelete(answer http.ResponseWriter, name string, body []byte) {
	var options metav1.DeleteOptions
	if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, &options); err != nil {
		w.wrong("body of DELETE %s: %v", name, err)
	}
	p := w.plugin.pod
	switch {
	case p == nil || p.uid != name:
		fakekube.Refuse(answer, http.StatusNotFound)
	case options.Preconditions == nil || *options.Preconditions.UID != types.UID(p.uid):
		fakekube.Refuse(answer, http.StatusConflict)
	default:
		w.note("the daemon deletes %s", name)
		w.deleted(p)
		o := w.plugin.object()
		w.plugin.remove()
		fakekube.Respond(answer, http.StatusOK, o)
	}
}

func (w *neighbourhood) serveEvent(answer http.ResponseWriter, namespace string, body []byte) {
	var e corev1.Event
	if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, &e); err != nil {
		w.wrong("Event %q: %v", body, err)
	}
	if w.refused || w.terminates(namespace) {
		fakekube.Refuse(answer, http.StatusForbidden)
		return
	}
	w.events = append(w.events, e.InvolvedObject.Kind+" "+e.InvolvedObject.Name+" "+e.Reason)
	fakekube.Respond(answer, http.StatusCreated, e)
}

func (w *neighbourhood) terminates(namespace string) bool {
	n := slices.Index([]string{"", "ns1", "ns2"}, namespace)
	return n > 0 && w.terminating[n]
}

// serveState is the resource of ENINodeStates.
func (w *neighbourhood) serveState(answer http.ResponseWriter, r *http.Request, body []byte) {
	switch {
	case r.URL.Query().Get("watch") == "true": // with sendInitialEvents, which not every server can
		fakekube.Refuse(answer, http.StatusUnprocessableEntity)
		return
	case r.Method == http.MethodGet && r.URL.Path == statesPath:
		list := metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadataList"}, ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(w.version)}}
		if w.state != nil {
			list.Items = append(list.Items, metav1.PartialObjectMetadata{ObjectMeta: w.state.ObjectMeta})
		}
		fakekube.Respond(answer, http.StatusOK, list)
		return
	case r.Method == http.MethodGet && w.state == nil:
		fakekube.Refuse(answer, http.StatusNotFound)
		return
	case r.Method == http.MethodPost && w.state != nil:
		fakekube.Refuse(answer, http.StatusConflict)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodPost && w.state == nil:
		fakekube.Refuse(answer, http.StatusNotFound)
		return
	case r.Method != http.MethodGet:
		var o v1alpha1.ENINodeState
		w.must(json.Unmarshal(body, &o))
		if w.state != nil {
			o.ObjectMeta = w.state.ObjectMeta
		}
		w.state = &o
	}
	fakekube.Respond(answer, http.StatusOK, w.state)
}

func seqENI(e int) device.ENIID      { return device.ENIID(fmt.Sprintf("eni-%017x", e)) }
func seqMAC(e int) device.MAC        { return device.MAC(fmt.Sprintf("02:00:00:00:00:%02x", e)) }
func seqPCI(e int) device.PCIAddress { return device.PCIAddress(fmt.Sprintf("0000:00:%02x.0", e)) }
