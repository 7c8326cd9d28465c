package offer

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/multi-eni/multi-eni-cni/daemon/internal/inventory"
	"github.com/multi-eni/multi-eni-cni/pkg/device"
	"github.com/multi-eni/multi-eni-cni/pkg/nodestate"
	"github.com/multi-eni/multi-eni-cni/pkg/sysfs"
)

const r0, r1 = device.ResourceName("intel.com/r0"), device.ResourceName("intel.com/r1")

func pci(n int) device.PCIAddress { return device.PCIAddress(fmt.Sprintf("0000:00:%02x.0", n+5)) }

func row(n int, name device.ResourceName, phase nodestate.Phase) nodestate.Device {
	d := nodestate.Device{PCIAddress: pci(n), ResourceName: name, Driver: "ena", DeviceIndex: n}
	d.Phase = phase
	return d
}

func functions() map[device.PCIAddress]sysfs.PCIFunction {
	all := map[device.PCIAddress]sysfs.PCIFunction{}
	for n := range 4 {
		all[pci(n)] = sysfs.PCIFunction{Address: pci(n), Driver: "ena", NUMANode: -1}
	}
	return all
}

// listed are the devices as "address resource", with "!" before unfit ones.
func listed(devices []Device) []string {
	out := []string{}
	for _, d := range devices {
		mark := ""
		if !d.Healthy() {
			mark = "!"
		}
		out = append(out, fmt.Sprintf("%s%d %s", mark, d.DeviceIndex, d.Resource[len(d.Resource)-2:]))
	}
	return out
}

func holds(name device.ResourceName, n int) *inventory.Fact[inventory.Kubelet] {
	k := inventory.Known(inventory.Kubelet{Held: map[device.ResourceName][]device.PCIAddress{name: {pci(n)}}})
	return &k
}

