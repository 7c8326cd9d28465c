package fleet

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/pkg/apis/networking/v1alpha1"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

// world is a server with some objects. Its watch and its answers to own writes arrive later than they are sent.
type world struct {
	t       *testing.T
	rnd     *rand.Rand
	now     time.Time
	version int
	// objects are the values by name; uids change when an object is made anew.
	objects map[string]string
	events  []func()
	answers []func()
	store   *store[Node]
	news    map[string]bool
	// told are the values that a listener has read.
	told map[string]string
}

func (w *world) raw(name, value string, version int) []byte {
	return fmt.Appendf(nil, `{"metadata":{"name":%q,"uid":"u","resourceVersion":"%d"},"spec":{"providerID":%q}}`, name, version, value)
}

func (w *world) item(name, value string, version int) *item[Node] {
	i, err := listWatch[Node]{read: readNode}.item(w.raw(name, value, version))
	if err != nil {
		w.t.Fatal(err)
	}
	return i
}

func (w *world) change(name string, own bool) {
	w.version++
	value, version := fmt.Sprint("v", w.version), w.version
	w.objects[name] = value
	w.events = append(w.events, func() { _ = w.store.Update(w.item(name, value, version)) })
	if own {
		w.answers = append(w.answers, func() { _ = w.store.answer(w.raw(name, value, version)) })
	}
}

func (w *world) remove(name string) {
	if _, ok := w.objects[name]; !ok {
		return
	}
	w.version++
	version := w.version
	delete(w.objects, name)
	w.events = append(w.events, func() { _ = w.store.Delete(w.item(name, "", version)) })
}

// relist replaces the events on their way by a list.
func (w *world) relist() {
	var all []any
	for name, value := range w.objects {
		all = append(all, w.item(name, value, w.version))
	}
	w.events = nil
	_ = w.store.Replace(all, fmt.Sprint(w.version))
}

func (w *world) deliver(from *[]func(), n int) {
	f := (*from)[n]
	*from = append((*from)[:n:n], (*from)[n+1:]...)
	f()
}

// read is a listener that looks at each object that it was told of.
func (w *world) read() {
	for name := range w.news {
		delete(w.told, name)
		if o := w.store.get(name); o != nil {
			w.told[name] = o.Is.ProviderID
		}
	}
	clear(w.news)
}

// TestStoreFollows makes random runs. When everything has arrived, the store and a listener know what the server has. An own write counts from
// its answer on: no older news undoes it.
func TestStoreFollows(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for n := range uint64(3000) {
		w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, n)), now: time.Unix(1e9, 0), objects: map[string]string{}, news: map[string]bool{},
			told: map[string]string{}}
		w.store = newStore("Node", Options{Now: func() time.Time { return w.now }, Log: fakekube.Quiet()}, readNode, func(name string) { w.news[name] = true })
		w.relist()
		w.run()
		for len(w.answers) > 0 {
			w.deliver(&w.answers, 0)
		}
		for len(w.events) > 0 {
			w.deliver(&w.events, 0)
		}
		w.read()
		got := map[string]string{}
		for name, o := range w.store.all() {
			got[name] = o.Is.ProviderID
		}
		if fmt.Sprint(got) != fmt.Sprint(w.objects) || fmt.Sprint(w.told) != fmt.Sprint(w.objects) {
			t.Fatalf("run %d: the store has %v and told %v, want %v", n, got, w.told, w.objects)
		}
	}
}

func (w *world) run() {
	for range 25 {
		name := string(rune('a' + w.rnd.IntN(3)))
		switch w.rnd.IntN(7) {
		case 0:
			w.change(name, false)
		case 1, 2:
			w.change(name, true)
		case 3:
			w.remove(name)
		case 4:
			if len(w.events) > 0 {
				w.deliver(&w.events, 0)
			}
		case 5:
			if len(w.answers) > 0 {
				w.deliver(&w.answers, w.rnd.IntN(len(w.answers)))
			}
			w.read()
		case 6:
			if w.rnd.IntN(4) == 0 {
				w.relist()
			}
			w.now = w.now.Add(time.Second)
		}
	}
}

// TestOwnWriteCounts: news from before an own write do not undo it.
func TestOwnWriteCounts(t *testing.T) {
	s := newStore("Node", Options{Now: time.Now, Log: fakekube.Quiet()}, readNode, func(string) {})
	w := &world{t: t}
	_ = s.Replace([]any{w.item("a", "old", 5)}, "5")
	if err := s.answer(w.raw("a", "own", 8)); err != nil {
		t.Fatal(err)
	}
	_ = s.Update(w.item("a", "between", 7))
	if got := s.get("a").Is.ProviderID; got != "own" {
		t.Errorf("the object is %q", got)
	}
	_ = s.Update(w.item("a", "later", 9))
	_ = s.answer(w.raw("a", "own", 8)) // arrives late
	if got := s.get("a").Is.ProviderID; got != "later" {
		t.Errorf("the object is %q", got)
	}
}

// TestRestoredBackup: after etcd was restored from a backup resource versions are smaller; nothing stays as it was before.
func TestRestoredBackup(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := newStore("Node", Options{Now: func() time.Time { return now }, Log: fakekube.Quiet()}, readNode, func(string) {})
	w := &world{t: t}
	_ = s.Replace([]any{w.item("a", "old", 50)}, "50")
	_ = s.answer(w.raw("a", "own", 80))
	now = now.Add(aheadFor)
	_ = s.Replace([]any{w.item("a", "restored", 5)}, "5")
	if got := s.get("a").Is.ProviderID; got != "restored" {
		t.Errorf("the object is %q", got)
	}
}

// Figures of a large cluster.
const (
	manyNodes   = 5000
	nodeSlots   = 3
	memoryBound = 60 << 20
)

