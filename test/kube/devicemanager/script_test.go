package devicemanager

import (
	"testing"
	"time"
)

const r0, r1 = "intel.com/r0", "intel.com/r1"

func serve(socket string, devices ...string) []command {
	return []command{
		{Op: "serve", Socket: socket, Resource: sockets[socket], Devices: devices},
		{Op: "register", Socket: socket, Resource: sockets[socket]},
	}
}

func on(op, socket string, devices ...string) []command {
	return []command{{Op: op, Socket: socket, Resource: sockets[socket], Devices: devices}}
}

func pod(op, name string, n int) []command {
	return []command{{Op: op, Pod: name, Resource: r0, Number: n}}
}

func pass(d time.Duration) []command { return []command{{Op: "pass", Passed: d}} }

func story(parts ...[]command) []command {
	var all []command
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// TestScripted compares the two where device plugins change hands.
func TestScripted(t *testing.T) {
	away := []command{{Op: "register", Socket: "b.sock", Resource: r0, On: true}}
	for name, commands := range map[string][]command{
		"takeover": story(serve("a.sock", "d0", "d1"), pod("admit", "p", 1), serve("b.sock", "d0", "d1"), on("send", "a.sock", "d0"),
			on("send", "b.sock", "d0", "d1"), on("stop", "a.sock"), pod("run", "p", 1), pod("admit", "q", 1), on("register", "b.sock"),
			pod("admit", "q", 1), on("send", "b.sock", "!d0", "d1"), pod("admit", "p", 1)),
		"takeover from plugins_registry": story(on("serve", "a.sock", "d0"), on("appear", "a.sock"), serve("b.sock", "d0"), on("stop", "a.sock"),
			on("register", "b.sock"), on("vanish", "a.sock"), on("register", "b.sock")),
		"five minutes": story(serve("a.sock", "d0"), pod("admit", "p", 1), on("stop", "a.sock"), pass(299*time.Second), pod("run", "p", 1),
			pass(2*time.Second), pod("run", "p", 1), pod("admit", "q", 1), serve("a.sock", "d0"), pod("run", "p", 1)),
		"registered, and does not listen": story(serve("a.sock", "d0"), away, on("send", "a.sock", "!d0"), on("send", "a.sock", "d0"),
			on("stop", "a.sock"), pod("admit", "p", 1)),
		"twice": story(serve("a.sock", "d0"), on("register", "a.sock"), on("end", "a.sock"), on("register", "a.sock"), on("stop", "a.sock")),
		"restart": story(serve("a.sock", "d0", "d1"), pod("admit", "p", 1), []command{{Op: "restart"}}, pod("admit", "p", 1), pod("admit", "q", 1),
			[]command{{Op: "ready"}}, pod("run", "p", 1), pod("admit", "q", 1), serve("a.sock", "d1"), pod("admit", "p", 1), pod("admit", "q", 1)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			compare(t, func(p *pair) {
				for _, c := range commands {
					p.do(c)
				}
			})
		})
	}
}
