package show

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// generator makes states with values as long as Kubernetes, EC2 and Linux allow.
type generator struct{ *rand.Rand }

func (g generator) word(longest int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	b := make([]byte, g.IntN(longest)+1)
	for i := range b {
		b[i] = letters[g.IntN(len(letters))]
	}
	return string(b)
}

func (g generator) some(most int, one func() string) (all []string) {
	for range g.IntN(most + 1) {
		all = append(all, one())
	}
	return all
}

func (g generator) address() string {
	if g.IntN(2) == 0 {
		return fmt.Sprintf("10.%d.%d.%d/%d", g.IntN(256), g.IntN(256), g.IntN(256), g.IntN(33))
	}
	return fmt.Sprintf("2600:1f16:%04x:%04x:%04x:%04x:%04x:%04x/128", g.IntN(1<<16), g.IntN(1<<16), g.IntN(1<<16), g.IntN(1<<16), g.IntN(1<<16), g.IntN(1<<16))
}

func (g generator) pick(words ...string) string { return words[g.IntN(len(words))] }

func (g generator) podName() string {
	if g.IntN(10) == 0 {
		return g.word(64) // a container's id
	}
	return g.word(63) + "/" + g.word(253)
}

func (g generator) text() string {
	return strings.Join(g.some(60, func() string { return g.word(g.IntN(130) + 1) }), " ")
}

func (g generator) node() Node {
	n := Node{Name: g.word(253), Changed: time.Unix(g.Int64N(1<<32), 0), Source: g.text(), DevicePlugin: g.pick("Serving", "RestartFailed", "RestartPending", "")}
	if g.IntN(8) == 0 {
		n.Outdated = g.text()
	}
	for i := range g.IntN(8) {
		d := Device{
			ENIID: "eni-" + fmt.Sprintf("%017x", g.Uint64()>>1), NodeENI: g.word(253), MAC: "02:00:00:00:00:01", PCIAddress: fmt.Sprintf("0000:00:%02x.0", i),
			Link: g.word(15), Driver: g.pick("ena", "uio_pci_generic", "vfio-pci", ""), SubnetID: "subnet-0a1b2c3d4e5f60718",
			Resource: g.pick("", "intel.com/"+g.word(63), g.word(253)+"/"+g.word(63)), Phase: g.pick("ready", "pending", "draining"), Index: g.IntN(9) - 1,
			Card:      g.IntN(9) - 1,
			Addresses: g.some(50, g.address), Prefixes: g.some(3, g.address), MTU: g.IntN(2) * 9001,
		}
		n.Devices = append(n.Devices, d)
		for range g.IntN(31) {
			n.Pods = append(n.Pods, Pod{
				PCIAddress: d.PCIAddress, Name: g.podName(), UID: g.word(36), ContainerID: g.word(64), Link: g.word(15),
				Addresses: g.some(4, g.address), Mode: g.pick("shared", "exclusive"), State: g.pick(Attached, Changing, Allocated, Unknown),
			})
		}
		n.Pools = append(n.Pools, Pool{ENIID: d.ENIID, Family: g.pick("ipv4", "ipv6"), Free: int(g.Int64() >> 1), Leased: g.IntN(1 << 20)})
	}
	for range g.IntN(4) {
		n.Facts = append(n.Facts, Fact{Name: g.word(16), Text: g.text()})
		n.Problems = append(n.Problems, Problem{Reason: g.word(40), NodeENI: g.word(253), Device: g.word(253), Message: g.text()})
	}
	return n
}

func within(t *testing.T, seed uint64, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > Columns {
			t.Fatalf("seed %d: a line has %d characters:\n%s", seed, n, line)
		}
		if strings.HasSuffix(line, " \n") {
			t.Fatalf("seed %d: a line ends with a space:\n%q", seed, line)
		}
	}
}