func TestDesired(t *testing.T) {
	nobody := holds("intel.com/else", 9)
	unread := &inventory.Fact[inventory.Kubelet]{}
	was := []Device{{Resource: r0, ID: pci(1), Driver: "ena", DeviceIndex: 1}}
	for _, c := range []struct {
		name             string
		in               Input
		devices, without []string
		names            []device.ResourceName
		asks             bool
	}{
		{"new device",
			Input{Rows: []nodestate.Device{row(1, r0, nodestate.PhaseReady)}, Kubelet: nobody}, []string{"1 r0"}, []string{}, []device.ResourceName{r0}, false},
		{"new device, nobody can be asked", Input{Rows: []nodestate.Device{row(1, r0, nodestate.PhaseReady)}, Kubelet: unread},
			[]string{}, []string{"!1 r0"}, nil, true},
		{"no kubelet", Input{Rows: []nodestate.Device{row(1, r0, nodestate.PhaseReady)}}, []string{"1 r0"}, []string{}, []device.ResourceName{r0}, false},
		{"listed device drains",
			Input{Rows: []nodestate.Device{row(1, r0, nodestate.PhaseDraining)}, Names: []device.ResourceName{r0}, Before: was, Kubelet: unread},
			[]string{"!1 r0"}, []string{}, []device.ResourceName{r0}, false},
		{"a draining device may have a holder",
			Input{Rows: []nodestate.Device{row(1, r0, nodestate.PhaseDraining)}, Kubelet: unread}, []string{}, []string{}, nil, true},
		{"a draining device has one", Input{Rows: []nodestate.Device{row(1, r0, nodestate.PhaseDraining)}, Kubelet: holds(r0, 1)},
			[]string{"!1 r0"}, []string{}, []device.ResourceName{r0}, false},
		{"held under its former resource",
			Input{Rows: []nodestate.Device{row(1, r1, nodestate.PhaseReady)}, Names: []device.ResourceName{r0}, Before: was, Kubelet: holds(r0, 1)},
			[]string{"!1 r0"}, []string{"!1 r1"}, []device.ResourceName{r0}, false},
		{"its resource changes while it may be allocated",
			Input{Rows: []nodestate.Device{row(1, r1, nodestate.PhaseReady)}, Names: []device.ResourceName{r0}, Before: was, Kubelet: nobody},
			[]string{"!1 r0"}, []string{"!1 r1"}, []device.ResourceName{r0}, false},
		{"a name without devices or holders goes", Input{Names: []device.ResourceName{r0}, Kubelet: nobody}, []string{}, []string{}, nil, false},
		{"a name stays while nobody can be asked",
			Input{Names: []device.ResourceName{r0}, Kubelet: unread}, []string{}, []string{}, []device.ResourceName{r0}, true},
		{"a pod has it without the kubelet",
			Input{Rows: []nodestate.Device{row(1, r0, nodestate.PhaseReady)}, Kubelet: nobody, Recorded: map[device.PCIAddress]bool{pci(1): true}},
			[]string{}, []string{"!1 r0"}, nil, false},
		{"offered twice", Input{Rows: []nodestate.Device{row(1, r0, nodestate.PhaseReady)}, Kubelet: nobody,
			Twice: func(device.ResourceName, device.PCIAddress) bool { return true }}, []string{}, []string{"!1 r0"}, nil, false},
	} {
		c.in.Functions = functions()
		got := Desired(c.in)
		if diff := cmp.Diff([]any{c.devices, c.without, c.names, c.asks}, []any{listed(got.Devices), listed(got.Withheld), got.Names, got.Asks}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// For all inputs: no device is listed twice, no healthy one that a pod has under another resource or that is unfit by its row, each held
// device of a served resource is listed, and an unreadable kubelet adds nothing.
func TestDesiredProperties(t *testing.T) {
	for seed := range uint64(20000) {
		rng := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // to be repeated
		in := Input{Functions: functions(), Kubelet: &inventory.Fact[inventory.Kubelet]{}, Recorded: map[device.PCIAddress]bool{}}
		names := []device.ResourceName{r0, r1}
		phases := []nodestate.Phase{nodestate.PhaseReady, nodestate.PhaseReady, nodestate.PhaseDraining, nodestate.PhasePending}
		held := map[device.PCIAddress]device.ResourceName{}
		for n := range 4 {
			if rng.IntN(4) > 0 {
				in.Rows = append(in.Rows, row(n, names[rng.IntN(2)], phases[rng.IntN(4)]))
			}
			if rng.IntN(3) == 0 {
				in.Before = append(in.Before, Device{Resource: names[rng.IntN(2)], ID: pci(n), Driver: "ena", DeviceIndex: n})
			}
			if rng.IntN(3) == 0 {
				held[pci(n)] = names[rng.IntN(2)]
			}
			if rng.IntN(6) == 0 {
				delete(in.Functions, pci(n))
			}
		}
		in.Names = names[:rng.IntN(3)]
		if rng.IntN(3) > 0 {
			byName := map[device.ResourceName][]device.PCIAddress{}
			for addr, name := range held {
				byName[name] = append(byName[name], addr)
			}
			*in.Kubelet = inventory.Known(inventory.Kubelet{Held: byName})
		}
		if fault := judge(in, held, Desired(in)); fault != "" {
			t.Fatalf("seed %d: %s, of %+v", seed, fault, in)
		}
	}
}

func judge(in Input, held map[device.PCIAddress]device.ResourceName, out Offer) string {
	seen := map[device.PCIAddress]bool{}
	for _, d := range out.Devices {
		at := slices.IndexFunc(in.Rows, func(r nodestate.Device) bool { return r.PCIAddress == d.ID && r.ResourceName == d.Resource })
		before := slices.ContainsFunc(in.Before, func(b Device) bool { return b.ID == d.ID && b.Resource == d.Resource })
		_, there := in.Functions[d.ID]
		switch {
		case seen[d.ID]:
			return fmt.Sprintf("%s is listed twice", d.ID)
		case !slices.Contains(out.Names, d.Resource):
			return fmt.Sprintf("%s is no name", d.Resource)
		case d.Healthy() && (at < 0 || in.Rows[at].Phase != nodestate.PhaseReady || !there):
			return fmt.Sprintf("%s is healthy", d.ID)
		case d.Healthy() && !in.Kubelet.Known && !before:
			return fmt.Sprintf("%s is new, and the kubelet was not asked", d.ID)
		case d.Healthy() && in.Kubelet.Known && !before && held[d.ID] != "" && held[d.ID] != d.Resource:
			return fmt.Sprintf("%s is healthy as %s, and held as %s", d.ID, d.Resource, held[d.ID])
		}
		seen[d.ID] = true
	}
	for addr, name := range held {
		if in.Kubelet.Known && slices.Contains(in.Names, name) && !seen[addr] {
			return fmt.Sprintf("%s is held as %s, and not listed", addr, name)
		}
	}
	return ""
}

func TestPreferred(t *testing.T) {
	known := []Device{
		{ID: pci(0), NetworkCard: 1, DeviceIndex: 1}, {ID: pci(1), NetworkCard: 0, DeviceIndex: 2}, {ID: pci(2), NetworkCard: 0, DeviceIndex: 1},
		{ID: pci(3), NetworkCard: -1, DeviceIndex: -1},
	}
	ids := func(of ...int) []string {
		out := []string{}
		for _, n := range of {
			out = append(out, pci(n).String())
		}
		return out
	}
	for _, c := range []struct {
		available, must []string
		size            int
		want            []string
	}{
		{ids(0, 1, 2, 3), nil, 2, ids(2, 1)},
		{ids(0, 1, 2, 3), ids(0), 2, ids(0, 2)},
		{ids(3, 0), nil, 2, ids(0, 3)},
		{ids(9, 3), nil, 2, ids(3, 9)},
		{ids(1), nil, 3, ids(1)},
		{ids(1), nil, 0, ids()},
	} {
		if diff := cmp.Diff(c.want, Preferred(known, c.available, c.must, c.size)); diff != "" {
			t.Errorf("%d of %v with %v (-want +got):\n%s", c.size, c.available, c.must, diff)
		}
	}
}

// The next daemon offers ready and draining devices of the served names at its start, but none that was withheld.
func TestOffered(t *testing.T) {
	rows := []nodestate.Device{
		row(0, r0, nodestate.PhaseReady), row(1, r0, nodestate.PhaseDraining), row(2, r0, nodestate.PhasePending), row(3, r1, nodestate.PhaseReady),
	}
	if diff := cmp.Diff([]string{"0 r0", "1 r0"}, listed(Offered(rows, []device.ResourceName{r0}, nil))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"1 r0"}, listed(Offered(rows, []device.ResourceName{r0}, []device.PCIAddress{pci(0)}))); diff != "" {
		t.Error(diff)
	}
}
