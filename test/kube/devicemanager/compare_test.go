// Package devicemanager compares test/kubeletmodel with the kubelet's real device manager, which bin/kube/devicemanager runs.
package devicemanager

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	model "github.com/multi-eni/multi-eni-cni/test/kubeletmodel"
	"github.com/multi-eni/multi-eni-cni/test/nstest"
)

var (
	seedFlag = flag.Uint64("seed", 1, "seed of the first generated sequence; 0 stands for one by the clock. "+
		"The real connections dial a socket anew that is served again, and the model's do not: a few seeds show that")
	sequencesFlag = flag.Int("sequences", 240, "how many sequences to generate")
)

// command and answer are the lines of the program's stdin and stdout.
type command struct {
	Op       string
	Socket   string   `json:",omitempty"`
	Resource string   `json:",omitempty"`
	Devices  []string `json:",omitempty"`
	On       bool     `json:",omitempty"`
	Pod      string   `json:",omitempty"`
	Number   int      `json:",omitempty"`
	Passed   time.Duration
}

func (c command) String() string {
	s, _ := json.Marshal(c) //nolint:errchkjson // it has plain fields
	return strings.ReplaceAll(string(s), `,"Passed":0`, "")
}

type answer struct {
	Error                 string
	Capacity, Allocatable map[string]int
	Devices               map[string][]string
	Held                  map[string]map[string]map[string][]string // of the active pods
	Picked                map[string]map[string]map[string][]string // of all pods; the model chooses as the real one did
}

// realManager is the real device manager.
type realManager struct {
	in  io.Writer
	out *bufio.Scanner
}

func startReal(t *testing.T) *realManager {
	t.Helper()
	path, err := nstest.Binary("kube/devicemanager")
	if err != nil {
		cannot(t, err)
	}
	cmd := nstest.Command(t.Context(), path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		cannot(t, nstest.Denied(err))
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); t.Failed() {
			t.Logf("%v %s", err, stderr.String())
		}
	})
	return &realManager{in: in, out: bufio.NewScanner(out)}
}

