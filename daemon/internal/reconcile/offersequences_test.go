package reconcile

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/view"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/test/kubeletmodel"
)

// fewOffers is how many sequences each run of the tests has, always the same ones. More have a seed by the clock.
const fewOffers = 60

var offersFlag = flag.Int("offers", fewOffers, "how many sequences of the daemon's own offer to generate")

const (
	offerEvents = 25
	troubleOver = 30 * time.Second // troubleOver is the time after which a trouble has no effect any more
)

var offerResources = []string{"intel.com/r0", "intel.com/r1"}

// For all orders of NodeENIs, pods, and restarts of kubelet, daemon and SR-IOV device plugin: no device has two holders, a resource
// that a pod has a device of stays served, no other resource drops, the kubelet never crashes, and at rest nothing is sent or logged.
func TestOffer(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = 1
		if *offersFlag > fewOffers {
			seed = uint64(time.Now().UnixNano())
		}
	}
	t.Logf("%d sequences, of which the first has -seed=%d", *offersFlag, seed)
	shm, err := os.MkdirTemp("/dev/shm", "multi-eni")
	if err != nil {
		shm = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(shm) })
	for i := range uint64(*offersFlag) {
		t.Run(fmt.Sprintf("seed=%d", seed+i), func(t *testing.T) {
			t.Parallel()
			dir, err := os.MkdirTemp(shm, "")
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) { runOffer(newOfferWorld(t, dir, seed+i)) })
		})
	}
}

func runOffer(w *offerWorld) {
	g := &offerGenerator{offerWorld: w, ours: map[string]bool{}, dropped: map[string]time.Time{}}
	w.startKubelet()
	if w.rng.IntN(4) > 0 {
		w.sriov.install(true)
	}
	if w.rng.IntN(2) == 0 {
		w.wish.Mode = nodestate.OfferPCIDP
	}
	w.startDaemon()
	g.trouble, g.last = time.Now(), time.Now()
	for range offerEvents {
		if told := g.event(); told != "" {
			w.tell("%s", told)
			g.pass()
			g.judge()
			g.last = time.Now()
		}
		if w.Failed() {
			break
		}
	}
	if !w.Failed() {
		g.heal()
	}
	if w.Failed() {
		w.Logf("go test -run '^TestOffer$' -offers=1 -seed=%d, after\n\t%s", w.seed, strings.Join(w.story, "\n\t"))
	}
	w.end()
}

// offerGenerator makes events.
type offerGenerator struct {
	*offerWorld
	trouble time.Time            // when the last trouble ended
	last    time.Time            // the last event
	made    int                  // pods
	ours    map[string]bool      // the pods that got a device from the daemon
	dropped map[string]time.Time // when the kubelet dropped a resource by itself
}

// unseen says whether the kubelet may have stopped a resource's endpoint where the daemon cannot see it: kubelets up to v1.36 do so, if
// it registers between the ends of two connections, and the kubelet's list has the devices until its grace period is over.
func (g *offerGenerator) unseen(resource string) bool {
	return g.version == kubeletmodel.V136 && time.Since(g.dropped[resource]) < 6*time.Minute
}

// calm says whether no trouble has an effect any more, and the node offers as it was told to.
func (g *offerGenerator) calm() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Since(g.trouble) > troubleOver && time.Since(g.last) > 5*time.Second && !g.unreadable
}

func (g *offerGenerator) troubled(format string, args ...any) string {
	g.trouble = time.Now()
	return fmt.Sprintf(format, args...)
}

// event returns its name, or "" if it cannot happen now.
func (g *offerGenerator) event() string {
	w, e := g.offerWorld, 1+g.rng.IntN(offerSlots)
	g.mu.Lock()
	g.guard = nil
	g.mu.Unlock()
	switch g.rng.IntN(26) {
	case 0, 1, 2, 3, 4:
		return g.declare(e, offerResources[g.rng.IntN(len(offerResources))])
	case 5, 6:
		if w.declared[e] == "" {
			return ""
		}
		return g.declare(e, "")
	case 7, 8, 9, 10, 11:
		return g.run()
	case 12, 13:
		return g.finish()
	case 14:
		w.killKubelet()
		time.Sleep(g.upTo(3 * time.Second))
		w.startKubelet()
		return g.troubled("kubelet restarts")
	case 15:
		w.k.Hang(true)
		time.Sleep(g.upTo(20 * time.Second))
		w.k.Hang(false)
		return g.troubled("kubelet hung")
	case 16:
		name := offerResources[g.rng.IntN(2)]
		if !g.offers() { // it does so by itself only with plugins that were replaced
			return ""
		}
		w.k.Drop(name)
		g.dropped[name] = time.Now()
		return g.troubled("kubelet drops %s", name)
	case 17:
		w.daemon.stop()
		time.Sleep(g.upTo(10 * time.Second))
		w.startDaemon()
		return g.troubled("daemon restarts")
	case 18, 19:
		return g.kill()
	case 20, 21:
		return g.toggleSRIOV()
	case 22:
		g.mu.Lock()
		g.unreadable = !g.unreadable
		g.mu.Unlock()
		return g.troubled("podresources on/off")
	case 23, 24:
		return g.label()
	default:
		time.Sleep(time.Minute)
		return "a minute passes"
	}
}

