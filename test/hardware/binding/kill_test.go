package binding

import (
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/test/fakeimds"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
)

// The daemon is killed eighteen times while two devices change drivers, half of the times with its children.
func TestKills(t *testing.T) {
	guest.Clean(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	k := &killer{t: t, rand: rand.New(rand.NewPCG(seed, 0))}
	a := prepare(t, macA, "ens-a", true)
	vf, eniVF := prepareVF(t, "ens-vf")
	k.node = start(t, nil, eniA(), eniVF)
	wa, wv := watch(t, eniA().ID, a.pci, "vfio-pci"), watch(t, eniVF.ID, vf.pci, "vfio-pci")
	for k.kills < 18 {
		for _, e := range []fakeimds.ENI{eniA(), eniVF} {
			guest.WriteNodeENI(t, e.ID, dpdk(e, "vfio-pci"))
		}
		k.killAtWork()
		k.kill(300 * time.Millisecond)
		k.killAtWork()
		a.bound(t, eniA(), "vfio-pci")
		vf.bound(t, eniVF, "vfio-pci")
		for _, e := range []fakeimds.ENI{eniA(), eniVF} {
			guest.RemoveNodeENI(t, e.ID)
		}
		k.kill(300 * time.Millisecond)
		k.kill(300 * time.Millisecond)
		k.killAtWork()
		a.restored(t)
		vf.restored(t)
		a.withdrawn(t, eniA())
		vf.withdrawn(t, eniVF)
	}
	t.Logf("killed %d times, %d of them while a device changed its driver, and %d children", k.kills, k.atWork, k.children)
	if k.atWork == 0 || k.children == 0 {
		t.Error("never killed while a device changed its driver")
	}
	wa.finish()
	wv.finish()
}

type killer struct {
	*node
	t                       *testing.T
	rand                    *rand.Rand
	kills, atWork, children int
}

func (k *killer) killAtWork() {
	k.t.Helper()
	// It may have finished before the last kill.
	for began := time.Now(); len(children()) == 0 && time.Since(began) < 4*time.Second; time.Sleep(5 * time.Millisecond) {
	}
	k.kill(60 * time.Millisecond)
}

// kill kills after a random time, and starts the daemon again.
func (k *killer) kill(within time.Duration) {
	k.t.Helper()
	time.Sleep(time.Duration(k.rand.Int64N(int64(within))))
	working := children()
	k.Kill()
	k.kills++
	if len(working) > 0 {
		k.atWork++
	}
	if k.rand.IntN(2) == 0 {
		for _, pid := range children() {
			if unix.Kill(pid, unix.SIGKILL) == nil {
				k.children++
			}
		}
	}
	k.Restart()
}