// cannot skips the test with the reason, or fails it with CI=true.
func cannot(t *testing.T, reason error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

func (r *realManager) do(t *testing.T, c command) answer {
	t.Helper()
	line, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(r.in, "%s\n", line); err != nil {
		t.Fatal(err)
	}
	if !r.out.Scan() {
		t.Fatalf("no answer to %v: %v", c, r.out.Err())
	}
	var a answer
	if err := json.Unmarshal(r.out.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// imitation is the model behind the same commands.
type imitation struct {
	o         model.Options
	k         *model.Kubelet
	sockets   model.Sockets
	plugins   map[string]*model.Plugin
	listeners map[string]*model.Listener
	pick      []string // the real choice of devices
}

func startModel(v model.Version) *imitation {
	m := &imitation{plugins: map[string]*model.Plugin{}, listeners: map[string]*model.Listener{}}
	m.o = model.Options{Version: v, Node: model.NewNode(), Dial: m.sockets.Dial, Pick: m.choose}
	m.k = model.Start(m.o)
	return m
}

func (m *imitation) choose(available []string, n int) []string {
	var out []string
	for _, id := range available {
		for _, p := range m.pick {
			if p == id {
				out = append(out, id)
			}
		}
	}
	if len(out) != n { // the real one has refused
		return available[:n]
	}
	return out
}

func (m *imitation) do(t *testing.T, c command) error {
	p, ctx := m.plugins[c.Socket], t.Context()
	switch c.Op {
	case "serve":
		p = model.NewPlugin(c.Resource, c.Socket, c.Devices...)
		p.Prefers = c.On
		m.plugins[c.Socket], m.listeners[c.Socket] = p, m.sockets.Listen(c.Socket, p)
	case "register":
		return m.k.Register(withTimeout(t, c.On), register(c))
	case "send":
		p.Send(c.Devices...)
	case "end":
		p.EndStreams()
	case "stop":
		m.listeners[c.Socket].Close()
	case "refuse":
		p.Refuse.Store(c.On)
	case "appear":
		m.k.SocketAdded(c.Socket)
		m.k.ReconcileRegistry(ctx)
	case "vanish":
		m.k.SocketRemoved(c.Socket)
		m.k.ReconcileRegistry(ctx)
	case "restart":
		m.restart(c.On)
	case "ready":
		m.k.LearnSources()
	case "pass":
		time.Sleep(c.Passed)
	case "admit", "run":
		container := m.container(c)
		if c.Op == "run" {
			return m.k.StartContainer(ctx, c.Pod, container)
		}
		return m.k.Admit(ctx, c.Pod, container)
	case "delete":
		m.o.Node.EndPod(c.Pod)
	default:
		t.Fatalf("no such op %q", c.Op)
	}
	return nil
}

func (m *imitation) restart(ready bool) {
	m.k.Kill()
	for _, l := range m.listeners {
		l.Close()
	}
	m.k = model.Start(m.o)
	if !ready {
		m.k.ForgetSources()
	}
}

// container adds the container of a resource to a pod.
func (m *imitation) container(c command) model.Container {
	container := model.Container{Name: c.Resource, Wants: map[string]int{c.Resource: c.Number}}
	pod := model.Pod{UID: c.Pod}
	for _, p := range m.o.Node.Pods() {
		if p.UID == c.Pod {
			pod = p
		}
	}
	for _, had := range pod.Containers {
		if had.Name == c.Resource {
			return container
		}
	}
	pod.Containers = append(pod.Containers, container)
	m.o.Node.AddPod(pod)
	return container
}

func (m *imitation) state() answer {
	synctest.Wait()
	var a answer
	a.Capacity, a.Allocatable = m.k.Capacity()
	a.Devices = m.k.Allocatable()
	held, _ := m.k.List()
	a.Held = map[string]map[string]map[string][]string{}
	for h, devices := range held {
		if a.Held[h.Pod] == nil {
			a.Held[h.Pod] = map[string]map[string][]string{}
		}
		a.Held[h.Pod][h.Container] = devices
	}
	return a
}

// reasons are parts of the real device manager's messages.
var reasons = []struct {
	text string
	kind error
}{
	{"unregistered device", model.ErrUnregistered},
	{"no healthy devices present", model.ErrNoneHealthy},
	{"no longer healthy", model.ErrHeldSick},
	{"number of devices unavailable", model.ErrTooFew},
	{"has been stopped", model.ErrStopped},
	{"not found in cache", model.ErrNoEndpoint},
	{"unknown Device Plugin", model.ErrNoEndpoint},
	{"changed request", model.ErrChanged},
	{"rpc error", model.ErrPlugin},
}

// agree says whether the real error has the kind of the model's. Errors of registrations have no kinds.
func agree(c command, theirs string, ours error) bool {
	if theirs == "" || ours == nil || c.Op == "register" {
		return (theirs == "") == (ours == nil)
	}
	for _, r := range reasons {
		if strings.Contains(theirs, r.text) {
			return errors.Is(ours, r.kind)
		}
	}
	return false
}

// same compares answers.
var same = cmp.Options{cmpopts.EquateEmpty(), cmpopts.IgnoreFields(answer{}, "Picked")}

// pair does each command twice, and compares.
type pair struct {
	*testing.T
	real  *realManager
	model *imitation
	story []string
}

func (p *pair) do(c command) {
	p.story = append(p.story, c.String())
	theirs := p.real.do(p.T, c).Error
	state := p.real.do(p.T, command{Op: "state"})
	p.model.pick = state.Picked[c.Pod][c.Resource][c.Resource]
	ours := p.model.do(p.T, c)
	if c.Op != "appear" && !agree(c, theirs, ours) {
		p.Errorf("%v: the real error is %q, the model's %v", c, theirs, ours)
	}
	got := p.model.state()
	for tries := 0; !cmp.Equal(state, got, same) && tries < 100; tries++ { // it may still be at work
		state = p.real.do(p.T, command{Op: "state"})
	}
	if diff := cmp.Diff(state, got, same); diff != "" {
		p.Errorf("after %v (-real +model):\n%s", c, diff)
	}
}

// TestGenerated compares the two in sequences of random commands.
func TestGenerated(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	n := *sequencesFlag
	if testing.Short() {
		n /= 10
	}
	t.Logf("%d sequences, of which the first has -seed=%d", n, seed)
	for i := range uint64(n) {
		t.Run(fmt.Sprintf("seed=%d", seed+i), func(t *testing.T) {
			t.Parallel()
			compare(t, func(p *pair) {
				g := &generator{rng: rand.New(rand.NewPCG(seed+i, 1)), serving: map[string]bool{}, appeared: map[string]bool{}} //nolint:gosec // to be repeated
				for range 30 {
					for _, c := range g.next() {
						if p.do(c); p.Failed() {
							return
						}
					}
				}
			})
		})
	}
}

func compare(t *testing.T, f func(*pair)) {
	t.Helper()
	r := startReal(t)
	synctest.Test(t, func(t *testing.T) {
		p := &pair{T: t, real: r, model: startModel(model.V136)}
		f(p)
		p.model.k.Kill()
		for _, l := range p.model.listeners {
			l.Close()
		}
		if t.Failed() {
			t.Logf("after\n\t%s", strings.Join(p.story, "\n\t"))
		}
	})
}
