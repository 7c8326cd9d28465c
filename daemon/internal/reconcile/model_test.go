package reconcile

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

var (
	seedFlag      = flag.Uint64("seed", 0, "seed of the first generated sequence; 0 stands for one by the clock")
	sequencesFlag = flag.Int("sequences", 50, "how many sequences to generate")
)

const modelEvents = 60

// For all events in any order: no device changes its driver while a pod has it, the config never describes a device
// wrongly, an unreadable source removes nothing, and a state is logged once. In the end everything is as the NodeENIs
// say, and without them as if there had been none.
func TestModel(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("%d sequences, of which the first has -seed=%d", *sequencesFlag, seed)
	if shm, err := os.MkdirTemp("/dev/shm", "multi-eni"); err == nil { // the daemon syncs its files to the disk
		t.Cleanup(func() { os.RemoveAll(shm) }) //nolint:errcheck // it is a test's
		t.Setenv("TMPDIR", shm)
	}
	for i := range uint64(*sequencesFlag) {
		t.Run(fmt.Sprintf("seed=%d", seed+i), func(t *testing.T) {
			t.Parallel()
			runModel(t, seed+i)
		})
	}
}

func runModel(t *testing.T, seed uint64) {
	n := newNode(t, 1, 2, 3)
	n.macs = map[int]device.MAC{}
	n.kubelet = &fakeKubelet{}
	n.start()
	w := &world{testNode: n, rng: rand.New(rand.NewPCG(seed, 1)), hang: map[int]chan struct{}{}} //nolint:gosec // to be repeated
	n.drivers.fail, n.drivers.open = map[device.PCIAddress]error{}, map[device.PCIAddress]bool{}
	n.drivers.hang = map[device.PCIAddress]chan struct{}{}
	n.drivers.judged, n.restarts.restarted = w.judgeBind, w.restarted
	for e := 1; e <= modelSlots; e++ {
		w.plugged[e], n.host.ours[e] = true, true
	}
	t.Cleanup(func() {
		for _, hang := range w.hang {
			close(hang)
		}
		if t.Failed() {
			t.Logf("go test -run TestModel -sequences=1 -seed=%d, after\n\t%s", seed, strings.Join(w.story, "\n\t"))
		}
	})
	for range modelEvents {
		if what := w.event(); what != "" {
			w.tell("%s", what)
			w.look()
		}
		if w.rng.IntN(30) == 0 {
			w.tell("calm")
			w.calm(time.Minute)
		}
		if t.Failed() {
			return
		}
	}
	w.heal()
}

