package reconcile

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/multi-eni/multi-eni-cni/pkg/link"
)

// routed says for which links and addresses the last Sync wanted source-based routing.
func (n *testNode) routed() string {
	n.Helper()
	if len(n.host.sources) == 0 {
		return "not asked"
	}
	out := ""
	for _, s := range n.host.sources[len(n.host.sources)-1] {
		out += fmt.Sprintf("%d from %v on %v by %v;", s.Index, s.From, s.Subnets, s.Routers)
	}
	n.host.sources = nil
	return out
}

func TestSourceRouting(t *testing.T) {
	n := newNode(t, 1, 2)
	n.daemon.links.SourceRouting = true
	n.declare("a", 1)
	n.settle()
	const first = "11 from [10.0.0.1/32] on [10.0.0.0/16] by [10.0.0.1];"
	if got := n.routed(); got != first {
		t.Errorf("one ready: %s", got)
	}
	n.declare("b", 2)
	n.settle()
	if got := n.routed(); got != first+"12 from [10.0.0.2/32] on [10.0.0.0/16] by [10.0.0.1];" {
		t.Errorf("two ready: %s", got)
	}
	n.hold(2) // a pod has it alone
	n.sync()
	if got := n.routed(); got != first {
		t.Errorf("one in a pod: %s", got)
	}
	n.host.err = errors.New("no links today")
	n.sync()
	if got := n.routed(); got != "not asked" {
		t.Errorf("links not readable: %s", got)
	}
	n.host.err = nil
	n.host.fail["sources"] = errors.New("no rules today")
	n.sync()
	if got := fmt.Sprint(n.reasons()); got != "[SourceRoutingFailed]" {
		t.Errorf("problems %s", got)
	}
	delete(n.host.fail, "sources")
	n.routed()
	n.undeclare("a")
	n.sync()
	if got := n.routed(); got != "" {
		t.Errorf("removed: %s", got)
	}
}

// A pod takes a link after the daemon has read the links. That is no problem, and the other link gets its rules.
func TestSourceOfLinkTakenMeanwhile(t *testing.T) {
	n := newNode(t, 1, 2)
	n.daemon.links.SourceRouting = true
	n.declare("a", 1)
	n.declare("b", 2)
	n.settle()
	n.host.taking = func() { n.hold(2) }
	n.sync()
	if got := fmt.Sprint(n.reasons()); got != "[]" {
		t.Errorf("problems %s", got)
	}
	if got := n.routed(); got != "11 from [10.0.0.1/32] on [10.0.0.0/16] by [10.0.0.1];" {
		t.Errorf("in the end: %s", got)
	}
}

// A link goes into a pod and comes back while its routes are made, so that the kernel refuses one. That is no problem either.
func TestSourceOfLinkBackMeanwhile(t *testing.T) {
	n := newNode(t, 1)
	n.daemon.links.SourceRouting = true
	n.declare("a", 1)
	n.settle()
	n.host.taking = func() {
		n.host.fail["sources"] = unix.ENETUNREACH
		n.host.linksRead = func() { delete(n.host.fail, "sources") }
	}
	n.sync()
	if got := fmt.Sprint(n.reasons()); got != "[]" {
		t.Errorf("problems %s", got)
	}
}

func TestSourceRoutingOff(t *testing.T) {
	n := settledNode(t)
	if got := n.routed(); got != "" {
		t.Errorf("at first: %s", got)
	}
	n.sync()
	if got := n.routed(); got != "not asked" {
		t.Errorf("later: %s", got)
	}
}

// Rules of an earlier run cannot be removed. No try makes new ones.
func TestSourceRoutingOffFails(t *testing.T) {
	n := newNode(t, 1)
	n.declare("a", 1)
	n.host.fail["sources"] = errors.New("no rules today")
	n.settle()
	for _, want := range n.host.sources {
		if len(want) > 0 {
			t.Errorf("wanted %v", want)
		}
	}
	if len(n.host.sources) == 0 || fmt.Sprint(n.reasons()) != "[SourceRoutingFailed]" {
		t.Errorf("%d tries, problems %q", len(n.host.sources), n.reasons())
	}
}

// A pod gives its ENI back, or takes it, between the reading of links and records. No problem says that the ENI has no
// interface.
func TestPodComesOrGoesWhileReading(t *testing.T) {
	n := settledNode(t)
	n.logged()
	for range 5 {
		rec := n.hold(1)
		n.sync()
		n.host.linksRead = func() { // the host's lock is held
			n.host.links[1] = link.Link{Index: 11, Name: "eth1", MAC: mac(1), Parent: pci(1), MTU: 1500, Up: true}
			n.must(rec.Remove())
		}
		n.sync()
	}
	for _, line := range n.logged() {
		if strings.Contains(line, "problem") {
			t.Errorf("logged %q", line)
		}
	}
	n.expect([]string{"a eth1 ready"}, nil, nil)
	delete(n.host.links, 1) // nobody has it
	n.sync()
	n.expect([]string{"a eth1 ready"}, []string{"NoInterface"}, nil)
}