// TestDefaultViewIsNarrow: no line of any state is longer than Columns, and each hold has a line of its own.
func TestDefaultViewIsNarrow(t *testing.T) {
	for seed := range uint64(300) {
		g := generator{rand.New(rand.NewPCG(seed, 0))}
		n := g.node()
		var b strings.Builder
		if err := n.Print(&b, false); err != nil {
			t.Fatal(err)
		}
		within(t, seed, b.String())
		if n.Outdated == "" {
			want := 0
			for _, d := range n.Devices {
				want += len(n.heldBy(d))
			}
			if got := len(regexp.MustCompile(`(?m)^eni-\S+ +\S.*(attached|changing|allocated|unknown)$`).FindAllString(b.String(), -1)); got != want {
				t.Fatalf("seed %d: %d lines of pods, want %d:\n%s", seed, got, want, b.String())
			}
		}
		b.Reset()
		if err := PrintNodes(&b, []Node{n, g.node()}, false); err != nil {
			t.Fatal(err)
		}
		var holds []Hold
		for _, p := range n.Pods {
			holds = append(holds, Hold{Node: n.Name, Device: n.Devices[0], Pod: p.Name})
		}
		if err := PrintHolds(&b, holds, false); err != nil {
			t.Fatal(err)
		}
		within(t, seed, b.String())
	}
}

func TestWideViewLosesNothing(t *testing.T) {
	for seed := range uint64(100) {
		n := generator{rand.New(rand.NewPCG(seed, 1))}.node()
		n.Outdated = ""
		var b strings.Builder
		if err := n.Print(&b, true); err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, d := range n.Devices {
			want = append(want, d.ENIID, d.NodeENI, d.MAC, d.PCIAddress, d.Link, d.Driver, d.SubnetID, d.Resource, strings.Join(d.Addresses, ","),
				strings.Join(d.Prefixes, ","))
			for _, p := range n.heldBy(d) {
				want = append(want, p.Name, p.UID, p.ContainerID, p.Link, strings.Join(p.Addresses, ","))
			}
		}
		for _, w := range want {
			if !strings.Contains(b.String(), w) {
				t.Fatalf("seed %d: %q is missing:\n%s", seed, w, b.String())
			}
		}
	}
}

func TestShorten(t *testing.T) {
	for _, tt := range []struct {
		short      func(string, int) string
		cell, want string
		width      int
	}{
		{middle, "default/web-0", "default/web-0", 13},
		{middle, "default/web-deployment-5d6f", "default…nt-5d6f", 15},
		{list, "10.0.1.15/24,10.0.1.16/24,10.0.1.17/24", "10.0.1.15/24,10.0.1.16/24,+1", 30},
		{list, "10.0.1.15/24,10.0.1.16/24,10.0.1.17/24", "10.0.1.15/24,+2", 15},
		{list, "2600:1f16:0001:0002:0003:0004:0005:0006/128", "2600:1f1…0006/128", 17},
		{resource, "intel.com/sriov_net", "…/sriov_net", 12},
		{resource, "intel.com/sriov_net", "inte…_net", 9},
	} {
		if got := tt.short(tt.cell, tt.width); got != tt.want {
			t.Errorf("%q in %d: %q, want %q", tt.cell, tt.width, got, tt.want)
		}
	}
}

// TestTerminalIsSafe: no name or message moves the cursor or forges a line.
func TestTerminalIsSafe(t *testing.T) {
	const evil = "a\x1b[2J\nNode b"
	n := Node{Name: evil, Devices: []Device{{NodeENI: evil}}, Facts: []Fact{{"x", evil}}, Problems: []Problem{{Reason: "X", Message: evil}}}
	var b strings.Builder
	if err := n.Print(&b, true); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "\x1b") || strings.Contains(b.String(), "\nNode b") {
		t.Errorf("%q", b.String())
	}
}

// TestAllocationOfAnAttachedPod is no second hold.
func TestAllocationOfAnAttachedPod(t *testing.T) {
	d := Device{ENIID: "eni-1", PCIAddress: "0000:00:06.0"}
	n := Node{Name: "a", Devices: []Device{d, {NodeENI: "pending"}}, Pods: []Pod{
		{PCIAddress: d.PCIAddress, Name: "default/a", State: Attached}, {PCIAddress: d.PCIAddress, Name: "default/a", State: Allocated},
		{PCIAddress: d.PCIAddress, Name: "default/b", State: Allocated}, {Name: "default/nowhere", State: Unknown},
	}}
	if got := n.heldBy(d); len(got) != 2 || got[1].Name != "default/b" {
		t.Errorf("%+v", got)
	}
	if got := n.heldBy(n.Devices[1]); got != nil {
		t.Errorf("a device without an address is held: %+v", got)
	}
}