func (g *offerGenerator) upTo(d time.Duration) time.Duration {
	return time.Duration(g.rng.Int64N(int64(d)))
}

// pass lets time pass, between nothing and half a minute.
func (g *offerGenerator) pass() {
	time.Sleep(g.upTo([]time.Duration{time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second, 30 * time.Second}[g.rng.IntN(5)]))
}

func (w *offerWorld) awake() {
	select {
	case w.daemon.wake <- struct{}{}:
	default:
	}
}

// declare makes, changes or removes the NodeENI of an ENI. No resource but its own may drop.
func (g *offerGenerator) declare(e int, resource string) string {
	calm := g.calm()
	g.mu.Lock()
	was := g.declared[e]
	if calm && resource == "" && g.view.Offer.State == view.OfferOffered {
		g.guard = map[string]int{}
		_, allocatable := g.k.Capacity()
		for name, n := range allocatable {
			if name != was {
				g.guard[name] = n
			}
		}
	}
	g.declared[e] = resource
	g.mu.Unlock()
	g.awake()
	return fmt.Sprintf("declare %d %q", e, resource)
}

// run starts a pod with a device. On a calm node it gets one if there is one.
func (g *offerGenerator) run() string {
	resource := offerResources[g.rng.IntN(2)]
	if _, allocatable := g.k.Capacity(); allocatable[resource] == 0 { // the scheduler sends no pod
		return ""
	}
	free := len(g.free(resource))
	calm := g.calm()
	c := kubeletmodel.Container{Name: "c", Wants: map[string]int{resource: 1}}
	g.made++
	pod := fmt.Sprint("p", g.made)
	g.node.AddPod(kubeletmodel.Pod{UID: pod, Containers: []kubeletmodel.Container{c}})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if g.rng.IntN(4) == 0 { // its resource changes while the kubelet allocates
		free = 0
		time.AfterFunc(g.upTo(3*time.Millisecond), func() { g.rename(resource) })
	}
	err := g.k.Admit(ctx, pod, c)
	if err != nil {
		g.node.EndPod(pod)
	}
	if err == nil && g.offers() {
		g.ours[pod] = true
		g.judgeHolder(pod)
	}
	if unseen := errors.Is(err, kubeletmodel.ErrStopped) && g.unseen(resource); calm && free > 0 && err != nil && !unseen {
		g.Errorf("%s had %d free devices, and a pod was refused: %v", resource, free, err)
	}
	if errors.Is(err, kubeletmodel.ErrPlugin) && free > 0 && calm {
		g.Errorf("UnexpectedAdmissionError: %v", err)
	}
	return fmt.Sprintf("pod %s wants %s: %v", pod, resource, err)
}

// rename gives all devices of a resource the other name.
func (g *offerGenerator) rename(resource string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for e, name := range g.declared {
		if name == resource {
			g.declared[e] = map[string]string{offerResources[0]: offerResources[1], offerResources[1]: offerResources[0]}[name]
		}
	}
	g.awake()
}

// free are the healthy devices that no pod has.
func (g *offerGenerator) free(resource string) []string {
	held, _ := g.k.List()
	return slices.DeleteFunc(g.k.Allocatable()[resource], func(id string) bool {
		for _, devices := range held {
			if slices.Contains(devices[resource], id) {
				return true
			}
		}
		return false
	})
}

func (g *offerGenerator) finish() string {
	pods := g.node.Pods()
	p := pods[g.rng.IntN(len(pods))]
	if p.UID == "daemon" {
		return ""
	}
	g.node.EndPod(p.UID)
	return "pod " + p.UID + " ends"
}

// kill kills the daemon at once, or between its checkpoint and the change of its offer.
func (g *offerGenerator) kill() string {
	how := "killed"
	if g.rng.IntN(2) == 0 {
		how = "killed before it offers"
		g.daemon.mu.Lock()
		g.daemon.dies = true
		g.daemon.mu.Unlock()
		g.awake()
		time.Sleep(time.Second)
	}
	g.daemon.kill()
	<-g.daemon.ended
	<-g.daemon.served
	time.Sleep(g.upTo(5 * time.Second))
	g.startDaemon()
	return g.troubled("daemon %s, and starts", how)
}

func (g *offerGenerator) toggleSRIOV() string {
	installed := g.sriov.is()
	g.sriov.install(!installed)
	return g.troubled("SR-IOV device plugin there: %t", !installed)
}

func (g *offerGenerator) label() string {
	g.mu.Lock()
	g.wish.Mode = map[nodestate.OfferMode]nodestate.OfferMode{
		nodestate.OfferPCIDP: nodestate.OfferDevicePlugin, nodestate.OfferDevicePlugin: nodestate.OfferPCIDP,
	}[g.wish.Mode]
	mode := g.wish.Mode
	g.mu.Unlock()
	g.awake()
	return g.troubled("label %s", mode)
}