func (w *world) patiently(what string, there func() bool) {
	for range 5000 {
		if there() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	w.Fatalf("no %s", what)
}

// look runs one Sync and those that follow at once.
func (w *world) look() Outcome {
	for {
		before, rows := w.read(), w.known()
		w.refresh()
		out := w.daemon.Sync(w.Context())
		again := w.answered()
		for pci, done := range w.daemon.drivers.Jobs() {
			if w.drivers.hangs(pci) {
				w.patiently("bind that hangs", func() bool {
					w.drivers.mu.Lock()
					defer w.drivers.mu.Unlock()
					return w.drivers.hung[pci] || closed(done)
				})
			}
		}
		w.judgeFailures(before, rows)
		w.judgePeople(before)
		if !again {
			w.judgeConfig()
			w.judgeDraining()
			return out
		}
	}
}

func (w *world) known() []nodestate.Device {
	inv, err := nodestate.ReadInventory(w.path("run/inventory.json"))
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(inv.Devices, func(d nodestate.Device) bool { return d.ENIID == "" })
}

func (w *world) judgeFailures(config []byte, rows []nodestate.Device) {
	now := w.read()
	w.mu.Lock()
	w.changed = w.changed || !bytes.Equal(config, now) || !bytes.Equal(w.config, now)
	w.config = now
	w.mu.Unlock()
	if (w.blind || w.host.err != nil) && config != nil && !bytes.Equal(config, now) {
		w.Errorf("with sysfs or links unreadable the config was changed to\n%s", now)
	}
	if !w.blind && !w.unread && w.host.err == nil {
		return
	}
	for _, was := range rows {
		e := 0
		if was.PCIAddress != "" {
			e = w.eni(was.PCIAddress)
		}
		if w.declared[e] == "" || !w.plugged[e] || w.imds.enis[e].ID != was.ENIID {
			continue
		}
		if !slices.ContainsFunc(w.known(), func(d nodestate.Device) bool { return d.ENIID == was.ENIID }) {
			w.Errorf("%s was removed while something could not be read", was.ENIID)
		}
	}
}

// judgeDraining fails if a device drains though it is as its NodeENI wants it.
func (w *world) judgeDraining() {
	if w.blind || w.unread || w.host.err != nil || w.imds.err != nil {
		return
	}
	for _, d := range w.known() {
		for e := 1; e <= modelSlots; e++ {
			if w.hang[e] == nil && w.drivers.fail[pci(e)] == nil && d.ENIID == w.imds.enis[e].ID && w.plugged[e] && w.declared[e] != "" &&
				w.driver(e) == specDriver(w.declared[e]) && d.Phase == nodestate.PhaseDraining {
				w.Errorf("%d is declared %q and plugged in, and drains, with %q", e, w.declared[e], w.inventory().Problems)
			}
		}
	}
}

func specDriver(spec string) string {
	switch spec {
	case "dpdk", "dpdk2":
		return "vfio-pci"
	case "uio":
		return "uio_pci_generic"
	}
	return "ena"
}

func (w *world) judgeBind(addr device.PCIAddress, to string) {
	e := w.eni(addr)
	if p := w.pods[e]; p != nil && p.instance == w.instance(e) && (p.rec != nil || !p.dead) {
		w.Errorf("%s is bound to %s, and a pod has it", addr, to)
	}
	if w.drivers.open[addr] && w.driver(e) != "ena" {
		w.Errorf("%s is bound to %s, and a program has it open", addr, to)
	}
	spec := w.declared[e]
	wants := strings.HasPrefix(spec, "dpdk") || spec == "uio"
	if (sysfs.PCIFunction{Driver: to}).UserspaceDriver() && !wants && !w.unread {
		w.Errorf("%s is bound to %s, but declared %q", addr, to, spec)
	}
	if w.blind || w.unread || w.host.err != nil || w.kubelet.err != nil {
		w.Errorf("%s is bound to %s though something cannot be read", addr, to)
	}
}

// modelSelectors are in an array, or one alone.
type modelSelectors []struct {
	Drivers      []string            `json:"drivers"`
	PCIAddresses []device.PCIAddress `json:"pciAddresses"`
}

func (s *modelSelectors) UnmarshalJSON(data []byte) error {
	type array modelSelectors
	if len(data) > 0 && data[0] == '{' {
		data = slices.Concat([]byte("["), data, []byte("]"))
	}
	return json.Unmarshal(data, (*array)(s))
}

// judgeConfig fails unless the config runs and each device of ours in it is ready and as described.
func (w *world) judgeConfig() {
	content := w.read()
	if content == nil || w.blind {
		return
	}
	var config struct {
		ResourceList []struct {
			ResourceName string         `json:"resourceName"`
			Selectors    modelSelectors `json:"selectors"`
		} `json:"resourceList"`
	}
	if !w.daemon.view.Config.Current || w.host.err != nil { // people's edit may be there still
		return
	}
	w.judge()
	w.must(json.Unmarshal(content, &config))
	rows := w.known()
	for _, entry := range config.ResourceList {
		for _, s := range entry.Selectors {
			for _, addr := range s.PCIAddresses {
				if addr == "0000:00:00.0" {
					continue
				}
				e := w.eni(addr)
				ok := slices.ContainsFunc(rows, func(d nodestate.Device) bool {
					return d.PCIAddress == addr && d.Phase == nodestate.PhaseReady && slices.Contains(s.Drivers, d.Driver) &&
						strings.HasSuffix(d.ResourceName.String(), "/"+entry.ResourceName) && w.plugged[e] && d.Driver == w.driver(e)
				})
				if !ok {
					w.Errorf("%s advertises %s with %q; it is bound to %q, and the rows are %q", entry.ResourceName, addr, s.Drivers, w.driver(e), w.rows())
				}
			}
		}
	}
}

// calm lets time pass without events; no state may be logged twice.
func (w *world) calm(d time.Duration) {
	w.look()
	w.logs.Reset()
	p := pace{}
	for until := w.now.Add(d); w.now.Before(until) && !w.Failed(); {
		w.now = w.now.Add(p.next(w.look()))
	}
	seen := map[string]bool{}
	for _, e := range w.logs.AllEntries() {
		if e.Message != "problem found" {
			continue
		}
		key := fmt.Sprint(e.Data["reason"], e.Data["device"], e.Data["nodeENI"], e.Data["detail"])
		if seen[key] {
			w.Errorf("found again while nothing happens: %s", key)
		}
		seen[key] = true
	}
}

func (w *world) heal() {
	if w.blind {
		w.away("sys/bus/pci/devices", &w.blind)
	}
	if w.unread {
		w.away("nodeenis", &w.unread)
	}
	w.imds.err, w.host.err, w.kubelet.err = nil, nil, nil
	f := w.drivers
	f.mu.Lock()
	clear(f.fail)
	clear(f.open)
	for e := range w.hang {
		w.unhang(e)
	}
	f.mu.Unlock()
	if w.restarts.err != nil {
		w.togglePlugin()
	}
	for e := 1; e <= modelSlots; e++ {
		for w.pods[e] != nil {
			w.del(e)
		}
		if !w.plugged[e] {
			w.unplugOrPlug(e)
		}
	}
	w.tell("all is well")
	w.calm(6 * time.Minute)
	w.calm(2 * time.Minute)
	w.judgeEnd()
	for e, spec := range w.declared {
		if spec != "" {
			w.undeclare(string(rune('a' - 1 + e)))
			w.declared[e] = ""
		}
	}
	w.tell("all are removed")
	w.calm(3 * time.Minute)
	w.judgeEnd()
}

// judgeEnd fails unless all is as declared, and else in the host as it was.
func (w *world) judgeEnd() {
	want := pools{}
	for e := 1; e <= modelSlots; e++ {
		driver, resource := "ena", ""
		switch spec := w.declared[e]; spec {
		case "sriov", "other":
			resource = strings.TrimPrefix(modelSpecs[spec][0], "dpdkResourceName: ")
		case "dpdk", "dpdk2":
			driver, resource = "vfio-pci", strings.TrimPrefix(modelSpecs[spec][0], "dpdkResourceName: ")
		case "uio":
			driver, resource = "uio_pci_generic", "intel.com/fast"
		}
		if resource != "" {
			want[resource] = append(want[resource], pci(e))
		}
		w.expectDriver(e, driver)
		if l := w.host.links[e]; driver == "ena" && l.Name != ifname(e) {
			w.Errorf("the link of %d is %+v", e, l)
		}
		at := slices.IndexFunc(w.known(), func(d nodestate.Device) bool { return d.PCIAddress == pci(e) })
		if declared := w.declared[e] != ""; declared != (at >= 0) {
			w.Errorf("%d is declared %q, and the rows are %q", e, w.declared[e], w.rows())
		}
	}
	for _, row := range w.rows() {
		if !strings.HasSuffix(row, " ready") {
			w.Errorf("row %q in the end, with %q", row, w.inventory().Problems)
		}
	}
	same(w, "pools in the end", want, w.judge(), cmpopts.EquateEmpty(), cmpopts.SortSlices(func(a, b device.PCIAddress) bool { return a < b }))
	taken, err := w.daemon.readTaken()
	w.must(err)
	for addr := range taken.Value {
		if !strings.HasPrefix(w.declared[w.eni(addr)], "dpdk") && w.declared[w.eni(addr)] != "uio" {
			w.Errorf("the restore record of %s is left", addr)
		}
	}
}

func (w *world) free(addr device.PCIAddress) bool {
	expired, cancel := context.WithCancel(w.Context())
	cancel()
	unlock, err := w.records().LockDevice(expired, addr)
	if err == nil {
		unlock()
	}
	return err == nil
}