// TestMemory: the objects of 5,000 nodes with 3 ENIs each take at most 60 MB.
func TestMemory(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector takes memory of its own")
	}
	before := liveHeap()
	o := Options{Now: time.Now, Log: fakekube.Quiet()}
	nodes := newStore("Node", o, readNode, func(string) {})
	states := newStore("ENINodeState", o, readState, func(string) {})
	nodeENIs := newStore("NodeENI", o, readNodeENI, func(string) {})
	fill(t, nodes, manyNodes, largeNode)
	fill(t, states, manyNodes, largeState)
	fill(t, nodeENIs, nodeSlots, largeNodeENI)
	used := liveHeap() - before
	t.Logf("%d nodes with %d ENIs: %.1f MB", manyNodes, nodeSlots, float64(used)/(1<<20))
	if used > memoryBound {
		t.Errorf("%d octets", used)
	}
	runtime.KeepAlive([]any{nodes, states, nodeENIs})
}

func liveHeap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func fill[T any](t *testing.T, s *store[T], count int, raw func(n int) string) {
	t.Helper()
	all := make([]any, count)
	for n := range count {
		i, err := listWatch[T]{read: s.read}.item([]byte(raw(n)))
		if err != nil || !i.object.Known {
			t.Fatal(err, i)
		}
		all[n] = i
	}
	if err := s.Replace(all, "1"); err != nil {
		t.Fatal(err)
	}
}

func nodeName(n int) string {
	return fmt.Sprintf("ip-10-0-%d-%d.eu-central-1.compute.internal", n/256, n%256)
}

// largeNode has the labels, annotations, images and managed fields that a node of EKS has.
func largeNode(n int) string {
	var labels strings.Builder
	for i := range 25 {
		fmt.Fprintf(&labels, `"topology.kubernetes.io/label-%d":"value-%d",`, i, i)
	}
	images := strings.Repeat(`{"names":["registry.example/image@sha256:0123456789abcdef"],"sizeBytes":1234567},`, 25)
	return fmt.Sprintf(`{"metadata":{"name":%q,"uid":"00000000-0000-0000-0000-%012d","resourceVersion":"1%d",
		"labels":{%s"kubernetes.io/hostname":%q},"annotations":{"csi.volume.kubernetes.io/nodeid":"{\"ebs.csi.aws.com\":\"i-%017x\"}"},
		"managedFields":[{"manager":"kubelet","operation":"Update","fieldsV1":{"f:metadata":{%q:{}}}}]},
		"spec":{"providerID":"aws:///eu-central-1a/i-%017x"},
		"status":{"conditions":[{"type":"Ready","status":"True"}],"images":[%s]}}`,
		nodeName(n), n, n, labels.String(), nodeName(n), n, strings.Repeat("f:x", 100), n, strings.TrimSuffix(images, ","))
}

func largeState(n int) string {
	var spec, devices []string
	for i := range nodeSlots {
		spec = append(spec, fmt.Sprintf(`{"slot":"%016x","nodeENI":{"name":"nodeeni-%d","uid":"00000000-0000-0000-0000-%012d","generation":1},
			"instanceID":"i-%017x","subnetID":"subnet-%017x","subnetCIDR":"10.%d.0.0/16","eniID":"eni-%017x","attachmentID":"eni-attach-%017x",
			"mac":"02:00:00:00:%02x:%02x","addresses":["10.%d.0.1","10.%d.0.2","10.%d.0.3"],"networkCard":0,"deviceIndex":%d,"mtu":9001,"dpdkDriver":"vfio-pci",
			"resourceName":"intel.com/sriov_net_%d","wanted":"Attached","attempt":1,"request":"%064x","phase":"Ready"}`,
			n*3+i, i, i, n, i, i, n*3+i, n*3+i, i, n%256, i, i, i, i+1, i, n))
		devices = append(devices, fmt.Sprintf(`{"eniID":"eni-%017x","nodeENI":"nodeeni-%d","phase":"ready","mac":"02:00:00:00:00:00","deviceIndex":1,"networkCard":0,
			"addresses":["10.0.0.1/16"],"holders":["default/router-%d"]}`, n*3+i, i, n))
	}
	return fmt.Sprintf(`{"metadata":{"name":%q,"uid":"00000000-0000-0000-0001-%012d","resourceVersion":"2%d","generation":7,
		"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":%q,"uid":"00000000-0000-0000-0000-%012d"}]},
		"spec":{"protocol":1,"attachments":[%s]},"status":{"protocol":1,"problemCount":0,"devicesReady":"3/3","devices":[%s]}}`,
		nodeName(n), n, n, nodeName(n), n, strings.Join(spec, ","), strings.Join(devices, ","))
}

// largeNodeENI is attached on 500 nodes: its status has no more entries.
func largeNodeENI(n int) string {
	var entries []string
	for i := range 500 {
		entries = append(entries, fmt.Sprintf(`{"nodeID":%q,"instanceID":"i-%017x","eniID":"eni-%017x","attachmentID":"eni-attach-%017x",
			"subnetID":"subnet-%017x","subnetCIDR":"10.0.0.0/16","deviceIndex":1,"status":"attached","lastUpdated":"2026-01-02T03:04:05Z"}`, nodeName(i), i, i, i, n))
	}
	return fmt.Sprintf(`{"apiVersion":%q,"kind":"NodeENI","metadata":{"name":"nodeeni-%d","uid":"u-%d","resourceVersion":"3"},
		"spec":{"nodeSelector":{"ng":"multi-eni"},"subnetID":"subnet-%017x","deviceIndex":1},"status":{"attachments":[%s]}}`,
		v1alpha1.APIVersion, n, n, n, strings.Join(entries, ","))
}
