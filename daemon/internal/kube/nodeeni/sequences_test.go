package nodeeni

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/client"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/pcidp"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/reconcile"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/dpmodel"
	"github.com/multi-eni/multi-eni-cni/test/fakekube"
)

var (
	seedFlag      = flag.Uint64("seed", 0, "seed of the first generated sequence; 0 stands for one by the clock")
	sequencesFlag = flag.Int("sequences", defaultSequences, "how many sequences to generate")
)

// TestSequences: whatever NodeENI events, daemon restarts and API faults come, the config ends as the present NodeENIs imply,
// is never empty or invalid, and does not change while the NodeENIs are unknown.
func TestSequences(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("%d sequences, of which the first has -seed=%d", *sequencesFlag, seed)
	root := t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "multi-eni"); err == nil { // the daemon syncs its files to the disk
		t.Cleanup(func() { os.RemoveAll(shm) }) //nolint:errcheck // it is a test's
		root = shm
	}
	var done atomic.Int64
	var wg sync.WaitGroup
	for w := range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := done.Add(1) - 1; i < int64(*sequencesFlag) && !t.Failed(); i = done.Add(1) - 1 {
				dir := filepath.Join(root, fmt.Sprintf("%d-%d", w, i))
				if story := runSequence(seed+uint64(i), dir); story != "" {
					t.Errorf("go test -run TestSequences -sequences=1 -seed=%d\n%s", seed+uint64(i), story)
				}
				os.RemoveAll(dir) //nolint:errcheck,gosec // the root is removed in the end
			}
		})
	}
	wg.Wait()
}

type cluster struct {
	objects map[string]clusterENI
	labels  map[string]string
	node    bool
	uid     int
	version int
}

type clusterENI struct {
	uid      int
	selector string // of the label ng; "" for none
	resource string
	enis     []int // attached to this node
	foreign  int   // a version of another node's entry
	deleting bool
	broken   bool // its spec cannot be read
}

func (c clusterENI) item(name string, version int) *item {
	var b strings.Builder
	fmt.Fprintf(&b, `{"metadata":{"name":%q,"uid":"u%d","resourceVersion":"%d"`, name, c.uid, version)
	if c.deleting {
		b.WriteString(`,"deletionTimestamp":"2026-01-01T00:00:00Z"`)
	}
	fmt.Fprintf(&b, `},"spec":{"nodeSelector":{`)
	if c.selector != "" {
		fmt.Fprintf(&b, `"ng":%q`, c.selector)
	}
	fmt.Fprintf(&b, `},"dpdkResourceName":%q`, c.resource)
	if c.broken {
		b.WriteString(`,"mtu":"big"`)
	}
	fmt.Fprintf(&b, `},"status":{"attachments":[{"nodeID":"node-b","eniID":"eni-%017x"}`, 1000+c.foreign)
	for _, e := range c.enis {
		fmt.Fprintf(&b, `,{"nodeID":"node-a","eniID":%q}`, seqENI(e))
	}
	b.WriteString(`]}}`)
	it, err := trimmer{node: "node-a"}.object(newReader(strings.NewReader(b.String()), 0))
	if err != nil {
		panic(err) // the text above
	}
	return it
}

// The n-th of three NodeENIs may have the ENIs n+1 and n+4 of this node; ENI 0 is the primary one.
var seqNames = [3]string{"a", "b", "c"}

const seqENIs = 6

// runSequence returns "", or the first failure and the steps before it.
func runSequence(seed uint64, dir string) string {
	s := &sequence{
		rnd: rand.New(rand.NewPCG(seed, 2)), dir: dir, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), up: true,
		truth: cluster{objects: map[string]clusterENI{}, labels: map[string]string{"ng": "x"}, node: true}, seen: map[string][]int{},
	}
	if s.play(); s.fault == "" {
		return ""
	}
	content, _ := os.ReadFile(filepath.Join(dir, "config.json"))
	return fmt.Sprintf("%s\nafter: %s\nconfig: %s\nNodeENIs: %+v", s.fault, strings.Join(s.story, "; "), content, s.truth.objects)
}

func (s *sequence) play() {
	s.restart()
	for range 4 + s.rnd.IntN(12) {
		s.happen()
		if s.rnd.IntN(3) > 0 {
			s.sync()
		}
		if s.fault != "" {
			return
		}
	}
	s.end()
}

func (s *sequence) failed(format string, args ...any) {
	if s.fault == "" {
		s.fault = fmt.Sprintf(format, args...)
	}
}

func (s *sequence) note(format string, args ...any) {
	s.story = append(s.story, fmt.Sprintf(format, args...))
}

func (s *sequence) happen() {
	i := s.rnd.IntN(len(seqNames))
	switch n := s.rnd.IntN(20); {
	case n < 9:
		s.change(seqNames[i], i)
	case n < 11:
		s.delete(seqNames[i])
	case n < 12:
		s.changeNode(func(c *cluster) { c.labels = map[string]string{"ng": []string{"x", "y", ""}[s.rnd.IntN(3)]} })
	case n < 13:
		s.changeNode(func(c *cluster) {
			if c.node = !c.node; c.node {
				c.uid++
			}
		})
	case n < 16:
		s.up = !s.up
		if s.note("API up: %t", s.up); s.up {
			s.relist()
		} else {
			s.fail()
		}
	case n < 17 && s.up:
		s.note("history forgotten")
		s.relist()
	case n < 18:
		s.now = s.now.Add(time.Duration(s.rnd.IntN(90)) * time.Second)
		s.note("time passes")
	default:
		s.restart()
	}
}

