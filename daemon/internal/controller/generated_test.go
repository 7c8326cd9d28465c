package controller

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/kube/fleet"
	"github.com/multi-eni/multi-eni-cni/daemon/internal/lifecycle"
	"github.com/multi-eni/multi-eni-cni/test/fakeec2"
)

var (
	stories = flag.Int("stories", 8, "number of generated stories")
	seed    = flag.Uint64("seed", 0, "seed of the first story; 0 takes one of the clock")
)

// TestGeneratedStories lets people, machines, EC2 and the API server do anything at any time, and asks for the invariants: at most one ENI for
// each slot, no ENI is taken from a pod, none is forced away before its time, no call names somebody else's, and a kept one stays the same.
// Nothing is changed beside another controller. In the end all is as declared, and quiet, and later all is gone.
func TestGeneratedStories(t *testing.T) {
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano()) % 1e9 * 1000
	}
	told := *stories
	if testing.Short() {
		told = min(told, 2)
	}
	for i := range told {
		n := first + uint64(i)
		ok := t.Run(fmt.Sprint(n), func(t *testing.T) {
			story(t, func(t *testing.T) { newTale(t, n).tell() })
		})
		if !ok {
			t.Fatalf("again: go test ./daemon/internal/controller -run TestGeneratedStories -args -stories 1 -seed %d", n)
		}
	}
}

// tale is a generated story.
type tale struct {
	*world
	rnd  *rand.Rand
	mu   sync.Mutex // of rnd and the fields below
	lead *controller
	// trouble is the share of calls that fail. killAt counts down to the call at which the leader dies.
	trouble float64
	killAt  int
	dying   bool
	nodes   []string
	made    int
	pods    []string
	log     []string
	hazards
}

func newTale(t *testing.T, n uint64) *tale {
	a := &tale{rnd: rand.New(rand.NewPCG(n, 22))}
	lag := time.Duration(a.rnd.IntN(3)) * 4 * time.Second
	takes := func() time.Duration { return time.Duration(a.rnd.IntN(4000)) * time.Millisecond }
	attach, detach, create := takes(), takes(), takes()/2
	a.trouble = []float64{0, 0, 0.05, 0.2}[a.rnd.IntN(4)]
	a.draw()
	a.world = newWorld(t, func(c *fakeec2.Config) {
		a.prepare(c)
		c.LagOf = func() time.Duration { return time.Duration(a.chance(1+int(lag.Milliseconds()))) * time.Millisecond }
		c.AttachTakes, c.DetachTakes, c.CreateTakes, c.CreateLag = attach, detach, create, create
		c.Fault = a.fault
		if n%2 == 0 {
			c.Policy = shippedPolicy(t, a.adopt)
		}
		c.Latency = func(string) time.Duration { return time.Duration(20+a.chance(150)) * time.Millisecond }
		c.TerminateTakes, c.TerminatedFor = 30*time.Second, 10*time.Minute
	})
	a.api.lag = func() time.Duration { return time.Duration(a.chance(300)) * time.Millisecond }
	a.api.fault = func(string) (error, error) {
		switch {
		case a.happens(a.trouble / 3):
			return errDown, nil
		case a.happens(a.trouble / 3): //nolint:gocritic // each draws a number of its own
			return nil, errDown
		}
		return nil, nil
	}
	return a
}

func (a *tale) chance(n int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rnd.IntN(n)
}

func (a *tale) happens(p float64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rnd.Float64() < p
}

// fault fails a call, or kills the leader before or after it.
func (a *tale) fault(action string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	change := !strings.HasPrefix(action, "Describe")
	if change && a.killAt > 0 {
		if a.killAt--; a.killAt == 0 {
			a.dying = true
			a.lead.dropFence()
			return []string{fakeec2.Drop, fakeec2.Lose}[a.rnd.IntN(2)]
		}
	}
	if a.rnd.Float64() >= a.trouble {
		return ""
	}
	faults := []string{fakeec2.Drop, fakeec2.Lose, fakeec2.Empty500, "RequestLimitExceeded", "InternalError"}
	return faults[a.rnd.IntN(len(faults))]
}

