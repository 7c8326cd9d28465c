package controller

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/controller/tally"
)

// Numbers of TestMemory.
const (
	memoryNodes = 300
	memorySlots = 3
	// waitingBound and restingBound are the octets that the controller may keep for a slot, without the API server's objects.
	waitingBound = 6 << 10
	restingBound = 5 << 10
)

// TestMemory: most slots wait for EC2's rate, and later all rest; the controller keeps little of each.
func TestMemory(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector takes memory of its own")
	}
	story(t, func(t *testing.T) {
		w := newWorld(t)
		for i := range memoryNodes {
			name := fmt.Sprintf("ip-10-0-%d-%d.eu-central-1.compute.internal", i/256, i%256)
			w.launch(name, fmt.Sprintf("i-%017x", i+1))
		}
		w.declare("blue", 1, a1)
		w.declare("red", 2, a2)
		w.declare("green", 3, a1)
		c := w.leadAt(4, 20)
		time.Sleep(time.Minute)
		waiting := heldBy(w, c)
		c = w.leadAt(100, 20)
		time.Sleep(15 * time.Minute) // one resync
		if n := len(w.live()); n != memoryNodes*memorySlots {
			t.Fatalf("%d ENIs", n)
		}
		resting := heldBy(w, c)
		t.Logf("octets for a slot: %d while most wait, %d at rest", waiting, resting)
		if waiting > waitingBound || resting > restingBound {
			t.Error("too many octets")
		}
	})
}

// heldBy ends a controller, and returns how many octets it had of its own for each slot.
func heldBy(w *world, c *controller) int {
	before := liveHeap()
	runtime.KeepAlive(c)
	c.kill()
	c.view, c.tally = nil, tally.Tally{}
	after := liveHeap()
	runtime.KeepAlive(w)
	return (int(before) - int(after)) / (memoryNodes * memorySlots)
}

func liveHeap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
