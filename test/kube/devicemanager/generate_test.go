package devicemanager

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	deviceapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

func register(c command) *deviceapi.RegisterRequest {
	return &deviceapi.RegisterRequest{Version: deviceapi.Version, Endpoint: c.Socket, ResourceName: c.Resource}
}

// withTimeout is the context of a registration: a short one stands for a plugin that does not wait for the kubelet.
func withTimeout(t *testing.T, short bool) context.Context {
	d := 5 * time.Second
	if short {
		d = 100 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

var (
	sockets = map[string]string{"a.sock": r0, "b.sock": r0, "c.sock": r1}
	names   = []string{"a.sock", "b.sock", "c.sock"}
)

// generator makes commands that are possible.
type generator struct {
	rng      *rand.Rand
	serving  map[string]bool
	appeared map[string]bool // in plugins_registry
	pods     int
	deleted  [5]int // how many pods of each slot were deleted
}

func (g *generator) devices() []string {
	var out []string
	for _, id := range []string{"d0", "d1", "d2"} {
		switch g.rng.IntN(5) {
		case 0:
		case 1:
			out = append(out, "!"+id)
		default:
			out = append(out, id)
		}
	}
	return out
}

func (g *generator) next() []command {
	for {
		if all := g.try(); all != nil {
			return all
		}
	}
}

func (g *generator) try() []command {
	s := names[g.rng.IntN(len(names))]
	c := command{Socket: s, Resource: sockets[s]}
	of := func(op string, change func(*command)) []command {
		c.Op = op
		if change != nil {
			change(&c)
		}
		return []command{c}
	}
	serving := g.serving[s]
	switch g.rng.IntN(28) {
	case 0, 1, 2, 3, 4, 5:
		if serving {
			return nil
		}
		g.serving[s], g.appeared[s] = true, false
		first := of("serve", func(c *command) { c.Devices, c.On = g.devices(), g.rng.IntN(2) == 0 })
		return append(first, command{Op: "register", Socket: s, Resource: c.Resource})
	case 6, 7:
		if serving {
			return of("register", nil)
		}
		if g.rng.IntN(3) == 0 {
			return of("register", func(c *command) { c.On = true })
		}
	case 8, 9, 10, 11:
		if serving {
			return of("send", func(c *command) { c.Devices = g.devices() })
		}
	case 12:
		if serving {
			return of("end", nil)
		}
	case 13, 14:
		if serving {
			g.serving[s] = false
			return of("stop", nil)
		}
	case 15:
		if serving {
			return of("refuse", func(c *command) { c.On = g.rng.IntN(2) == 0 })
		}
	case 16:
		if serving && !g.appeared[s] {
			g.appeared[s] = true
			return of("appear", nil)
		}
	case 17:
		if g.appeared[s] {
			g.appeared[s] = false
			return of("vanish", nil)
		}
	case 18:
		clear(g.serving)
		clear(g.appeared)
		return []command{{Op: "restart", On: g.rng.IntN(2) == 0}}
	case 19:
		return []command{{Op: "ready"}}
	case 20:
		// No sum of these is the grace period, so that the real time between two commands does not count.
		return []command{{Op: "pass", Passed: []time.Duration{61 * time.Second, 103 * time.Second}[g.rng.IntN(2)]}}
	default:
		return g.pod(c.Resource)
	}
	return nil
}

// pod never takes the name of a pod that was deleted: it stands for a UID.
func (g *generator) pod(resource string) []command {
	slot := g.rng.IntN(g.pods + 1)
	c := command{Pod: fmt.Sprintf("p%d-%d", slot, g.deleted[slot]), Resource: resource, Number: 1}
	switch g.rng.IntN(6) {
	case 0:
		c.Op = "run"
	case 1:
		g.deleted[slot]++
		return []command{{Op: "delete", Pod: c.Pod}}
	default:
		c.Op = "admit"
		g.pods = min(g.pods+1, 4)
		if g.rng.IntN(4) == 0 {
			c.Number = 2
		}
	}
	return []command{c}
}