func (a *tale) note(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.log = append(a.log, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

func (a *tale) tell() {
	defer func() {
		if a.Failed() || *verbose {
			a.Logf("the story:\n%s\nthe calls:\n%s\nthe end:\n%s", strings.Join(a.log, "\n"), a.calls(), a.describe())
		}
	}()
	a.begin()
	for range 1 + a.chance(2) {
		a.growNode()
	}
	for range 15 + a.chance(25) {
		a.something()
		if a.Failed() {
			break
		}
		time.Sleep(time.Duration(a.chance(1000*(1+a.chance(12)))) * time.Millisecond)
		a.mu.Lock()
		dying := a.dying
		a.dying = false
		a.mu.Unlock()
		if dying {
			a.note("the leader died at a call")
			a.replace()
		}
	}
	if !a.Failed() {
		a.end()
	}
	a.lead.kill()
}

func (a *tale) calls() string {
	var b strings.Builder
	for _, e := range a.ec2.Events() {
		fmt.Fprintf(&b, "%s %s %s token %s on %s %s lost %v again %v\n", e.At.Format("15:04:05.000"), e.Action, e.ENI.ID, e.ENI.Token, e.ENI.Instance, e.Code,
			e.Lost, e.Repeated)
	}
	return b.String()
}

func (a *tale) replace() {
	a.lead.kill()
	if a.chance(2) == 0 {
		time.Sleep(time.Duration(a.chance(20000)) * time.Millisecond)
	}
	a.lead = a.newLeader()
}

func (a *tale) growNode() {
	a.made++
	name := fmt.Sprintf("node-%d", a.made)
	a.note("%s comes", name)
	a.addNode(name, func(n *fleet.Node) {
		if (!a.adopt || a.made > 1) && a.chance(3) == 0 {
			n.Labels["topology.kubernetes.io/zone"] = zone(1)
			n.ProviderID = strings.Replace(n.ProviderID, zone(0), zone(1), 1)
		}
		if (!a.adopt || a.made > 1) && a.chance(3) == 0 {
			n.Labels["node.kubernetes.io/instance-type"] = "m5.large"
		}
	})
	a.daemons[name].reaction = time.Duration(10+a.chance(3000)) * time.Millisecond
	if index := 1 + a.chance(6); index <= 2 && a.ec2.Join(strangers[index], instanceOf(name), index) {
		a.note("%s has come with %s at %d", name, strangers[index], index)
	}
	a.nodes = append(a.nodes, name)
}

func (a *tale) someNode() string {
	if len(a.nodes) == 0 {
		a.growNode()
	}
	return a.nodes[a.chance(len(a.nodes))]
}

func (a *tale) something() {
	names := []string{"blue", "green", "red"}
	name := names[a.chance(len(names))]
	switch a.chance(25) {
	case 0, 1, 2, 3:
		subnets := [][]string{{a1}, {a1, b1}, {a2}, {a1, a2}, {a2, a2, b1}}[a.chance(5)]
		index := 1 + a.chance(3)
		if o := a.nodeENI(name); o != nil && o.Deleting {
			return
		}
		a.declareKept(name, a.chance(2) == 0, index, subnets...)
	case 4, 5:
		a.note("NodeENI %s deleted", name)
		a.touch(name)
		a.deleteNodeENI(name)
	case 6:
		node := a.someNode()
		a.note("%s changes its label", node)
		a.setNode(node, func(n *fleet.Node) {
			if n.Labels["role"] == "worker" {
				n.Labels["role"] = "idle"
			} else {
				n.Labels["role"] = "worker"
			}
		})
	case 7, 8:
		if node := a.someNode(); !a.stopped[node] {
			a.startPod(a.daemons[node])
		}
	case 9, 10:
		if len(a.pods) > 0 {
			i := a.chance(len(a.pods))
			a.note("%s ends", a.pods[i])
			a.endPod(a.pods[i])
			a.pods = slices.Delete(a.pods, i, i+1)
		}
	case 11:
		a.note("the leader is killed")
		a.replace()
	case 12:
		a.mu.Lock()
		a.killAt = 1 + a.rnd.IntN(4)
		a.mu.Unlock()
	case 13:
		a.note("the leader freezes, and another one leads")
		old := a.lead
		old.dropFence()
		a.lead = a.newLeader()
		time.Sleep(time.Duration(a.chance(5000)) * time.Millisecond)
		old.kill()
	case 14:
		d := a.daemons[a.someNode()]
		alive := a.chance(2) == 0 && !a.stopped[d.node]
		a.note("daemon of %s alive: %v", d.node, alive)
		d.set(alive)
	case 15, 22:
		if len(a.nodes) > 1 && a.chance(2) == 0 {
			a.loseNode()
		} else {
			a.growNode()
		}
	case 16, 17, 18:
		a.foreigner()
	case 19, 20:
		a.stopOrStart()
	case 21:
		a.publicOne()
	case 23:
		a.lateAnswer()
	case 24:
		a.beside()
	}
}

// lateAnswer kills a daemon in a write, which lands some time later. Meanwhile people change their mind, and a pod may get a device again.
func (a *tale) lateAnswer() {
	d := a.daemons[a.someNode()]
	if a.stopped[d.node] {
		return
	}
	a.note("daemon of %s dies in its next write", d.node)
	land := d.killNext()
	pause := func(most int) { time.Sleep(time.Duration(a.chance(most)) * time.Millisecond) }
	for i, role := range []string{"idle", "worker", "idle", "worker"}[:3+a.chance(2)] {
		a.setNode(d.node, func(n *fleet.Node) { n.Labels["role"] = role })
		pause(8000)
		if i != 1 {
			continue
		}
		d.set(true)
		pause(5000)
		time.AfterFunc(time.Duration(a.chance(20000))*time.Millisecond, land)
		pod := fmt.Sprintf("default/pod-%d", len(a.log))
		if eni := d.startPod(pod); eni != "" {
			a.note("%s on %s gets %s", pod, d.node, eni)
			a.pods = append(a.pods, pod)
		}
	}
	d.mu.Lock()
	d.killed = nil
	d.mu.Unlock()
	d.set(true)
}

// loseNode terminates an instance; its pods end with it.
func (a *tale) loseNode() {
	i := a.chance(len(a.nodes))
	node := a.nodes[i]
	a.nodes = slices.Delete(a.nodes, i, i+1)
	a.note("%s ends", node)
	d := a.daemons[node]
	d.set(false)
	delete(a.stopped, node)
	all := a.ec2.All()
	a.keep(node, all)
	a.holdersMu.Lock()
	for _, e := range all {
		if e.Instance == instanceOf(node) {
			delete(a.holders, e.ID)
		}
	}
	a.holdersMu.Unlock()
	d.mu.Lock()
	d.offered = nil
	d.mu.Unlock()
	a.ec2.Terminate(instanceOf(node))
	time.AfterFunc(time.Duration(a.chance(60000))*time.Millisecond, func() { a.deleteNode(node) })
}

// end heals everything, and waits for the declared state and for quiet. Then all NodeENIs go.
func (a *tale) end() {
	a.heal()
	why := ""
	begin, calls := time.Now(), a.ec2.Tally("").Calls
	a.wait(3*time.Hour, "all is as declared", func() bool {
		if since := time.Since(begin); since > 2*time.Minute {
			time.Sleep(10 * time.Second)
		}
		if why = a.lacks(); why != "" {
			return false
		}
		time.Sleep(5 * time.Minute) // EC2 may still show ENIs of instances that have ended
		why = a.lacks()
		return why == ""
	})
	if took := time.Since(begin); took > lifecycle.ExternalFresh+45*time.Minute { // an external ENI may have ended
		a.Errorf("it took %v until all was as declared", took)
	}
	a.rests("with all as declared")
	if why = a.lacks(); why != "" {
		a.Errorf("at rest not as declared: %s", why)
	}
	a.judgeEntries()
	a.note("all NodeENIs are deleted")
	for _, name := range []string{"blue", "green", "red"} {
		a.deleteNodeENI(name)
	}
	a.wait(time.Hour, "all is gone", func() bool { time.Sleep(5 * time.Second); return a.gone() })
	a.rests("with all gone")
	if n := a.ec2.Tally("").Calls - calls; n > 1500 {
		a.Errorf("%d calls from the heal on", n)
	}
	for _, denied := range a.ec2.Denied() {
		if !strings.HasSuffix(denied, "network-interface/*") { // an attachment that is gone has no tags
			a.Errorf("denied by the policy: %v", denied)
		}
	}
}

// rests: nothing is changed for a while.
func (a *tale) rests(how string) {
	time.Sleep(time.Minute)
	calls, writes, before := a.ec2.Tally("").Mutating, a.written(), a.describe()
	time.Sleep(30 * time.Minute)
	if n := a.ec2.Tally("").Mutating - calls; n != 0 {
		a.Errorf("%d mutating calls at rest, %s", n, how)
	}
	if n := a.written() - writes; n != 0 {
		a.Errorf("%d writes at rest, %s: %v; before:\n%snow:\n%s", n, how, a.writes, before, a.describe())
	}
}