func (s *sequence) change(name string, i int) {
	o, there := s.truth.objects[name]
	if !there {
		s.truth.uid++
		o = clusterENI{uid: s.truth.uid, resource: "intel.com/a"}
	}
	switch s.rnd.IntN(7) {
	case 0:
		o.selector = []string{"", "x", "y"}[s.rnd.IntN(3)]
	case 1:
		o.resource = []string{"", "intel.com/a", "intel.com/b", "intel.com/c", "no name"}[s.rnd.IntN(5)]
	case 2, 3:
		mine := []int{1 + i, 4 + i}
		o.enis = [][]int{nil, mine[:1], mine[1:], mine}[s.rnd.IntN(4)]
	case 4:
		o.foreign++
	case 5:
		o.deleting = o.deleting || there && s.rnd.IntN(2) == 0
	case 6:
		o.broken = there && !o.broken
	}
	s.note("%s is %+v", name, o)
	s.truth.objects[name] = o
	if s.up && s.told != nil {
		s.learn(name, o)
		s.truth.version++
		store := nodeENIStore{s.source}
		if there {
			store.Update(o.item(name, s.truth.version)) //nolint:errcheck,gosec // an item is never refused
		} else {
			store.Add(o.item(name, s.truth.version)) //nolint:errcheck,gosec // an item is never refused
		}
	}
}

// learn notes a version that the source got. An unreadable version leaves the last readable one.
func (s *sequence) learn(name string, o clusterENI) {
	before, ok := s.told[name]
	if o.broken && !o.deleting {
		known := ok && before.uid == o.uid
		selector := o.selector
		if o = before; !known {
			o = clusterENI{}
		}
		o.selector, o.broken = selector, !known || before.broken
	} else {
		o.broken = false
	}
	s.told[name] = o
}

func (s *sequence) delete(name string) {
	o, there := s.truth.objects[name]
	if !there {
		return
	}
	s.note("%s deleted", name)
	delete(s.truth.objects, name)
	if s.up && s.told != nil {
		delete(s.told, name)
		nodeENIStore{s.source}.Delete(o.item(name, s.truth.version)) //nolint:errcheck,gosec // an item is never refused
	}
}

func (s *sequence) changeNode(f func(*cluster)) {
	f(&s.truth)
	s.note("Node there: %t, labels %v", s.truth.node, s.truth.labels)
	if s.up {
		s.tellNode()
	}
}

func (s *sequence) tellNode() {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a", UID: types.UID(fmt.Sprint(s.truth.uid)), Labels: s.truth.labels}}
	store, all := nodeStore{s.source}, []any{}
	switch {
	case s.truth.node && s.rnd.IntN(2) == 0:
		store.Update(node) //nolint:errcheck,gosec // a Node is never refused
	case !s.truth.node && s.source.nodeRead && s.rnd.IntN(2) == 0:
		store.Delete(node) //nolint:errcheck,gosec // a Node is never refused
	case s.truth.node:
		all = append(all, node)
		fallthrough
	default:
		store.Replace(all, "1") //nolint:errcheck,gosec // a Node is never refused
	}
	copied := s.truth
	s.toldNode = &copied
}

// relist tells the source everything anew, in the random order in which the two watches return.
func (s *sequence) relist() {
	s.note("read anew")
	tell := []func(){s.tellNode, s.tellNodeENIs}
	first := s.rnd.IntN(2)
	tell[first]()
	if s.rnd.IntN(4) == 0 {
		s.sync()
	}
	tell[1-first]()
	s.source.health.report(partNodeENIs, nil)
	s.source.health.report(partNodes, nil)
}

func (s *sequence) tellNodeENIs() {
	before := s.told
	s.told = map[string]clusterENI{}
	var all []any
	for _, name := range slices.Sorted(maps.Keys(s.truth.objects)) {
		if b, ok := before[name]; ok {
			s.told[name] = b
		}
		s.learn(name, s.truth.objects[name])
		all = append(all, s.truth.objects[name].item(name, s.truth.version))
	}
	nodeENIStore{s.source}.Replace(all, "1") //nolint:errcheck,gosec // an item is never refused
}

func (s *sequence) fail() {
	faults := []error{client.ErrNoAnswer, answer(401), answer(403), answer(404), answer(410)}
	err := faults[s.rnd.IntN(len(faults))]
	s.source.health.report(partNodeENIs, err)
	s.source.health.report(partNodes, err)
}

func (s *sequence) judge(content []byte) {
	if v := dpmodel.Judge(content, s.devices()); !v.Runs() {
		s.failed("the device plugin would not run: %+v, on the new config:\n%s", v, content)
	}
}

// restart ends any running daemon, and starts another on its files.
func (s *sequence) restart() {
	s.note("daemon starts")
	client := &client.Client{NodeName: "node-a"}
	clock := func() time.Time { return s.now }
	s.source = New(client, Options{Lookup: inventory.LookupNone, Now: clock, Log: fakekube.Quiet()})
	s.told, s.toldNode = nil, nil
	r, err := reconcile.New(reconcile.Options{
		NodeName: "node-a", BootID: "boot", InventoryPath: filepath.Join(s.dir, "inventory.json"), StateDir: filepath.Join(s.dir, "state"),
		Attachments: nodestate.AttachmentDir(filepath.Join(s.dir, "records")), NodeENIs: s.source, Metadata: &s.machine, PCI: &s.machine, Host: &s.machine,
		Config: &pcidp.File{Path: filepath.Join(s.dir, "config.json"), Now: clock, Written: s.judge}, Wake: func() {}, Now: clock, Log: fakekube.Quiet(),
	})
	if err != nil {
		s.failed("the daemon does not start: %v", err)
		return
	}
	s.daemon = r
	if !s.up {
		s.fail()
		return
	}
	if s.rnd.IntN(2) == 0 {
		s.sync() // before anything was read
	}
	s.relist()
}
