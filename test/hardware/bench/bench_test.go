// Package bench measures the product side by side with the reference plugin on real PCI functions. It
// asserts no ratio: it fails only if it could not measure.
package bench

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/multi-eni/multi-eni-cni/test/bench/table"
	"github.com/multi-eni/multi-eni-cni/test/hardware/guest"
	"github.com/multi-eni/multi-eni-cni/test/hardware/machine"
)

const (
	warmUp     = 1
	partRounds = 5
	// settle is the pause in which the kernel destroys host-device's temporary netns; other plugins would wait for it.
	settle = 20 * time.Millisecond
	// exclusiveTarget is the greatest ratio to host-device, for ADD and DEL together.
	exclusiveTarget = 0.75
	// sharedTarget is the greatest ratio to the delegate alone.
	sharedTarget = 1.25

	macENI  = "02:00:00:00:01:00"
	macDPDK = "02:00:00:00:01:01"
)

// rounds are few by default, to show quickly that everything can be measured: make bench-hardware has more.
var rounds = flag.Int("rounds", 3, "pairs of each comparison of plugins")

func TestMain(m *testing.M) {
	// Two processors, the least of a node: a plugin's work counts while the kernel works.
	machine.Main(m, machine.Spec{Processors: 2, Timeout: 35 * time.Minute, NICs: []machine.NIC{
		{ID: "primary", MAC: macPrimary},
		{ID: "eni", MAC: macENI},
		{ID: "dpdk", MAC: macDPDK},
		{ID: "pf", Model: machine.IGB, MAC: "02:00:00:00:02:00"},
	}})
}

func TestRatios(t *testing.T) {
	guest.Clean(t)
	eni, _ := guest.WaitNIC(t, macENI)
	pf, vfs := guest.VFs(t, 1)
	guest.SetUp(t, guest.Netdev(pf))
	t.Cleanup(func() { guest.SetDown(t, guest.Netdev(pf)) })
	var rows []table.Row
	rows = append(rows, exclusive(t, "e1000e", eni, false)...)
	rows = append(rows, exclusive(t, "VF", vfs[0], false)...)
	rows = append(rows, exclusive(t, "e1000e, up", eni, true)...)
	rows = append(rows, shared(t, eni, "ipvlan")...)
	rows = append(rows, shared(t, eni, "macvlan")...)
	rows = append(rows, parts(t, "e1000e", eni)...)
	guest.SetDown(t, guest.Netdev(eni)) // as it was
	rows = append(rows, advertise(t)...)
	rows = append(rows, drivers(t)...)
	fmt.Printf("\nTimes in ms, median (99th percentile); ratios of medians. Plugins: %d interleaved rounds, NodeENIs: %d.\n\n", *rounds, cycles())
	guest.Must(t, table.Print(os.Stdout, rows))
}

// compared is a row with two samples; a limit of 0 is no target.
func compared(name string, ours, other table.Sample, limit float64) table.Row {
	r := table.Ratio(name, ours, other, limit)
	r.Ours, r.Other = text(ours), text(other)
	return r
}

func text(s table.Sample) string {
	return fmt.Sprintf("%.1f (%.1f)", s.Median(), s.Quantile(0.99))
}

// parts measures the parts of an attachment: the start of a program, and each change of the link by kernel and driver.
func parts(t *testing.T, name, pci string) []table.Row {
	t.Helper()
	path := guest.NewNetns(t, "parts")
	defer guest.DeleteNetns(t, path)
	pod, err := ns.GetNS(path)
	guest.Must(t, err)
	defer pod.Close()
	host, err := ns.GetCurrentNS()
	guest.Must(t, err)
	defer host.Close()
	l, ok := guest.ByName(guest.Netdev(pci))
	if !ok {
		t.Fatalf("no link of %s", pci)
	}
	index := l.Attrs().Index
	var start, down, up, moveUp, moveDown, back table.Sample
	timed := func(s *table.Sample, f func() error) {
		began := time.Now()
		err := f()
		s.Add(time.Since(began))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	there := func(s *table.Sample) {
		timed(s, func() error { return netlink.LinkSetNsFd(l, int(pod.Fd())) })
		guest.In(t, path, func() {
			timed(&back, func() error { return netlink.LinkSetNsFd(l, int(host.Fd())) })
		})
		if now, ok := guest.ByName(guest.Netdev(pci)); !ok || now.Attrs().Index != index {
			t.Errorf("%s is not back as link %d", name, index)
		}
	}
	for range partRounds {
		start.Add(guest.CNI(t, guest.CNICall{Verb: "VERSION", Conf: `{"cniVersion":"1.1.0"}`}).Took)
		timed(&down, func() error { return netlink.LinkSetDown(l) })
		there(&moveDown)
		timed(&up, func() error { return netlink.LinkSetUp(l) })
		there(&moveUp)
		timed(&up, func() error { return netlink.LinkSetUp(l) })
	}
	if t.Failed() {
		t.FailNow()
	}
	return []table.Row{
		{Name: name + ": start of multi-eni (VERSION)", Ours: text(start)},
		{Name: name + ": set up", Ours: text(up)},
		{Name: name + ": set down", Ours: text(down)},
		compared(name+": move while up; other: while down", moveUp, moveDown, 0),
		{Name: name + ": move back, down", Ours: text(back)},
	}
}
